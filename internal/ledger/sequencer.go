package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/store"
)

// maxBatch bounds how long one pass holds the writer: other callers' commits wait behind it.
const maxBatch = 256

// Run sequences leaves until ctx is done. An error means that the ledger must not go on: it is the caller's to stop with it, since
// leaves that are never signed prove nothing.
func (l *Ledger) Run(ctx context.Context) error {
	if l.running.Swap(true) {
		return errors.New("ledger: the sequencer runs already")
	}
	err := l.run(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = err
	if err == nil {
		l.failed = errors.New("the sequencer was stopped")
	}
	close(l.settled)
	l.settled = make(chan struct{})
	return err
}

func (l *Ledger) run(ctx context.Context) error {
	signal(l.wake) // what an earlier process left behind
	publish := newPublisher(l.config.Publish)
	if err := publish.resume(ctx, l); err != nil {
		return fmt.Errorf("publish ledger: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.hurry:
		case <-l.wake:
		}
		if err := l.drain(ctx, publish); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("sequence ledger: %w", err)
		}
		// A pause between checkpoints, unless somebody waits: each costs a sync and a signature.
		select {
		case <-ctx.Done():
			return nil
		case <-l.hurry:
			signal(l.hurry)
		case <-time.After(l.config.Every):
		}
	}
}

// drain sequences until nothing is left, and tells those who wait.
func (l *Ledger) drain(ctx context.Context, publish *publisher) error {
	for {
		n, err := l.sequence(ctx)
		if err != nil {
			return err
		}
		if n < maxBatch {
			break
		}
	}
	h := l.current.Load()
	if err := publish.upTo(ctx, l, h); err != nil {
		// Nobody's proof depends on the public copy, and the next checkpoint tries again.
		l.config.Log.Error("ledger files not written", "err", err)
	}
	l.done.Store(h.Size)
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.settled)
	l.settled = make(chan struct{})
	return nil
}

// sequence gives indexes to one batch of leaves and signs the tree that they make. The checkpoint leaves this function only after
// its commit: one that was signed and not stored has been seen by nobody.
func (l *Ledger) sequence(ctx context.Context) (int, error) {
	old := l.current.Load()
	var pending []pendingLeaf
	err := l.config.DB.View(ctx, func(tx store.Tx) (err error) {
		pending, err = readPending(tx, maxBatch)
		return err
	})
	if err != nil || len(pending) == 0 {
		return 0, err
	}
	hashes := make([]tlog.Hash, len(pending))
	for i, p := range pending {
		hashes[i] = p.hash
	}
	g, err := old.extend(hashes)
	if err != nil {
		return 0, err
	}
	if g.next.note, err = g.next.sign(l.config.Signer); err != nil {
		return 0, fmt.Errorf("sign checkpoint: %w", err)
	}
	// What will be published must be what verifiers accept: a signer with the wrong key is found here.
	if _, err := ParseCheckpoint(g.next.note, l.config.Verifier); err != nil {
		return 0, fmt.Errorf("sign checkpoint: %w", err)
	}
	err = l.config.DB.Commit(ctx, func(tx store.Tx) error { return writeGrowth(tx, old, pending, g) })
	if err != nil {
		return 0, err
	}
	l.current.Store(g.next)
	return len(pending), nil
}

// WaitSequenced returns when every leaf that was committed before the call is under a signed checkpoint that Checkpoint answers and
// that, where there is a public copy, has been published.
func (l *Ledger) WaitSequenced(ctx context.Context) error {
	newest := int64(-1) // sequence number of the last leaf to wait for
	for {
		l.mu.Lock()
		settled, failed := l.settled, l.failed
		l.mu.Unlock()
		if failed != nil {
			return fmt.Errorf("wait for the ledger: %w", failed)
		}
		done := l.done.Load()
		waiting := false
		err := l.config.DB.View(ctx, func(tx store.Tx) (err error) {
			if newest < 0 {
				if err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM ledger_leaf`).Scan(&newest); err != nil {
					return err
				}
			}
			waiting, err = unsettled(tx, newest, done)
			return err
		})
		if err != nil || !waiting {
			return err
		}
		signal(l.hurry)
		select {
		case <-settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unsettled says whether leaves up to a sequence number have no index, or have one that the sequencer has not finished with.
func unsettled(tx store.Tx, newest, done int64) (bool, error) {
	var pending bool
	err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM ledger_leaf WHERE idx IS NULL AND seq <= $1)`, newest).Scan(&pending)
	if err != nil || pending {
		return pending, err
	}
	var last *int64
	if err := tx.QueryRow(`SELECT MAX(idx) FROM ledger_leaf`).Scan(&last); err != nil {
		return false, err
	}
	return last != nil && *last >= done, nil
}
