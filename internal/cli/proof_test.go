package cli_test

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
	"cardea/internal/cli/clitest"
	"cardea/internal/ledger"
	"cardea/internal/profile"
)

type audit struct {
	hub     *clitest.Hub
	record  *clitest.Record
	auditor *cli.Auditor
	client  *cli.Client
}

func newAudit(t *testing.T) *audit {
	t.Helper()
	h := clitest.Start(t)
	p, err := profile.Load(h.Profile)
	if err != nil {
		t.Fatal(err)
	}
	auditor, err := cli.NewAuditor(p.CheckpointKey, h.Folder)
	if err != nil {
		t.Fatal(err)
	}
	a := &audit{hub: h, record: clitest.NewRecord(t, h, h.LedgerKey), auditor: auditor, client: client(t, h.Profile)}
	a.record.Append("one", "two", "three")
	return a
}

func (a *audit) verify(t *testing.T) ledger.Report {
	t.Helper()
	report, err := a.auditor.Verify(t.Context(), a.client.Ledger, func(uint64, uint64) {})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestVerifyRemembersWhatHeld(t *testing.T) {
	a := newAudit(t)
	if r := a.verify(t); r.Problem != nil || r.Leaves != 3 {
		t.Fatalf("%+v", r)
	}
	_, seen, err := a.auditor.Seen()
	if err != nil || seen.Size != 3 {
		t.Fatalf("%+v, %v", seen, err)
	}
	a.record.Append("four")
	if r := a.verify(t); r.Problem != nil || r.Leaves != 4 {
		t.Fatalf("%+v", r)
	}
	if _, seen, _ = a.auditor.Seen(); seen.Size != 4 {
		t.Fatalf("remembered %d", seen.Size)
	}
}

func TestARollbackIsRefused(t *testing.T) {
	a := newAudit(t)
	a.verify(t)
	older := clitest.NewRecord(t, a.hub, a.hub.LedgerKey) // the same key, an older state
	older.Append("one")
	if r := a.verify(t); r.Problem == nil || r.Problem.Fault != ledger.Removed {
		t.Fatalf("%+v", r.Problem)
	}
	if _, err := a.auditor.Prove(t.Context(), a.client.Ledger, &cardeav1.ProveRequest{LeafId: older.IDs[0]}); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Fatalf("%v", err)
	}
	if _, seen, _ := a.auditor.Seen(); seen.Size != 3 {
		t.Fatalf("the memory was rolled back too: %d", seen.Size)
	}
}

func TestAForkIsRefused(t *testing.T) {
	for _, size := range []int{3, 5} {
		a := newAudit(t)
		a.verify(t)
		fork := clitest.NewRecord(t, a.hub, a.hub.LedgerKey)
		fork.Append("another one", "another two", "another three", "another four", "another five")
		if size == 3 {
			fork = clitest.NewRecord(t, a.hub, a.hub.LedgerKey)
			fork.Append("another one", "another two", "another three")
		}
		if r := a.verify(t); r.Problem == nil || r.Problem.Fault != ledger.Forked {
			t.Fatalf("%d leaves: %+v", size, r.Problem)
		}
		if _, err := a.auditor.Prove(t.Context(), a.client.Ledger, &cardeav1.ProveRequest{LeafId: fork.IDs[0]}); err == nil || !strings.Contains(err.Error(), "forked") {
			t.Fatalf("%d leaves: %v", size, err)
		}
	}
}

func TestAnotherKeysLedgerIsRefused(t *testing.T) {
	a := newAudit(t)
	_, other, _ := ed25519.GenerateKey(nil)
	clitest.NewRecord(t, a.hub, other).Append("one", "two", "three", "four")
	if _, err := a.auditor.Verify(t.Context(), a.client.Ledger, func(uint64, uint64) {}); err == nil || cli.Explain(err).Exit != cli.Failed {
		t.Fatalf("%v", err)
	}
}

