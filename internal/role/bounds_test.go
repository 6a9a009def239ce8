package role

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// pipes is a listener whose connections never leave the process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "pipes"} }

// dial connects from an address of the test's choice.
func (p *pipes) dial(from net.Addr) net.Conn {
	here, there := net.Pipe()
	p.conns <- fromAddr{there, from}
	return here
}

type fromAddr struct {
	net.Conn
	from net.Addr
}

func (f fromAddr) RemoteAddr() net.Addr { return f.from }

func (g *gate) opened() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// TestGate: what is beyond a bound is closed at once, not left waiting; one address cannot have it all; places are given back.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Int64
		lines := newPipes()
		g := newGate(lines, "unix:/x", bounds{conns: 4, perHost: 2}, func() { full.Add(1) })
		accepted := make(chan net.Conn, 10)
		go func() {
			for conn, err := g.Accept(); err == nil; conn, err = g.Accept() {
				accepted <- conn
			}
		}()
		tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
		try := func(from net.Addr, want bool) {
			t.Helper()
			before := full.Load()
			conn := lines.dial(from)
			synctest.Wait()
			if got := full.Load() == before; got != want {
				t.Errorf("a connection from %s was let in: %v", from, got)
			}
			if !want {
				if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("a connection beyond the bound: %v", err)
				}
			}
		}
		try(tcp("192.0.2.1"), true)
		try(tcp("192.0.2.1"), true)
		try(tcp("192.0.2.1"), false)
		try(tcp("2001:db8::1"), true)
		try(tcp("2001:db8::2"), true)
		try(tcp("192.0.2.2"), false) // all are taken
		first := <-accepted
		first.Close()
		first.Close() // gives back one place, not two
		try(tcp("2001:db8::3"), false)
		try(&net.UnixAddr{Net: "unix"}, true)
		try(&net.UnixAddr{Net: "unix"}, false)
		if n := g.opened(); n != 4 {
			t.Errorf("%d connections are open", n)
		}
		lines.Close()
	})
}

// TestConnectionsEnd: a place is not kept by whoever does nothing with it.
func TestConnectionsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		bounds bounds
		change func(*bounds)
		asks   bool // makes one request, after a handshake
		end    time.Duration
	}{
		"a role's handshake that does not begin":     {bounds: peerBounds(), end: 5 * time.Second},
		"a joiner's handshake that does not begin":   {bounds: joinerBounds(), end: 5 * time.Second},
		"a person's handshake that does not begin":   {bounds: peopleBounds(), end: 5 * time.Second},
		"a joiner that asks no more":                 {bounds: joinerBounds(), asks: true, end: 10 * time.Second},
		"a person's client that asks no more":        {bounds: peopleBounds(), asks: true, end: 30 * time.Second},
		"a joiner that finds a way not to seem idle": {bounds: joinerBounds(), change: func(b *bounds) { b.idle = time.Hour }, asks: true, end: 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if c.change != nil {
				c.change(&c.bounds)
			}
			synctest.Test(t, func(t *testing.T) { connectionEnds(t, c.bounds, c.asks, c.end) })
		})
	}
}

func connectionEnds(t *testing.T, b bounds, asks bool, end time.Duration) {
	source, trust := soleSource(t)
	lines := newPipes()
	g := newGate(lines, "unix:/x", b, nil)
	s := newServer(g, source.ServerTLSWithoutClientSVID(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), discardLog())
	go s.serve()
	defer s.http.Close()
	conn := lines.dial(&net.UnixAddr{Net: "unix"})
	defer conn.Close()
	if asks {
		web := overPipe(conn, trust)
		defer web.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, BaseURL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := web.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	time.Sleep(end - time.Second)
	synctest.Wait()
	if g.opened() != 1 {
		t.Errorf("the connection ended before %s", end)
	}
	time.Sleep(3 * time.Second) // HTTP/2 says goodbye and waits a second
	synctest.Wait()
	if g.opened() != 0 {
		t.Errorf("the connection is there after %s", end)
	}
}

// overPipe is a client without an SVID, of one connection.
func overPipe(conn net.Conn, trust identity.Bundle) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	conf := identity.ClientTLSWithoutSVID(trust, identity.WantRole(Authority), time.Now)
	conf.ServerName = "cardea"
	return &http.Transport{Protocols: protocols, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		line := tls.Client(conn, conf)
		return line, line.HandshakeContext(ctx)
	}}
}

