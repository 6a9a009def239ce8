// Package clitest is a hub for tests of the client: a real console on a real socket, and behind it services that verify
// every proof and ticket as the authority and the engine do, and answer what the test says.
package clitest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/mod/sumdb/note"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/console"
	"cardea/internal/evidence"
	"cardea/internal/identity"
	"cardea/internal/permit"
	"cardea/internal/profile"
	"cardea/internal/role"
)

// Domain is the trust domain of test hubs.
const Domain = "cardea.local"

// Hub is one test's hub. Control, Ledger and Runs answer; a method that is not set is unimplemented.
type Hub struct {
	Control Control
	Ledger  Ledger
	Runs    Runs

	// Profile is the file to use; Folder is where it lies.
	Profile string
	Folder  string
	Person  string
	// PermitKey is the authority's: it signs tickets and statements. LedgerKey signs checkpoints.
	PermitKey ed25519.PrivateKey
	LedgerKey ed25519.PrivateKey

	thumbprint string
	mu         sync.Mutex
	used       map[string]bool
	calls      []string
}

// Control answers people's questions to the authority.
type Control struct {
	cardeav1connect.UnimplementedControlHandler
	hub            *Hub
	OnPlan         func(*cardeav1.PlanRequest) (*cardeav1.PlanResponse, error)
	OnApply        func(*cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error)
	OnGet          func(*cardeav1.GetRequest) (*cardeav1.GetResponse, error)
	OnList         func(*cardeav1.ListRequest) (*cardeav1.ListResponse, error)
	OnExplain      func(*cardeav1.ExplainRequest) (*cardeav1.ExplainResponse, error)
	OnCheck        func(*cardeav1.CheckRequest) (*cardeav1.CheckResponse, error)
	OnLeases       func(*cardeav1.ListLeasesRequest) (*cardeav1.ListLeasesResponse, error)
	OnApprovals    func(*cardeav1.ListApprovalsRequest) (*cardeav1.ListApprovalsResponse, error)
	OnApproval     func(*cardeav1.GetApprovalRequest) (*cardeav1.GetApprovalResponse, error)
	OnSign         func(*cardeav1.SignRequest) (*cardeav1.SignResponse, error)
	OnTicket       func(*cardeav1.TicketRequest) (*cardeav1.TicketResponse, error)
	RefuseAllCalls error
}

// call runs an answer that a test has set.
func call[Q, A any](answer func(Q) (A, error), q Q) (A, error) {
	if answer == nil {
		var none A
		return none, connect.NewError(connect.CodeUnimplemented, errors.New("the test did not expect this call"))
	}
	return answer(q)
}

func (c *Control) Plan(_ context.Context, q *cardeav1.PlanRequest) (*cardeav1.PlanResponse, error) {
	return call(c.OnPlan, q)
}

func (c *Control) Apply(_ context.Context, q *cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error) {
	return call(c.OnApply, q)
}

func (c *Control) Get(_ context.Context, q *cardeav1.GetRequest) (*cardeav1.GetResponse, error) {
	return call(c.OnGet, q)
}

func (c *Control) List(_ context.Context, q *cardeav1.ListRequest) (*cardeav1.ListResponse, error) {
	return call(c.OnList, q)
}

func (c *Control) Explain(_ context.Context, q *cardeav1.ExplainRequest) (*cardeav1.ExplainResponse, error) {
	return call(c.OnExplain, q)
}

func (c *Control) Check(_ context.Context, q *cardeav1.CheckRequest) (*cardeav1.CheckResponse, error) {
	return call(c.OnCheck, q)
}

func (c *Control) ListLeases(_ context.Context, q *cardeav1.ListLeasesRequest) (*cardeav1.ListLeasesResponse, error) {
	return call(c.OnLeases, q)
}

func (c *Control) ListApprovals(_ context.Context, q *cardeav1.ListApprovalsRequest) (*cardeav1.ListApprovalsResponse, error) {
	return call(c.OnApprovals, q)
}

func (c *Control) GetApproval(_ context.Context, q *cardeav1.GetApprovalRequest) (*cardeav1.GetApprovalResponse, error) {
	return call(c.OnApproval, q)
}

func (c *Control) Sign(_ context.Context, q *cardeav1.SignRequest) (*cardeav1.SignResponse, error) {
	return call(c.OnSign, q)
}

// Ticket signs a ticket over the exact bytes, unless the test answers otherwise.
func (c *Control) Ticket(_ context.Context, q *cardeav1.TicketRequest) (*cardeav1.TicketResponse, error) {
	if c.OnTicket != nil {
		return c.OnTicket(q)
	}
	now := time.Now()
	audience := permit.Audience(Domain)
	token, err := evidence.SignTicket(evidence.Ticket{
		ID: "tkt_" + now.Format("150405.000000000"), Issuer: audience, Audience: audience, IssuedAt: now.Unix(),
		Expires: now.Add(evidence.TicketLife).Unix(), Person: c.hub.Person, Procedure: q.GetProcedure(), Request: evidence.BodyDigest(q.GetRequest()),
	}, c.hub.PermitKey)
	return &cardeav1.TicketResponse{Ticket: token}, err
}

