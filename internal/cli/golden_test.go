package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/action"
	"cardea/internal/approval"
	"cardea/internal/approval/verify"
	"cardea/internal/flow/claims"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares lines with testdata/<name>.golden.
func golden(t *testing.T, name string, lines []Line) {
	t.Helper()
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.String() + "\n")
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", path, b.String(), want)
	}
}

// at is 06:00 on 1 May plus milliseconds.
func at(ms int) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond))
}

func payrollPlan() *cardeav1.PlanResponse {
	return &cardeav1.PlanResponse{
		Digest: "sha256:00", AddsPrivilege: true,
		Changes: []*cardeav1.Change{
			{Verb: "new", Kind: "Process", Name: "payroll"}, {Verb: "new", Kind: "Connection", Name: "hr"}, {Verb: "changed", Kind: "Connection", Name: "bank", Detail: "ttl 5m → 2m"},
			{Verb: "new", Kind: "Workflow", Name: "payroll/pay-run@1.2.0"}, {Verb: "new", Kind: "Policy", Name: "payroll"}, {Verb: "unchanged", Kind: "Person", Name: "ana"},
			{Verb: "removed", Kind: "Person", Name: "eve\x1b[2J"},
		},
		Privileges: []*cardeav1.Privilege{
			{Process: "payroll", Workflow: "payroll/pay-run", Task: "/do/0/timesheets", TaskName: "timesheets", Connection: "hr", Access: "read",
				What: "GET https://hr.example.com/v1/timesheets/{month}", Credential: "identity token, ≤ 5 min"},
			{Process: "payroll", Workflow: "payroll/pay-run", Task: "/do/2/transfer/do/0/one", Connection: "bank", Access: "write",
				What: "POST https://api.bank.example.com/v1/transfers", Credential: "oauth2 transfers:write, ≤ 2 min, privileged tier",
				Approval: "unless started by a person: two of group:treasury approve (4 h)"},
			{Lost: true, Process: "audit", Workflow: "audit/report@2.0.0", TaskName: "fetch", Connection: "hr", Access: "read", What: "GET https://hr.example.com/v1/people"},
		},
		Exposures: []*cardeav1.Exposure{{Process: "payroll", ReachesProduction: true}, {Process: "audit", SharesWith: []string{"payroll"}, StrangersCanStart: true}},
		Warnings:  []string{"dev: you are alone on this hub; elsewhere somebody else would have to sign this change"},
	}
}

func TestPlanGolden(t *testing.T) {
	golden(t, "plan", PlanLines(payrollPlan()))
	golden(t, "plan-empty", PlanLines(&cardeav1.PlanResponse{Changes: []*cardeav1.Change{{Verb: "unchanged", Kind: "Person", Name: "ana"}}}))
	golden(t, "plan-errors", PlanLines(&cardeav1.PlanResponse{
		Changes: []*cardeav1.Change{{Verb: "new", Kind: "Policy", Name: "p"}}, Errors: []string{"policy.cedar:3:1: unknown connection"},
	}))
}

func payrollRun(status string) *cardeav1.Run {
	hr, bank := []string{"hr"}, []string{"bank"}
	run := &cardeav1.Run{
		Id: "run_01jd7k", Workflow: "payroll/pay-run", Version: "1.2.0", Status: status, StartedBy: "person:ana",
		Provenance: &cardeav1.Provenance{Kind: "person", Origin: "ana"}, StartedAt: at(3000),
		Tasks: []*cardeav1.TaskState{
			{Task: "/do/0/timesheets", Name: "timesheets", Status: "completed", Attempt: 2, StartedAt: at(3000), EndedAt: at(3210), Connections: hr,
				Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_ALLOW, Policies: []string{"payroll-reads-hr"}}},
			{Task: "/do/1/total", Name: "total", Status: "completed", StartedAt: at(3210), EndedAt: at(3211)},
			{Task: "/do/2/transfer/do/0/one", Iteration: []uint32{0}, Status: "waiting", StartedAt: at(3211), Connections: bank, ApprovalId: "apr_9a41",
				Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_PENDING, Reason: "waiting for 2 of group:treasury"}},
		},
	}
	if status == "faulted" {
		denied := run.Tasks[2]
		denied.Status, denied.EndedAt, denied.ApprovalId = "faulted", at(3215), ""
		denied.Verdict = &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_DENY,
			Reason: "no policy allows Task payroll/pay-run/do/2/transfer/do/0/one to use connection bank", Mend: "ask an owner of bank (group:treasury)"}
		run.EndedAt = at(3220)
		run.ErrorJson = []byte(`{"type":"https://serverlessworkflow.io/spec/1.0.0/errors/authorization","status":403,"title":"Authorization","detail":"denied by policy"}`)
		run.Closure = &cardeav1.Closure{Issued: 2, Ended: 1, Live: []*cardeav1.LiveLease{{LeaseId: "lse_01jd5f2c99", Connection: "hr", Until: at(300000)}}}
	}
	return run
}