// soleSource is an authority's SVID, with what a client needs to know it by.
func soleSource(t *testing.T) (*identity.Source, identity.Bundle) {
	t.Helper()
	ca, err := identity.NewCA(testTD, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := identity.PinnedBundle(testTD, []*x509.Certificate{ca.Root()})
	if err != nil {
		t.Fatal(err)
	}
	return newSource(t, ca, callerID(t, Authority), time.Hour, time.Now, trust), trust
}

// TestStreamsOfAConnection: HTTP/2 tells each caller how many calls it may have under way, and what it may send unread.
func TestStreamsOfAConnection(t *testing.T) {
	h := &Host{held: semaphore.NewWeighted(1000)}
	console, runner := Mount{Service: cardeav1connect.RunsName}, Mount{Service: cardeav1connect.WorkName}
	for name, c := range map[string]struct {
		bounds         bounds
		least, most    int
		unread         int
		connectionsMax int
	}{
		"joiners":     {h.forJoiners(nil).bounds, 1, 16, 64 << 10, 64},
		"people":      {peopleBounds(), 100, 1000, 256 << 10, 1024},
		"runners":     {h.forPeers(nil, []Mount{runner}).bounds, 100, 1000, 0, 512},
		"the console": {h.forPeers(nil, []Mount{console}).bounds, 512 + 1024, 2048, 0, 512}, // console.Limits: Calls and Streams
	} {
		s := newServer(newGate(newPipes(), "unix:/x", c.bounds, nil), nil, nil, discardLog())
		if n := s.http.HTTP2.MaxConcurrentStreams; n < c.least || n > c.most {
			t.Errorf("%s: %d calls at a time", name, n)
		}
		if s.http.HTTP2.MaxReceiveBufferPerConnection != c.unread || s.http.HTTP2.MaxReceiveBufferPerStream != c.unread {
			t.Errorf("%s: %d bytes unread", name, s.http.HTTP2.MaxReceiveBufferPerConnection)
		}
		if c.bounds.conns < 1 || c.bounds.conns > c.connectionsMax || c.bounds.perHost < 1 || c.bounds.perHost > c.bounds.conns/4 {
			t.Errorf("%s: %d connections, %d of one address", name, c.bounds.conns, c.bounds.perHost)
		}
		if s.calls.most < 1 || s.calls.most > 4096 {
			t.Errorf("%s: %d calls", name, s.calls.most)
		}
	}
}

// TestCallsAreBounded: the listener's calls are counted whatever connections they come over.
func TestCallsAreBounded(t *testing.T) {
	hub, decide, r, client := decideHub(t, time.Hour)
	r.host.servers[0].calls.mu.Lock()
	r.host.servers[0].calls.most = 1
	r.host.servers[0].calls.mu.Unlock()
	openWatch(t, client, decide)
	close(decide.release)
	if _, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{}); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Fatalf("a call beyond the bound: %v", err)
	}
	want := Refusal{Listener: hub.sock("decide2"), Procedure: cardeav1connect.DecideEndRunProcedure, Peer: callerID(t, Engine).String(), Proven: true, Reason: Exhausted}
	if got := <-hub.refusals; got != want {
		t.Errorf("recorded %+v", got)
	}
}

// TestKindsOfCallers: what each kind has of the role's memory and time.
func TestKindsOfCallers(t *testing.T) {
	h := &Host{held: semaphore.NewWeighted(roleBudget)}
	one, other, joiners := h.forPeers(nil, nil), h.forPeers(nil, nil), h.forJoiners(nil)
	switch {
	case one.held.room(listenerBudget + 1):
		t.Error("one listener can have all of the role's memory")
	case !one.held.take(listenerBudget) || !other.held.take(roleBudget-listenerBudget) || other.held.room(1):
		t.Error("listeners have not one memory")
	case !joiners.held.room(joinersBudget) || joiners.held.room(joinersBudget+1):
		t.Error("joiners' memory is not their own")
	case joiners.joiners == nil || joiners.joiners.Limit() > 50 || joiners.joiners.Burst() > 100:
		t.Error("joiners may ask as often as they like")
	}
}

// TestBodyMustArrive: who sends half a request holds its memory no longer than the listener allows.
func TestBodyMustArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, trust := soleSource(t)
		lines := newPipes()
		read := make(chan time.Duration, 1)
		s := newServer(newGate(lines, "unix:/x", joinerBounds(), nil), source.ServerTLSWithoutClientSVID(), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			begun := time.Now()
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				t.Error("half a request is taken for a whole one")
			}
			read <- time.Since(begun)
		}), discardLog())
		go s.serve()
		defer s.http.Close()
		conn := lines.dial(&net.UnixAddr{Net: "unix"})
		defer conn.Close()
		web := overPipe(conn, trust)
		defer web.CloseIdleConnections()
		body, sender := io.Pipe()
		defer sender.Close()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, BaseURL, body)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := web.RoundTrip(r); err == nil {
			answer.Body.Close()
		}
		if d := <-read; d > 10*time.Second {
			t.Errorf("it was waited for during %s", d)
		}
	})
}

