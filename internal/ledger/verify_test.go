package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/store"
)

// rfc6962 is the tree hash as section 2.1 of the RFC defines it, and nothing else.
func rfc6962(leaves [][]byte) [32]byte {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	default:
		k := 1
		for k*2 < n {
			k *= 2
		}
		l, r := rfc6962(leaves[:k]), rfc6962(leaves[k:])
		return sha256.Sum256(slices.Concat([]byte{1}, l[:], r[:]))
	}
}

// TestTreeIsRFC6962 grows trees in random steps and compares every root with the RFC's definition and with x/mod's verifier;
// sizes cross the borders of tiles of two levels.
func TestTreeIsRFC6962(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var leaves [][]byte
	h := &head{edge: map[tileID][]byte{}}
	var v stack
	heads := []*head{h}
	for len(leaves) < 1500 {
		var hashes []tlog.Hash
		for range 1 + rnd.IntN(90) {
			leaf := fmt.Appendf(nil, "leaf %d", len(leaves))
			leaves = append(leaves, leaf)
			hashes = append(hashes, tlog.RecordHash(leaf))
			v.push(tlog.RecordHash(leaf))
		}
		g, err := h.extend(hashes)
		if err != nil {
			t.Fatal(err)
		}
		h = g.next
		want := rfc6962(leaves)
		if h.Root != want || v.root() != want || h.Size != int64(len(leaves)) {
			t.Fatalf("%d leaves: sequencer %v, verifier %v, RFC 6962 %v", len(leaves), h.Root, v.root(), tlog.Hash(want))
		}
		if err := h.check(); err != nil {
			t.Fatal(err)
		}
		heads = append(heads, h)
	}
	// An old head that others still read must not have been written over.
	for _, old := range heads[1:] {
		if err := old.check(); err != nil {
			t.Fatalf("the head of %d leaves changed: %v", old.Size, err)
		}
	}
}

// TestSignsOnlyWhatExtends (invariant 14): whatever is wrong with the tree in memory, nothing is signed over it.
func TestSignsOnlyWhatExtends(t *testing.T) {
	base := func() *head {
		h := &head{edge: map[tileID][]byte{}}
		var hashes []tlog.Hash
		for i := range 300 {
			hashes = append(hashes, tlog.RecordHash([]byte{byte(i)}))
		}
		g, err := h.extend(hashes)
		if err != nil {
			t.Fatal(err)
		}
		return g.next
	}
	more := []tlog.Hash{tlog.RecordHash([]byte("more"))}
	if _, err := base().extend(more); err != nil {
		t.Fatal(err)
	}
	cases := map[string]func(*head){
		"another root":  func(h *head) { h.Root[0] ^= 1 },
		"an edge hash":  func(h *head) { h.edge[tileID{0, 1}] = bytes.Clone(h.edge[tileID{0, 1}]); h.edge[tileID{0, 1}][5] ^= 1 },
		"a lost edge":   func(h *head) { delete(h.edge, tileID{1, 0}) },
		"a larger size": func(h *head) { h.Size++ },
		"a fallen size": func(h *head) { h.Size-- },
	}
	for name, corrupt := range cases {
		h := base()
		h.edge = map[tileID][]byte{{0, 1}: h.edge[tileID{0, 1}], {1, 0}: h.edge[tileID{1, 0}]}
		corrupt(h)
		if g, err := safeExtend(h, more); err == nil {
			t.Errorf("%s: extended to %d leaves", name, g.next.Size)
		}
	}
	if _, err := base().extend(nil); err == nil {
		t.Error("a tree that does not grow was extended")
	}
}

// safeExtend counts a panic as a refusal: nothing was signed.
func safeExtend(h *head, leaves []tlog.Hash) (g growth, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	return h.extend(leaves)
}

