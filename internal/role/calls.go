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
	most    int
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

// What enter says, and the caller is told.
var (
	errStopping = errors.New("the role is stopping")
	errBusy     = errors.New("too many calls at once; try again in a moment")
)

// newCalls are at most most at a time.
func newCalls(most int) *calls {
	return &calls{most: most, streams: map[*stream]struct{}{}, idle: make(chan struct{})}
}

// enter counts a call. st is nil for a unary call.
func (c *calls) enter(st *stream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closing:
		return errStopping
	case c.open >= c.most:
		return errBusy
	}
	c.open++
	if st != nil {
		c.streams[st] = struct{}{}
	}
	return nil
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

// turnAway answers a call that was not let in, and returns why.
func turnAway(w http.ResponseWriter, r *http.Request, why error) error {
	code := connect.CodeUnavailable
	if errors.Is(why, errBusy) {
		code = connect.CodeResourceExhausted
	}
	refuse(w, r, code, why)
	return why
}

// unary serves one call that must end soon. It returns an error for one that was not let in.
func (c *calls) unary(w http.ResponseWriter, r *http.Request, h http.Handler) error {
	if err := c.enter(nil); err != nil {
		return turnAway(w, r, err)
	}
	defer c.leave(nil)
	ctx, cancel := context.WithTimeout(r.Context(), writeTimeout)
	defer cancel()
	h.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

// stream serves one call that lasts. Its handler must return when its context ends. It returns an error for one that was not let in.
func (c *calls) stream(w http.ResponseWriter, r *http.Request, h http.Handler) error {
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
		return nil
	}
	if err := c.enter(st); err != nil {
		return turnAway(w, r, err)
	}
	defer c.leave(st)
	h.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

// wrap is for a listener without services of its own: what streams is told by the content type of Connect's protocol. full is told of
// each call beyond the bound.
func (c *calls) wrap(h http.Handler, full func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serve := c.unary
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") {
			serve = c.stream
		}
		if errors.Is(serve(w, r, h), errBusy) {
			full()
		}
	})
}
