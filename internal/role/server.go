package role

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/reflect/protoreflect"

	"cardea/internal/identity"
)

const (
	// maxHeader bounds headers: the largest are a ticket and a proof.
	maxHeader = 32 << 10
	// DefaultMaxBody bounds one unary request: a batch of intents, each with a body of up to 1 MiB.
	DefaultMaxBody = 16 << 20
	// readTimeout is how long a unary request's body may take, writeTimeout the whole of it.
	readTimeout  = 30 * time.Second
	writeTimeout = 90 * time.Second
	// cutGrace is what a stream's handler has, once its context ended, before its reads fail.
	cutGrace = 500 * time.Millisecond
	// linger is what the connections have, after the last call has ended, to send its answer.
	linger = 50 * time.Millisecond
)

// Mount is one service on a listener.
type Mount struct {
	// Service is the generated name, such as cardeav1connect.DecideName.
	Service string
	// Handler is the generated handler, made with HandlerOptions.
	Handler http.Handler
	// MaxBody bounds a request's body, and each message of a stream; DefaultMaxBody when 0. Joiners never have more than SmallBody.
	MaxBody int64
}

// HandlerOptions are for every generated handler: no compression (a bomb needs a decompressor), bounded messages.
func HandlerOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(DefaultMaxBody),
		connect.WithCompression("gzip", nil, nil),
	}
}

// ClientOptions are for every generated client: no compression, bounded messages.
func ClientOptions() []connect.ClientOption {
	return []connect.ClientOption{
		connect.WithReadMaxBytes(4 * DefaultMaxBody),
		connect.WithAcceptCompression("gzip", nil, nil),
	}
}

// server is one listener with its HTTP server.
type server struct {
	addr string
	// bound is addr with the port that the system chose.
	bound string
	ln    net.Listener
	http  *http.Server
	calls *calls
}

// newServer serves what ln lets in. conf nil means plain HTTP/1.1, for the origin and for probes alone.
func newServer(ln *gate, conf *tls.Config, h http.Handler, log *slog.Logger) *server {
	protocols := new(http.Protocols)
	if conf == nil {
		protocols.SetHTTP1(true)
	} else {
		protocols.SetHTTP2(true)
	}
	b := ln.bounds
	return &server{addr: ln.addr, bound: ln.bound(), ln: ln, http: &http.Server{
		Handler: h, TLSConfig: conf, Protocols: protocols,
		ReadHeaderTimeout: b.begin, // and the handshake's
		ReadTimeout:       b.read,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       b.idle,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: b.streams, SendPingTimeout: pingAfter,
			MaxReceiveBufferPerConnection: b.window, MaxReceiveBufferPerStream: b.window},
		// Handshakes that failed: what matters of them has been recorded as a Refusal.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}, calls: newCalls(b.calls)}
}

func (s *server) serve() error {
	var err error
	if s.http.TLSConfig == nil {
		err = s.http.Serve(s.ln)
	} else {
		err = s.http.ServeTLS(s.ln, "", "")
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", s.addr, err)
}

// shutdown takes no new work, ends streams, waits for unary calls until ctx ends, then closes.
func (s *server) shutdown(ctx context.Context) error {
	idle := s.calls.close()
	told := make(chan struct{})
	go func() {
		// It stops listening and tells clients to go elsewhere. It would then wait a second for each HTTP/2 connection,
		// however idle; Close below ends that, so its error says nothing.
		_ = s.http.Shutdown(ctx)
		close(told)
	}()
	var err error
	select {
	case <-idle:
		select { // the last answers are still leaving
		case <-told:
		case <-time.After(linger):
		}
	case <-ctx.Done():
		err = fmt.Errorf("drain %s: calls did not end in time", s.addr)
	}
	return errors.Join(err, s.http.Close())
}

// guarded is the one chain that every service of every role stands behind: who is it (CheckPeer), may it (Admit),
// how much (body limit), how long (deadlines), then the handler.
type guarded struct {
	source    *identity.Source
	onRefusal RefusalFunc
	calls     *calls
	log       *slog.Logger
	bounds    bounds
	// held is what requests' bodies may take of memory.
	held *budget
	// joiners is for Enroll, whose callers have no SVID yet: how often they may ask. nil elsewhere.
	joiners *rate.Limiter
}

func (g guarded) mount(mux *http.ServeMux, m Mount) error {
	service, err := ServiceByName(m.Service)
	if err != nil {
		return err
	}
	if _, ok := CallerOf(service); !ok {
		return fmt.Errorf("service %s names no caller: it would answer nobody", m.Service)
	}
	limit := m.MaxBody
	if limit == 0 {
		limit = DefaultMaxBody
	}
	if g.joiners != nil {
		limit = min(limit, SmallBody)
	}
	methods := map[string]protoreflect.MethodDescriptor{}
	for i := range service.Methods().Len() {
		methods[procedure(service.Methods().Get(i))] = service.Methods().Get(i)
	}
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.call(w, r, m.Handler, methods[r.URL.Path], limit) })
	mux.Handle("/"+m.Service+"/", g.authenticate(Admit(service, g.onRefusal)(inner)))
	return nil
}