func TestAMemoryThatWasTamperedWithIsNotIgnored(t *testing.T) {
	a := newAudit(t)
	a.verify(t)
	files, err := filepath.Glob(filepath.Join(a.hub.Folder, "checkpoint-*.note"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("nothing was seen"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.auditor.Verify(t.Context(), a.client.Ledger, func(uint64, uint64) {}); err == nil {
		t.Fatal("went on as if nothing had been seen")
	}
}

func TestProveChecksAllOfALeaf(t *testing.T) {
	spoil := map[string]func(*cardeav1.ProveResponse){
		"its bytes":      func(p *cardeav1.ProveResponse) { p.Entry.Leaf[20] ^= 1 },
		"its payload":    func(p *cardeav1.ProveResponse) { p.Entry.Payload = []byte("forged") },
		"its salt":       func(p *cardeav1.ProveResponse) { p.Entry.Salt[0] ^= 1 },
		"its index":      func(p *cardeav1.ProveResponse) { p.Entry.Index++ },
		"its path":       func(p *cardeav1.ProveResponse) { p.Inclusion[0][0] ^= 1 },
		"a short hash":   func(p *cardeav1.ProveResponse) { p.Inclusion[0] = p.Inclusion[0][:31] },
		"the checkpoint": func(p *cardeav1.ProveResponse) { p.Checkpoint[len(p.Checkpoint)-5] ^= 1 },
		"consistency":    func(p *cardeav1.ProveResponse) { p.Consistency[0][0] ^= 1 },
		"no consistency": func(p *cardeav1.ProveResponse) { p.Consistency = nil },
	}
	for name, change := range spoil {
		t.Run(name, func(t *testing.T) {
			a := newAudit(t)
			a.verify(t)
			a.record.Append("four", "five")
			if _, err := a.auditor.Prove(t.Context(), a.client.Ledger, &cardeav1.ProveRequest{LeafId: a.record.IDs[1]}); err != nil {
				t.Fatalf("unspoilt: %v", err)
			}
			a.record.Append("six")
			honest := a.hub.Ledger.OnProve
			a.hub.Ledger.OnProve = func(q *cardeav1.ProveRequest) (*cardeav1.ProveResponse, error) {
				p, err := honest(q)
				if err == nil {
					change(p)
				}
				return p, err
			}
			if _, err := a.auditor.Prove(t.Context(), a.client.Ledger, &cardeav1.ProveRequest{LeafId: a.record.IDs[1]}); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestProveAnswersTheLeafAskedFor(t *testing.T) {
	a := newAudit(t)
	honest := a.hub.Ledger.OnProve
	a.hub.Ledger.OnProve = func(q *cardeav1.ProveRequest) (*cardeav1.ProveResponse, error) {
		return honest(&cardeav1.ProveRequest{Index: 2, ByIndex: true, ConsistentWith: q.GetConsistentWith()})
	}
	for _, q := range []*cardeav1.ProveRequest{{LeafId: a.record.IDs[0]}, {Index: 0, ByIndex: true}} {
		if _, err := a.auditor.Prove(t.Context(), a.client.Ledger, q); err == nil {
			t.Fatalf("%v: another leaf was accepted", q)
		}
	}
}

func TestVerifyEndsWhateverTheHubSends(t *testing.T) {
	for name, answer := range map[string]func(q *cardeav1.EntriesRequest) *cardeav1.EntriesResponse{
		"nothing":      func(*cardeav1.EntriesRequest) *cardeav1.EntriesResponse { return &cardeav1.EntriesResponse{} },
		"far ahead":    func(*cardeav1.EntriesRequest) *cardeav1.EntriesResponse { return one(1 << 40) },
		"always first": func(*cardeav1.EntriesRequest) *cardeav1.EntriesResponse { return one(0) },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAudit(t)
			a.hub.Ledger.OnEntries = func(q *cardeav1.EntriesRequest) (*cardeav1.EntriesResponse, error) { return answer(q), nil }
			report, err := a.auditor.Verify(t.Context(), a.client.Ledger, func(uint64, uint64) {})
			if err == nil && report.Problem == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func one(index uint64) *cardeav1.EntriesResponse {
	return &cardeav1.EntriesResponse{Entries: []*cardeav1.Entry{{Index: index, Leaf: []byte("{}")}}}
}

// Every checkpoint that was ever signed is checked, not the newest alone: one of another history is found.
func TestEveryCheckpointIsChecked(t *testing.T) {
	a := newAudit(t)
	a.record.Append("four")
	a.record.Append("five")
	if r := a.verify(t); r.Problem != nil || r.Checkpoints < 3 {
		t.Fatalf("%+v", r)
	}
	signed, err := a.record.Checkpoints(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	other := newAudit(t) // another ledger under another key
	foreign, err := other.record.Checkpoints(t.Context(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	signed[0] = foreign[0]
	a.hub.Ledger.OnCheckpoints = func(*cardeav1.CheckpointsRequest) (*cardeav1.CheckpointsResponse, error) {
		return &cardeav1.CheckpointsResponse{Checkpoints: signed}, nil
	}
	if _, err := a.auditor.Verify(t.Context(), a.client.Ledger, func(uint64, uint64) {}); err == nil {
		t.Fatal("a checkpoint of another ledger was taken")
	}
}
