package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptrace"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// Resolver looks a name up once. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// connectTimeout is for one address; openTimeout for name, addresses and TLS together.
	connectTimeout = 5 * time.Second
	openTimeout    = 20 * time.Second
	maxAddresses   = 64
	maxTries       = 4
)

// dialer turns a target into a connection to a checked address.
type dialer struct {
	resolver Resolver
	// connect dials one ip:port. Tests replace it to reach a server of theirs under a public address.
	connect func(ctx context.Context, address netip.AddrPort) (net.Conn, error)
}

func newDialer(r Resolver) dialer {
	if r == nil {
		r = net.DefaultResolver
	}
	return dialer{resolver: r, connect: dialExactly}
}

// dialExactly connects to address and to nothing else: the control function sees what the kernel is about to be asked.
func dialExactly(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout, Control: func(_, actual string, _ syscall.RawConn) error {
		got, err := netip.ParseAddrPort(actual)
		if err != nil || got != address {
			return fail(Refused, "the dialer turned to %s instead of %s", actual, address)
		}
		return nil
	}}
	return d.DialContext(ctx, "tcp", address.String())
}

// open connects to t. The name is resolved once, every answer is checked before any is dialled, and what is dialled is the checked
// address: a name that resolves otherwise the second time (rebinding) is never asked a second time.
func (d *dialer) open(ctx context.Context, t target) (net.Conn, error) {
	if t.address.IsValid() {
		conn, err := d.connect(ctx, t.address)
		if err != nil {
			return nil, fail(Unreachable, "connect to %s: %v", t.address, err)
		}
		return conn, nil
	}
	addresses, err := d.resolve(ctx, t.host)
	if err != nil {
		return nil, err
	}
	port, err := netip.ParseAddrPort("0.0.0.0:" + t.port)
	if err != nil {
		return nil, fail(Refused, "port %q is not a number", t.port)
	}
	var last error
	for _, a := range addresses[:min(len(addresses), maxTries)] {
		conn, err := d.connect(ctx, netip.AddrPortFrom(a, port.Port()))
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, fail(Unreachable, "connect to %s: %v", t.host, last)
}

// resolve returns the addresses of host, all of them allowed. One that is not allowed refuses them all: a public name that also has a
// private address is an attack or a mistake.
func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	addresses := []netip.Addr{}
	if literal, err := netip.ParseAddr(host); err == nil {
		addresses = append(addresses, literal)
	} else if addresses, err = d.resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return nil, fail(Unreachable, "resolve %s: %v", host, err)
	}
	if len(addresses) == 0 || len(addresses) > maxAddresses {
		return nil, fail(Unreachable, "%s has %d addresses", host, len(addresses))
	}
	for i, a := range addresses {
		if err := checkAddress(a); err != nil {
			return nil, err
		}
		addresses[i] = a.Unmap()
	}
	return addresses, nil
}

// clientTLS returns the configuration for t: its own roots or the system's, and its host as the one name that is accepted. Sessions
// are resumed only within the same target; Go's client never sends early data, which could be replayed.
func clientTLS(t target) (*tls.Config, error) {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: t.host, NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(16),
	}
	if t.roots != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(t.roots)) {
			return nil, errors.New("roots hold no certificate")
		}
	}
	return conf, nil
}

// wire is a connection that tells the request on it, one at a time under HTTP/1.1, what has left and come.
type wire struct {
	net.Conn
	use atomic.Pointer[usage]
}

// Write marks before it writes: from then on nobody can say that nothing has left. Once a request has been given up as not sent,
// its bytes can no longer leave, although the transport's own goroutine may only now come to writing them.
func (w *wire) Write(p []byte) (int, error) {
	u := w.use.Load()
	if u == nil || !u.begin() {
		return 0, errors.New("no request is under way on this connection")
	}
	u.sent.Add(uint64(len(p))) // before: the answer may be here before Write returns
	n, err := w.Conn.Write(p)
	u.sent.Add(-uint64(len(p) - n))
	return n, err
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if u := w.use.Load(); u != nil {
		u.received.Add(uint64(n))
	}
	return n, err
}

// usage is what one request has done to its connections.
type usage struct {
	state          atomic.Int32
	sent, received atomic.Uint64
	address        atomic.Pointer[string]
}

const (
	untouched int32 = iota
	started
	sealed
)

// begin is asked before each write. It says no when the request has been sealed.
func (u *usage) begin() bool {
	return u.state.CompareAndSwap(untouched, started) || u.state.Load() == started
}

// seal reports whether bytes may have left; when not, none ever will.
func (u *usage) seal() (mayHaveLeft bool) {
	u.state.CompareAndSwap(untouched, sealed)
	return u.state.Load() == started
}

// trace binds u to whichever connection the transport picks, before it writes to it.
func (u *usage) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		w, ok := info.Conn.(*wire)
		if !ok {
			u.begin() // cannot happen; if it did, nothing could be said of what left
			return
		}
		w.use.Store(u)
		address := w.RemoteAddr().String()
		u.address.Store(&address)
	}})
}

func (u *usage) fill(r *Report) {
	if u.seal() && r.Delivery == NotSent {
		r.Delivery = Sent
	}
	r.Sent, r.Received = u.sent.Load(), u.received.Load()
	if address := u.address.Load(); address != nil {
		r.Address = *address
	}
}