func (h *testHub) joiner() cardeav1connect.EnrollClient {
	h.t.Helper()
	trust, err := identity.PinnedBundle(testTD, []*x509.Certificate{h.authority.ca.Root()})
	if err != nil {
		h.t.Fatal(err)
	}
	web := Dial(h.sock("enroll"), identity.ClientTLSWithoutSVID(trust, identity.WantRole(Authority), time.Now))
	return cardeav1connect.NewEnrollClient(web, BaseURL, ClientOptions()...)
}

// TestJoinersSendLittle, whatever their mount says: nobody knows who they are.
func TestJoinersSendLittle(t *testing.T) {
	client := startHub(t, time.Hour).joiner()
	for size, want := range map[int]connect.Code{SmallBody - 1000: connect.CodeUnauthenticated, SmallBody + 1: connect.CodeResourceExhausted} {
		if _, err := client.Join(t.Context(), &cardeav1.JoinRequest{Token: strings.Repeat("x", size)}); connect.CodeOf(err) != want {
			t.Errorf("a join of %d bytes: %v", size, err)
		}
	}
}

// TestUnprovenPeersAreNobody: a name that was merely presented is in the log and in no record.
func TestUnprovenPeersAreNobody(t *testing.T) {
	hub, evil := startHub(t, time.Hour), startHub(t, time.Hour)
	trust := hub.authority.source.Bundle()
	trust.RoleRoots = append(trust.RoleRoots, evil.authority.ca.Root())
	forged := newSource(t, evil.authority.ca, callerID(t, Engine), time.Hour, time.Now, trust)
	client := cardeav1connect.NewDecideClient(Dial(hub.sock("decide"), forged.ClientTLS(identity.WantRole(Authority))), BaseURL, ClientOptions()...)
	if _, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{}); err == nil {
		t.Fatal("another CA's SVID was accepted")
	}
	if got, want := <-hub.refusals, (Refusal{Listener: hub.sock("decide"), Reason: identity.Foreign}); got != want {
		t.Errorf("recorded %+v", got)
	}
}

// TestRecorder cleans what it did not choose, and passes on no name without proof.
func TestRecorder(t *testing.T) {
	spec, _ := startHub(t, time.Hour).engineSpec("t", nil)
	var log strings.Builder
	host, err := newHost(spec, &log)
	if err != nil {
		t.Fatal(err)
	}
	host.log, err = newLogger(&log, Engine, &Common{LogLevel: "warn", LogFormat: "json"})
	if err != nil {
		t.Fatal(err)
	}
	var got []Refusal
	host.OnRefusal(func(r Refusal) { got = append(got, r) })
	record := host.recorder("unix:/a")
	name := "spiffe://x/\x1b[2Jname" + strings.Repeat("y", 3000)
	record(Refusal{Procedure: "/a\n" + strings.Repeat("b", 3000), Peer: name, Reason: identity.Foreign})
	record(Refusal{Peer: "spiffe://x/proven", Proven: true, Reason: identity.Banned})
	if want := "/a" + strings.Repeat("b", maxWord-3); got[0].Peer != "" || got[0].Procedure != want {
		t.Errorf("recorded %+v", got[0])
	}
	if got[1].Peer != "spiffe://x/proven" {
		t.Errorf("recorded %+v", got[1])
	}
	if text := log.String(); !strings.Contains(text, "[2Jname") || strings.Contains(text, "u001b") || len(text) > 4*maxWord {
		t.Errorf("logged %s", text)
	}
	for range 1000 {
		record(Refusal{Reason: identity.Missing})
	}
	if n := strings.Count(log.String(), "\n"); n > 100 || len(got) != 1002 {
		t.Errorf("%d lines for 1002 refusals, %d recorded", n, len(got))
	}
}

// TestServingNamesAddresses with the ports that the system chose.
func TestServingNamesAddresses(t *testing.T) {
	g, err := openGate("tcp:127.0.0.1:0", peerBounds(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	h := &Host{servers: []*server{newServer(g, nil, nil, discardLog())}}
	if got := h.addresses(); len(got) != 1 || got[0] != "tcp:"+g.Listener.Addr().String() || strings.HasSuffix(got[0], ":0") {
		t.Errorf("serving at %v", got)
	}
	conn, err := dialAddress(t.Context(), h.addresses()[0])
	if err != nil {
		t.Fatal(errors.Join(err, errors.New("nobody is there")))
	}
	conn.Close()
}
