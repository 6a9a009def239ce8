package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
	"cardea/internal/durable"
	"cardea/internal/durable/sqljournal"
	"cardea/internal/engine"
	"cardea/internal/ledger"
	"cardea/internal/sqlite"
)

// counts are of the same steps, by everyone who saw them.
type counts struct {
	leaves     map[string]int // by kind and event
	accepted   int            // by the target
	requests   int            // that the target saw at all
	journalled int            // results with an answer in the engine's journal
	ended      int            // runs in the journal that completed
}

// Leaf counts; it is one of the sinks that the ledger is read into.
func (c *counts) Leaf(r ledger.Record, _ *tlog.Hash) {
	leaf, err := ledger.ParseLeaf(r.Leaf)
	if err != nil {
		c.leaves["unreadable"]++ // the verifier beside this one says what is wrong
		return
	}
	c.leaves[string(leaf.Kind)+" "+leaf.Event]++
}

// Checkpoint has nothing to count.
func (c *counts) Checkpoint([]byte) {}

// count waits until every action has been returned, verifies the ledger and asks the target. The engine's journal is read once the hub has
// stopped.
func (b *bench) count(ctx context.Context, w *world) (counts, error) {
	c, err := b.readLedger(ctx, w)
	for _, name := range w.tree.Names() {
		if n := w.tree.Starts(name); n != 1 {
			err = errors.Join(err, fmt.Errorf("%s was started %d times: the figures are of a hub that fell and got up", name, n))
		}
	}
	stats, stopErr := w.target.stop()
	c.accepted, c.requests = stats.Accepted, stats.Requests
	return c, errors.Join(err, stopErr)
}

// readLedger verifies the ledger with the key that the profile pins. Returns are batched, off the path of a step, so the last actions may be
// recorded a moment after the last run has completed.
func (b *bench) readLedger(ctx context.Context, w *world) (counts, error) {
	profile, err := w.tree.Profile(person)
	if err != nil {
		return counts{}, err
	}
	auditor, err := cli.NewAuditor(profile.CheckpointKey, filepath.Join(b.dir, "hub"))
	if err != nil {
		return counts{}, err
	}
	if err := w.settled(ctx); err != nil {
		return counts{}, err
	}
	began := time.Now()
	c := counts{leaves: map[string]int{}}
	report, err := auditor.Verify(ctx, w.client.Ledger, func(uint64, uint64) {}, &c)
	if err != nil {
		return c, fmt.Errorf("read the ledger: %w", err)
	}
	if report.Problem != nil {
		return c, fmt.Errorf("the ledger does not verify: %w", report.Problem)
	}
	b.say("ledger    %d leaves verify (%.1f s)", report.Leaves, time.Since(began).Seconds())
	return c, nil
}

// settled waits until the ledger has stopped growing by runs.
func (w *world) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for last := uint64(0); ; {
		answer, err := w.client.Ledger.Entries(ctx, &cardeav1.EntriesRequest{From: 0, Limit: 1})
		if err != nil {
			return fmt.Errorf("size of the ledger: %w", err)
		}
		if answer.GetSize() == last {
			return nil
		}
		last = answer.GetSize()
		if err := pause(ctx, time.Second); err != nil {
			return fmt.Errorf("the ledger goes on growing: %w", err)
		}
	}
}

// journalled reads the journal of an engine that has stopped, by the code that the engine recovers with.
func journalled(ctx context.Context, path string) (results, completed int, err error) {
	migrations, err := sqljournal.Migrations()
	if err != nil {
		return 0, 0, err
	}
	db, err := sqlite.Open(ctx, path, migrations)
	if err != nil {
		return 0, 0, fmt.Errorf("open the engine's journal: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	journal := sqljournal.New(db)
	for before := ""; ; {
		const page = 1000
		runs, err := journal.List(ctx, durable.Filter{Before: before, Limit: page})
		if err != nil {
			return 0, 0, err
		}
		for _, run := range runs {
			before = run.ID
			if run.Status == engine.StatusCompleted {
				completed++
			}
			n, err := resultsOf(ctx, journal, run.ID)
			if err != nil {
				return 0, 0, err
			}
			results += n
		}
		if len(runs) < page {
			return results, completed, nil
		}
	}
}

func resultsOf(ctx context.Context, journal *sqljournal.Journal, run string) (n int, err error) {
	_, entries, err := journal.Load(ctx, run)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		event, err := engine.DecodeEvent(e.Data)
		if err != nil {
			return 0, fmt.Errorf("run %s, event %d: %w", run, e.Seq, err)
		}
		if event.Result != nil {
			n++
		}
	}
	return n, nil
}

// agree demands that all who counted the steps counted the same.
func (b *bench) agree(c counts, runs int) error {
	want := runs * tasks
	var wrong []error
	for _, seen := range []struct {
		what      string
		got, want int
	}{
		{"verdicts that allow", c.leaves["verdict allow"], want},
		{"issuances", c.leaves["issuance issued"], want},
		{"actions", c.leaves["action attempted"], want},
		{"results in the journal", c.journalled, want},
		{"requests that the target accepted", c.accepted, want},
		{"requests that the target saw", c.requests, want},
		{"verdicts that do not allow", c.leaves["verdict deny"] + c.leaves["verdict pending"] + c.leaves["verdict in_doubt"], 0},
		{"runs that completed in the journal", c.ended, runs},
		{"closures", c.leaves["closure "], runs},
	} {
		if seen.got != seen.want {
			wrong = append(wrong, fmt.Errorf("%d %s, not %d", seen.got, seen.what, seen.want))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the counts do not agree: %w", errors.Join(wrong...))
	}
	b.say("counts    %d runs, %d steps: verdicts, issuances, actions, journalled results and accepted requests agree", runs, want)
	return nil
}
