// Package ledgerfuzz fuzzes what the ledger parses. It stands apart because a fuzzed binary that links a whole database runs a
// thousand times slower.
package ledgerfuzz

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
	formats "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/ledger"
)

const name = "cardea.test/ledger"

type keys struct {
	signer   note.Signer
	verifier note.Verifier
	text     string
}

func newKeys(f *testing.F) keys {
	f.Helper()
	s, v, text, err := ledger.NewKey(name, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		f.Fatal(err)
	}
	return keys{s, v, text}
}

func (k keys) checkpoint(f *testing.F, size uint64, root tlog.Hash) []byte {
	f.Helper()
	text := formats.Checkpoint{Origin: name, Size: size, Hash: root[:]}.Marshal()
	signed, err := note.Sign(&note.Note{Text: string(text)}, k.signer)
	if err != nil {
		f.Fatal(err)
	}
	return signed
}

// record is a leaf in its canonical bytes, written by hand.
func record(i int) ledger.Record {
	salt, payload := bytes.Repeat([]byte{byte(i)}, 16), fmt.Appendf(nil, `{"n":%d}`, i)
	sum := sha256.Sum256(append(bytes.Clone(salt), payload...))
	leaf := fmt.Sprintf(`{"dev":false,"hub":"h","id":"lf_01jd000000000000000000000%d","kind":"verdict","payload":"sha256:%s","refs":{"run":"run_%d"},`+
		`"time":"2026-11-21T20:36:00.007Z","v":1}`, i, hex.EncodeToString(sum[:]), i)
	return ledger.Record{Index: int64(i), Leaf: []byte(leaf), Salt: salt, Payload: payload}
}

func FuzzParseLeaf(f *testing.F) {
	f.Add(record(1).Leaf)
	f.Add(bytes.Replace(record(2).Leaf, []byte(`run_2`), []byte(`é\n\u0001\"`), 1))
	f.Add([]byte(`{"dev":true,"hub":"é\n","id":"lf_01jd0000000000000000000000","kind":"start","payload":"","refs":{},"time":"","v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ledger.ParseLeaf(b)
		if err != nil {
			return
		}
		other, err := jcs.Transform(b)
		if err != nil || !bytes.Equal(other, b) {
			t.Errorf("accepted %q, which is not RFC 8785: %v", b, err)
		}
		var generic map[string]any
		if err := json.Unmarshal(b, &generic); err != nil || generic["id"] != l.ID || generic["kind"] != string(l.Kind) {
			t.Errorf("another reader sees %v: %v", generic, err)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	k := newKeys(f)
	for _, size := range []uint64{0, 1, 1 << 62, 1 << 63} {
		signed := k.checkpoint(f, size, tlog.Hash{})
		f.Add(signed)
		f.Add(bytes.Replace(signed, []byte("\n\n"), []byte("\nextension\n\n"), 1))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ledger.ParseCheckpoint(b, k.verifier)
		if err != nil {
			return
		}
		text := formats.Checkpoint{Origin: c.Origin, Size: uint64(c.Size), Hash: c.Root[:]}.Marshal()
		if !bytes.HasPrefix(b, append(text, '\n')) {
			t.Errorf("%q was read as %+v", b, c)
		}
	})
}

// FuzzVerifyExport holds the last checkpoint: only the very same ledger may pass.
func FuzzVerifyExport(f *testing.F) {
	k := newKeys(f)
	var b bytes.Buffer
	w := ledger.NewExportWriter(&b, name)
	var hashes []tlog.Hash
	for i := range 3 {
		r := record(i)
		h := tlog.RecordHash(r.Leaf)
		hashes = append(hashes, h)
		w.Leaf(r, &h)
	}
	root := tlog.NodeHash(tlog.NodeHash(hashes[0], hashes[1]), hashes[2])
	last := k.checkpoint(f, 3, root)
	w.Checkpoint(last)
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	if r, err := ledger.VerifyExport(bytes.NewReader(b.Bytes()), k.text, last); err != nil || r.Leaves != 3 {
		f.Fatalf("the seed does not verify: %v", err)
	}
	lines := strings.SplitAfter(b.String(), "\n")
	f.Add(b.Bytes())
	f.Add([]byte(strings.Join(lines[:3], "")))
	f.Add([]byte(lines[0] + lines[1][:30]))
	f.Add([]byte(lines[0] + `{"leaf":{"index":0,"text":"","salt":"","payload":""}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ledger.VerifyExport(bytes.NewReader(b), k.text, last)
		if err == nil && (r.Leaves != 3 || r.Root != root) {
			t.Errorf("accepted %+v", r)
		}
	})
}
