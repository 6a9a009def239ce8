package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
	"cardea/internal/cli/clitest"
	"cardea/internal/identity"
	"cardea/internal/profile"
	"cardea/internal/role"
)

func client(t *testing.T, path string) *cli.Client {
	t.Helper()
	p, err := profile.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cli.NewClient(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryCallCarriesItsEvidence(t *testing.T) {
	h := clitest.Start(t)
	h.Control.OnGet = func(q *cardeav1.GetRequest) (*cardeav1.GetResponse, error) {
		return &cardeav1.GetResponse{Resource: &cardeav1.Resource{Name: q.GetName()}}, nil
	}
	h.Runs.OnStart = func(q *cardeav1.StartRunRequest) (*cardeav1.StartRunResponse, error) {
		return &cardeav1.StartRunResponse{RunId: "run_" + q.GetWorkflow()}, nil
	}
	h.Runs.OnWatch = func(_ context.Context, q *cardeav1.WatchRunRequest, send func(*cardeav1.Run) error) error {
		return errors.Join(send(&cardeav1.Run{Id: q.GetRunId(), Revision: 1}), send(&cardeav1.Run{Id: q.GetRunId(), Revision: 2}))
	}
	c := client(t, h.Profile)
	who, err := c.Control.WhoAmI(t.Context(), &cardeav1.WhoAmIRequest{}) // an empty body is signed too
	if err != nil || who.GetPerson() != "ana" {
		t.Fatalf("%v, %v", who, err)
	}
	if _, known := c.Skew(); !known {
		t.Error("the hub's clock is not known after an answer")
	}
	got, err := c.Control.Get(t.Context(), &cardeav1.GetRequest{Name: "bank"})
	if err != nil || got.GetResource().GetName() != "bank" {
		t.Fatalf("%v, %v", got, err)
	}
	started, err := c.Runs.Start(t.Context(), &cardeav1.StartRunRequest{Workflow: "x"})
	if err != nil || started.GetRunId() != "run_x" {
		t.Fatalf("%v, %v", started, err)
	}
	stream, err := c.Runs.Watch(t.Context(), &cardeav1.WatchRunRequest{RunId: "run_x"})
	if err != nil {
		t.Fatal(err)
	}
	var revisions []uint64
	for stream.Receive() {
		revisions = append(revisions, stream.Msg().GetRun().GetRevision())
	}
	if err := stream.Err(); err != nil || !slices.Equal(revisions, []uint64{1, 2}) {
		t.Fatalf("revisions %v, %v", revisions, err)
	}
	want := []string{"/cardea.v1.Control/WhoAmI", "/cardea.v1.Control/Get", "/cardea.v1.Control/Ticket", "/cardea.v1.Runs/Start", "/cardea.v1.Control/Ticket", "/cardea.v1.Runs/Watch"}
	if got := h.Calls(); !slices.Equal(got, want) {
		t.Fatalf("calls %v", got)
	}
}

func TestARefusedTicketIsWhatThePersonSees(t *testing.T) {
	h := clitest.Start(t)
	h.Control.OnTicket = func(*cardeav1.TicketRequest) (*cardeav1.TicketResponse, error) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("no policy allows ana to start it"))
	}
	_, err := client(t, h.Profile).Runs.Start(t.Context(), &cardeav1.StartRunRequest{})
	e := cli.Explain(err)
	if e.Exit != cli.Denied || e.Text != "no policy allows ana to start it" {
		t.Fatalf("%d %q", e.Exit, e.Text)
	}
	if got := h.Calls(); len(got) != 1 {
		t.Fatalf("the engine was called without a ticket: %v", got)
	}
}

func TestAnotherKeyIsRefused(t *testing.T) {
	h := clitest.Start(t)
	other := clitest.Start(t)
	p, err := profile.Load(h.Profile)
	if err != nil {
		t.Fatal(err)
	}
	q, err := profile.Load(other.Profile)
	if err != nil {
		t.Fatal(err)
	}
	p.SessionKey = q.SessionKey
	c, err := cli.NewClient(p)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Control.WhoAmI(t.Context(), &cardeav1.WhoAmIRequest{})
	if e := cli.Explain(err); e.Exit != cli.Identity {
		t.Fatalf("%d %q", e.Exit, e.Text)
	}
}

// impostor answers in the console's place with another identity.
func impostor(t *testing.T, source *identity.Source) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a request reached the impostor")
	}))
	s.Listener.Close()
	s.Listener, s.TLS, s.EnableHTTP2 = ln, source.ServerTLSWithoutClientSVID(), true
	s.StartTLS()
	t.Cleanup(s.Close)
	return "unix:" + path
}

