package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/ledger"
)

// Auditor checks a hub's ledger for one person, who holds the ledger's key and remembers the highest checkpoint that ever
// verified. A hub that shows less than that, or another history, is refused: it was rolled back or forked.
type Auditor struct {
	key    string
	verify note.Verifier
	// file holds the highest checkpoint seen. Its name carries the key's hash: a ledger made anew starts a memory of its own.
	file string
}

// NewAuditor takes the ledger's verifier key and the folder in which to remember.
func NewAuditor(key, folder string) (*Auditor, error) {
	v, err := note.NewVerifier(key)
	if err != nil {
		return nil, Fail(Identity, "", "the ledger key in the profile is unusable: %s", err.Error())
	}
	return &Auditor{key: key, verify: v, file: filepath.Join(folder, fmt.Sprintf("checkpoint-%08x.note", v.KeyHash()))}, nil
}

// Seen is the highest checkpoint seen; nil when none was. Memory that cannot be read or verified is an error, since going on
// without it would accept a rollback.
func (a *Auditor) Seen() ([]byte, ledger.Checkpoint, error) {
	text, err := os.ReadFile(a.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ledger.Checkpoint{}, nil
	}
	if err != nil {
		return nil, ledger.Checkpoint{}, fmt.Errorf("read the highest checkpoint seen: %w", err)
	}
	c, err := ledger.ParseCheckpoint(text, a.verify)
	if err != nil {
		return nil, ledger.Checkpoint{}, Fail(Failed, F("if you know why, remove %s", a.file), "the highest checkpoint seen, in %s, does not verify: %s", a.file, err.Error())
	}
	return text, c, nil
}

// remember keeps a verified checkpoint if it is higher than what is kept.
func (a *Auditor) remember(signed []byte) error {
	c, err := ledger.ParseCheckpoint(signed, a.verify)
	if err != nil {
		return err
	}
	if _, seen, err := a.Seen(); err != nil || c.Size <= seen.Size {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(a.file), ".checkpoint-*")
	if err != nil {
		return fmt.Errorf("remember checkpoint: %w", err)
	}
	defer os.Remove(tmp.Name()) // gone already when all went well
	_, err = tmp.Write(signed)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("remember checkpoint: %w", err)
	}
	if err := os.Rename(tmp.Name(), a.file); err != nil {
		return fmt.Errorf("remember checkpoint: %w", err)
	}
	return nil
}

// Leaves is who takes a ledger leaf by leaf: ledger's Verifier and ExportWriter.
type Leaves interface {
	Leaf(r ledger.Record, hash *tlog.Hash)
	Checkpoint(signed []byte)
}

// Fetch reads the whole ledger up to its newest checkpoint into sinks. progress is told how far it is.
func (a *Auditor) Fetch(ctx context.Context, client cardeav1connect.LedgerClient, progress func(done, size uint64), sinks ...Leaves) (signed []byte, err error) {
	head, err := client.Checkpoint(ctx, &cardeav1.CheckpointRequest{Settle: true})
	if err != nil {
		return nil, err
	}
	c, err := ledger.ParseCheckpoint(head.GetCheckpoint(), a.verify)
	if err != nil {
		return nil, Fail(Failed, "keep what the hub says, and ask its operators", "%s", err.Error()).Because(err)
	}
	size := uint64(c.Size)
	signatures := &checkpoints{client: client, key: a.verify, size: size}
	for next := uint64(0); next < size; {
		answer, err := client.Entries(ctx, &cardeav1.EntriesRequest{From: next, Limit: uint32(min(1000, size-next))})
		if err != nil {
			return nil, err
		}
		if len(answer.GetEntries()) == 0 {
			return nil, Fail(Failed, "", "the hub signed %d leaves and does not show leaf %d", size, next)
		}
		for _, e := range answer.GetEntries() {
			if e.GetIndex() >= size {
				next = size // the rest was sequenced since; the next checkpoint covers it
				break
			}
			hash := tlog.RecordHash(e.GetLeaf()) // beside the leaf in an export, so that a changed one can be named
			for _, s := range sinks {
				s.Leaf(record(e), &hash)
			}
			next = max(next+1, e.GetIndex()+1) // the verifier names a gap or a repetition; this only has to end
			if err := signatures.upTo(ctx, next, sinks); err != nil {
				return nil, err
			}
		}
		progress(next, size)
	}
	for _, s := range sinks {
		s.Checkpoint(head.GetCheckpoint())
	}
	return head.GetCheckpoint(), nil
}

