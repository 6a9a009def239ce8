package runner

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/action"
	"cardea/internal/permit"
)

const (
	domain   = "cardea.test"
	runnerID = "spiffe://cardea.test/runner/standard/a"
	keyPrint = "own-key-thumbprint"
	token    = "credential-eyJhbGciOiJFUzI1NiJ9.payload.signature"
)

// line is one session as the engine sees it.
type line struct {
	in   chan *cardeav1.SessionRequest
	out  chan *cardeav1.SessionResponse
	stop context.CancelFunc
}

// engine serves Work for real, and lets the test speak for it.
type engine struct {
	lines chan *line
}

func (e *engine) Session(ctx context.Context, stream *connect.BidiStream[cardeav1.SessionRequest, cardeav1.SessionResponse]) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l := &line{in: make(chan *cardeav1.SessionRequest, 1000), out: make(chan *cardeav1.SessionResponse, 1000), stop: stop}
	failed := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Receive()
			if err != nil {
				failed <- err
				close(l.in)
				return
			}
			l.in <- m
		}
	}()
	e.lines <- l
	for {
		select {
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("cut"))
		case <-failed:
			return nil
		case m := <-l.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
}

// authority serves Lease for real. The functions may be replaced before a runner starts.
type authority struct {
	cardeav1connect.UnimplementedLeaseHandler
	mu       sync.Mutex
	redeems  []*cardeav1.RedeemRequest
	returns  []*cardeav1.ReturnRequest
	redeem   func(context.Context, *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error)
	giveBack func(n int) error
	voids    chan *cardeav1.PermitVoided
}

func (a *authority) Redeem(ctx context.Context, r *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
	a.mu.Lock()
	a.redeems = append(a.redeems, r)
	a.mu.Unlock()
	return a.redeem(ctx, r)
}

func (a *authority) Return(_ context.Context, r *cardeav1.ReturnRequest) (*cardeav1.ReturnResponse, error) {
	a.mu.Lock()
	a.returns = append(a.returns, r)
	n := len(a.returns)
	a.mu.Unlock()
	if a.giveBack != nil {
		if err := a.giveBack(n); err != nil {
			return nil, err
		}
	}
	return &cardeav1.ReturnResponse{}, nil
}

func (a *authority) Watch(ctx context.Context, _ *cardeav1.WatchLeaseRequest, s *connect.ServerStream[cardeav1.WatchLeaseResponse]) error {
	if err := s.Send(&cardeav1.WatchLeaseResponse{}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-a.voids:
			if err := s.Send(&cardeav1.WatchLeaseResponse{Voided: v}); err != nil {
				return err
			}
		}
	}
}

func (a *authority) counts() (redeems, returns int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.redeems), len(a.returns)
}

type executor func(ctx context.Context, a Attempt) Outcome

func (e executor) Execute(ctx context.Context, a Attempt) Outcome { return e(ctx, a) }

// answered is the executor of tests that do not care about the target.
func answered(context.Context, Attempt) Outcome {
	return Outcome{Delivery: cardeav1.Delivery_DELIVERY_ANSWERED, HTTP: &cardeav1.HttpResponse{Status: 200}}
}

type rig struct {
	*testing.T
	key       ed25519.PrivateKey
	engine    *engine
	authority *authority
	runner    *Runner
	log       *safeBuffer
	stop      context.CancelFunc
	done      chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newRig starts a runner between a real engine listener and a real authority listener, both over HTTP/2 with TLS.
func newRig(t *testing.T, exec Executor, change func(*Config, *authority)) *rig {
	t.Helper()
	public, key, _ := ed25519.GenerateKey(nil)
	r := &rig{T: t, key: key, engine: &engine{lines: make(chan *line, 10)}, log: &safeBuffer{}, done: make(chan error, 1)}
	r.authority = &authority{voids: make(chan *cardeav1.PermitVoided, 10), redeem: func(context.Context, *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
		return &cardeav1.RedeemResponse{Deadline: timestamppb.New(time.Now().Add(time.Minute)), Grants: []*cardeav1.Grant{
			{Connection: "bank", Presentation: "bearer", Credential: []byte(token), Hosts: []string{"https://example.com"}},
		}}, nil
	}}
	mux := http.NewServeMux()
	mux.Handle(cardeav1connect.NewWorkHandler(r.engine))
	mux.Handle(cardeav1connect.NewLeaseHandler(r.authority))
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	cfg := Config{
		Self: func() Self {
			return Self{TrustDomain: domain, ID: runnerID, Key: keyPrint, PermitKeys: []ed25519.PublicKey{public}}
		},
		Work: cardeav1connect.NewWorkClient(srv.Client(), srv.URL), Lease: cardeav1connect.NewLeaseClient(srv.Client(), srv.URL),
		Executors: map[string]Executor{"http": exec}, Slots: 2, Drain: 5 * time.Second, Flush: 5 * time.Second,
		Log: slog.New(slog.NewTextHandler(r.log, nil)), Metrics: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&cfg, r.authority)
	}
	var err error
	if r.runner, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.done <- r.runner.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		srv.CloseClientConnections()
		srv.Close()
	})
	return r
}

