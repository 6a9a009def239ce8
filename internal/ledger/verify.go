package ledger

import (
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Problem is the first thing that a verification found wrong. It is an error.
type Problem struct {
	// Index is the leaf that the problem is at, or the first of those that it may be at.
	Index int64
	// Fault is one of the Fault constants.
	Fault Fault
	// Sentence says it to people.
	Sentence string
}

func (p *Problem) Error() string { return p.Sentence }

// Fault is what happened to a ledger that does not verify.
type Fault string

const (
	// Changed: a leaf, payload or salt is not what was signed.
	Changed Fault = "changed"
	// Removed: something that was signed is not there, or was erased without a record of it.
	Removed Fault = "removed"
	// Added: leaves that no checkpoint covers, or an index used twice.
	Added Fault = "added"
	// Forked: two signed checkpoints contradict each other, or contradict one that the verifier holds.
	Forked Fault = "forked"
	// Foreign: a checkpoint is not signed by the ledger's key, or is of another ledger.
	Foreign Fault = "foreign"
	// Unreadable: not in the format.
	Unreadable Fault = "unreadable"
)

// Report is the outcome of a verification.
type Report struct {
	Origin      string
	Leaves      int64
	Checkpoints int64
	Erased      int64
	Dev         int64 // leaves recorded while the hub ran in dev
	ByKind      map[Kind]int64
	First, Last time.Time // of the leaves, by the hub's clock
	Root        tlog.Hash // of the last checkpoint
	Problem     *Problem  // nil when everything holds
}

// maxOpenErasures bounds what a hostile export can make a Verifier remember.
const maxOpenErasures = 1 << 20

// Verifier recomputes a ledger from its leaves and checkpoints, given in their order. It trusts the key that it is made with and
// nothing else, and keeps O(log n) hashes. After a problem it ignores the rest.
type Verifier struct {
	key  note.Verifier
	seen map[int64]tlog.Hash // roots that the auditor holds, by size; deleted when met

	report   Report
	tree     stack            // of the leaves' own hashes
	stated   stack            // of the hashes that stand beside them
	doubt    *Problem         // the first leaf that differs from the hash beside it
	unstated bool             // a leaf came without a hash beside it
	last     int64            // size of the last checkpoint
	erased   map[string]int64 // payload gone, erasure not met yet: leaf id to index
}

// NewVerifier takes the ledger's verifier key in text form and checkpoints that the auditor has kept from earlier, from a witness or
// from a role: without one a ledger that was cut short, or replaced as a whole by someone who holds the key, looks intact.
func NewVerifier(key string, seen ...[]byte) (*Verifier, error) {
	k, err := note.NewVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("ledger verifier key: %w", err)
	}
	v := newVerifier(k)
	for _, s := range seen {
		c, err := ParseCheckpoint(s, k)
		if err != nil {
			return nil, fmt.Errorf("checkpoint to compare with: %w", err)
		}
		if root, ok := v.seen[c.Size]; ok && root != c.Root {
			v.fault(c.Size, Forked, "two of the checkpoints to compare with sign %d leaves with different roots: the ledger was forked", c.Size)
		}
		v.seen[c.Size] = c.Root
	}
	return v, nil
}

func newVerifier(k note.Verifier) *Verifier {
	v := &Verifier{key: k, seen: map[int64]tlog.Hash{}, erased: map[string]int64{}}
	v.report = Report{Origin: k.Name(), ByKind: map[Kind]int64{}}
	return v
}

func (v *Verifier) fault(index int64, f Fault, format string, args ...any) {
	if v.report.Problem == nil {
		v.report.Problem = &Problem{Index: index, Fault: f, Sentence: fmt.Sprintf(format, args...)}
	}
}

// Leaf takes the next record. The hash is the one that stands in the tree for it, when known: it lets a changed leaf be named,
// where otherwise only the span between two checkpoints is known. It needs no trust.
func (v *Verifier) Leaf(r Record, hash *tlog.Hash) {
	if v.report.Problem != nil {
		return
	}
	next := v.report.Leaves
	switch {
	case r.Index > next:
		v.fault(next, Removed, "leaf %d was removed: leaf %d follows leaf %d", next, r.Index, next-1)
		return
	case r.Index < next:
		v.fault(r.Index, Added, "leaf %d comes a second time, or out of order, after leaf %d", r.Index, next-1)
		return
	}
	own := tlog.RecordHash(r.Leaf)
	v.tree.push(own)
	if hash == nil {
		v.unstated = true
	} else {
		v.stated.push(*hash)
		if *hash != own && v.doubt == nil {
			v.doubt = &Problem{next, Changed, fmt.Sprintf("leaf %d was changed: its hash is not the one in the signed tree", next)}
		}
	}
	v.report.Leaves++
	v.content(r)
	v.compareSeen()
}

// content checks what a leaf says against its payload.
func (v *Verifier) content(r Record) {
	leaf, err := ParseLeaf(r.Leaf)
	if err != nil {
		v.fault(r.Index, Changed, "leaf %d was changed: %v", r.Index, err)
		return
	}
	v.report.ByKind[leaf.Kind]++
	if leaf.Dev {
		v.report.Dev++
	}
	if r.Index == 0 {
		v.report.First = leaf.Time
	}
	v.report.Last = leaf.Time
	if leaf.Kind == KindErasure {
		delete(v.erased, leaf.Refs.Leaf)
	}
	if r.Erased() {
		v.report.Erased++
		if len(v.erased) >= maxOpenErasures {
			v.fault(r.Index, Removed, "the payloads of more than %d leaves are missing without a record of their erasure", maxOpenErasures)
		}
		v.erased[leaf.ID] = r.Index
		return
	}
	if err := leaf.CheckPayload(r.Salt, r.Payload); err != nil {
		v.fault(r.Index, Changed, "the payload of leaf %d was changed: %v", r.Index, err)
	}
}

