package role

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// slowDecide has one unary method that ends when told, and one stream that ends with its context.
type slowDecide struct {
	cardeav1connect.UnimplementedDecideHandler
	entered chan struct{}
	release chan struct{}
	ended   chan error
}

func newSlowDecide() *slowDecide {
	return &slowDecide{entered: make(chan struct{}, 10), release: make(chan struct{}), ended: make(chan error, 10)}
}

func (s *slowDecide) EndRun(context.Context, *cardeav1.EndRunRequest) (*cardeav1.EndRunResponse, error) {
	s.entered <- struct{}{}
	<-s.release
	return &cardeav1.EndRunResponse{}, nil
}

func (s *slowDecide) Watch(ctx context.Context, _ *cardeav1.WatchDecideRequest, out *connect.ServerStream[cardeav1.WatchDecideResponse]) error {
	if err := out.Send(&cardeav1.WatchDecideResponse{}); err != nil {
		return err
	}
	s.entered <- struct{}{}
	<-ctx.Done()
	s.ended <- context.Cause(ctx)
	return nil
}

// decideHub is an authority with slowDecide, and an engine's client of it.
func decideHub(t *testing.T, ttl time.Duration) (*testHub, *slowDecide, *running, cardeav1connect.DecideClient) {
	t.Helper()
	hub := startHub(t, ttl)
	decide := newSlowDecide()
	common := hub.common("authority", "second")
	conf := &AuthorityConfig{Common: common, ListenDecide: hub.sock("decide2")}
	r := hub.start(Spec{Role: Authority, Config: conf, Build: func(_ context.Context, h *Host) error {
		if err := h.UseCA(hub.authority.ca, hub.authority.source.Bundle()); err != nil {
			return err
		}
		h.OnRefusal(func(r Refusal) { hub.refusals <- r })
		_, handler := cardeav1connect.NewDecideHandler(decide, HandlerOptions()...)
		return h.Serve(conf.ListenDecide, Mount{Service: cardeav1connect.DecideName, Handler: handler, MaxBody: 1000})
	}})
	id, err := identity.RoleID(testTD, Engine, Engine)
	if err != nil {
		t.Fatal(err)
	}
	engine := newSource(t, hub.authority.ca, id, ttl, time.Now, hub.authority.source.Bundle())
	web := Dial(hub.sock("decide2"), engine.ClientTLS(identity.WantRole(Authority)))
	return hub, decide, r, cardeav1connect.NewDecideClient(web, BaseURL, ClientOptions()...)
}

func openWatch(t *testing.T, client cardeav1connect.DecideClient, decide *slowDecide) *connect.ServerStreamForClient[cardeav1.WatchDecideResponse] {
	t.Helper()
	stream, err := client.Watch(t.Context(), &cardeav1.WatchDecideRequest{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	if !stream.Receive() {
		t.Fatalf("the stream gave nothing: %v", stream.Err())
	}
	<-decide.entered
	return stream
}

func within(t *testing.T, what string, c <-chan error) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not end", what)
	}
}

// TestBanEndsStreamsAndCalls: a peer that is banned loses what it has open, and gets nothing more on the same connection.
func TestBanEndsStreamsAndCalls(t *testing.T) {
	hub, decide, r, client := decideHub(t, time.Hour)
	openWatch(t, client, decide)
	b := r.host.Source().Bundle()
	b.Banned = map[string]bool{"spiffe://cardea.local/role/engine/engine": true}
	b.Generation++
	if err := r.host.Source().SetBundle(b); err != nil {
		t.Fatal(err)
	}
	within(t, "the banned peer's stream", decide.ended)
	_, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{})
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a banned peer's call: %v", err)
	}
	if got := <-hub.refusals; got.Reason != identity.Banned || got.Procedure != cardeav1connect.DecideEndRunProcedure {
		t.Errorf("recorded %+v", got)
	}
}

// TestStreamEndsWithItsSVID: it cannot outlive the certificate that opened it.
func TestStreamEndsWithItsSVID(t *testing.T) {
	_, decide, _, client := decideHub(t, 4*time.Second)
	openWatch(t, client, decide)
	within(t, "the expired peer's stream", decide.ended)
}

