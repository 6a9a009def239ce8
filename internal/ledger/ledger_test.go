package ledger

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/sqlite"
	"cardea/internal/store"
)

const testName = "cardea.test/ledger"

func testKey(seed byte) ed25519.PrivateKey {
	s := make([]byte, ed25519.SeedSize)
	s[0] = seed
	return ed25519.NewKeyFromSeed(s)
}

type fixture struct {
	*Ledger
	t   testing.TB
	db  *sqlite.DB
	dir string
	key string
}

func openDB(t testing.TB, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path, nil, sqlite.Component("ledger", Schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func testConfig(t testing.TB, db store.DB) (Config, string) {
	t.Helper()
	s, v, text, err := NewKey(testName, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return Config{DB: db, Hub: "hub-1", Signer: s, Verifier: v, Now: time.Now, Every: time.Millisecond}, text
}

func newFixture(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	dir := t.TempDir()
	db := openDB(t, filepath.Join(dir, "ledger.db"))
	c, key := testConfig(t, db)
	if change != nil {
		change(&c)
	}
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{Ledger: l, t: t, db: db, dir: dir, key: key}
}

// start runs the sequencer until the test ends, and fails the test if it fails.
func (f *fixture) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("sequencer: %v", err)
		}
	})
}

func (f *fixture) append(entries ...Entry) (ids []string) {
	f.t.Helper()
	err := f.db.Commit(f.t.Context(), func(tx store.Tx) error {
		for _, e := range entries {
			id, err := f.Append(tx, e)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return ids
}

func (f *fixture) wait() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	if err := f.WaitSequenced(ctx); err != nil {
		f.t.Fatal(err)
	}
}

func testEntry(i int) Entry {
	return Entry{
		Kind: KindVerdict, Event: "allow",
		Refs:    Refs{Run: "run_1", Task: "/do/0/one", Attempt: fmt.Sprint(i), Target: "bank"},
		Payload: fmt.Appendf(nil, `{"n":%d}`, i),
	}
}

func testEntries(n int) []Entry {
	entries := make([]Entry, n)
	for i := range entries {
		entries[i] = testEntry(i)
	}
	return entries
}

func TestEveryLeafIsProvable(t *testing.T) {
	f := newFixture(t, nil)
	f.start()
	var ids []string
	for range 12 {
		ids = append(ids, f.append(testEntries(50)...)...)
		f.wait()
	}
	signed, size, err := f.Checkpoint()
	if err != nil || size != 600 {
		t.Fatalf("checkpoint of %d leaves: %v", size, err)
	}
	c, err := ParseCheckpoint(signed, f.config.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		p, err := f.Prove(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := ParseLeaf(p.Record.Leaf)
		if err != nil || leaf.ID != id || p.Record.Index != int64(i) {
			t.Fatalf("leaf %d: got %s at %d: %v", i, leaf.ID, p.Record.Index, err)
		}
		if err := tlog.CheckRecord(p.Inclusion, c.Size, c.Root, p.Record.Index, tlog.RecordHash(p.Record.Leaf)); err != nil {
			t.Fatal(err)
		}
		if err := leaf.CheckPayload(p.Record.Salt, p.Record.Payload); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Prove(t.Context(), "lf_unknown"); !errors.Is(err, ErrUnknownLeaf) {
		t.Errorf("an unknown leaf was answered with %v", err)
	}
}
