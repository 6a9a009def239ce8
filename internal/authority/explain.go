package authority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"cardea/internal/approval"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/broker"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/store"
)

// LedgerRef points at a leaf; Index counts once it is sequenced.
type LedgerRef struct {
	Leaf      string
	Sequenced bool
	Index     int64
}

// AttemptRecord is one verdict and all that followed from it.
type AttemptRecord struct {
	Task        TaskRef
	Attempt     uint32
	Epoch       uint64
	Verdict     Verdict
	Digest      string
	Action      []byte
	Runner      string
	Connections []string
	Decided     time.Time
	Leaf        LedgerRef
	Permit      *permitRow
	Leases      []LeaseRecord
	Actions     []ActionReport
	Approval    string
	Signatures  []approval.Signature

	id int64
}

// LeaseRecord is a lease with its place in the ledger.
type LeaseRecord struct {
	broker.Lease
	Ref LedgerRef
}

// Explanation is all that was decided, issued, approved and done for a run.
type Explanation struct {
	Run         Run
	StartLeaf   LedgerRef
	ClosureLeaf LedgerRef
	Attempts    []AttemptRecord
}

// Explain tells it to whoever may read the process. task, if not empty, is a JSON pointer or a task's name.
func (a *Authority) Explain(ctx context.Context, who Speaker, runID, task string) (Explanation, error) {
	s := a.current.Load()
	var out Explanation
	err := a.DB.View(ctx, func(tx store.Tx) error {
		run, err := loadRun(tx, runID)
		if err != nil {
			return err
		}
		if err := a.requireRead(s, who.Person, run.Process); err != nil {
			return err
		}
		if out, err = a.explain(tx, run, a.pointerOf(tx, run, task)); err != nil {
			return err
		}
		return nil
	})
	return out, err
}

// pointerOf turns a task's name into its pointer; a pointer stays what it is.
func (a *Authority) pointerOf(tx store.Tx, run Run, task string) string {
	if task == "" || task[0] == '/' {
		return task
	}
	if d, err := a.definition(tx, run.Digest); err == nil {
		for _, t := range d.Tasks {
			if t.Name == task {
				return t.Pointer
			}
		}
	}
	return "/" + task
}

func (a *Authority) explain(tx store.Tx, run Run, task string) (Explanation, error) {
	out := Explanation{Run: run}
	var err error
	if out.Attempts, err = loadAttempts(tx, run.ID, task); err != nil {
		return out, err
	}
	leases, err := broker.OfRun(tx, run.ID)
	if err != nil {
		return out, err
	}
	permits, err := permitsOf(tx, run.ID)
	if err != nil {
		return out, err
	}
	for i := range out.Attempts {
		if err := a.complete(tx, &out.Attempts[i], permits, leases); err != nil {
			return out, err
		}
	}
	out.StartLeaf, out.ClosureLeaf = a.ref(tx, run.Leaf), a.ref(tx, run.ClosureLeaf)
	// What was alive when the run closed may have ended since.
	if run.Closure != nil {
		now, err := closureOf(tx, run.ID)
		if err != nil {
			return out, err
		}
		out.Run.Closure = &now
	}
	return out, nil
}

func (a *Authority) ref(tx store.Tx, leaf string) LedgerRef {
	r := LedgerRef{Leaf: leaf}
	if leaf != "" {
		r.Index, r.Sequenced, _ = a.Ledger.Index(tx, leaf)
	}
	return r
}

// What one explanation shows: so many attempts, and so many bytes of their actions.
const (
	maxAttemptsShown = 2000
	maxExplained     = 8 << 20
)

func loadAttempts(tx store.Tx, run, task string) ([]AttemptRecord, error) {
	rows, err := tx.Query(`SELECT a.id, a.task, a.iteration, a.visit, a.attempt, a.epoch, a.runner, a.connections, a.action_digest, x.canonical, a.verdict, a.approval,
		a.leaf, a.decided_at FROM attempts a JOIN actions x ON x.digest = a.action_digest WHERE a.run = $1 AND ($2 = '' OR a.task = $2) ORDER BY a.id LIMIT $3`, run, task, maxAttemptsShown)
	if err != nil {
		return nil, fmt.Errorf("read the attempts of run %s: %w", run, err)
	}
	defer rows.Close()
	var found []AttemptRecord
	size := 0
	for rows.Next() {
		r := AttemptRecord{Task: TaskRef{Run: run}}
		var iteration, connections, body, verdict string
		var visit, attempt, epoch, decided int64
		if err := rows.Scan(&r.id, &r.Task.Task, &iteration, &visit, &attempt, &epoch, &r.Runner, &connections, &r.Digest, &body, &verdict,
			&r.Approval, &r.Leaf.Leaf, &decided); err != nil {
			return nil, fmt.Errorf("read the attempts of run %s: %w", run, err)
		}
		r.Task.Visit, r.Attempt, r.Epoch, r.Action, r.Decided = uint32(visit), uint32(attempt), uint64(epoch), []byte(body), store.Time(decided)
		err := errors.Join(json.Unmarshal([]byte(iteration), &r.Task.Iteration), json.Unmarshal([]byte(connections), &r.Connections),
			json.Unmarshal([]byte(verdict), &r.Verdict))
		if err != nil {
			return nil, fmt.Errorf("read the attempts of run %s: %w", run, err)
		}
		if size += len(body); size > maxExplained && len(found) > 0 {
			break // the rest is asked for by task
		}
		found = append(found, r)
	}
	return found, rows.Err()
}

