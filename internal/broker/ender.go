package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"cardea/internal/store"
)

// Record writes the ledger leaf of a lease's end within the transaction that ends it, and returns the leaf's id.
type Record func(tx store.Tx, l Lease, state State, now time.Time) (leaf string, err error)

// Ender ends leases: it never gives up and never forgets (invariant 4). Its only state is the leases table, so a restart goes on
// where the last process stopped.
type Ender struct {
	DB        store.DB
	Providers map[string]Provider
	Record    Record
	Now       func() time.Time
	Log       *slog.Logger
	// Ended, if set, is told how many leases each round ended.
	Ended func(n int)

	wake chan struct{}
}

// NewEnder returns an Ender that Run drives.
func NewEnder(db store.DB, providers map[string]Provider, record Record, now func() time.Time, log *slog.Logger) *Ender {
	return &Ender{DB: db, Providers: providers, Record: record, Now: now, Log: log, wake: make(chan struct{}, 1)}
}

const (
	// batch is how many leases one round takes; a full batch is followed by another at once.
	batch = 256
	// parallel is how many targets are asked at the same time.
	parallel = 16
	// idle is the longest sleep: what was added without a Wake is found by then.
	idle = time.Second
	// coalesce lets leases that expire within a moment of each other end in one commit.
	coalesce = 50 * time.Millisecond
	// retryLeast and retryMost bound the backoff of a failing revocation, so that a target that comes back is met soon.
	retryLeast = 500 * time.Millisecond
	retryMost  = 10 * time.Second
	// revokeTimeout bounds one call to a provider.
	revokeTimeout = 10 * time.Second
)

// Wake makes Run look at once.
func (e *Ender) Wake() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run ends leases until ctx is done.
func (e *Ender) Run(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := e.Round(ctx)
		if err != nil && ctx.Err() == nil {
			e.Log.Error("ending leases", "error", err)
		}
		if n == batch && err == nil {
			continue
		}
		e.sleep(ctx)
	}
}

func (e *Ender) sleep(ctx context.Context) {
	timer := time.NewTimer(e.untilNext(ctx))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-e.wake:
	}
}

func (e *Ender) untilNext(ctx context.Context) time.Duration {
	wait := idle
	err := e.DB.View(ctx, func(tx store.Tx) error {
		at, ok, err := NextDue(tx)
		if ok {
			wait = min(wait, at.Sub(e.Now())+coalesce)
		}
		return err
	})
	if err != nil {
		return time.Second
	}
	return max(wait, coalesce)
}

// Round takes what is due and ends it, or puts it off after a failure. It reports how many leases it took.
func (e *Ender) Round(ctx context.Context) (int, error) {
	var due []Lease
	now := e.Now()
	err := e.DB.View(ctx, func(tx store.Tx) (err error) {
		due, err = Due(tx, now, batch)
		return err
	})
	if err != nil || len(due) == 0 {
		return 0, err
	}
	return len(due), e.settle(ctx, due, e.revokeAll(ctx, due, now))
}

// revokeAll asks several targets at once, so that one which hangs delays only its own leases.
func (e *Ender) revokeAll(ctx context.Context, due []Lease, now time.Time) []error {
	outcomes := make([]error, len(due))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, l := range due {
		group.Go(func() error {
			outcomes[i] = e.revoke(ctx, l, now)
			return nil
		})
	}
	_ = group.Wait()
	return outcomes
}

// revoke asks the target, unless the credential has already ended by itself.
func (e *Ender) revoke(ctx context.Context, l Lease, now time.Time) error {
	if !now.Before(l.ExpiresAt) {
		return nil
	}
	if l.Promise == Expiring {
		return fmt.Errorf("lease %s expires at %s", l.ID, l.ExpiresAt.Format(time.RFC3339))
	}
	provider, ok := e.Providers[l.Provider]
	if !ok {
		return fmt.Errorf("this build has no provider %q", l.Provider)
	}
	if l.Promise == ByHandle && l.Handle == "" {
		return errors.New("the mint's outcome is unknown and this provider cannot revoke by name: the credential ends when it expires")
	}
	ctx, cancel := context.WithTimeout(ctx, revokeTimeout)
	defer cancel()
	return provider.Revoke(ctx, l.ID, l.Handle)
}

// settle records all outcomes in one transaction. A lease that somebody else ended meanwhile is left alone.
func (e *Ender) settle(ctx context.Context, due []Lease, outcomes []error) error {
	ended := 0
	err := e.DB.Commit(ctx, func(tx store.Tx) error {
		ended = 0
		now := e.Now()
		for i, l := range due {
			if outcomes[i] != nil {
				if err := ignoreState(retryLater(tx, l.ID, outcomes[i], retryAt(l, now))); err != nil {
					return err
				}
				continue
			}
			if err := e.end(tx, l, now); err != nil {
				return err
			}
			ended++
		}
		return nil
	})
	if err == nil && e.Ended != nil {
		e.Ended(ended)
	}
	return err
}

func (e *Ender) end(tx store.Tx, l Lease, now time.Time) error {
	if live, err := stillLive(tx, l.ID); err != nil || !live {
		return err
	}
	state := Revoked
	if !now.Before(l.ExpiresAt) {
		state = Expired
	}
	leaf, err := e.Record(tx, l, state, now)
	if err != nil {
		return fmt.Errorf("record the end of lease %s: %w", l.ID, err)
	}
	return finish(tx, l.ID, state, leaf, now)
}

func ignoreState(err error) error {
	if errors.Is(err, ErrState) {
		return nil
	}
	return err
}

// retryAt doubles the wait with each try, but never past the expiry: then the lease ends by itself.
func retryAt(l Lease, now time.Time) time.Time {
	wait := retryMost
	if l.Tries < 5 {
		wait = min(retryLeast<<l.Tries, retryMost)
	}
	at := now.Add(wait)
	if at.After(l.ExpiresAt) {
		return l.ExpiresAt
	}
	return at
}
