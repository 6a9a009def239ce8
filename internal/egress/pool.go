package egress

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxLines    = 256
	maxIdle     = 64
	idleTimeout = 30 * time.Second
)

// pool keeps a line per target. It is bounded: the least recently used line goes when there are too many.
type pool struct {
	mu    sync.Mutex
	lines map[target]*line
	clock uint64
}

// line is how one target is reached: its TLS configuration and its idle connections.
type line struct {
	target    target
	dial      *dialer
	tls       *tls.Config
	tlsErr    error
	transport *http.Transport
	used      uint64
}

func (p *pool) line(t target, d *dialer) *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lines[t]
	if l == nil {
		l = newLine(t, d)
		if p.lines == nil {
			p.lines = map[target]*line{}
		}
		if len(p.lines) >= maxLines {
			p.evict()
		}
		p.lines[t] = l
	}
	p.clock++
	l.used = p.clock
	return l
}

func (p *pool) evict() {
	var oldest *line
	for _, l := range p.lines {
		if oldest == nil || l.used < oldest.used {
			oldest = l
		}
	}
	delete(p.lines, oldest.target)
	oldest.transport.CloseIdleConnections()
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		l.transport.CloseIdleConnections()
	}
	p.lines = nil
}

func newLine(t target, d *dialer) *line {
	l := &line{target: t, dial: d}
	l.tls, l.tlsErr = clientTLS(t)
	l.transport = baseTransport()
	l.transport.MaxIdleConns, l.transport.MaxIdleConnsPerHost, l.transport.IdleConnTimeout = maxIdle, maxIdle, idleTimeout
	// The transport's own idea of where to connect is ignored: a line has one target.
	connect := func(ctx context.Context, _, _ string) (net.Conn, error) { return l.connect(ctx) }
	l.transport.DialContext, l.transport.DialTLSContext = connect, connect
	return l
}

// baseTransport is Go's transport without what egress must not do: no proxy from the environment, no HTTP/2, no decompression.
func baseTransport() *http.Transport {
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Transport{Proxy: nil, Protocols: &http1, DisableCompression: true, MaxResponseHeaderBytes: maxHeaderBytes}
}

// connect opens a connection to the line's target, with TLS done when its scheme is https.
func (l *line) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout) // the transport dials on, in the background, for a request that gave up
	defer cancel()
	raw, err := l.dial.open(ctx, l.target)
	if err != nil || l.target.scheme == "http" {
		return wired(raw, err)
	}
	if l.tlsErr != nil {
		_ = raw.Close()
		return nil, fail(Refused, "connection %s: %v", l.target.connection, l.tlsErr)
	}
	secured := tls.Client(raw, l.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fail(Unreachable, "TLS with %s: %v", l.target.host, err)
	}
	return wired(secured, nil)
}

func wired(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &wire{Conn: conn}, nil
}

// singleUse returns a transport that has conn and can never get another: whatever Go's transport thinks about sending again,
// there is nothing to send it on (invariant 7).
func singleUse(conn net.Conn) *http.Transport {
	var taken atomic.Bool
	connect := func(context.Context, string, string) (net.Conn, error) {
		if taken.Swap(true) {
			return nil, fail(Broken, "a once request is never sent again")
		}
		return conn, nil
	}
	t := baseTransport()
	t.DisableKeepAlives = true
	t.DialContext, t.DialTLSContext = connect, connect
	return t
}
