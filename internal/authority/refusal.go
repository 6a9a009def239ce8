package authority

import (
	"context"
	"sync"
	"time"

	"cardea/internal/ledger"
	"cardea/internal/store"
)

// turnedAway is a caller that was refused before anything was decided, as the ledger gets it.
type turnedAway struct {
	Listener string `json:"listener"`
	Reason   string `json:"reason"`
	Caller   string `json:"caller,omitempty"`
}

// refusals gathers callers that were turned away. Equal ones of one round become one leaf with a count, and a round has a bounded
// number of leaves: whoever can knock cannot fill the ledger.
type refusals struct {
	mu     sync.Mutex
	counts map[turnedAway]int
}

const (
	maxRefusals   = 64
	refusalRound  = time.Second
	maxReasonText = 300
)

// others stands for all that did not fit into one round.
var others = turnedAway{Listener: "*", Reason: "more kinds of refusal than one round records"}

func (r *refusals) add(key turnedAway, n int) {
	if len(key.Reason) > maxReasonText {
		key.Reason = key.Reason[:maxReasonText]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[turnedAway]int{}
	}
	if _, known := r.counts[key]; !known && len(r.counts) >= maxRefusals {
		key = others
	}
	r.counts[key] += n
}

func (r *refusals) take() map[turnedAway]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts
	r.counts = nil
	return counts
}

// Refused records that a caller was turned away.
func (a *Authority) Refused(listener, reason, caller string) {
	a.metrics.refused(listener)
	a.refusals.add(turnedAway{Listener: listener, Reason: reason, Caller: caller}, 1)
}

// recordRefusals writes what has gathered. What cannot be written is kept for the next round.
func (a *Authority) recordRefusals(ctx context.Context) error {
	counts := a.refusals.take()
	if len(counts) == 0 {
		return nil
	}
	err := a.DB.Commit(ctx, func(tx store.Tx) error {
		for r, n := range counts {
			if _, err := a.record(tx, ledger.KindRefusal, ledger.Refs{}, map[string]any{"refused": r, "times": n}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for r, n := range counts {
			a.refusals.add(r, n)
		}
	}
	return err
}