// call serves one admitted call within its bounds.
func (g guarded) call(w http.ResponseWriter, r *http.Request, h http.Handler, method protoreflect.MethodDescriptor, limit int64) {
	if !g.held.room(min(max(r.ContentLength, 0), limit)) { // said at once, not in the middle of the body
		g.exhausted(r)
		refuse(w, r, connect.CodeResourceExhausted, errNoRoom)
		return
	}
	body := &heldBody{ReadCloser: r.Body, budget: g.held, full: func() { g.exhausted(r) }}
	defer body.end()
	if method.IsStreamingClient() {
		r.Body = &messages{heldBody: body, limit: limit}
	} else {
		body.ReadCloser = http.MaxBytesReader(w, r.Body, limit+prefixOf(method))
		r.Body = body
	}
	serve := g.calls.unary
	if isStream(method) {
		serve = g.calls.stream
	} else {
		defer g.answerPanic(w, r)
	}
	if errors.Is(serve(w, r, h), errBusy) {
		g.exhausted(r)
	}
}

// prefixOf is what comes before the one message of a request that is answered by a stream.
func prefixOf(m protoreflect.MethodDescriptor) int64 {
	if m.IsStreamingServer() {
		return prefixSize
	}
	return 0
}

// exhausted records that a caller met a bound that all share.
func (g guarded) exhausted(r *http.Request) {
	if g.onRefusal == nil {
		return
	}
	peer, known := identity.PeerOf(r.Context())
	refusal := Refusal{Procedure: r.URL.Path, Reason: Exhausted, Proven: known}
	if known {
		refusal.Peer = peer.ID.String()
	}
	g.onRefusal(refusal)
}

// answerPanic makes a panic over one request the answer to that request. Left to the server it would reset the stream, which says that
// the role is gone: the caller would ask the same again for ever.
func (g guarded) answerPanic(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	// The value may quote what was asked: only where it happened is logged.
	g.log.Error("a handler panicked", "procedure", r.URL.Path, "stack", string(debug.Stack()))
	refuse(w, r, connect.CodeInternal, errors.New("this role failed over the request; its log says where"))
}

func isStream(m protoreflect.MethodDescriptor) bool {
	return m.IsStreamingClient() || m.IsStreamingServer()
}

// authenticate says whose request it is, anew for each: the connection may have outlived its SVID, or the peer been banned.
func (g guarded) authenticate(next http.Handler) http.Handler {
	if g.joiners != nil {
		return g.slowly(next)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := g.source.CheckPeer(r.TLS)
		if err != nil {
			var refused *identity.Refused
			if errors.As(err, &refused) && g.onRefusal != nil {
				// The handshake has proven who it is.
				g.onRefusal(Refusal{Procedure: r.URL.Path, Peer: refused.Peer, Proven: refused.Peer != "", Reason: refused.Reason})
			}
			w.Header().Set("Connection", "close") // the next connection may present a better SVID
			refuse(w, r, connect.CodeUnauthenticated, errors.New("the SVID of this connection is not valid"))
			return
		}
		next.ServeHTTP(w, r.WithContext(identity.ContextWithPeer(r.Context(), peer)))
	})
}

// slowly answers joiners no faster than they may ask.
func (g guarded) slowly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.joiners.Allow() {
			g.exhausted(r)
			refuse(w, r, connect.CodeResourceExhausted, errNoRoom)
			return
		}
		next.ServeHTTP(w, r)
	})
}