func payrollExplanation() *cardeav1.ExplainResponse {
	ref := &cardeav1.TaskRef{RunId: "run_01jd7k", Task: "/do/0/timesheets"}
	return &cardeav1.ExplainResponse{
		StartVerdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_ALLOW, Policies: []string{"people-start"}},
		StartLeaf:    &cardeav1.LedgerRef{LeafId: "lf_1", Sequenced: true, Index: 10480},
		Attempts: []*cardeav1.AttemptRecord{
			{Task: ref, Attempt: 1, Epoch: 1, DecidedAt: at(3010), Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_ALLOW, Policies: []string{"payroll-reads-hr"}},
				PermitState: "voided", Leaf: &cardeav1.LedgerRef{LeafId: "lf_2", Sequenced: true, Index: 10481}},
			{Task: ref, Attempt: 2, Epoch: 2, DecidedAt: at(3100), Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_ALLOW, Policies: []string{"payroll-reads-hr"}},
				PermitState: "returned", RedeemedAt: at(3112), ReturnedAt: at(3390), Runner: "spiffe://cardea.local/runner/standard/one", Delivery: cardeav1.Delivery_DELIVERY_ANSWERED,
				Leaf: &cardeav1.LedgerRef{LeafId: "lf_3", Sequenced: true, Index: 10482}, ApprovalId: "apr_9a41",
				Signatures: []*cardeav1.SignatureRecord{{Person: "bob", Key: "SHA256:ab", SignedAt: at(3050)}, {Person: "eve", Key: "SHA256:cd", SignedAt: at(3060), Refused: true, Reason: "too much\x1b[31m"}},
				Leases: []*cardeav1.LeaseRecord{{Id: "lse_01jd5f2c99", Connection: "hr", State: "revoked", Scopes: []string{"timesheets:read"}, IssuedAt: at(3112), EndedAt: at(3410),
					ExpiresAt: at(300000), Leaf: &cardeav1.LedgerRef{LeafId: "lf_4"}}},
				Actions: []*cardeav1.ActionReport{{Method: "GET", Url: "https://hr.example.com/v1/timesheets/2026-05", Status: 200, StartedAt: at(3120), EndedAt: at(3300)}}},
			{Task: &cardeav1.TaskRef{Task: "/do/9/ghost"}, Attempt: 1, DecidedAt: at(3500),
				Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_DENY, Reason: "the definition has no such task"}, Nearest: []string{"payroll-reads-hr allows Workflow payroll/pay-run"}},
		},
		Closure:     &cardeav1.Closure{Issued: 1, Ended: 1},
		ClosureLeaf: &cardeav1.LedgerRef{LeafId: "lf_9", Sequenced: true, Index: 10490},
	}
}

func TestRunGoldens(t *testing.T) {
	run := payrollRun("waiting")
	golden(t, "run-waiting", append([]Line{RunHead(run, "ana")}, RunLines(run, NoteLeases(payrollExplanation()), at(5000).AsTime())...))
	faulted := payrollRun("faulted")
	lines := append([]Line{RunHead(faulted, "bob")}, RunLines(faulted, nil, at(5000).AsTime())...)
	golden(t, "run-faulted", append(lines, RunTail(faulted)...))
	golden(t, "run-show", Timeline(faulted, payrollExplanation(), "ana"))
	golden(t, "policy-explain", PolicyExplanation(payrollExplanation(), func(id string) string {
		if id != "payroll-reads-hr" {
			return ""
		}
		return "@id(\"payroll-reads-hr\")\npermit (principal, action, resource);\n"
	}))
	golden(t, "run-list", RunTable([]*cardeav1.Run{faulted, run}, "ana", at(63000).AsTime()))
}

func TestRunExits(t *testing.T) {
	cancelled := payrollRun("cancelled")
	for run, want := range map[*cardeav1.Run]Exit{
		payrollRun("completed"): OK, payrollRun("faulted"): Denied, payrollRun("waiting"): Pending, cancelled: Failed,
		{Status: "faulted"}: Failed, {Status: "in_doubt"}: Pending,
	} {
		if got := RunExit(run); got != want {
			t.Errorf("%s: %d, want %d", run.GetStatus(), got, want)
		}
	}
}

