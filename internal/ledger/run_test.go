package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/sqlite"
	"cardea/internal/store"
)

// TestAllCheckpointsAreConsistent (invariant 14) appends from many callers while the sequencer runs, restarts in between, and
// proves every checkpoint against the one before with x/mod's verifier.
func TestAllCheckpointsAreConsistent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	total := 0
	for range 3 {
		db, err := sqlite.Open(t.Context(), path, nil, sqlite.Component("ledger", Schema))
		if err != nil {
			t.Fatal(err)
		}
		c, key := testConfig(t, db)
		l, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		f := &fixture{Ledger: l, t: t, db: db, key: key}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		var wg sync.WaitGroup
		for caller := range 8 {
			wg.Go(func() {
				for i := range 60 {
					err := db.Commit(context.Background(), func(tx store.Tx) error {
						if _, err := l.Append(tx, testEntry(caller*100+i)); err != nil {
							return err
						}
						if i%6 == 0 {
							return errors.New("rolled back with its leaf")
						}
						return nil
					})
					if (err != nil) != (i%6 == 0) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		f.wait()
		total += 8 * 50
		f.checkAllCheckpoints(total)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *fixture) checkAllCheckpoints(leaves int) {
	f.t.Helper()
	var last Checkpoint
	for {
		signed, err := f.Checkpoints(f.t.Context(), last.Size+1, 7)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, s := range signed {
			c, err := ParseCheckpoint(s, f.config.Verifier)
			if err != nil {
				f.t.Fatal(err)
			}
			if c.Size <= last.Size {
				f.t.Fatalf("a checkpoint of %d leaves follows one of %d", c.Size, last.Size)
			}
			if last.Size > 0 {
				proof, err := f.ProveConsistency(f.t.Context(), last.Size, c.Size)
				if err != nil {
					f.t.Fatal(err)
				}
				if err := tlog.CheckTree(proof, c.Size, c.Root, last.Size, last.Root); err != nil {
					f.t.Fatal(err)
				}
			}
			last = c
		}
		if len(signed) == 0 {
			break
		}
	}
	if last.Size != int64(leaves) {
		f.t.Fatalf("%d leaves are signed, %d were committed", last.Size, leaves)
	}
	r, err := f.Verify(f.t.Context())
	if err != nil || r.Err() != nil || r.Leaves != last.Size {
		f.t.Fatalf("%s %v", r.Sentence(), err)
	}
}

// TestRolledBackLeafIsGone: a leaf stands or falls with its transaction.
func TestRolledBackLeafIsGone(t *testing.T) {
	f := newFixture(t, nil)
	var id string
	err := f.db.Commit(t.Context(), func(tx store.Tx) (err error) {
		if id, err = f.Append(tx, testEntry(1)); err != nil {
			return err
		}
		return errors.New("changed my mind")
	})
	if err == nil {
		t.Fatal("committed")
	}
	f.sequenceNow()
	if _, _, err := f.Checkpoint(); !errors.Is(err, ErrEmpty) {
		t.Errorf("a checkpoint was signed: %v", err)
	}
	err = f.db.View(t.Context(), func(tx store.Tx) error { _, err := f.Read(tx, id); return err })
	if !errors.Is(err, ErrUnknownLeaf) {
		t.Errorf("the leaf is there: %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	f := newFixture(t, nil)
	for name, e := range map[string]Entry{
		"no kind":       {},
		"unknown kind":  {Kind: "gossip"},
		"event":         {Kind: KindVerdict, Event: "Not A Word"},
		"huge payload":  {Kind: KindVerdict, Payload: make([]byte, MaxPayload+1)},
		"huge ref":      {Kind: KindVerdict, Refs: Refs{Task: strings.Repeat("x", maxRef+1)}},
		"ref not UTF-8": {Kind: KindVerdict, Refs: Refs{Run: "\xff"}},
	} {
		err := f.db.Commit(t.Context(), func(tx store.Tx) error { _, err := f.Append(tx, e); return err })
		if err == nil {
			t.Errorf("%s: recorded", name)
		}
	}
	// An empty payload is not an erased one.
	f.append(Entry{Kind: KindClosure})
	f.sequenceNow()
	records, _, err := f.Entries(t.Context(), 0, 0)
	if err != nil || len(records) != 1 || records[0].Erased() || len(records[0].Payload) != 0 {
		t.Errorf("%+v %v", records, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	f := newFixture(t, nil)
	_, other, _, err := NewKey(testName, testKey(2))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no store":         func(c *Config) { c.DB = nil },
		"no hub":           func(c *Config) { c.Hub = "" },
		"no signer":        func(c *Config) { c.Signer = nil },
		"no verifier":      func(c *Config) { c.Verifier = nil },
		"no clock":         func(c *Config) { c.Now = nil },
		"another verifier": func(c *Config) { c.Verifier = other },
	} {
		c := f.config
		change(&c)
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	f.append(testEntry(1))
	f.sequenceNow()
	s, v, _, err := NewKey(testName, testKey(2))
	if err != nil {
		t.Fatal(err)
	}
	c := f.config
	c.Signer, c.Verifier = s, v
	if _, err := Open(t.Context(), c); err == nil {
		t.Error("a ledger was opened with a key that did not sign its checkpoints")
	}
}

// TestWrongSignatureIsNotStored: a signer that signs something else must be found before anything is committed.
func TestWrongSignatureIsNotStored(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Signer = lyingSigner{c.Signer} })
	f.append(testEntry(1))
	if _, err := f.sequence(t.Context()); err == nil {
		t.Fatal("a batch with a wrong signature was stored")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := f.Run(ctx); err == nil {
		t.Fatal("the sequencer went on")
	}
	if n, err := f.CountCheckpoints(t.Context()); err != nil || n != 0 {
		t.Errorf("%d checkpoints are stored: %v", n, err)
	}
	if err := f.WaitSequenced(t.Context()); err == nil {
		t.Error("a wait on a stopped sequencer ended well")
	}
}

type lyingSigner struct{ note.Signer }

func (s lyingSigner) Sign(msg []byte) ([]byte, error) { return s.Signer.Sign(append(msg, '!')) }

func TestErasure(t *testing.T) {
	const secret = "a sentence about a person that must go"
	f := newFixture(t, nil)
	e := testEntry(1)
	e.Payload = []byte(secret)
	ids := f.append(testEntry(0), e, testEntry(2))
	f.sequenceNow()
	f.erase(ids[1])
	read := func() (r Record) {
		t.Helper()
		err := f.db.View(t.Context(), func(tx store.Tx) (err error) { r, err = f.Read(tx, ids[1]); return err })
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if read().Erased() {
		t.Error("the payload went before its erasure had an index")
	}
	f.sequenceNow()
	if r := read(); !r.Erased() || r.Payload != nil {
		t.Errorf("the payload is still there: %+v", r)
	}
	if p, err := f.Prove(t.Context(), ids[1]); err != nil || p.Record.Index != 1 {
		t.Errorf("an erased leaf is not provable: %v", err)
	}
	if r, err := f.Verify(t.Context()); err != nil || r.Err() != nil || r.Erased != 1 {
		t.Errorf("%s %v", r.Sentence(), err)
	}
	err := f.db.Commit(t.Context(), func(tx store.Tx) error { _, err := f.Erase(tx, ids[1], nil); return err })
	if !errors.Is(err, ErrUnknownLeaf) {
		t.Errorf("a second erasure was answered with %v", err)
	}
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	// Once the log has been folded in, the words are nowhere in the hub's files.
	dir := f.dir
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%s still has the erased payload", d.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPublishedTilesVerify reads the public files as any c2sp client does: checkpoint first, then tiles, each checked on the way.
func TestPublishedTilesVerify(t *testing.T) {
	dir := t.TempDir()
	f := newFixture(t, func(c *Config) { c.Publish = dir })
	f.start()
	var ids []string
	for range 7 {
		ids = append(ids, f.append(testEntries(90)...)...)
		f.wait()
		f.checkPublished(dir, int64(len(ids)))
	}
	// Full tiles stand for their partial ones.
	if _, err := os.Stat(filepath.Join(dir, "tile/0/000.p")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("partial tiles of a full tile are still there: %v", err)
	}
	for _, path := range []string{"tile/0/000", "tile/0/001", "tile/0/002.p/118", "tile/1/000.p/2"} {
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
			t.Error(err)
		}
	}
}

// publicTiles reads tiles as https://c2sp.org/tlog-tiles lays them out.
type publicTiles struct{ dir string }

func (publicTiles) Height() int                     { return 8 }
func (publicTiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (p publicTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		b, err := os.ReadFile(filepath.Join(p.dir, "tile", strings.TrimPrefix(tile.Path(), "tile/8/")))
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

func (f *fixture) checkPublished(dir string, size int64) {
	f.t.Helper()
	signed, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		f.t.Fatal(err)
	}
	c, err := ParseCheckpoint(signed, f.config.Verifier)
	if err != nil || c.Size != size {
		f.t.Fatalf("the published checkpoint has %d leaves of %d: %v", c.Size, size, err)
	}
	hashes := tlog.TileHashReader(tlog.Tree{N: c.Size, Hash: c.Root}, publicTiles{dir})
	records, _, err := f.Entries(f.t.Context(), 0, 1000)
	if err != nil || int64(len(records)) != size {
		f.t.Fatalf("%d entries: %v", len(records), err)
	}
	for _, r := range records {
		got, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, r.Index)})
		if err != nil || got[0] != tlog.RecordHash(r.Leaf) {
			f.t.Fatalf("leaf %d: %v", r.Index, err)
		}
	}
}

// TestPublishingResumes leaves the public folder as a crash might, and starts again.
func TestPublishingResumes(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no checkpoint":       func(dir string) error { return os.Remove(filepath.Join(dir, "checkpoint")) },
		"nothing":             func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) },
		"an empty tile":       func(dir string) error { return os.Truncate(filepath.Join(dir, "tile/0/000"), 0) },
		"a tile cut short":    func(dir string) error { return os.Truncate(filepath.Join(dir, "tile/1/000.p/1"), 5) },
		"a leftover file":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "checkpoint.new"), []byte("x"), 0o600) },
		"an empty checkpoint": func(dir string) error { return os.Truncate(filepath.Join(dir, "checkpoint"), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "public")
			f := newFixture(t, func(c *Config) { c.Publish = dir })
			f.append(testEntries(300)...)
			f.runOnce()
			f.checkPublished(dir, 300)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			again, err := Open(t.Context(), f.config)
			if err != nil {
				t.Fatal(err)
			}
			f.Ledger = again
			f.append(testEntry(300))
			f.runOnce()
			f.checkPublished(dir, 301)
		})
	}
}

