package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cardea/internal/ledger"
	"cardea/internal/sqlite"
	"cardea/internal/store"
)

// disk measures what a commit cannot be faster than: 4 KiB appended and made durable, as SQLite's log is.
func (b *bench) disk(context.Context) (err error) {
	file, err := os.Create(filepath.Join(b.dir, "sync"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	page := make([]byte, 4<<10)
	if _, err := rand.Read(page); err != nil {
		return err
	}
	took := make([]time.Duration, b.plan.syncs)
	for i := range took {
		began := time.Now()
		if _, err := file.Write(page); err != nil {
			return err
		}
		if err := datasync(file); err != nil {
			return fmt.Errorf("make a write durable: %w", err)
		}
		took[i] = time.Since(began)
	}
	sorted(took)
	b.figures.set("fdatasync_ms", millis(quantile(took, .5)))
	b.figures.set("fdatasync_p99_ms", millis(quantile(took, .99)))
	b.say("disk      %s: 4 KiB and fdatasync %.2f ms, p99 %.2f ms (%d writes)", b.dir, millis(quantile(took, .5)), millis(quantile(took, .99)), len(took))
	return nil
}

// leaf measures what one more leaf costs the transaction that carries it: in this process, on this disk, a thousand to a commit, so that
// the commit's own price disappears.
func (b *bench) leaf(ctx context.Context) (err error) {
	const each = 1000
	path := filepath.Join(b.dir, "leaf.db")
	db, err := sqlite.Open(ctx, path, nil, sqlite.Component("ledger", ledger.Schema))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	book, err := openLedger(ctx, db)
	if err != nil {
		return err
	}
	entry := ledger.Entry{Kind: ledger.KindVerdict, Event: "allow", Payload: make([]byte, 600),
		Refs: ledger.Refs{Run: "run_01", Task: "/do/0/read", Attempt: "1", Target: "target"}}
	for i := range entry.Payload {
		entry.Payload[i] = 'x'
	}
	began := time.Now()
	for range b.plan.leaves / each {
		err := db.Commit(ctx, func(tx store.Tx) error {
			for range each {
				if _, err := book.Append(tx, entry); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("append leaves: %w", err)
		}
	}
	cost := float64(time.Since(began).Microseconds()) / float64(b.plan.leaves)
	b.figures.set("leaf_us", cost)
	b.say("leaf      %.1f µs more for the transaction that carries it (in process, %d to a commit)", cost, each)
	return nil
}

func openLedger(ctx context.Context, db store.DB) (*ledger.Ledger, error) {
	const name = "bench.local/ledger"
	secret, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		return nil, err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return nil, err
	}
	return ledger.Open(ctx, ledger.Config{DB: db, Hub: "bench.local", Signer: signer, Verifier: verifier, Now: time.Now})
}
