package clitest

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"testing"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/ledger"
	"cardea/internal/sqlite"
	"cardea/internal/store"
)

// Record is a real ledger behind a test hub's Ledger service.
type Record struct {
	*ledger.Ledger
	t  *testing.T
	db *sqlite.DB
	// IDs are the leaves appended so far.
	IDs []string
}

// NewRecord starts a ledger that signs with key, and lets it answer for the hub.
func NewRecord(t *testing.T, h *Hub, key ed25519.PrivateKey) *Record {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"), nil, sqlite.Component("ledger", ledger.Schema))
	check(t, err)
	signer, verifier, _, err := ledger.NewKey(Domain+"/ledger", key)
	check(t, err)
	l, err := ledger.Open(t.Context(), ledger.Config{DB: db, Hub: Domain, Signer: signer, Verifier: verifier, Now: time.Now, Every: time.Millisecond})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("sequencer: %v", err)
		}
		db.Close()
	})
	r := &Record{Ledger: l, t: t, db: db}
	h.Ledger.OnCheckpoint, h.Ledger.OnEntries, h.Ledger.OnCheckpoints, h.Ledger.OnProve = r.checkpoint, r.entries, r.checkpoints, r.prove
	return r
}

// Append records payloads and waits until they are under a signed checkpoint.
func (r *Record) Append(payloads ...string) {
	r.t.Helper()
	for _, p := range payloads {
		var id string
		check(r.t, r.db.Commit(r.t.Context(), func(tx store.Tx) (err error) {
			id, err = r.Ledger.Append(tx, ledger.Entry{Kind: ledger.KindChange, Payload: []byte(p)})
			return err
		}))
		r.IDs = append(r.IDs, id)
	}
	check(r.t, r.WaitSequenced(r.t.Context()))
}

func (r *Record) checkpoints(q *cardeav1.CheckpointsRequest) (*cardeav1.CheckpointsResponse, error) {
	signed, err := r.Ledger.Checkpoints(r.t.Context(), int64(q.GetFromSize()), int(q.GetLimit()))
	return &cardeav1.CheckpointsResponse{Checkpoints: signed}, err
}

func (r *Record) checkpoint(*cardeav1.CheckpointRequest) (*cardeav1.CheckpointResponse, error) {
	signed, _, err := r.Checkpoint()
	return &cardeav1.CheckpointResponse{Checkpoint: signed}, err
}

func (r *Record) entries(q *cardeav1.EntriesRequest) (*cardeav1.EntriesResponse, error) {
	records, size, err := r.Entries(context.Background(), int64(q.GetFrom()), int(q.GetLimit()))
	answer := &cardeav1.EntriesResponse{Size: uint64(size)}
	for _, e := range records {
		answer.Entries = append(answer.Entries, entry(e))
	}
	return answer, err
}

func entry(e ledger.Record) *cardeav1.Entry {
	return &cardeav1.Entry{Index: uint64(e.Index), Leaf: e.Leaf, Salt: e.Salt, Payload: e.Payload}
}

func (r *Record) prove(q *cardeav1.ProveRequest) (*cardeav1.ProveResponse, error) {
	ctx := context.Background()
	var p ledger.Proof
	var err error
	if q.GetByIndex() {
		p, err = r.ProveIndex(ctx, int64(q.GetIndex()))
	} else {
		p, err = r.Prove(ctx, q.GetLeafId())
	}
	if err != nil {
		return nil, err
	}
	answer := &cardeav1.ProveResponse{Entry: entry(p.Record), Checkpoint: p.Checkpoint}
	for _, h := range p.Inclusion {
		answer.Inclusion = append(answer.Inclusion, append([]byte(nil), h[:]...))
	}
	if old := int64(q.GetConsistentWith()); old > 0 && old <= p.Size {
		proof, err := r.ProveConsistency(ctx, old, p.Size)
		if err != nil {
			return nil, err
		}
		for _, h := range proof {
			answer.Consistency = append(answer.Consistency, append([]byte(nil), h[:]...))
		}
	}
	return answer, nil
}