// line waits for the runner's next session.
func (r *rig) line() *line {
	r.Helper()
	select {
	case l := <-r.engine.lines:
		return l
	case <-time.After(20 * time.Second):
		r.Fatalf("no session; log:\n%s", r.log)
		return nil
	}
}

// next waits for the runner's next message.
func (r *rig) next(l *line) *cardeav1.SessionRequest {
	r.Helper()
	select {
	case m, ok := <-l.in:
		if !ok {
			r.Fatalf("the session ended; log:\n%s", r.log)
		}
		return m
	case <-time.After(20 * time.Second):
		r.Fatalf("no message; log:\n%s", r.log)
		return nil
	}
}

func (r *rig) wantCredit(l *line, slots uint32) {
	r.Helper()
	if m := r.next(l); m.GetCredit() == nil || m.GetCredit().Slots != slots {
		r.Fatalf("%v instead of %d credit", m, slots)
	}
}

// wantNamed waits for what begins a session of a runner that has these tasks.
func (r *rig) wantNamed(l *line, permits ...string) {
	r.Helper()
	for left := permits; len(left) > 0; {
		m := r.next(l)
		i := slices.Index(left, m.GetStarted().GetPermitId())
		if i < 0 {
			r.Fatalf("%v instead of one of %v", m, left)
		}
		left = slices.Delete(slices.Clone(left), i, i+1)
	}
}

func (r *rig) wantResult(l *line) *cardeav1.TaskResult {
	r.Helper()
	for {
		m := r.next(l)
		if m.GetStarted() != nil {
			continue
		}
		if m.GetResult() == nil {
			r.Fatalf("%v instead of a result", m)
		}
		return m.GetResult()
	}
}

// task makes a permitted task; change sees both halves before they are sealed.
func (r *rig) task(id string, change func(*permit.Permit, *cardeav1.WorkTask)) *cardeav1.WorkTask {
	r.Helper()
	a := action.Action{Kind: "http", HTTP: &action.HTTP{Method: "POST", URL: "https://example.com/v1/transfers", Body: []byte(`{"amount":1}`)}}
	canonical, err := a.Canonical()
	if err != nil {
		r.Fatal(err)
	}
	now := time.Now()
	aud := permit.Audience(domain)
	p := permit.Permit{
		ID: id, Issuer: aud, Audience: aud, IssuedAt: now.Unix(), Expires: now.Add(time.Minute).Unix(), Run: "run_1", Subject: "spiffe://cardea.test/wf/p/w/task/do/0/x",
		Confirmation: permit.Confirmation{Key: keyPrint, Runner: runnerID},
		Context: permit.Context{
			Process: "p", Workflow: "w", Task: "/do/0/x", Attempt: 1, Epoch: 7, Action: action.Digest(canonical), Effect: "once", IdempotencyKey: "idem-1",
			Connections: []permit.Connection{{Name: "bank"}}, Deadline: now.Add(time.Minute).Unix(),
		},
	}
	t := &cardeav1.WorkTask{
		Task: &cardeav1.TaskRef{RunId: "run_1", Task: "/do/0/x"}, Epoch: 7, PermitId: id, Action: canonical,
		IdempotencyKey: "not the permit's", Effect: cardeav1.Effect_EFFECT_IDEMPOTENT, Deadline: timestamppb.New(now.Add(time.Minute)),
	}
	if change != nil {
		change(&p, t)
	}
	if t.Permit == "" {
		if t.Permit, err = permit.Sign(p, r.key); err != nil {
			r.Fatal(err)
		}
	}
	return t
}

func push(l *line, t *cardeav1.WorkTask) {
	l.out <- &cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Task{Task: t}}
}

func take1(l *line, permitID string) {
	l.out <- &cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Taken{Taken: &cardeav1.ResultTaken{PermitId: permitID}}}
}

// eventually waits for a condition that the runner reaches in its own time.
func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	r.Fatalf("never: %s; log:\n%s", what, r.log)
}