// checkpoints hands every checkpoint that the hub ever signed to the sinks, each after the leaves that it covers, so that a fork between
// two of them is found. The newest comes last, from Fetch itself.
type checkpoints struct {
	client cardeav1connect.LedgerClient
	key    note.Verifier
	size   uint64 // of the newest
	queue  []signedAt
	from   uint64
	ended  bool
}

type signedAt struct {
	size   uint64
	signed []byte
}

// upTo passes on what signs at most done leaves.
func (c *checkpoints) upTo(ctx context.Context, done uint64, sinks []Leaves) error {
	for {
		if len(c.queue) == 0 {
			if c.ended || c.from > done {
				return nil
			}
			if err := c.more(ctx); err != nil {
				return err
			}
			continue
		}
		if c.queue[0].size > done {
			return nil
		}
		for _, s := range sinks {
			s.Checkpoint(c.queue[0].signed)
		}
		c.queue = c.queue[1:]
	}
}

// more asks for the next page. Signatures are checked here as far as their sizes order the queue; the sinks check all of them.
func (c *checkpoints) more(ctx context.Context) error {
	const page = 500
	answer, err := c.client.Checkpoints(ctx, &cardeav1.CheckpointsRequest{FromSize: c.from, Limit: page})
	if err != nil {
		return err
	}
	c.ended = len(answer.GetCheckpoints()) < page
	for _, signed := range answer.GetCheckpoints() {
		parsed, err := ledger.ParseCheckpoint(signed, c.key)
		if err != nil {
			return Fail(Failed, "keep what the hub says, and ask its operators", "%s", err.Error()).Because(err)
		}
		size := uint64(parsed.Size)
		if size < c.from {
			return Fail(Failed, "keep what the hub says, and ask its operators", "the hub shows a checkpoint of %d leaves after one of %d", size, c.from)
		}
		c.from = size + 1
		if size >= c.size {
			c.ended = true
			return nil
		}
		c.queue = append(c.queue, signedAt{size, signed})
	}
	return nil
}

// record is an entry as the ledger's own code takes it.
func record(e *cardeav1.Entry) ledger.Record {
	r := ledger.Record{Index: int64(e.GetIndex()), Leaf: e.GetLeaf()}
	if len(e.GetSalt()) > 0 {
		r.Salt, r.Payload = e.GetSalt(), e.GetPayload()
		if r.Payload == nil {
			r.Payload = []byte{}
		}
	}
	return r
}

// Verify fetches and checks the whole ledger, and remembers its checkpoint when everything holds.
func (a *Auditor) Verify(ctx context.Context, client cardeav1connect.LedgerClient, progress func(done, size uint64), also ...Leaves) (ledger.Report, error) {
	v, err := a.verifier()
	if err != nil {
		return ledger.Report{}, err
	}
	signed, err := a.Fetch(ctx, client, progress, append(also, v)...)
	if err != nil {
		return ledger.Report{}, err
	}
	report := v.Finish()
	if report.Problem == nil {
		err = a.remember(signed)
	}
	return report, err
}

// verifier compares with the highest checkpoint seen, if there is one.
func (a *Auditor) verifier() (*ledger.Verifier, error) {
	seen, _, err := a.Seen()
	if err != nil {
		return nil, err
	}
	if seen == nil {
		return ledger.NewVerifier(a.key)
	}
	return ledger.NewVerifier(a.key, seen)
}