// pendingApproval is an approval as an authority would ask for it.
func pendingApproval(t *testing.T, key ed25519.PrivateKey) *cardeav1.Approval {
	t.Helper()
	canonical, err := action.Action{Kind: "http", HTTP: &action.HTTP{
		Method: "POST", URL: "https://api.bank.example.com/v1/transfers",
		Headers: []action.Header{{Name: "content-type", Value: "application/json"}}, Body: []byte(`{"to":"E. 1001","amount":1204.00}`),
	}}.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	s := &approval.Statement{
		V: approval.Version, Kind: approval.KindAttempt, ID: "apr_01jd7k0000000000000000009a", Hub: "cardea.local", Requester: "schedule", Appliers: []string{"ana"},
		Rule:     approval.Rule{Name: "two-from-treasury", Digest: digest, Approvers: []string{"group:treasury"}, Quorum: 2},
		Policies: []approval.Policy{{ID: "large-batches-need-treasury", Digest: digest}}, Attempts: 1,
		CreatedAt: approval.At(at(0).AsTime()), ExpiresAt: approval.At(at(4 * 3600 * 1000).AsTime()), Nonce: "AAAAAAAAAAAAAAAAAAAAAA",
		Process:  &approval.Process{Name: "payroll", Owner: "group:people-ops"},
		Workflow: &approval.Workflow{Ref: "payroll/pay-run", Version: "1.2.0", Digest: digest}, Run: "run_01jd7k",
		Task:        &approval.Task{Pointer: "/do/2/transfer/do/0/one", Name: "transfer/one"},
		Actions:     []approval.Action{approval.NewAction(canonical, "key-1")},
		Connections: []approval.Connection{{Name: "bank", Hosts: []string{"https://api.bank.example.com"}, Allow: []approval.Allow{{Methods: []string{"POST"}, Path: "/v1/transfers"}}, Scopes: []string{"transfers:write"}, Tier: "privileged", Zone: "production", Credential: "identity token", TTL: "2m", Provider: "jwt", Present: "bearer", Deliver: "egress"}},
	}
	text, err := s.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := verify.SignStatement(key, text)
	if err != nil {
		t.Fatal(err)
	}
	return &cardeav1.Approval{
		Id: s.ID, State: "pending", Statement: text, AuthoritySignature: signature, Quorum: 2, Attempts: 1, CanSign: true, ExpiresAt: at(4 * 3600 * 1000),
		Signatures: []*cardeav1.SignatureRecord{{Person: "bob", Key: "SHA256:ab", SignedAt: at(60000)}},
	}
}

func TestApprovalGolden(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	keys := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	p := pendingApproval(t, key)
	s, err := VerifiedStatement(p, p.GetId(), keys)
	if err != nil {
		t.Fatal(err)
	}
	lines := StatementLines(s, approval.View{As: AskedAs(s, []string{"people", "treasury"}), Signed: Signed(p), Now: at(480000).AsTime(), Width: 100})
	golden(t, "approval-show", append(lines, ApprovalState(p)...))
	golden(t, "approval-list", ApprovalTable([]*cardeav1.Approval{p}, keys, at(480000).AsTime()))
}

func TestStatementsThatAreNotShown(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	keys := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	refused := func(name string, p *cardeav1.Approval, id string) {
		t.Helper()
		if _, err := VerifiedStatement(p, id, keys); err == nil {
			t.Errorf("%s: shown", name)
		}
	}
	good := pendingApproval(t, key)
	refused("signed by another", pendingApproval(t, other), good.GetId())
	refused("another approval than asked for", good, "apr_01zz")
	renamed := pendingApproval(t, key)
	renamed.Id = "apr_01jd7k0000000000000000009b"
	refused("another id around a genuine statement", renamed, renamed.GetId())
	refused("another id, and a beginning that fits both", renamed, "apr_01jd7k")
	changed := pendingApproval(t, key)
	changed.Statement = bytes.Replace(changed.GetStatement(), []byte(`"attempts":1`), []byte(`"attempts":9`), 1)
	refused("changed after it was signed", changed, changed.GetId())
	unsigned := pendingApproval(t, key)
	unsigned.AuthoritySignature = nil
	refused("not signed", unsigned, unsigned.GetId())
	if _, err := VerifiedStatement(good, "01jd7k", keys); err != nil {
		t.Errorf("its own beginning: %v", err)
	}
}

func TestLintGolden(t *testing.T) {
	findings := []claims.Finding{
		{Severity: claims.Error, Rule: "profile/literal-host", Message: "the host is an expression", Mend: "write the host", File: "pay-run.yaml", Line: 12, Column: 7},
		{Severity: claims.Warning, Rule: "style", Message: "odd\x1b[0m", File: "pay-run.yaml"},
	}
	golden(t, "lint", append(LintLines(findings), LintSum(1, findings)))
	golden(t, "doctor", FindingLines([]Finding{{"profile", Good, "fine", ""}, {"user namespaces", Weak, "restricted", "sysctl"}, {"hub", Bad, "away", "start it"}}))
}

// script is a stream that a test writes.
type script struct {
	runs []*cardeav1.Run
	err  error
	at   int
}

func (s *script) Receive() bool { s.at++; return s.at <= len(s.runs) }
func (s *script) Msg() *cardeav1.WatchRunResponse {
	return &cardeav1.WatchRunResponse{Run: s.runs[s.at-1]}
}
func (s *script) Err() error   { return s.err }
func (s *script) Close() error { return nil }

func TestWatchGolden(t *testing.T) {
	var b bytes.Buffer
	w := &Watcher{
		Out: NewOut(&b, func(string) string { return "" }), Me: "ana", Now: func() time.Time { return at(4000).AsTime() },
		Open: func(context.Context) (Stream, error) {
			return &script{runs: []*cardeav1.Run{payrollRun("faulted")}}, nil
		},
	}
	run, err := w.Run(t.Context())
	if err != nil || run.GetStatus() != "faulted" {
		t.Fatalf("%v, %v", run, err)
	}
	var lines []Line
	for _, l := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		lines = append(lines, L(Safe(l)))
	}
	golden(t, "watch-plain", lines)
}
