package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strings"

	formats "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxCheckpoint bounds a signed note, with room for the signatures of many witnesses.
const maxCheckpoint = 16 << 10

// Checkpoint is a signed statement: the tree of so many leaves has this root.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   tlog.Hash
}

func (c Checkpoint) text() string {
	return string(formats.Checkpoint{Origin: c.Origin, Size: uint64(c.Size), Hash: c.Root[:]}.Marshal())
}

func (c Checkpoint) sign(s note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text()}, s)
}

// ParseCheckpoint verifies a note's signature and reads it (https://c2sp.org/tlog-checkpoint). The note may carry signatures of
// others, such as witnesses; only the verifier's counts. Its name must be the origin line: a key is good for one ledger only.
func ParseCheckpoint(signed []byte, v note.Verifier) (Checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("the checkpoint has %d bytes; at most %d are allowed", len(signed), maxCheckpoint)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		return Checkpoint{}, fmt.Errorf("the checkpoint is not signed by %s+%08x but by %s", v.Name(), v.KeyHash(), signers(unverified.Note))
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint's signature is not valid: %w", err)
	}
	// The encoding of a signature has spare bits; with any of them set it would be a second form of one checkpoint.
	if _, err := base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64); err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint's signature is not in its canonical form: %w", err)
	}
	var w formats.Checkpoint
	rest, err := w.Unmarshal([]byte(n.Text))
	if err != nil {
		return Checkpoint{}, err
	}
	if len(w.Hash) != tlog.HashSize || w.Size > math.MaxInt64 {
		return Checkpoint{}, errors.New("the checkpoint's size or root is out of range")
	}
	c := Checkpoint{Origin: w.Origin, Size: int64(w.Size), Root: tlog.Hash(w.Hash)}
	if c.Origin != v.Name() {
		return Checkpoint{}, fmt.Errorf("the checkpoint is of ledger %q and not of %q", c.Origin, v.Name())
	}
	// Extension lines and second spellings of a number are refused: this ledger writes neither.
	if len(rest) > 0 || !bytes.Equal([]byte(c.text()), []byte(n.Text)) {
		return Checkpoint{}, errors.New("the checkpoint is not in its canonical form")
	}
	return c, nil
}

func signers(n *note.Note) string {
	var names []string
	for _, s := range n.UnverifiedSigs {
		names = append(names, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
	}
	return strings.Join(names, ", ")
}

// signer signs notes with a key that stays where it is.
type signer struct {
	name string
	hash uint32
	key  ed25519.PrivateKey
}

func (s signer) Name() string                    { return s.name }
func (s signer) KeyHash() uint32                 { return s.hash }
func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// NewKey makes the signer and the verifier of the ledger called name from a private key, and the verifier's text form, which clients
// are given: name+hash+key. A ledger's name looks like a host and path without scheme: cardea.local/ledger.
func NewKey(name string, key ed25519.PrivateKey) (note.Signer, note.Verifier, string, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PrivateKeySize {
		return nil, nil, "", errors.New("ledger key: not an Ed25519 private key")
	}
	text, err := note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return nil, nil, "", fmt.Errorf("ledger key %q: %w", name, err)
	}
	v, err := note.NewVerifier(text)
	if err != nil {
		return nil, nil, "", fmt.Errorf("ledger key %q: %w", name, err)
	}
	return signer{name: name, hash: v.KeyHash(), key: key}, v, text, nil
}
