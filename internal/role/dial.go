package role

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
)

// BaseURL is what connect clients made with Dial use: the address decides where a call
// goes, the peer's SVID with whom it speaks.
const BaseURL = "https://cardea"

const (
	// pingAfter finds a peer that is gone without a word (a TCP peer whose machine lost power).
	pingAfter = 15 * time.Second
	// idleTimeout closes a connection that nobody uses, on either side.
	idleTimeout = 5 * time.Minute
	// minReuse keeps a role that cannot renew from making a connection per call.
	minReuse = 10 * time.Second
)

// Dial returns a client for one address (unix:/path or tcp:host:port) that speaks HTTP/2 over conf, a client configuration of
// package identity. Calls share one connection; a new one replaces it well before the SVID of either side
// expires, so that no call fails because of a renewal. It connects when first used.
func Dial(addr string, conf *tls.Config) *http.Client {
	return &http.Client{Transport: &transport{addr: addr, conf: conf}, CheckRedirect: noRedirect}
}

// noRedirect hands a redirect back as the answer that it is: no role redirects another.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

type transport struct {
	addr string
	conf *tls.Config

	mu  sync.Mutex
	cur *line
}

// line is one HTTP/2 transport, used until renewBy (unix nanoseconds; 0 before the first handshake).
type line struct {
	http    *http.Transport
	renewBy atomic.Int64
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.line().http.RoundTrip(r)
	if err != nil {
		return nil, lost(r.Context(), err)
	}
	resp.Body = &body{resp.Body, r.Context()}
	return resp, nil
}

// body is a response's, whose end says Unavailable when the peer is gone.
type body struct {
	io.ReadCloser
	ctx context.Context
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = lost(b.ctx, err)
	}
	return n, err
}

// lost says Unavailable when a connection broke under a call. Connect takes a broken pipe for a cancellation by the caller, which nobody
// retries; here it is a role that was restarted.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	for _, broken := range []error{unix.EPIPE, unix.ECONNRESET, io.ErrUnexpectedEOF, context.Canceled} {
		if errors.Is(err, broken) {
			return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the connection broke: %s", err))
		}
	}
	var reset streamError
	if errors.As(err, &reset) {
		// The console breaks off like this when the role behind it is gone in the middle of an answer.
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the answer broke off: %s", err))
	}
	return err
}

// streamError takes the fields of a reset HTTP/2 stream (RFC 9113 §5.4.2) from net/http, whose own type has no name outside it.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return fmt.Sprintf("stream %d: code %d", e.StreamID, e.Code) }

// CloseIdleConnections serves http.Client.CloseIdleConnections.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur != nil {
		t.cur.http.CloseIdleConnections()
	}
}

func (t *transport) line() *line {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur != nil {
		by := t.cur.renewBy.Load()
		if by == 0 || t.now().UnixNano() < by {
			return t.cur
		}
		// Calls that are under way finish on the old connection, which then closes as idle.
	}
	l := &line{}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	l.http = &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx, l) },
		Protocols:      protocols,
		// One connection carries everything, also when many calls begin at once; more than it takes wait their turn.
		MaxConnsPerHost:        1,
		HTTP2:                  &http.HTTP2Config{StrictMaxConcurrentRequests: true, SendPingTimeout: pingAfter, PingTimeout: pingAfter, MaxReadFrameSize: 64 << 10},
		DisableCompression:     true,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
	}
	t.cur = l
	return l
}

func (t *transport) now() time.Time {
	if t.conf.Time != nil {
		return t.conf.Time()
	}
	return time.Now()
}

func (t *transport) dial(ctx context.Context, l *line) (net.Conn, error) {
	raw, err := dialAddress(ctx, t.addr)
	if err != nil {
		return nil, err
	}
	var own *x509.Certificate
	conf := t.conf.Clone()
	if get := conf.GetClientCertificate; get != nil {
		conf.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := get(info)
			if err == nil {
				own = c.Leaf
			}
			return c, err
		}
	}
	conf.ServerName = "cardea"
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("connect to %s: %w", t.addr, err)
	}
	l.renewBy.Store(renewBy(t.now(), conn.ConnectionState().PeerCertificates[0], own).UnixNano())
	return conn, nil
}

// renewBy is when a connection should give way to a new one: when two thirds of the shorter life of its two SVIDs are over.
// Roles renew at half-life, so by then both have newer ones.
func renewBy(now time.Time, certs ...*x509.Certificate) time.Time {
	var by time.Time
	for _, c := range certs {
		if c == nil {
			continue
		}
		at := c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
		if soonest := now.Add(minReuse); at.Before(soonest) {
			at = soonest
		}
		if c.NotAfter.Before(at) {
			at = c.NotAfter
		}
		if by.IsZero() || at.Before(by) {
			by = at
		}
	}
	return by
}