// compareSeen compares with the auditor's own checkpoint of this size, if there is one.
func (v *Verifier) compareSeen() {
	root, ok := v.seen[v.report.Leaves]
	if !ok {
		return
	}
	delete(v.seen, v.report.Leaves)
	if v.tree.root() != root {
		v.fault(v.last, Forked, "a signed checkpoint that you hold says that %d leaves have root %v, but these have root %v: "+
			"the ledger was forked or rewritten", v.report.Leaves, root, v.tree.root())
	}
}

// Checkpoint takes a signed checkpoint, which stands right after the last leaf that it covers.
func (v *Verifier) Checkpoint(signed []byte) {
	if v.report.Problem != nil {
		return
	}
	c, err := ParseCheckpoint(signed, v.key)
	if err != nil {
		v.fault(v.last, Foreign, "checkpoint %d, after leaf %d: %v", v.report.Checkpoints+1, v.report.Leaves-1, err)
		return
	}
	switch have := v.report.Leaves; {
	case c.Size < v.last:
		v.fault(c.Size, Forked, "the size fell: a checkpoint of %d leaves follows one of %d", c.Size, v.last)
		return
	case c.Size > have:
		v.fault(have, Removed, "leaves %d to %d were removed: the checkpoint after leaf %d signs %d leaves", have, c.Size-1, have-1, c.Size)
		return
	case c.Size < have:
		v.fault(c.Size, Added, "leaf %d was added: the checkpoint after leaf %d signs only %d leaves", c.Size, have-1, c.Size)
		return
	}
	v.report.Checkpoints++
	if root := v.tree.root(); root != c.Root {
		v.mismatch(c, root)
		return
	}
	if v.doubt != nil {
		v.fault(v.doubt.Index, Changed, "the hash that stands beside leaf %d was changed; the leaf itself is the one in the signed tree", v.doubt.Index)
		return
	}
	v.last, v.report.Root = c.Size, c.Root
}

// mismatch says as exactly as the evidence allows why the leaves do not lead to a signed root.
func (v *Verifier) mismatch(c Checkpoint, root tlog.Hash) {
	switch {
	case c.Size == v.last:
		v.fault(c.Size, Forked, "two signed checkpoints of %d leaves have different roots: the ledger was forked", c.Size)
	case v.doubt != nil && !v.unstated && v.stated.root() == c.Root:
		v.report.Problem = v.doubt
	default:
		v.fault(v.last, Changed, "leaves %d to %d lead to root %v, but the signed checkpoint of %d leaves says %v: "+
			"some of them were changed, removed, added or put in another order, or the ledger was forked", v.last, c.Size-1, root, c.Size, c.Root)
	}
}

// Finish ends the verification.
func (v *Verifier) Finish() Report {
	if v.report.Problem == nil && v.report.Leaves > v.last {
		v.fault(v.last, Added, "leaves %d to %d are under no signed checkpoint", v.last, v.report.Leaves-1)
	}
	for size := range v.seen {
		if size > v.report.Leaves {
			v.fault(v.report.Leaves, Removed, "the ledger was cut short: it ends after %d leaves, but you hold a signed checkpoint of %d", v.report.Leaves, size)
		}
	}
	first := int64(-1)
	for _, index := range v.erased {
		if first < 0 || index < first {
			first = index
		}
	}
	if first >= 0 {
		v.fault(first, Removed, "the payload of leaf %d was removed, and no erasure of it is recorded", first)
	}
	return v.report
}

// Sentence is the report in one line, as people read it.
func (r Report) Sentence() string {
	if r.Problem != nil {
		return r.Problem.Sentence
	}
	s := fmt.Sprintf("%d leaves, %s of %s: consistent. Nothing was changed, removed or forked.", r.Leaves, counted(r.Checkpoints, "checkpoint"), r.Origin)
	if r.Erased > 0 {
		s += fmt.Sprintf(" %d payloads were erased, each with a record of it.", r.Erased)
	}
	if r.Dev > 0 {
		s += fmt.Sprintf(" %d leaves were recorded in dev.", r.Dev)
	}
	return s
}

func counted(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// Err is the problem as an error, nil when everything holds.
func (r Report) Err() error {
	if r.Problem == nil {
		return nil
	}
	return r.Problem
}

// stack is the roots of the complete subtrees of a tree, the largest first (RFC 6962 §2.1).
type stack struct {
	size  int64
	roots []tlog.Hash
}

func (s *stack) push(h tlog.Hash) {
	// Every trailing one in the size is a subtree that this leaf completes.
	for range bits.TrailingZeros64(^uint64(s.size)) {
		h = tlog.NodeHash(s.roots[len(s.roots)-1], h)
		s.roots = s.roots[:len(s.roots)-1]
	}
	s.roots = append(s.roots, h)
	s.size++
}

func (s *stack) root() tlog.Hash {
	if len(s.roots) == 0 {
		empty, _ := tlog.TreeHash(0, nil) // a constant
		return empty
	}
	h := s.roots[len(s.roots)-1]
	for i := len(s.roots) - 2; i >= 0; i-- {
		h = tlog.NodeHash(s.roots[i], h)
	}
	return h
}
