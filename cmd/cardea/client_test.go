package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/action"
	"cardea/internal/approval"
	"cardea/internal/approval/verify"
	"cardea/internal/cli"
	"cardea/internal/cli/clitest"
)

// session is a hub and a person at a shell.
type session struct {
	*clitest.Hub
	t *testing.T
}

func newSession(t *testing.T) *session { return &session{clitest.Start(t), t} }

func (s *session) do(args ...string) result {
	s.t.Helper()
	return command(s.t, nil, "", append(args, "--profile", s.Profile)...)
}

// document runs a command with -o json and reads its one document.
func (s *session) document(exit cli.Exit, into any, args ...string) {
	s.t.Helper()
	r := s.do(append(args, "-o", "json")...)
	r.want(s.t, exit)
	if err := json.Unmarshal([]byte(r.out), into); err != nil {
		s.t.Fatalf("not one JSON document: %v\n%s", err, r.out)
	}
}

func ended(status string, tasks ...*cardeav1.TaskState) *cardeav1.Run {
	now := timestamppb.Now()
	return &cardeav1.Run{Id: "run_1", Workflow: "hello/greet", Version: "1.0.0", Status: status, StartedAt: now, EndedAt: now, Tasks: tasks, OutputJson: []byte(`{"a":1}`)}
}

func (s *session) plays(runs ...*cardeav1.Run) {
	s.Runs.OnStart = func(*cardeav1.StartRunRequest) (*cardeav1.StartRunResponse, error) {
		return &cardeav1.StartRunResponse{RunId: "run_1"}, nil
	}
	s.Runs.OnWatch = func(_ context.Context, _ *cardeav1.WatchRunRequest, send func(*cardeav1.Run) error) error {
		for _, r := range runs {
			if err := send(r); err != nil {
				return err
			}
		}
		return nil
	}
	s.Control.OnExplain = func(*cardeav1.ExplainRequest) (*cardeav1.ExplainResponse, error) {
		return &cardeav1.ExplainResponse{Closure: &cardeav1.Closure{Issued: 1, Ended: 1}}, nil
	}
}

func TestWaitingForARunGivesItsEnd(t *testing.T) {
	denied := &cardeav1.TaskState{Task: "/do/0/a", Status: "faulted", Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_DENY, Reason: "no policy allows it"}}
	for name, c := range map[string]struct {
		run  *cardeav1.Run
		exit cli.Exit
		says string
	}{
		"completed": {ended("completed"), cli.OK, "closure: 1 credential issued, 1 ended, 0 alive"},
		"faulted":   {ended("faulted"), cli.Failed, "✘ faulted"},
		"cancelled": {ended("cancelled"), cli.Failed, "✘ cancelled"},
		"denied":    {ended("faulted", denied), cli.Denied, "denied: no policy allows it"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			s.plays(c.run)
			s.do("run", "start", "hello/greet", "--wait").want(t, c.exit, c.says)
			s.do("run", "watch", "run_1").want(t, c.exit, c.says)
			var got struct{ Status string }
			s.document(c.exit, &got, "run", "watch", "run_1")
			if got.Status != c.run.GetStatus() {
				t.Fatalf("status %q", got.Status)
			}
		})
	}
}

func TestWatchingGoesOnAfterABreak(t *testing.T) {
	s := newSession(t)
	s.plays()
	times := 0
	s.Runs.OnWatch = func(_ context.Context, _ *cardeav1.WatchRunRequest, send func(*cardeav1.Run) error) error {
		if times++; times == 1 {
			return errors.Join(send(ended("running")), connect.NewError(connect.CodeUnavailable, errors.New("the engine stops")))
		}
		return send(ended("completed"))
	}
	s.do("run", "watch", "run_1").want(t, cli.OK, "✔ completed")
	if times != 2 {
		t.Fatalf("watched %d times", times)
	}
}

