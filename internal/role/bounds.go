package role

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// SmallBody is enough for a request that carries a token, a CSR or a name.
const SmallBody = 32 << 10

// bounds are what one listener gives to all who connect to it.
type bounds struct {
	// conns is how many connections are open at a time; perHost is how many of them one network address has (0: all). A Unix socket's
	// callers have no address: its file mode says who they are.
	conns, perHost int
	// streams is how many calls one connection has under way, calls how many the listener has.
	streams, calls int
	// begin is how long a handshake may take, read a unary request's body, idle how long a connection may be without a call.
	begin, read, idle time.Duration
	// life is how long a connection may last, whatever it does; 0 is for ever.
	life time.Duration
	// window is how much of what a connection sends waits until it is read; 0 is net/http's.
	window int
}

// peerStreams is far more than a role has under way at a time. net/http's client must never have this many that begin at once: they would
// all wait for each other (with StrictMaxConcurrentRequests, calls that wait to begin count as begun). Memory is bounded by the budget and by calls.
const peerStreams = 1000

// peerBounds are for roles and runners. Who has no SVID has a connection for as long as the handshake may take.
func peerBounds() bounds {
	return bounds{conns: 512, perHost: 128, streams: peerStreams, calls: 4096, begin: 5 * time.Second, read: readTimeout, idle: idleTimeout}
}

// consoleBounds are for what the console forwards to: all people's calls and watches come over its one connection, and those that watch
// must leave room for those that act (console.Limits).
func consoleBounds() bounds {
	b := peerBounds()
	b.streams = 2048
	return b
}

// joinerBounds are for who has no SVID yet. A role joins in a second or two; nobody has a reason to stay.
func joinerBounds() bounds {
	return bounds{conns: 64, perHost: 16, streams: 16, calls: 64, begin: 5 * time.Second, read: 10 * time.Second, idle: 10 * time.Second,
		life: 30 * time.Second, window: 64 << 10}
}

// peopleBounds are for people's clients, which come from many addresses and are told apart by the console.
func peopleBounds() bounds {
	return bounds{conns: 1024, perHost: 128, streams: peerStreams, calls: 4096, begin: 5 * time.Second, read: readTimeout, idle: 30 * time.Second, window: 256 << 10}
}

// publicBounds are for readers of public files, who may all stand behind one proxy.
func publicBounds() bounds {
	return bounds{conns: 1024, calls: 4096, begin: 5 * time.Second, read: readTimeout, idle: 30 * time.Second}
}

// gate is a listener that closes at once what is beyond its bounds. It takes it from the queue to do so: left there, the
// connections of an address that has enough would stand before everybody else's.
type gate struct {
	net.Listener
	addr   string
	bounds bounds
	// full is told of each connection that was closed.
	full func()

	mu     sync.Mutex
	open   int
	byHost map[string]int
}

// openGate binds addr. full may be nil.
func openGate(addr string, b bounds, full func()) (*gate, error) {
	ln, err := Listen(addr)
	if err != nil {
		return nil, err
	}
	return newGate(ln, addr, b, full), nil
}

func newGate(ln net.Listener, addr string, b bounds, full func()) *gate {
	if full == nil {
		full = func() {}
	}
	return &gate{Listener: ln, addr: addr, bounds: b, full: full, byHost: map[string]int{}}
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host := hostOf(conn.RemoteAddr())
		if !g.enter(host) {
			_ = conn.Close() // nothing has been written that could be lost
			g.full()
			continue
		}
		in := &admitted{Conn: conn, leave: sync.OnceFunc(func() { g.leave(host) })}
		if g.bounds.life > 0 {
			in.end = time.AfterFunc(g.bounds.life, func() { in.Close() })
		}
		return in, nil
	}
}

func (g *gate) enter(host string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open >= g.bounds.conns || host != "" && g.bounds.perHost > 0 && g.byHost[host] >= g.bounds.perHost {
		return false
	}
	g.open++
	g.byHost[host]++
	return true
}

func (g *gate) leave(host string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.byHost[host]--; g.byHost[host] == 0 {
		delete(g.byHost, host)
	}
}

// bound is where the listener is, with the port that it was given.
func (g *gate) bound() string {
	at := g.Listener.Addr()
	return at.Network() + ":" + at.String()
}

// admitted is a connection that gives its place back when it is closed.
type admitted struct {
	net.Conn
	leave func()
	end   *time.Timer
}

func (c *admitted) Close() error {
	if c.end != nil {
		c.end.Stop()
	}
	defer c.leave()
	return c.Conn.Close()
}

// hostOf is the network address that a connection comes from, and for IPv6 its /64, which one machine owns whole; empty for a Unix socket.
func hostOf(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return ""
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	return netip.PrefixFrom(addr, 64).Masked().String()
}