func TestOnlyTheProfilesConsoleIsSpokenTo(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString(clitest.Domain)
	ca, err := identity.NewCA(td, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := identity.NewCA(td, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]*identity.Source{
		"a console under other roots": clitest.IssueRole(t, foreign, role.Console),
		"another role":                clitest.IssueRole(t, ca, role.Engine),
	} {
		t.Run(name, func(t *testing.T) {
			h := clitest.Start(t)
			p, err := profile.Load(h.Profile)
			if err != nil {
				t.Fatal(err)
			}
			p.Console, p.RoleRoots = impostor(t, source), identity.RootsPEM(source.Bundle().RoleRoots)
			if name == "a console under other roots" {
				p.RoleRoots = identity.RootsPEM(clitest.IssueRole(t, ca, role.Console).Bundle().RoleRoots)
			}
			c, err := cli.NewClient(p)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Control.WhoAmI(t.Context(), &cardeav1.WhoAmIRequest{})
			if e := cli.Explain(err); e.Exit != cli.Identity {
				t.Fatalf("%d %q", e.Exit, e.Text)
			}
		})
	}
}

func TestAHubThatIsAway(t *testing.T) {
	h := clitest.Start(t)
	c := client(t, h.Profile)
	if err := os.Remove(filepath.Join(h.Folder, "console.sock")); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"control": func() error { _, err := c.Control.WhoAmI(t.Context(), &cardeav1.WhoAmIRequest{}); return err },
		"runs":    func() error { _, err := c.Runs.Get(t.Context(), &cardeav1.GetRunRequest{}); return err },
	} {
		e := cli.Explain(call())
		if e.Exit != cli.Unavailable || !strings.Contains(string(e.Text), "no hub answers at") || e.Mend == "" {
			t.Errorf("%s: %d %q", name, e.Exit, e.Text)
		}
	}
}

func TestRequestsLargerThanAHubTakes(t *testing.T) {
	h := clitest.Start(t)
	big := &cardeav1.PlanRequest{Resources: []*cardeav1.Resource{{Body: make([]byte, 4<<20)}}}
	_, err := client(t, h.Profile).Control.Plan(t.Context(), big)
	if e := cli.Explain(err); e.Exit != cli.Usage {
		t.Fatalf("%d %q", e.Exit, e.Text)
	}
}

func TestExitCodes(t *testing.T) {
	for code, want := range map[connect.Code]cli.Exit{
		connect.CodeCanceled: cli.Interrupted, connect.CodeUnknown: cli.Internal, connect.CodeInvalidArgument: cli.Usage,
		connect.CodeDeadlineExceeded: cli.Pending, connect.CodeNotFound: cli.NotFound, connect.CodeAlreadyExists: cli.Conflict,
		connect.CodePermissionDenied: cli.Denied, connect.CodeResourceExhausted: cli.Unavailable, connect.CodeFailedPrecondition: cli.Conflict,
		connect.CodeAborted: cli.Conflict, connect.CodeOutOfRange: cli.Usage, connect.CodeUnimplemented: cli.Internal,
		connect.CodeInternal: cli.Internal, connect.CodeUnavailable: cli.Unavailable, connect.CodeDataLoss: cli.Internal, connect.CodeUnauthenticated: cli.Identity,
	} {
		if got := cli.Explain(connect.NewError(code, errors.New("why"))).Exit; got != want {
			t.Errorf("%v: %d, want %d", code, got, want)
		}
	}
	if got := cli.Explain(context.DeadlineExceeded).Exit; got != cli.Pending {
		t.Errorf("deadline: %d", got)
	}
	if got := cli.Explain(errors.New("plain")).Exit; got != cli.Failed {
		t.Errorf("plain: %d", got)
	}
	seen := map[cli.Safe]bool{}
	for _, row := range cli.ExitTable() {
		if seen[row.Word] || row.Meaning == "" || row.Exit.Word() != row.Word {
			t.Errorf("row %+v", row)
		}
		seen[row.Word] = true
	}
}

func TestErrorsFromAHubCannotSteerTheTerminal(t *testing.T) {
	e := cli.Explain(connect.NewError(connect.CodeInternal, errors.New("a\x1b[2Jb\u202ec")))
	if strings.ContainsAny(string(e.Text), "\x1b\u202e") {
		t.Fatalf("%q", e.Text)
	}
	if _, err := json.Marshal(e.Text); err != nil {
		t.Fatal(err)
	}
}