func TestWatchingEndsWithTheTimeGiven(t *testing.T) {
	s := newSession(t)
	s.plays()
	s.Runs.OnWatch = func(ctx context.Context, _ *cardeav1.WatchRunRequest, send func(*cardeav1.Run) error) error {
		err := send(ended("running"))
		<-ctx.Done()
		return err
	}
	s.do("run", "watch", "run_1", "--timeout", "100ms").want(t, cli.Pending, "the run goes on: cardea run watch run_1")
	if slices.Contains(s.Calls(), "/cardea.v1.Runs/Cancel") {
		t.Fatal("the run was cancelled")
	}
}

func TestWatchingDoesNotRetryARefusal(t *testing.T) {
	s := newSession(t)
	s.Runs.OnWatch = func(context.Context, *cardeav1.WatchRunRequest, func(*cardeav1.Run) error) error {
		return connect.NewError(connect.CodeNotFound, errors.New("there is no run run_1"))
	}
	s.do("run", "watch", "run_1").want(t, cli.NotFound, "there is no run run_1")
}

func TestInputs(t *testing.T) {
	s := newSession(t)
	var got []byte
	s.Runs.OnStart = func(q *cardeav1.StartRunRequest) (*cardeav1.StartRunResponse, error) {
		got = q.GetInputJson()
		return &cardeav1.StartRunResponse{RunId: "run_1"}, nil
	}
	file := filepath.Join(t.TempDir(), "in.json")
	if err := os.WriteFile(file, []byte(" {\"f\": 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{file: `{"f": 1}`, `{"a":1}`: `{"a":1}`, " [1]": "[1]", "-": `"in"`} {
		command(t, nil, `"in"`, "run", "start", "x", "--input", given, "--profile", s.Profile).want(t, cli.OK, "run run_1 of x started")
		if string(got) != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
	for _, bad := range []string{"{", filepath.Join(t.TempDir(), "none"), `[` + strings.Repeat(" ", 1<<20) + `]`} {
		s.do("run", "start", "x", "--input", bad).want(t, cli.Usage)
	}
}

func planned() *cardeav1.PlanResponse {
	return &cardeav1.PlanResponse{Digest: "sha256:aa", AddsPrivilege: true, Changes: []*cardeav1.Change{{Verb: "new", Kind: "Process", Name: "hello"}}}
}

// applies makes a folder and a hub that plans it.
func (s *session) applies(plan *cardeav1.PlanResponse, apply func(*cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error)) string {
	s.t.Helper()
	dir := s.t.TempDir()
	process := "kind: Process\nname: hello\nowner: group:admins\npurpose: Greets\ncriticality: low\n"
	if err := os.WriteFile(filepath.Join(dir, "process.yaml"), []byte(process), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.Control.OnPlan = func(q *cardeav1.PlanRequest) (*cardeav1.PlanResponse, error) {
		if len(q.GetResources()) != 1 || q.GetResources()[0].GetKind() != "Process" {
			s.t.Errorf("planned %v", q.GetResources())
		}
		return plan, nil
	}
	s.Control.OnApply = apply
	return dir
}

func TestApply(t *testing.T) {
	never := func(*cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error) {
		t.Error("applied")
		return &cardeav1.ApplyResponse{Applied: true}, nil
	}
	t.Run("plan alone", func(t *testing.T) {
		s := newSession(t)
		s.do("apply", "-f", s.applies(planned(), never), "--plan").want(t, cli.OK, "new  Process  hello", "This adds privilege")
	})
	t.Run("not without a yes", func(t *testing.T) {
		s := newSession(t)
		s.do("apply", "-f", s.applies(planned(), never)).want(t, cli.Usage, "--yes answers beforehand")
	})
	t.Run("nothing to do", func(t *testing.T) {
		s := newSession(t)
		s.do("apply", "-f", s.applies(&cardeav1.PlanResponse{}, never), "--yes").want(t, cli.OK, "Nothing changes.")
	})
	t.Run("a plan with errors", func(t *testing.T) {
		s := newSession(t)
		plan := planned()
		plan.Errors = []string{"it leads nowhere"}
		s.do("apply", "-f", s.applies(plan, never), "--yes").want(t, cli.Failed, "it leads nowhere")
	})
	t.Run("what was planned is what is applied", func(t *testing.T) {
		s := newSession(t)
		dir := s.applies(planned(), func(q *cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error) {
			if q.GetPlanDigest() != "sha256:aa" || len(q.GetChange().GetResources()) != 1 {
				t.Errorf("%v", q)
			}
			return &cardeav1.ApplyResponse{Applied: true}, nil
		})
		s.do("apply", dir, "--yes").want(t, cli.OK, "✔ applied")
		var got struct{ Apply struct{ Applied bool } }
		s.document(cli.OK, &got, "apply", dir, "--yes")
		if !got.Apply.Applied {
			t.Error("the document does not say so")
		}
	})
	t.Run("the hub has changed since", func(t *testing.T) {
		s := newSession(t)
		dir := s.applies(planned(), func(*cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error) {
			return nil, connect.NewError(connect.CodeAborted, errors.New("not what was planned"))
		})
		s.do("apply", "-f", dir, "--yes").want(t, cli.Conflict, "nothing was applied", "plan again")
	})
	t.Run("others must sign", func(t *testing.T) {
		s := newSession(t)
		dir := s.applies(planned(), func(*cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error) {
			return &cardeav1.ApplyResponse{ApprovalId: "apr_1", Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_PENDING, Reason: "one of group:security"}}, nil
		})
		s.do("apply", "-f", dir, "--yes").want(t, cli.Pending, "others must sign first: one of group:security", "cardea approval show apr_1")
	})
	t.Run("broken files", func(t *testing.T) {
		s := newSession(t)
		dir := s.applies(planned(), never)
		if err := os.WriteFile(filepath.Join(dir, "bad.yaml"), []byte("kind: Proces\nname: x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.do("apply", "-f", dir, "--yes").want(t, cli.Failed, "bad.yaml:1:", "nothing was applied")
		if slices.Contains(s.Calls(), "/cardea.v1.Control/Plan") {
			t.Error("it was sent all the same")
		}
	})
}

// sshKey writes an SSH key and returns its file.
func sshKey(t *testing.T) (string, ssh.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return file, public
}

// asks makes the hub ask for an approval, and keeps what is signed.
func (s *session) asks(change func(*cardeav1.Approval)) *cardeav1.SignRequest {
	s.t.Helper()
	canonical, err := action.Action{Kind: "http", HTTP: &action.HTTP{Method: "POST", URL: "https://api.bank.example.com/v1/transfers", Body: []byte("{}")}}.Canonical()
	if err != nil {
		s.t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	st := &approval.Statement{
		V: approval.Version, Kind: approval.KindAttempt, ID: "apr_01jd7k0000000000000000009a", Hub: clitest.Domain, Requester: "schedule",
		Rule:     approval.Rule{Name: "two", Digest: digest, Approvers: []string{"group:treasury"}, Quorum: 1},
		Policies: []approval.Policy{{ID: "p", Digest: digest}}, Attempts: 1, CreatedAt: approval.At(time.Now()), ExpiresAt: approval.At(time.Now().Add(time.Hour)), Nonce: "AAAAAAAAAAAAAAAAAAAAAA",
		Process: &approval.Process{Name: "payroll", Owner: "group:people"}, Workflow: &approval.Workflow{Ref: "payroll/pay-run", Version: "1.0.0", Digest: digest},
		Run: "run_1", Task: &approval.Task{Pointer: "/do/0/pay", Name: "pay"}, Actions: []approval.Action{approval.NewAction(canonical, "key")},
		Connections: []approval.Connection{{Name: "bank", Hosts: []string{"https://api.bank.example.com"}, Allow: []approval.Allow{{Methods: []string{"POST"}, Path: "/v1/transfers"}}, Tier: "privileged", Zone: "production", Credential: "identity token", TTL: "2m", Provider: "jwt", Present: "bearer", Deliver: "egress"}},
	}
	text, err := st.Canonical()
	if err != nil {
		s.t.Fatal(err)
	}
	signature, err := verify.SignStatement(s.PermitKey, text)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &cardeav1.Approval{Id: st.ID, State: "pending", Statement: text, AuthoritySignature: signature, Quorum: 1, CanSign: true}
	change(p)
	s.Control.OnApproval = func(*cardeav1.GetApprovalRequest) (*cardeav1.GetApprovalResponse, error) {
		return &cardeav1.GetApprovalResponse{Approval: p}, nil
	}
	signed := &cardeav1.SignRequest{}
	s.Control.OnSign = func(q *cardeav1.SignRequest) (*cardeav1.SignResponse, error) {
		signed.ApprovalId, signed.Signature, signed.Refuse, signed.Reason = q.GetApprovalId(), q.GetSignature(), q.GetRefuse(), q.GetReason()
		return &cardeav1.SignResponse{Approval: &cardeav1.Approval{Id: p.GetId(), State: "approved"}}, nil
	}
	return signed
}

func TestSigning(t *testing.T) {
	const id = "apr_01jd7k0000000000000000009a"
	key, public := sshKey(t)
	untouched := func(*cardeav1.Approval) {}
	for verb, namespace := range map[string]string{"sign": verify.NamespaceApproval, "refuse": verify.NamespaceRefusal} {
		t.Run(verb, func(t *testing.T) {
			s := newSession(t)
			signed := s.asks(untouched)
			s.do("approval", verb, id, "--key", key, "--yes", "--reason", "why").want(t, cli.OK, "1 × POST https://api.bank.example.com/v1/transfers")
			text := mustApproval(t, s).GetStatement()
			by, err := verify.Person(text, signed.GetSignature(), namespace)
			if err != nil || by.Fingerprint != ssh.FingerprintSHA256(public) || signed.GetApprovalId() != id || signed.GetReason() != "why" {
				t.Fatalf("%+v, %v", by, err)
			}
		})
	}
	spoilt := map[string]struct {
		change func(*cardeav1.Approval)
		exit   cli.Exit
		args   []string
	}{
		"nobody was asked":                 {untouched, cli.Usage, []string{"approval", "sign", id, "--key", key}},
		"the hub did not sign it":          {func(p *cardeav1.Approval) { p.AuthoritySignature[0] ^= 1 }, cli.Failed, []string{"approval", "sign", id, "--key", key, "--yes"}},
		"it says something else":           {func(p *cardeav1.Approval) { p.Statement = append(p.Statement, ' ') }, cli.Failed, []string{"approval", "sign", id, "--key", key, "--yes"}},
		"it is another one":                {untouched, cli.Failed, []string{"approval", "sign", "apr_02", "--key", key, "--yes"}},
		"the person may not":               {func(p *cardeav1.Approval) { p.CanSign, p.CannotBecause = false, "you asked for it" }, cli.Denied, []string{"approval", "sign", id, "--key", key, "--yes"}},
		"there is no key":                  {untouched, cli.Usage, []string{"approval", "sign", id, "--yes"}},
		"the key cannot be read":           {untouched, cli.Usage, []string{"approval", "sign", id, "--yes", "--key", "/nonexistent"}},
		"show: the hub did not sign it":    {func(p *cardeav1.Approval) { p.AuthoritySignature[0] ^= 1 }, cli.Failed, []string{"approval", "show", id}},
		"show as JSON: it was not signed":  {func(p *cardeav1.Approval) { p.AuthoritySignature[0] ^= 1 }, cli.Failed, []string{"approval", "show", id, "-o", "json"}},
		"refuse: the hub did not sign it":  {func(p *cardeav1.Approval) { p.AuthoritySignature[0] ^= 1 }, cli.Failed, []string{"approval", "refuse", id, "--key", key, "--yes"}},
		"JSON does not lift the questions": {untouched, cli.Usage, []string{"approval", "sign", id, "--key", key, "-o", "json"}},
	}
	for name, c := range spoilt {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			signed := s.asks(c.change)
			s.do(c.args...).want(t, c.exit)
			if signed.GetApprovalId() != "" {
				t.Fatal("it was signed")
			}
		})
	}
}

func mustApproval(t *testing.T, s *session) *cardeav1.Approval {
	t.Helper()
	answer, err := s.Control.OnApproval(nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetApproval()
}

func TestLedgerCommands(t *testing.T) {
	s := newSession(t)
	record := clitest.NewRecord(t, s.Hub, s.LedgerKey)
	record.Append(`{"by":"ana"}`, `{"by":"bob"}`)
	s.do("ledger", "tail").want(t, cli.OK, "#0", "by=ana", "by=bob")
	s.do("ledger", "tail", "-n", "1").want(t, cli.OK, "by=bob")
	s.do("ledger", "show", "#1").want(t, cli.OK, `"by": "bob"`, "✔ leaf 1 of 2")
	s.do("ledger", "show", record.IDs[0]).want(t, cli.OK, "✔ leaf 0 of 2")
	s.do("ledger", "show", "nonsense").want(t, cli.Usage)
	s.do("ledger", "verify").want(t, cli.OK, "✔ 2 leaves")
	export := s.do("ledger", "export")
	export.want(t, cli.OK)
	file := filepath.Join(t.TempDir(), "ledger.jsonl")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(export.out)
	s.do("ledger", "verify", "--file", file).want(t, cli.OK, "✔ 2 leaves")
	write(strings.Replace(export.out, `\"kind\":\"change\"`, `\"kind\":\"refusal\"`, 1))
	s.do("ledger", "verify", "--file", file).want(t, cli.Failed, "✘ ")
	clitest.NewRecord(t, s.Hub, s.LedgerKey).Append(`{"by":"ana"}`)
	s.do("ledger", "verify").want(t, cli.Failed, "cut short")
	var report struct {
		OK      bool
		Problem struct{ Fault string }
	}
	s.document(cli.Failed, &report, "ledger", "verify")
	if report.OK || report.Problem.Fault == "" {
		t.Fatalf("%+v", report)
	}
}

func TestErrorsOfTheHub(t *testing.T) {
	s := newSession(t)
	s.Control.RefuseAllCalls = connect.NewError(connect.CodePermissionDenied, errors.New("you may not\x1b[2J look"))
	r := s.do("lease", "list")
	r.want(t, cli.Denied, "you may not")
	if strings.Contains(r.err, "\x1b") {
		t.Fatalf("%q", r.err)
	}
	r = s.do("lease", "list", "-o", "json")
	var e struct {
		Error struct {
			Code string
			Exit int
		}
	}
	if err := json.Unmarshal([]byte(r.err), &e); err != nil || e.Error.Code != "denied" || e.Error.Exit != 3 || r.out != "" {
		t.Fatalf("%v %+v %q", err, e, r.out)
	}
}

func TestCompletionAsksTheHub(t *testing.T) {
	s := newSession(t)
	s.Control.OnList = func(*cardeav1.ListRequest) (*cardeav1.ListResponse, error) {
		return &cardeav1.ListResponse{Resources: []*cardeav1.Resource{{Name: "payroll/pay-run@1.0.0"}, {Name: "payroll/pay-run@1.1.0"}, {Name: "evil\n\x1b[2J@1"}}}, nil
	}
	r := command(t, nil, "", "__complete", "run", "start", "--profile", s.Profile, "")
	if !strings.Contains(r.out, "payroll/pay-run\n") || strings.Count(r.out, "payroll/pay-run") != 1 || strings.Contains(r.out, "\x1b") {
		t.Fatalf("%q", r.out)
	}
}