// WhoAmI knows the hub's one person.
func (c *Control) WhoAmI(context.Context, *cardeav1.WhoAmIRequest) (*cardeav1.WhoAmIResponse, error) {
	return &cardeav1.WhoAmIResponse{Person: c.hub.Person, Groups: []string{"treasury"}}, nil
}

// Ledger answers for the record.
type Ledger struct {
	cardeav1connect.UnimplementedLedgerHandler
	OnCheckpoint  func(*cardeav1.CheckpointRequest) (*cardeav1.CheckpointResponse, error)
	OnEntries     func(*cardeav1.EntriesRequest) (*cardeav1.EntriesResponse, error)
	OnCheckpoints func(*cardeav1.CheckpointsRequest) (*cardeav1.CheckpointsResponse, error)
	OnProve       func(*cardeav1.ProveRequest) (*cardeav1.ProveResponse, error)
}

func (l *Ledger) Checkpoint(_ context.Context, q *cardeav1.CheckpointRequest) (*cardeav1.CheckpointResponse, error) {
	return call(l.OnCheckpoint, q)
}

func (l *Ledger) Entries(_ context.Context, q *cardeav1.EntriesRequest) (*cardeav1.EntriesResponse, error) {
	return call(l.OnEntries, q)
}

func (l *Ledger) Checkpoints(_ context.Context, q *cardeav1.CheckpointsRequest) (*cardeav1.CheckpointsResponse, error) {
	return call(l.OnCheckpoints, q)
}

func (l *Ledger) Prove(_ context.Context, q *cardeav1.ProveRequest) (*cardeav1.ProveResponse, error) {
	return call(l.OnProve, q)
}

// Runs answers for the engine.
type Runs struct {
	cardeav1connect.UnimplementedRunsHandler
	OnStart  func(*cardeav1.StartRunRequest) (*cardeav1.StartRunResponse, error)
	OnGet    func(*cardeav1.GetRunRequest) (*cardeav1.GetRunResponse, error)
	OnList   func(*cardeav1.ListRunsRequest) (*cardeav1.ListRunsResponse, error)
	OnCancel func(*cardeav1.CancelRunRequest) (*cardeav1.CancelRunResponse, error)
	OnWatch  func(context.Context, *cardeav1.WatchRunRequest, func(*cardeav1.Run) error) error
}

func (r *Runs) Start(_ context.Context, q *cardeav1.StartRunRequest) (*cardeav1.StartRunResponse, error) {
	return call(r.OnStart, q)
}

func (r *Runs) Get(_ context.Context, q *cardeav1.GetRunRequest) (*cardeav1.GetRunResponse, error) {
	return call(r.OnGet, q)
}

func (r *Runs) List(_ context.Context, q *cardeav1.ListRunsRequest) (*cardeav1.ListRunsResponse, error) {
	return call(r.OnList, q)
}

func (r *Runs) Cancel(_ context.Context, q *cardeav1.CancelRunRequest) (*cardeav1.CancelRunResponse, error) {
	return call(r.OnCancel, q)
}

func (r *Runs) Watch(ctx context.Context, q *cardeav1.WatchRunRequest, s *connect.ServerStream[cardeav1.WatchRunResponse]) error {
	if r.OnWatch == nil {
		return connect.NewError(connect.CodeUnimplemented, errors.New("the test did not expect this call"))
	}
	return r.OnWatch(ctx, q, func(run *cardeav1.Run) error { return s.Send(&cardeav1.WatchRunResponse{Run: run}) })
}

// Calls are the procedures that got through so far, with their evidence verified.
func (h *Hub) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.calls...)
}

