package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cardea/internal/store"
)

// Config is what a ledger is made of. All fields but Publish, Every and Log are needed.
type Config struct {
	DB store.DB
	// Hub and Dev stand in every leaf.
	Hub string
	Dev bool
	// Signer signs checkpoints. Its name is the ledger's name, the origin line of every checkpoint.
	Signer note.Signer
	// Verifier is the key that Signer signs for. Stored checkpoints are checked with it.
	Verifier note.Verifier
	// Publish is a folder for the public files: checkpoint and tile/. Empty publishes nothing.
	Publish string
	// Every is the shortest time between two checkpoints that nobody waits for. The default is 200 ms.
	Every time.Duration
	Now   func() time.Time
	Log   *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.DB == nil, c.Hub == "", c.Signer == nil, c.Verifier == nil, c.Now == nil:
		return errors.New("ledger: a store, a hub name, a signer, its verifier and a clock are required")
	case c.Signer.Name() != c.Verifier.Name(), c.Signer.KeyHash() != c.Verifier.KeyHash():
		return errors.New("ledger: signer and verifier are not of one key")
	}
	if c.Every <= 0 {
		c.Every = 200 * time.Millisecond
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return nil
}

// Ledger appends leaves, sequences them and answers for them. Its methods are safe for concurrent use.
type Ledger struct {
	config Config
	wake   chan struct{} // a leaf was appended; the commit that it belongs to ends before the sequencer's own
	hurry  chan struct{} // somebody waits in WaitSequenced

	// current is the tree as of the newest signed checkpoint. Only the sequencer replaces it.
	current atomic.Pointer[head]
	running atomic.Bool
	done    atomic.Int64 // size up to which leaves are signed and published

	mu      sync.Mutex
	settled chan struct{} // closed and replaced after every pass of the sequencer
	failed  error         // why the sequencer ended
}

// Entry is something to record.
type Entry struct {
	Kind  Kind
	Event string
	Refs  Refs
	// Payload is stored beside the leaf, which carries its salted digest only. It is JSON by custom; nothing here reads it.
	Payload []byte
}

// Append records an entry in the caller's transaction and returns the leaf's id. The caller's failure to commit takes the leaf along.
func (l *Ledger) Append(tx store.Tx, e Entry) (id string, err error) {
	if len(e.Payload) > MaxPayload {
		return "", fmt.Errorf("record %s: the payload has %d bytes; at most %d are allowed", e.Kind, len(e.Payload), MaxPayload)
	}
	now := l.config.Now()
	if id, err = newID(now); err != nil {
		return "", err
	}
	salt, payload := newSalt(), e.Payload
	if payload == nil {
		payload = []byte{} // NULL would mean erased
	}
	leaf := Leaf{
		V: version, ID: id, Kind: e.Kind, Event: e.Event, Time: now,
		Hub: l.config.Hub, Dev: l.config.Dev, Refs: e.Refs, Payload: payloadDigest(salt, payload),
	}
	b, err := leaf.canonical()
	if err != nil {
		return "", fmt.Errorf("record %s: %w", e.Kind, err)
	}
	if _, err := tx.Exec(`INSERT INTO ledger_leaf (id, leaf, salt, payload) VALUES ($1, $2, $3, $4)`, id, string(b), salt, payload); err != nil {
		return "", fmt.Errorf("record %s: %w", e.Kind, err)
	}
	signal(l.wake)
	return id, nil
}

// Erase records that the payload of a leaf is erased, with why as the payload of the erasure's own leaf, and has the sequencer remove
// payload and salt in the transaction that gives the erasure its index: a payload is never missing without a signed record of it.
// The erased leaf stays in the tree and provable; what it said cannot be recovered from it.
func (l *Ledger) Erase(tx store.Tx, id string, why []byte) (erasure string, err error) {
	var there bool
	err = tx.QueryRow(`SELECT payload IS NOT NULL FROM ledger_leaf WHERE id = $1`, id).Scan(&there)
	if errors.Is(err, store.ErrNoRows) || (err == nil && !there) {
		return "", fmt.Errorf("erase %s: %w", id, ErrUnknownLeaf)
	}
	if err != nil {
		return "", fmt.Errorf("erase %s: %w", id, err)
	}
	if erasure, err = l.Append(tx, Entry{Kind: KindErasure, Refs: Refs{Leaf: id}, Payload: why}); err != nil {
		return "", err
	}
	if _, err := tx.Exec(`INSERT INTO ledger_erasure (erasure, leaf) VALUES ($1, $2)`, erasure, id); err != nil {
		return "", fmt.Errorf("erase %s: %w", id, err)
	}
	return erasure, nil
}

// signal leaves one token; a token that is there already says the same.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ErrUnknownLeaf is the answer for a leaf that does not exist or whose payload is gone already.
var ErrUnknownLeaf = errors.New("no such leaf in the ledger")

// Open checks the stored tree against its newest checkpoint and returns the ledger. Nothing is sequenced before Run.
func Open(ctx context.Context, c Config) (*Ledger, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	l := &Ledger{config: c, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), settled: make(chan struct{})}
	h, err := l.loadHead(ctx)
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", c.Verifier.Name(), err)
	}
	l.current.Store(h)
	l.done.Store(h.Size)
	return l, nil
}