// Origin is the ledger's name.
func (a *Auditor) Origin() string { return a.verify.Name() }

// Proved is a leaf whose place in the ledger has been checked.
type Proved struct {
	Entry      *cardeav1.Entry
	Leaf       ledger.Leaf
	Checkpoint ledger.Checkpoint
}

// Prove asks for one leaf and checks all of it: its bytes are under a checkpoint signed with the pinned key, that checkpoint
// extends the highest one seen, and the payload is the one that the leaf commits to.
func (a *Auditor) Prove(ctx context.Context, client cardeav1connect.LedgerClient, request *cardeav1.ProveRequest) (Proved, error) {
	_, seen, err := a.Seen()
	if err != nil {
		return Proved{}, err
	}
	request.ConsistentWith = uint64(seen.Size)
	answer, err := client.Prove(ctx, request)
	if err != nil {
		return Proved{}, err
	}
	p, err := a.check(answer, seen)
	if err != nil {
		return Proved{}, Fail(Failed, "cardea ledger verify checks the whole; keep what it says", "the proof does not hold: %s", err.Error()).Because(err)
	}
	if request.GetByIndex() && p.Entry.GetIndex() != request.GetIndex() || !request.GetByIndex() && p.Leaf.ID != request.GetLeafId() {
		return Proved{}, Fail(Failed, "", "the hub proved another leaf than the one asked for")
	}
	return p, a.remember(answer.GetCheckpoint())
}

func (a *Auditor) check(answer *cardeav1.ProveResponse, seen ledger.Checkpoint) (Proved, error) {
	c, err := ledger.ParseCheckpoint(answer.GetCheckpoint(), a.verify)
	if err != nil {
		return Proved{}, err
	}
	if err := extends(c, seen, answer.GetConsistency()); err != nil {
		return Proved{}, err
	}
	r := record(answer.GetEntry())
	path, err := hashes(answer.GetInclusion())
	if err != nil {
		return Proved{}, err
	}
	if err := tlog.CheckRecord(path, c.Size, c.Root, r.Index, tlog.RecordHash(r.Leaf)); err != nil {
		return Proved{}, fmt.Errorf("leaf %d is not under the signed checkpoint: %w", r.Index, err)
	}
	leaf, err := ledger.ParseLeaf(r.Leaf)
	if err != nil {
		return Proved{}, err
	}
	if !r.Erased() {
		if err := leaf.CheckPayload(r.Salt, r.Payload); err != nil {
			return Proved{}, fmt.Errorf("the payload is not the one recorded: %w", err)
		}
	}
	return Proved{answer.GetEntry(), leaf, c}, nil
}

// extends checks that nothing that was seen has been taken back.
func extends(c, seen ledger.Checkpoint, proof [][]byte) error {
	switch {
	case seen.Size == 0:
		return nil
	case c.Size < seen.Size:
		return fmt.Errorf("the ledger was rolled back: it has %d leaves, and you have seen a signed checkpoint of %d", c.Size, seen.Size)
	case c.Size == seen.Size && c.Root == seen.Root:
		return nil
	case c.Size == seen.Size:
		return fmt.Errorf("the ledger was forked: two signed checkpoints of %d leaves have different roots", c.Size)
	}
	path, err := hashes(proof)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(path, c.Size, c.Root, seen.Size, seen.Root); err != nil {
		return fmt.Errorf("the ledger was forked: its checkpoint of %d leaves does not extend the one of %d that you have seen: %w", c.Size, seen.Size, err)
	}
	return nil
}

func hashes(raw [][]byte) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(raw))
	for i, b := range raw {
		if len(b) != tlog.HashSize {
			return nil, fmt.Errorf("a hash of %d bytes", len(b))
		}
		out[i] = tlog.Hash(b)
	}
	return out, nil
}
