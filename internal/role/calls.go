package role

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"cardea/internal/identity"
)

// calls are what one listener is serving. Unary calls have a deadline and are waited for when the role drains. Streams last: each
// ends with the SVID that it began with, with its peer's ban, and when the role drains.
type calls struct {
	mu      sync.Mutex
	open    int
	streams map[*stream]struct{}
	closing bool
	idle    chan struct{} // closed when closing and nothing is open
}

// stream is guarded by calls.mu: once its handler has returned, its ResponseController must not be used.
type stream struct {
	state  *tls.ConnectionState
	cancel context.CancelFunc
	rc     *http.ResponseController
}

func newCalls() *calls {
	return &calls{streams: map[*stream]struct{}{}, idle: make(chan struct{})}
}

// enter counts a call; false once the role drains. st is nil for a unary call.
func (c *calls) enter(st *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.open++
	if st != nil {
		c.streams[st] = struct{}{}
	}
	return true
}

func (c *calls) leave(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, st)
	if c.open--; c.open == 0 && c.closing {
		close(c.idle)
	}
}

// close refuses new calls and ends streams; the channel closes when the last call has ended.
func (c *calls) close() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return c.idle
	}
	c.closing = true
	if c.open == 0 {
		close(c.idle)
	}
	for st := range c.streams {
		st.cut()
	}
	return c.idle
}

// cutInvalid ends the streams of peers that are no longer accepted.
func (c *calls) cutInvalid(source *identity.Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for st := range c.streams {
		if _, err := source.CheckPeer(st.state); err != nil {
			st.cut()
		}
	}
}

// cut ends the handler's context at once and its reads and writes a little later, whether it listens or not.
func (st *stream) cut() {
	st.cancel()
	end := time.Now().Add(cutGrace)
	// Both only fail on a connection that does not support them; stream has tried.
	_ = st.rc.SetReadDeadline(end)
	_ = st.rc.SetWriteDeadline(end)
}

func stopping(w http.ResponseWriter, r *http.Request) {
	refuse(w, r, connect.CodeUnavailable, errors.New("the role is stopping"))
}

// unary serves one call that must end soon.
func (c *calls) unary(w http.ResponseWriter, r *http.Request, h http.Handler) {
	if !c.enter(nil) {
		stopping(w, r)
		return
	}
	defer c.leave(nil)
	ctx, cancel := context.WithTimeout(r.Context(), writeTimeout)
	defer cancel()
	h.ServeHTTP(w, r.WithContext(ctx))
}

// stream serves one call that lasts. Its handler must return when its context ends.
func (c *calls) stream(w http.ResponseWriter, r *http.Request, h http.Handler) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var end time.Time
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		end = r.TLS.PeerCertificates[0].NotAfter
	}
	st := &stream{state: r.TLS, cancel: cancel, rc: http.NewResponseController(w)}
	// A unary call's deadlines do not fit; what remains is the end of the caller's SVID: the stream is reset then, which ends its context.
	if err := errors.Join(st.rc.SetReadDeadline(end), st.rc.SetWriteDeadline(end)); err != nil {
		refuse(w, r, connect.CodeInternal, errors.New("this connection cannot carry streams"))
		return
	}
	if !c.enter(st) {
		stopping(w, r)
		return
	}
	defer c.leave(st)
	h.ServeHTTP(w, r.WithContext(ctx))
}

// wrap is for a listener without services of its own: what streams is told by the content type of Connect's protocol.
func (c *calls) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") {
			c.stream(w, r, h)
			return
		}
		c.unary(w, r, h)
	})
}
