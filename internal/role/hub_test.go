package role

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

var testTD = spiffeid.RequireTrustDomainFromString("cardea.local")

// testAuthority is the least authority: it turns tokens into SVIDs and tells of bundles.
type testAuthority struct {
	cardeav1connect.UnimplementedEnrollHandler
	ca  *identity.CA
	ttl time.Duration

	mu      sync.Mutex
	tokens  map[string]spiffeid.ID
	renewed int
	refuse  bool // Renew fails
	source  *identity.Source
}

func (a *testAuthority) Join(_ context.Context, req *cardeav1.JoinRequest) (*cardeav1.JoinResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, ok := a.tokens[req.GetToken()]
	if !ok {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no such token"))
	}
	delete(a.tokens, req.GetToken())
	chain, err := a.ca.Issue(req.GetCsr(), id, a.ttl, identity.SANs{})
	if err != nil {
		return nil, err
	}
	return &cardeav1.JoinResponse{Chain: chain, Bundle: a.source.Bundle().Proto()}, nil
}

// identityService is the Identity service of the same authority.
type identityService struct{ *testAuthority }

func (a identityService) Renew(ctx context.Context, req *cardeav1.RenewRequest) (*cardeav1.RenewResponse, error) {
	peer, _ := identity.PeerOf(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the database is away"))
	}
	chain, err := a.ca.Issue(req.GetCsr(), peer.ID, a.ttl, identity.SANs{})
	a.renewed++
	return &cardeav1.RenewResponse{Chain: chain}, err
}

func (a identityService) Watch(ctx context.Context, _ *cardeav1.WatchIdentityRequest, out *connect.ServerStream[cardeav1.WatchIdentityResponse]) error {
	changes := a.source.Watch()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-changes:
			if err := out.Send(&cardeav1.WatchIdentityResponse{Bundle: b.Proto()}); err != nil {
				return err
			}
		}
	}
}

func (a *testAuthority) grant(token string, id spiffeid.ID) Grant {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens[token] = id
	return Grant{Token: token, Roots: identity.RootsPEM([]*x509.Certificate{a.ca.Root()})}
}

// testHub is a folder with a running authority.
type testHub struct {
	t         testing.TB
	dir       string
	authority *testAuthority
	refusals  chan Refusal
}

// shortDir is a folder whose sockets' paths fit, whatever the test's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hub")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func startHub(t testing.TB, ttl time.Duration) *testHub {
	t.Helper()
	dir := shortDir(t)
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	ca, err := identity.NewCA(testTD, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h := &testHub{t: t, dir: dir, refusals: make(chan Refusal, 100), authority: &testAuthority{ca: ca, ttl: ttl, tokens: map[string]spiffeid.ID{}}}
	conf := &AuthorityConfig{Common: h.common(Authority, Authority), ListenEnroll: h.sock("enroll"), ListenIdentity: h.sock("identity"), ListenDecide: h.sock("decide")}
	h.start(Spec{Role: Authority, Config: conf, Build: func(_ context.Context, host *Host) error {
		bundle, err := identity.PinnedBundle(testTD, []*x509.Certificate{ca.Root()})
		if err != nil {
			return err
		}
		if err := host.UseCA(ca, bundle); err != nil {
			return err
		}
		h.authority.source = host.Source()
		host.OnRefusal(func(r Refusal) { h.refusals <- r })
		_, enroll := cardeav1connect.NewEnrollHandler(h.authority, HandlerOptions()...)
		_, ident := cardeav1connect.NewIdentityHandler(identityService{h.authority}, HandlerOptions()...)
		_, decide := cardeav1connect.NewDecideHandler(cardeav1connect.UnimplementedDecideHandler{}, HandlerOptions()...)
		return errors.Join(
			host.ServeJoiners(conf.ListenEnroll, Mount{Service: cardeav1connect.EnrollName, Handler: enroll}),
			host.Serve(conf.ListenIdentity, Mount{Service: cardeav1connect.IdentityName, Handler: ident}),
			host.Serve(conf.ListenDecide, Mount{Service: cardeav1connect.DecideName, Handler: decide}),
		)
	}})
	return h
}

func (h *testHub) sock(name string) string {
	return "unix:" + filepath.Join(h.dir, "run", name+".sock")
}

func (h *testHub) common(role, name string) Common {
	return Common{
		Dir: filepath.Join(h.dir, name), Run: filepath.Join(h.dir, "run"), Name: name, TrustDomain: testTD.Name(),
		Admin: h.sock(name + "-admin"), LogFormat: "text", LogLevel: "error", Drain: 5 * time.Second, ParentFD: -1,
	}
}

// running is a role started in this process.
type running struct {
	stop context.CancelFunc
	done chan error
	host *Host
}

// ended waits for the role's end and says how it ended.
func (r *running) ended(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- nil // for the cleanup
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the role did not end")
		return nil
	}
}

// start runs a role unconfined (the walls would hold the test too) until the test ends.
func (h *testHub) start(spec Spec) *running {
	h.t.Helper()
	r := h.startOnly(spec)
	h.waitReady(spec.Config.common().Admin)
	return r
}

func (h *testHub) startOnly(spec Spec) *running {
	h.t.Helper()
	host, err := newHost(spec, io.Discard)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop, done: make(chan error, 1), host: host}
	go func() { r.done <- host.run(ctx, spec, func() error { return nil }) }()
	h.t.Cleanup(func() {
		stop()
		select {
		case <-r.done:
		case <-time.After(20 * time.Second):
			h.t.Errorf("%s did not stop", spec.Role)
		}
	})
	return r
}

func (h *testHub) waitReady(addr string) {
	h.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = Ready(context.Background(), addr); err == nil {
			return
		}
	}
	h.t.Fatalf("%s is not ready: %v", addr, err)
}

func (h *testHub) engineSpec(token string, build func(context.Context, *Host) error) (Spec, *EngineConfig) {
	conf := &EngineConfig{
		Common:  h.common(Engine, Engine),
		Joining: Joining{Enroll: h.sock("enroll"), Identity: h.sock("identity"), JoinFD: -1, JoinFile: h.grantFile(token, Engine)},
		Decide:  h.sock("decide"), ListenWork: h.sock("work"), ListenRuns: h.sock("runs"),
	}
	if build == nil {
		build = func(context.Context, *Host) error { return nil }
	}
	return Spec{Role: Engine, Config: conf, Build: build}, conf
}

// source is a caller with its own SVID from ca.
func newSource(t testing.TB, ca *identity.CA, id spiffeid.ID, ttl time.Duration, clock func() time.Time, trust identity.Bundle) *identity.Source {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.Issue(csr, id, ttl, identity.SANs{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := identity.NewSource(key, chain, trust, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
