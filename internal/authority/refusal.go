package authority

import (
	"context"
	"sync"
	"time"

	"cardea/internal/ledger"
	"cardea/internal/store"
)

// refusal of a caller, as the ledger gets it.
type refused struct {
	Listener string `json:"listener"`
	Reason   string `json:"reason"`
	Caller   string `json:"caller,omitempty"`
}

// refusals gathers callers that were turned away. Equal ones of one round become one leaf with a count, and a round has a bounded
// number of leaves: whoever can knock cannot fill the ledger.
type refusals struct {
	mu      sync.Mutex
	counts  map[refused]int
	dropped int
}

const (
	maxRefusals   = 64
	refusalRound  = time.Second
	maxReasonText = 300
)

func (r *refusals) add(listener, reason, caller string) {
	if len(reason) > maxReasonText {
		reason = reason[:maxReasonText]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[refused]int{}
	}
	key := refused{Listener: listener, Reason: reason, Caller: caller}
	if _, known := r.counts[key]; !known && len(r.counts) >= maxRefusals {
		r.dropped++
		return
	}
	r.counts[key]++
}

func (r *refusals) take() (map[refused]int, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts, dropped := r.counts, r.dropped
	r.counts, r.dropped = nil, 0
	return counts, dropped
}

// recordRefusals writes what has gathered. What cannot be written is counted again.
func (a *Authority) recordRefusals(ctx context.Context) error {
	counts, dropped := a.refusals.take()
	if len(counts) == 0 {
		return nil
	}
	return a.DB.Commit(ctx, func(tx store.Tx) error {
		for r, n := range counts {
			if _, err := a.record(tx, ledger.KindRefusal, ledger.Refs{}, map[string]any{"refused": r, "times": n, "others": dropped}); err != nil {
				return err
			}
		}
		return nil
	})
}