func permitsOf(tx store.Tx, run string) (map[int64]permitRow, error) {
	rows, err := tx.Query(`SELECT `+permitColumns+` FROM permits WHERE run = $1`, run)
	if err != nil {
		return nil, fmt.Errorf("read the permits of run %s: %w", run, err)
	}
	defer rows.Close()
	found := map[int64]permitRow{}
	for rows.Next() {
		p, err := scanPermit(rows)
		if err != nil {
			return nil, err
		}
		found[p.attempt] = p
	}
	return found, rows.Err()
}

func (a *Authority) complete(tx store.Tx, r *AttemptRecord, permits map[int64]permitRow, leases []broker.Lease) error {
	r.Leaf = a.ref(tx, r.Leaf.Leaf)
	if p, ok := permits[r.id]; ok {
		r.Permit = &p
		for _, l := range leases {
			if l.Permit == p.id {
				r.Leases = append(r.Leases, LeaseRecord{Lease: l, Ref: a.ref(tx, l.Leaf)})
			}
		}
		if p.actions != "" {
			if err := json.Unmarshal([]byte(p.actions), &r.Actions); err != nil {
				return fmt.Errorf("read the actions of permit %s: %w", p.id, err)
			}
		}
	}
	if r.Approval == "" {
		return nil
	}
	for _, id := range strings.Split(r.Approval, ",") {
		rows, err := loadApprovals(tx, `WHERE id = $1`, id)
		if err != nil {
			return err
		}
		for _, row := range rows {
			r.Signatures = append(r.Signatures, row.signatures...)
		}
	}
	return nil
}

// Leases lists leases to whoever may read everything, or one run's to whoever may read its process.
func (a *Authority) Leases(ctx context.Context, who Speaker, f broker.Filter) ([]LeaseRecord, error) {
	s := a.current.Load()
	f.Limit = min(f.Limit, 1000)
	var out []LeaseRecord
	err := a.DB.View(ctx, func(tx store.Tx) error {
		leases, err := broker.List(tx, f)
		if err != nil {
			return err
		}
		may := map[string]bool{}
		for _, l := range leases {
			run, known := l.Run, false
			if _, known = may[run]; !known {
				r, err := loadRun(tx, run)
				if err != nil {
					return err
				}
				may[run] = a.requireRead(s, who.Person, r.Process) == nil
			}
			if may[run] {
				out = append(out, LeaseRecord{Lease: l, Ref: a.ref(tx, l.Leaf)})
			}
		}
		return nil
	})
	return out, err
}

// Quarantine bans a runner, voids its permits and starts the ending of its leases; lifting readmits it. The generation rises, so
// that every decision in flight is made again.
func (a *Authority) Quarantine(ctx context.Context, who Speaker, runner, reason string, lift bool) (voided int, live []LiveLease, err error) {
	var generation int64
	err = a.underPolicy(ctx, func(tx store.Tx, s *snapshot) error {
		if err := a.consumeProof(tx, who); err != nil {
			return err
		}
		if err := a.requireHub(s, who.Person, "quarantine"); err != nil {
			return err
		}
		if voided, live, err = a.setBan(tx, runner, reason, lift); err != nil {
			return err
		}
		generation = s.generation + 1
		if err := setMeta(tx, metaGeneration, generation); err != nil {
			return err
		}
		_, err := a.recordEvent(tx, ledger.KindQuarantine, "", ledger.Refs{Subject: runner}, map[string]any{
			"by": who.Person, "reason": reason, "lifted": lift, "voided": voided, "live": live})
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	if s := a.current.Load(); s.generation < generation {
		a.swap(&snapshot{State: s.State, generation: generation})
	}
	a.ender.Wake()
	a.announce()
	a.bundleChanged()
	return voided, live, nil
}

func (a *Authority) setBan(tx store.Tx, runner, reason string, lift bool) (int, []LiveLease, error) {
	id, err := spiffeid.FromString(runner)
	if err != nil {
		return 0, nil, fmt.Errorf("runner %q is not a SPIFFE id: %w", runner, ErrInvalid)
	}
	if peer, err := identity.ParsePeer(id); err != nil || peer.Kind != identity.KindRunner {
		return 0, nil, fmt.Errorf("%q is no runner: %w", runner, ErrInvalid)
	}
	if _, err := currentKey(tx, runner); err != nil {
		return 0, nil, err
	}
	if lift {
		_, err := tx.Exec(`DELETE FROM bans WHERE id = $1`, runner)
		return 0, nil, err
	}
	if _, err := tx.Exec(`INSERT INTO bans (id, at, reason) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET reason = excluded.reason`,
		runner, store.Micros(a.Now()), reason); err != nil {
		return 0, nil, fmt.Errorf("ban %s: %w", runner, err)
	}
	open, err := openPermits(tx, "runner", runner)
	if err != nil {
		return 0, nil, err
	}
	for i := range open {
		if err := a.voidPermit(tx, &open[i], "its runner was quarantined: "+reason); err != nil {
			return 0, nil, err
		}
		if _, err := broker.EndOfPermit(tx, open[i].id, a.Now()); err != nil {
			return 0, nil, err
		}
	}
	live, err := liveLeases(tx, broker.Filter{Runner: runner, Live: true, Limit: 1000})
	return len(open), live, err
}