// exported makes a ledger of 40 leaves under 4 checkpoints, the payload of leaf 7 erased by leaf 30, and answers its export.
func exported(t testing.TB) (lines []string, key string, checkpoints [][]byte) {
	f := newFixture(t, nil)
	var ids []string
	for i := range 39 {
		if i == 30 {
			f.erase(ids[7])
		}
		ids = append(ids, f.append(testEntry(i))...)
		if i%10 == 8 {
			f.sequenceNow()
		}
	}
	f.sequenceNow()
	var b bytes.Buffer
	if err := f.Export(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	checkpoints, err := f.Checkpoints(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	lines = strings.SplitAfter(b.String(), "\n")
	return lines[:len(lines)-1], f.key, checkpoints
}

func (f *fixture) erase(id string) {
	f.t.Helper()
	err := f.db.Commit(f.t.Context(), func(tx store.Tx) error {
		_, err := f.Erase(tx, id, []byte(`{"why":"asked"}`))
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) sequenceNow() {
	f.t.Helper()
	for {
		n, err := f.sequence(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

func TestIntactExportVerifies(t *testing.T) {
	lines, key, checkpoints := exported(t)
	r, err := VerifyExport(strings.NewReader(strings.Join(lines, "")), key, checkpoints...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Leaves != 40 || r.Checkpoints != 4 || r.Erased != 1 || r.ByKind[KindVerdict] != 39 || r.ByKind[KindErasure] != 1 {
		t.Errorf("report %+v", r)
	}
	if !strings.Contains(r.Sentence(), "40 leaves, 4 checkpoints of cardea.test/ledger: consistent") {
		t.Error(r.Sentence())
	}
}

// edit changes the leaf at an index in an export.
func edit(t *testing.T, lines []string, index int, change func(*exportLeaf)) {
	t.Helper()
	for i, s := range lines {
		var l exportLine
		if err := json.Unmarshal([]byte(s), &l); err != nil {
			t.Fatal(err)
		}
		if l.Leaf == nil || l.Leaf.Index != int64(index) {
			continue
		}
		change(l.Leaf)
		b, err := encodeLine(l)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = string(b)
		return
	}
	t.Fatalf("no leaf %d", index)
}

// lineOf finds the line of a leaf or, after it, of the next checkpoint.
func lineOf(t *testing.T, lines []string, index int, checkpoint bool) int {
	t.Helper()
	for i, s := range lines {
		if strings.HasPrefix(s, fmt.Sprintf(`{"leaf":{"index":%d,`, index)) {
			for checkpoint && !strings.HasPrefix(lines[i], `{"checkpoint"`) {
				i++
			}
			return i
		}
	}
	t.Fatalf("no leaf %d", index)
	return 0
}

// forkLine is a checkpoint of the first n leaves with another root, signed with any key under any name.
func forkLine(t *testing.T, name string, seed byte, size int64) string {
	t.Helper()
	s, _, _, err := NewKey(name, testKey(seed))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Checkpoint{Origin: name, Size: size, Root: tlog.RecordHash([]byte("another tree"))}.sign(s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := encodeLine(exportLine{Checkpoint: string(signed)})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEveryCorruptionIsFound(t *testing.T) {
	intact, key, checkpoints := exported(t)
	newest := checkpoints[len(checkpoints)-1]
	flipText := func(l *exportLeaf) { l.Text = strings.Replace(l.Text, `"target":"bank"`, `"target":"tank"`, 1) }
	rehash := func(l *exportLeaf) { h := tlog.RecordHash([]byte(l.Text)); l.Hash = &h }
	cases := []struct {
		name    string
		corrupt func(t *testing.T, l []string) []string
		seen    [][]byte
		fault   Fault
		index   int64
		say     string
	}{
		{"leaf", func(t *testing.T, l []string) []string { edit(t, l, 12, flipText); return l }, nil, Changed, 12, "leaf 12 was changed"},
		{"leaf and its hash", func(t *testing.T, l []string) []string {
			edit(t, l, 12, func(e *exportLeaf) { flipText(e); rehash(e) })
			return l
		}, nil, Changed, 9, "leaves 9 to 18 lead to root"},
		{"leaf not canonical", func(t *testing.T, l []string) []string {
			edit(t, l, 12, func(e *exportLeaf) { e.Text += " " })
			return l
		}, nil, Changed, 12, "leaf 12 was changed"},
		{"payload", func(t *testing.T, l []string) []string {
			edit(t, l, 3, func(e *exportLeaf) { (*e.Payload)[1] ^= 1 })
			return l
		}, nil, Changed, 3, "payload of leaf 3 was changed"},
		{"salt", func(t *testing.T, l []string) []string {
			edit(t, l, 3, func(e *exportLeaf) { e.Salt[0] ^= 1 })
			return l
		}, nil, Changed, 3, "payload of leaf 3 was changed"},
		{"salt and payload share their bytes anew", func(t *testing.T, l []string) []string {
			edit(t, l, 3, func(e *exportLeaf) {
				p := append([]byte{e.Salt[15]}, *e.Payload...)
				e.Salt, e.Payload = e.Salt[:15], &p
			})
			return l
		}, nil, Changed, 3, "salt has 15 bytes"},
		{"payload gone", func(t *testing.T, l []string) []string {
			edit(t, l, 3, func(e *exportLeaf) { e.Salt, e.Payload = nil, nil })
			return l
		}, nil, Removed, 3, "no erasure of it is recorded"},
		{"payload of an erasure gone", func(t *testing.T, l []string) []string {
			edit(t, l, 30, func(e *exportLeaf) { e.Salt, e.Payload = nil, nil })
			return l
		}, nil, Removed, 30, "no erasure of it is recorded"},
		{"hash beside a leaf", func(t *testing.T, l []string) []string {
			edit(t, l, 12, func(e *exportLeaf) { e.Hash[0] ^= 1 })
			return l
		}, nil, Changed, 12, "hash that stands beside leaf 12 was changed"},
		{"erasure cut off", func(t *testing.T, l []string) []string { return l[:lineOf(t, l, 8, true)+1] },
			nil, Removed, 7, "the payload of leaf 7 was removed"},
		{"salt gone", func(t *testing.T, l []string) []string {
			edit(t, l, 3, func(e *exportLeaf) { e.Salt = nil })
			return l
		}, nil, Unreadable, 3, "there together"},
		{"two leaves swapped", func(t *testing.T, l []string) []string {
			a, b := lineOf(t, l, 12, false), lineOf(t, l, 13, false)
			l[a], l[b] = l[b], l[a]
			return l
		}, nil, Removed, 12, "leaf 12 was removed"},
		{"two leaves swapped and renumbered", func(t *testing.T, l []string) []string {
			a, b := lineOf(t, l, 12, false), lineOf(t, l, 13, false)
			l[a], l[b] = strings.Replace(l[b], `"index":13`, `"index":12`, 1), strings.Replace(l[a], `"index":12`, `"index":13`, 1)
			return l
		}, nil, Changed, 9, "put in another order"},
		{"leaf removed", func(t *testing.T, l []string) []string {
			return slices.Delete(l, lineOf(t, l, 12, false), lineOf(t, l, 12, false)+1)
		}, nil, Removed, 12, "leaf 12 was removed"},
		{"last leaf before a checkpoint removed", func(t *testing.T, l []string) []string {
			return slices.Delete(l, lineOf(t, l, 8, false), lineOf(t, l, 8, false)+1)
		}, nil, Removed, 8, "leaves 8 to 8 were removed"},
		{"leaf twice", func(t *testing.T, l []string) []string {
			i := lineOf(t, l, 12, false)
			return slices.Insert(l, i, l[i])
		}, nil, Added, 12, "a second time"},
		{"leaf added before a checkpoint", func(t *testing.T, l []string) []string {
			i := lineOf(t, l, 8, false)
			return slices.Insert(l, i+1, strings.Replace(l[i], `"index":8`, `"index":9`, 1))
		}, nil, Added, 9, "leaf 9 was added"},
		{"leaf added at the end", func(t *testing.T, l []string) []string {
			i := lineOf(t, l, 39, false)
			return append(l, strings.Replace(l[i], `"index":39`, `"index":40`, 1))
		}, nil, Added, 40, "leaves 40 to 40 are under no signed checkpoint"},
		{"last checkpoint removed", func(t *testing.T, l []string) []string { return l[:len(l)-1] }, nil, Added, 29, "under no signed checkpoint"},
		{"cut short", func(t *testing.T, l []string) []string { return l[:lineOf(t, l, 8, true)+1] },
			[][]byte{newest}, Removed, 9, "cut short: it ends after 9 leaves, but you hold a signed checkpoint of 40"},
		{"cut inside a line", func(t *testing.T, l []string) []string {
			i := lineOf(t, l, 12, false)
			return append(l[:i], l[i][:40])
		}, nil, Unreadable, 12, "after 12 leaves"},
		{"forked checkpoint in between", func(t *testing.T, l []string) []string {
			l[lineOf(t, l, 18, true)] = forkLine(t, testName, 1, 19)
			return l
		}, nil, Changed, 9, "or the ledger was forked"},
		{"forked checkpoint beside", func(t *testing.T, l []string) []string {
			return slices.Insert(l, lineOf(t, l, 18, true)+1, forkLine(t, testName, 1, 19))
		}, nil, Forked, 19, "two signed checkpoints of 19 leaves have different roots"},
		{"fork against a held checkpoint", func(t *testing.T, l []string) []string { return l },
			[][]byte{noteOf(t, forkLine(t, testName, 1, 15))}, Forked, 9, "a signed checkpoint that you hold says that 15 leaves have root"},
		{"fallen size", func(t *testing.T, l []string) []string {
			return slices.Insert(l, lineOf(t, l, 18, true)+1, l[lineOf(t, l, 8, true)])
		}, nil, Forked, 9, "the size fell"},
		{"foreign key", func(t *testing.T, l []string) []string {
			l[lineOf(t, l, 18, true)] = forkLine(t, testName, 2, 19)
			return l
		}, nil, Foreign, 9, "is not signed by cardea.test/ledger+"},
		{"foreign ledger", func(t *testing.T, l []string) []string {
			l[lineOf(t, l, 18, true)] = forkLine(t, "other.test/ledger", 1, 19)
			return l
		}, nil, Foreign, 9, "but by other.test/ledger+"},
		{"checkpoint's signature", func(t *testing.T, l []string) []string {
			i := lineOf(t, l, 18, true)
			j := strings.Index(l[i], `— `) + 40
			l[i] = l[i][:j] + string(l[i][j]^1) + l[i][j+1:]
			return l
		}, nil, Foreign, 9, "signature is not valid"},
		{"head removed", func(t *testing.T, l []string) []string { return l[1:] }, nil, Unreadable, 0, "not a ledger export"},
		{"head twice", func(t *testing.T, l []string) []string { return slices.Insert(l, 1, l[0]) }, nil, Unreadable, 0, "not a ledger export"},
		{"another version", func(t *testing.T, l []string) []string {
			l[0] = strings.Replace(l[0], `"v":1`, `"v":2`, 1)
			return l
		}, nil, Unreadable, 0, "version 2"},
		{"another spelling", func(t *testing.T, l []string) []string {
			i := lineOf(t, l, 12, false)
			l[i] = strings.Replace(l[i], `{"index"`, `{ "index"`, 1)
			return l
		}, nil, Unreadable, 12, "not in the form"},
		{"empty", func(*testing.T, []string) []string { return nil }, nil, Unreadable, 0, "it is empty"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			lines := c.corrupt(t, slices.Clone(intact))
			r, err := VerifyExport(strings.NewReader(strings.Join(lines, "")), key, c.seen...)
			var p *Problem
			if !errors.As(err, &p) || r.Problem != p {
				t.Fatalf("answered %v with report %+v", err, r)
			}
			if p.Fault != c.fault || p.Index != c.index || !strings.Contains(p.Sentence, c.say) {
				t.Errorf("%s at %d: %s", p.Fault, p.Index, p.Sentence)
			}
		})
	}
}

func noteOf(t *testing.T, line string) []byte {
	t.Helper()
	var l exportLine
	if err := json.Unmarshal([]byte(line), &l); err != nil {
		t.Fatal(err)
	}
	return []byte(l.Checkpoint)
}

// TestEveryFlippedBitIsFound: no byte of an export can be changed without a refusal.
func TestEveryFlippedBitIsFound(t *testing.T) {
	f := newFixture(t, nil)
	f.append(testEntry(1), testEntry(2))
	f.sequenceNow()
	var b bytes.Buffer
	if err := f.Export(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if _, err := VerifyExport(bytes.NewReader(text), f.key); err != nil {
		t.Fatal(err)
	}
	for i := range text {
		bit := byte(1) << rand.IntN(8) // any of them, over many runs
		text[i] ^= bit
		if _, err := VerifyExport(bytes.NewReader(text), f.key); err == nil {
			t.Errorf("bit %08b of byte %d was flipped, near %q", bit, i, text[max(0, i-10):min(len(text), i+10)])
		}
		text[i] ^= bit
	}
}

func signText(text string, s note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: text}, s)
}

// TestParseCheckpointRefuses signs texts that are not checkpoints of this ledger, with the right key.
func TestParseCheckpointRefuses(t *testing.T) {
	s, _, text, err := NewKey(testName, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(text)
	if err != nil {
		t.Fatal(err)
	}
	root := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, c := range map[string]string{
		"another origin":  "other.test/ledger\n1\n" + root + "\n",
		"leading zero":    testName + "\n01\n" + root + "\n",
		"negative":        testName + "\n-1\n" + root + "\n",
		"too large":       testName + "\n9223372036854775808\n" + root + "\n",
		"short root":      testName + "\n1\n" + root[:40] + "\n",
		"extension":       testName + "\n1\n" + root + "\nextra\n",
		"too few lines":   testName + "\n1\n",
		"root not base64": testName + "\n1\n" + strings.Repeat("!", 44) + "\n",
	} {
		signed, err := signText(c, s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseCheckpoint(signed, v.key); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	signed, err := Checkpoint{Origin: testName, Size: 1}.sign(s)
	if err != nil {
		t.Fatal(err)
	}
	// The last digit of a signature's base64 carries two bits that mean nothing.
	i := len(signed) - 3
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	signed[i] = digits[strings.IndexByte(digits, signed[i])+1]
	if _, err := ParseCheckpoint(signed, v.key); err == nil {
		t.Error("a second spelling of a signature was accepted")
	}
	if _, err := ParseCheckpoint(make([]byte, maxCheckpoint+1), v.key); err == nil {
		t.Error("a huge note was read")
	}
}

func BenchmarkVerifyExport(b *testing.B) {
	f := newFixture(b, nil)
	entry := testEntry(0)
	entry.Payload = bytes.Repeat([]byte("x"), 500)
	for range 100 {
		f.append(slices.Repeat([]Entry{entry}, 100)...)
	}
	f.sequenceNow()
	var e bytes.Buffer
	if err := f.Export(b.Context(), &e); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	for b.Loop() {
		if _, err := VerifyExport(bytes.NewReader(e.Bytes()), f.key); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(10000*float64(b.N)/time.Since(start).Seconds(), "leaves/s")
}