// runOnce runs the sequencer until everything is under a checkpoint.
func (f *fixture) runOnce() {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	f.wait()
	cancel()
	if err := <-ended; err != nil {
		f.t.Fatal(err)
	}
}

// TestWaitSequencedDoesNotWaitForTheInterval: whoever waits is served at once, however long the pause between checkpoints.
func TestWaitSequencedDoesNotWaitForTheInterval(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Every = time.Hour })
	f.start()
	for i := range 20 {
		ids := f.append(testEntry(i))
		f.wait()
		if _, err := f.Prove(t.Context(), ids[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSecondSequencerIsRefused: two of them would sign two trees.
func TestSecondSequencerIsRefused(t *testing.T) {
	f := newFixture(t, nil)
	f.start()
	f.append(testEntry(0))
	f.wait()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := f.Run(ctx); err == nil {
		t.Error("a second sequencer ran")
	}
}

// TestEntriesAreBounded: one answer has at most 1000 records and some megabytes.
func TestEntriesAreBounded(t *testing.T) {
	f := newFixture(t, nil)
	e := testEntry(0)
	e.Payload = make([]byte, 3<<20)
	f.append(e, e, e, e, e)
	f.sequenceNow()
	records, size, err := f.Entries(t.Context(), 0, 1_000_000)
	if err != nil || size != 5 || len(records) != 3 {
		t.Errorf("%d records of %d: %v", len(records), size, err)
	}
	records, _, err = f.Entries(t.Context(), -5, -5)
	if err != nil || records[0].Index != 0 {
		t.Errorf("%v", err)
	}
	if records, _, err = f.Entries(t.Context(), 5, 10); err != nil || len(records) != 0 {
		t.Errorf("%d records beyond the end: %v", len(records), err)
	}
	for _, sizes := range [][2]int64{{0, 5}, {6, 6}, {3, 2}, {1, 6}, {-1, 1}} {
		if _, err := f.ProveConsistency(t.Context(), sizes[0], sizes[1]); err == nil {
			t.Errorf("consistency of %v was proved", sizes)
		}
	}
	for _, i := range []int64{-1, 5, 1 << 62} {
		if _, err := f.ProveIndex(t.Context(), i); !errors.Is(err, ErrUnknownLeaf) {
			t.Errorf("index %d: %v", i, err)
		}
	}
}

func ExampleReport_Sentence() {
	fmt.Println(Report{Origin: "cardea.local/ledger", Leaves: 10531, Checkpoints: 53}.Sentence())
	// Output: 10531 leaves, 53 checkpoints of cardea.local/ledger: consistent. Nothing was changed, removed or forked.
}
