package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// took answers results as it is told, and counts those that it has made durable.
type took struct {
	durable atomic.Int32
	stale   bool
	err     error
	from    Runner
}

func (r *took) Result(_ context.Context, from Runner, _ *cardeav1.TaskResult) (bool, error) {
	if r.err != nil {
		return false, r.err
	}
	r.from = from
	r.durable.Add(1)
	return r.stale, nil
}

func serve(t *testing.T, p *Pool, results Results, peer *identity.Peer) cardeav1connect.WorkClient {
	t.Helper()
	_, h := cardeav1connect.NewWorkHandler(NewService(p, results, slog.New(slog.DiscardHandler)))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer != nil {
			r = r.WithContext(identity.ContextWithPeer(r.Context(), *peer))
		}
		h.ServeHTTP(w, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return cardeav1connect.NewWorkClient(server.Client(), server.URL)
}

func runnerPeer(t *testing.T) *identity.Peer {
	t.Helper()
	id, err := identity.RunnerID(spiffeid.RequireTrustDomainFromString("cardea.local"), "standard", "a")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := identity.ParsePeer(id)
	if err != nil {
		t.Fatal(err)
	}
	peer.KeyThumbprint = "key"
	return &peer
}

func credit(n uint32) *cardeav1.SessionRequest {
	return &cardeav1.SessionRequest{Message: &cardeav1.SessionRequest_Credit{Credit: &cardeav1.Credit{Slots: n}}}
}

func result(permit string) *cardeav1.SessionRequest {
	return &cardeav1.SessionRequest{Message: &cardeav1.SessionRequest_Result{Result: &cardeav1.TaskResult{PermitId: permit}}}
}

type conversation = connect.BidiStreamForClientSimple[cardeav1.SessionRequest, cardeav1.SessionResponse]

func talk(t *testing.T, c cardeav1connect.WorkClient, messages ...*cardeav1.SessionRequest) *conversation {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	stream, err := c.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			break // refused: what Receive answers says why
		}
	}
	return stream
}

func TestSession(t *testing.T) {
	var e events
	p := e.pool()
	results := &took{stale: true}
	stream := talk(t, serve(t, p, results, runnerPeer(t)), credit(1), result("p9"))
	m, err := stream.Receive()
	if err != nil || m.GetTaken().GetPermitId() != "p9" || !m.GetTaken().GetStale() {
		t.Fatalf("%v %v", m, err)
	}
	if results.durable.Load() != 1 || results.from != (Runner{ID: "spiffe://cardea.local/runner/standard/a", Key: "key", Tier: "standard"}) {
		t.Errorf("%+v", results.from)
	}
	add(p, "standard", "a1")
	expect(t, "matched", e.take(&e.matched), "a1@spiffe://cardea.local/runner/standard/a")
	hold(p, e.last, "p1")
	if m, err = stream.Receive(); err != nil || m.GetTask().GetPermitId() != "p1" {
		t.Fatalf("%v %v", m, err)
	}
	if err := stream.Send(&cardeav1.SessionRequest{Message: &cardeav1.SessionRequest_Started{Started: &cardeav1.Started{PermitId: "p1"}}}); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Receive(); err == nil {
		t.Error("the session outlived its runner")
	}
	<-e.last.Done()
	p.Close()
}

// What an earlier engine gave is the runner's for as long as it names it before its credit; what it does not name is lost at once.
func TestSessionBeginsWithWhatTheRunnerHas(t *testing.T) {
	var e events
	p := e.pool()
	peer := runnerPeer(t)
	r := Runner{ID: peer.ID.String(), Key: peer.KeyThumbprint, Tier: peer.Tier}
	for _, permit := range []string{"p1", "p2"} {
		p.Restore(Held{Run: "a", Task: permit, Permit: permit, Runner: r, Deadline: time.Now().Add(time.Hour)})
	}
	named := &cardeav1.SessionRequest{Message: &cardeav1.SessionRequest_Started{Started: &cardeav1.Started{PermitId: "p1"}}}
	stream := talk(t, serve(t, p, &took{}, peer), named, credit(1), result("p9"))
	if m, err := stream.Receive(); err != nil || m.GetTaken().GetPermitId() != "p9" {
		t.Fatalf("%v %v", m, err)
	}
	for p.Levels()["standard"].Held != 1 {
		time.Sleep(time.Millisecond)
	}
	expect(t, "lost", e.take(&e.lost), "p2")
	p.Close()
}

// Invariant 1: what could not be made durable is not acknowledged, and the session ends so that it comes again.
func TestResultThatIsNotDurable(t *testing.T) {
	var e events
	stream := talk(t, serve(t, e.pool(), &took{err: errors.New("disk")}, runnerPeer(t)), credit(1), result("p9"))
	m, err := stream.Receive()
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("%v %v", m, err)
	}
}

// Invariant 18: who the runner is comes from its SVID alone, and nobody else has a session.
func TestOnlyRunnersHaveSessions(t *testing.T) {
	console := identity.Peer{ID: spiffeid.RequireFromString("spiffe://cardea.local/role/console/c"), Kind: identity.KindRole, Role: "console", Tier: "standard", KeyThumbprint: "k"}
	nameless := *runnerPeer(t)
	nameless.KeyThumbprint = ""
	for name, peer := range map[string]*identity.Peer{"nobody": nil, "a console": &console, "a runner without a key": &nameless} {
		var e events
		_, err := talk(t, serve(t, e.pool(), &took{}, peer), credit(1)).Receive()
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	var e events
	_, err := talk(t, serve(t, e.pool(), &took{}, runnerPeer(t)), result("p")).Receive()
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a session that does not begin with credit: %v", err)
	}
}

func TestANewerSessionEndsTheOlder(t *testing.T) {
	var e events
	p := e.pool()
	c := serve(t, p, &took{}, runnerPeer(t))
	old := talk(t, c, credit(1))
	for p.Levels()["standard"].Credit != 1 {
		time.Sleep(time.Millisecond)
	}
	talk(t, c, credit(3))
	if _, err := old.Receive(); connect.CodeOf(err) != connect.CodeAborted {
		t.Errorf("%v", err)
	}
	for p.Levels()["standard"].Credit != 3 {
		time.Sleep(time.Millisecond)
	}
}