// TestDrain: a unary call that has begun is answered, a stream is ended, new work is refused, and then the role is gone.
func TestDrain(t *testing.T) {
	hub, decide, r, client := decideHub(t, time.Hour)
	openWatch(t, client, decide)
	answered := make(chan error, 1)
	go func() {
		_, err := client.EndRun(context.Background(), &cardeav1.EndRunRequest{})
		answered <- err
	}()
	<-decide.entered
	r.stop()
	within(t, "the stream of a role that drains", decide.ended)
	if err := Ready(t.Context(), hub.sock("second-admin")); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("readiness while draining: %v", err)
	}
	select {
	case err := <-answered:
		t.Fatalf("the call was cut: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(decide.release)
	if err := <-answered; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	if err := r.ended(t); err != nil {
		t.Errorf("drain: %v", err)
	}
	if _, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{}); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a call after the end: %v", err)
	}
}

func TestBodyIsLimited(t *testing.T) {
	_, decide, _, client := decideHub(t, time.Hour)
	close(decide.release)
	_, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{RunId: strings.Repeat("x", 2000)})
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a request beyond the limit: %v", err)
	}
}

func TestUnknownMethodIsRefused(t *testing.T) {
	_, _, r, _ := decideHub(t, time.Hour)
	service, err := ServiceByName(cardeav1connect.DecideName)
	if err != nil {
		t.Fatal(err)
	}
	reached := false
	h := Admit(service, nil)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	peer, err := identity.ParsePeer(callerID(t, Engine))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(identity.ContextWithPeer(t.Context(), peer), http.MethodPost, "https://cardea/cardea.v1.Decide/Nothing", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(discardResponse{http.Header{}}, req)
	if reached {
		t.Error("a path that is no method reached the handler")
	}
	_ = r
}

func TestWrongTokenForTheRole(t *testing.T) {
	hub := startHub(t, time.Hour)
	spec, conf := hub.engineSpec("token-1", nil)
	conf.JoinFile = hub.grantFile("token-console", Console)
	r := hub.startOnly(spec)
	if err := r.ended(t); err == nil || !strings.Contains(err.Error(), "token is for") {
		t.Errorf("the engine joined with the console's token: %v", err)
	}
}

func TestUnpinnedAuthorityIsRefused(t *testing.T) {
	hub, evil := startHub(t, time.Hour), startHub(t, time.Hour)
	spec, conf := hub.engineSpec("token-1", nil)
	conf.Enroll = evil.sock("enroll") // a man in the middle: another CA of the same trust domain
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	id, err := conf.ID(Engine, "")
	if err != nil {
		t.Fatal(err)
	}
	m := &membership{id: id, dir: conf.Dir, conf: &conf.Joining, log: discardLog(), clock: time.Now}
	if err := os.MkdirAll(conf.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := m.enter(ctx); err == nil {
		t.Error("the token was given to an authority that the grant does not pin")
	}
	_ = spec
}

// TestRestoredHubIsRefused: a role that has seen a later generation of the same hub does not follow an earlier one.
func TestRestoredHubIsRefused(t *testing.T) {
	hub := startHub(t, time.Hour)
	spec, conf := hub.engineSpec("token-1", nil)
	r := hub.start(spec)
	b := r.host.Source().Bundle()
	b.Generation = 9
	r.stop()
	if err := r.ended(t); err != nil {
		t.Fatal(err)
	}
	if err := SaveBundle(filepath.Join(conf.Dir, bundleFile), b); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(conf.Dir, svidFile)); err != nil {
		t.Fatal(err)
	}
	conf.JoinFile = hub.grantFile("token-2", Engine)
	again := hub.startOnly(spec)
	if err := again.ended(t); !errors.Is(err, identity.ErrStale) {
		t.Errorf("joined a hub that is behind: %v", err)
	}
}

// TestExpiryEndsTheRole: without renewal the role ends by itself, to join anew.
func TestExpiryEndsTheRole(t *testing.T) {
	hub := startHub(t, 4*time.Second)
	hub.authority.mu.Lock()
	hub.authority.refuse = true
	hub.authority.mu.Unlock()
	spec, _ := hub.engineSpec("token-1", nil)
	r := hub.startOnly(spec)
	if err := r.ended(t); !errors.Is(err, errExpired) {
		t.Errorf("the role ended with %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "a.sock")
	ln, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen("unix:" + path); err == nil {
		t.Error("a socket that is served was taken over")
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close() // as after a kill: the file stays
	again, err := Listen("unix:" + path)
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	again.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); err == nil {
		t.Error("a file that is not a socket was replaced")
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, []byte("precious")) {
		t.Errorf("the file is %q, %v", text, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + filepath.Join(dir, "b.sock")); err == nil {
		t.Error("a socket was made where anybody could replace it")
	}
}

// TestConnectionIsReplaced: calls go on, over a new connection, when the old one's SVID nears its end.
func TestConnectionIsReplaced(t *testing.T) {
	hub := startHub(t, time.Hour)
	now := time.Now()
	id, err := identity.RoleID(testTD, Engine, Engine)
	if err != nil {
		t.Fatal(err)
	}
	engine := newSource(t, hub.authority.ca, id, time.Hour, func() time.Time { return now }, hub.authority.source.Bundle())
	web := Dial(hub.sock("decide"), engine.ClientTLS(identity.WantRole(Authority)))
	tr := web.Transport.(*transport)
	client := cardeav1connect.NewDecideClient(web, BaseURL, ClientOptions()...)
	ask := func() *line {
		if _, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented {
			t.Fatal(err)
		}
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.cur
	}
	first := ask()
	if second := ask(); second != first {
		t.Error("two calls in a row used two connections")
	}
	now = now.Add(45 * time.Minute)
	if third := ask(); third == first {
		t.Error("the connection is used until its SVID has expired")
	}
}

// TestBrokenStreamIsUnavailable: a role that dies under an open stream is not mistaken for a caller that gave up.
func TestBrokenStreamIsUnavailable(t *testing.T) {
	_, decide, r, client := decideHub(t, time.Hour)
	stream := openWatch(t, client, decide)
	for _, s := range r.host.servers {
		s.http.Close()
	}
	for stream.Receive() {
	}
	if code := connect.CodeOf(stream.Err()); code != connect.CodeUnavailable {
		t.Errorf("the stream ended with %v (%v)", code, stream.Err())
	}
}

// countingListener counts the connections that it accepts.
type countingListener struct {
	net.Listener
	n atomic.Int64
}

func (c *countingListener) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// TestManyCallsShareOneConnection, also when they all begin before there is one; and when that one breaks, they share the next.
func TestManyCallsShareOneConnection(t *testing.T) {
	m := newMatrix(t)
	service, err := ServiceByName(cardeav1connect.DecideName)
	if err != nil {
		t.Fatal(err)
	}
	source := newSource(t, m.ca, callerID(t, Authority), time.Hour, time.Now, m.trust)
	path := filepath.Join(m.dir, "one.sock")
	client := cardeav1connect.NewDecideClient(m.client("unix:"+path, Engine), BaseURL, ClientOptions()...)
	for round := range 2 {
		mux := http.NewServeMux()
		ln, err := openGate("unix:"+path, peerBounds(), nil)
		if err != nil {
			t.Fatal(err)
		}
		s := newServer(ln, source.ServerTLS(nil), mux, discardLog())
		counted := &countingListener{Listener: s.ln}
		s.ln = counted
		g := guarded{source: source, calls: s.calls, held: newBudget(listenerBudget, nil)}
		if err := g.mount(mux, Mount{Service: string(service.FullName()), Handler: unimplemented()[cardeav1connect.DecideName]}); err != nil {
			t.Fatal(err)
		}
		go s.serve()
		// A call that meets the broken connection is told that the role is unavailable, whatever others make of it.
		for tries := 0; round > 0; tries++ {
			_, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{})
			if connect.CodeOf(err) == connect.CodeUnimplemented {
				break
			}
			if connect.CodeOf(err) != connect.CodeUnavailable || tries > 100 {
				t.Fatalf("try %d after the break: %v", tries, err)
			}
		}
		var calls sync.WaitGroup
		for range 300 {
			calls.Go(func() {
				if _, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		calls.Wait()
		if n := counted.n.Load(); n != 1 {
			t.Errorf("round %d: %d connections", round, n)
		}
		s.http.Close() // as if the role had died
	}
}

func BenchmarkCall(b *testing.B) {
	hub := startHub(b, time.Hour)
	id, err := identity.RoleID(testTD, Engine, Engine)
	if err != nil {
		b.Fatal(err)
	}
	engine := newSource(b, hub.authority.ca, id, time.Hour, time.Now, hub.authority.source.Bundle())
	client := cardeav1connect.NewDecideClient(Dial(hub.sock("decide"), engine.ClientTLS(identity.WantRole(Authority))), BaseURL, ClientOptions()...)
	for b.Loop() {
		if _, err := client.EndRun(b.Context(), &cardeav1.EndRunRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented {
			b.Fatal(err)
		}
	}
}