// Start starts a hub that ends with the test.
func Start(t *testing.T) *Hub {
	t.Helper()
	folder, err := os.MkdirTemp("", "cli") // a socket's path must be short
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	h := &Hub{Person: "ana", Folder: folder, Profile: filepath.Join(folder, "profile.json"), used: make(map[string]bool)}
	h.Control.hub = h
	session, err := identity.NewKey()
	check(t, err)
	_, h.PermitKey, err = ed25519.GenerateKey(nil)
	check(t, err)
	_, h.LedgerKey, err = ed25519.GenerateKey(nil)
	check(t, err)
	source, root := consoleSource(t)
	forwarder, err := console.New(console.Config{Authority: h.authority(), Engine: h.engine(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	check(t, err)
	address := serve(t, folder, source, forwarder)
	checkpointKey, err := note.NewEd25519VerifierKey(Domain+"/ledger", h.LedgerKey.Public().(ed25519.PublicKey))
	check(t, err)
	p := profile.Profile{
		Hub: "test", Console: address, TrustDomain: Domain, RoleRoots: root, Person: h.Person, SessionKey: jose.JSONWebKey{Key: session},
		PermitKeys: [][]byte{h.PermitKey.Public().(ed25519.PublicKey)}, CheckpointKey: checkpointKey, Origin: "http://127.0.0.1:1",
	}
	check(t, p.Save(h.Profile))
	h.thumbprint = thumbprint(t, session)
	return h
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func thumbprint(t *testing.T, session *ecdsa.PrivateKey) string {
	t.Helper()
	proof, err := evidence.NewProof(session, "/x", nil, time.Now())
	check(t, err)
	_, print, err := evidence.VerifyProof(proof, "/x", nil, time.Now())
	check(t, err)
	return print
}

// consoleSource is a console's identity under a fresh CA, and the CA's root as profiles hold it.
func consoleSource(t *testing.T) (*identity.Source, string) {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(Domain)
	ca, err := identity.NewCA(td, time.Now)
	check(t, err)
	return IssueRole(t, ca, role.Console), identity.RootsPEM(bundle(ca).RoleRoots)
}

func bundle(ca *identity.CA) identity.Bundle {
	return identity.Bundle{TrustDomain: Domain, RoleRoots: []*x509.Certificate{ca.Root()}}
}

// IssueRole makes a role's identity under a CA.
func IssueRole(t *testing.T, ca *identity.CA, roleName string) *identity.Source {
	t.Helper()
	key, err := identity.NewKey()
	check(t, err)
	csr, err := identity.NewCSR(key)
	check(t, err)
	id, err := identity.RoleID(ca.TrustDomain(), roleName, "test")
	check(t, err)
	chain, err := ca.Issue(csr, id, identity.SVIDTTL, identity.SANs{})
	check(t, err)
	source, err := identity.NewSource(key, chain, bundle(ca), time.Now)
	check(t, err)
	return source
}

func serve(t *testing.T, folder string, source *identity.Source, h http.Handler) string {
	t.Helper()
	path := filepath.Join(folder, "console.sock")
	ln, err := net.Listen("unix", path)
	check(t, err)
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener, s.TLS, s.EnableHTTP2 = ln, source.ServerTLSWithoutClientSVID(), true
	s.StartTLS()
	t.Cleanup(s.Close)
	return "unix:" + path
}

// authority is what stands behind the console for Control and Ledger: it checks the proof over the exact bytes, once.
func (h *Hub) authority() http.RoundTripper {
	mux := http.NewServeMux()
	mux.Handle(cardeav1connect.NewControlHandler(&h.Control))
	mux.Handle(cardeav1connect.NewLedgerHandler(&h.Ledger))
	return h.guarded(mux, func(r *http.Request, body []byte) (string, error) {
		if h.Control.RefuseAllCalls != nil {
			return "", h.Control.RefuseAllCalls
		}
		p, thumbprint, err := evidence.VerifyProof(r.Header.Get(evidence.ProofHeader), r.URL.Path, body, time.Now())
		if err == nil && thumbprint != h.thumbprint {
			err = errors.New("proof by another key")
		}
		return p.ID, err
	})
}

// engine checks the ticket over the exact bytes, once.
func (h *Hub) engine() http.RoundTripper {
	mux := http.NewServeMux()
	mux.Handle(cardeav1connect.NewRunsHandler(&h.Runs))
	keys := []ed25519.PublicKey{h.PermitKey.Public().(ed25519.PublicKey)}
	return h.guarded(mux, func(r *http.Request, body []byte) (string, error) {
		ticket, err := evidence.VerifyTicket(r.Header.Get(evidence.TicketHeader), keys, Domain, r.URL.Path, body, time.Now())
		return ticket.ID, err
	})
}

func (h *Hub) guarded(next http.Handler, verify func(*http.Request, []byte) (string, error)) http.RoundTripper {
	return inProcess{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var id string
			if id, err = verify(r, body); err == nil {
				err = h.once(id, r.URL.Path)
			}
		}
		if err != nil {
			var coded *connect.Error
			if !errors.As(err, &coded) {
				coded = connect.NewError(connect.CodeUnauthenticated, err)
			}
			_ = connect.NewErrorWriter().Write(w, r, coded)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})}
}

func (h *Hub) once(id, procedure string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.used[id] {
		return errors.New("evidence used twice")
	}
	h.used[id] = true
	h.calls = append(h.calls, procedure)
	return nil
}

// inProcess answers requests with a handler, message by message for streams.
type inProcess struct{ h http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	from, to := io.Pipe()
	w := &pipeWriter{header: make(http.Header), body: to, ready: make(chan struct{})}
	go func() {
		defer to.Close()
		p.h.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
	}()
	select {
	case <-w.ready:
		return &http.Response{StatusCode: w.status, Header: w.sent, Body: from, ProtoMajor: 2, Request: r}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type pipeWriter struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	once         sync.Once
	ready        chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) Flush()              { w.WriteHeader(http.StatusOK) }

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	})
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
