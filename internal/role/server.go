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
	"golang.org/x/net/netutil"
	"google.golang.org/protobuf/reflect/protoreflect"

	"cardea/internal/identity"
)

const (
	// maxHeader bounds headers: the largest are a ticket and a proof.
	maxHeader = 32 << 10
	// DefaultMaxBody bounds one unary request: a batch of intents, each with a body of up to 1 MiB.
	DefaultMaxBody = 16 << 20
	// maxConns bounds the connections of one listener; a role uses one per address.
	maxConns = 1024
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
	// MaxBody bounds a unary request's body; DefaultMaxBody when 0. Streams are bounded per message by HandlerOptions.
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
	addr  string
	ln    net.Listener
	http  *http.Server
	calls *calls
}

// newServer binds addr. conf nil means plain HTTP/1.1, for the origin alone.
func newServer(addr string, conf *tls.Config, h http.Handler, log *slog.Logger) (*server, error) {
	ln, err := Listen(addr)
	if err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	if conf == nil {
		protocols.SetHTTP1(true)
	} else {
		protocols.SetHTTP2(true)
	}
	return &server{addr: addr, ln: netutil.LimitListener(ln, maxConns), http: &http.Server{
		Handler: h, TLSConfig: conf, Protocols: protocols,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000, SendPingTimeout: pingAfter},
		// Handshakes that failed: what matters of them has been recorded as a Refusal.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}, calls: newCalls()}, nil
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
	// anonymous is for Enroll: its callers have no SVID yet.
	anonymous bool
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
	streaming := map[string]bool{}
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		streaming[procedure(method)] = isStream(method)
	}
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if streaming[r.URL.Path] {
			g.calls.stream(w, r, m.Handler)
			return
		}
		defer g.answerPanic(w, r)
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		g.calls.unary(w, r, m.Handler)
	})
	mux.Handle("/"+m.Service+"/", g.authenticate(Admit(service, g.onRefusal)(inner)))
	return nil
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
	if g.anonymous {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := g.source.CheckPeer(r.TLS)
		if err != nil {
			var refused *identity.Refused
			if errors.As(err, &refused) && g.onRefusal != nil {
				g.onRefusal(Refusal{Procedure: r.URL.Path, Peer: refused.Peer, Reason: refused.Reason})
			}
			w.Header().Set("Connection", "close") // the next connection may present a better SVID
			refuse(w, r, connect.CodeUnauthenticated, errors.New("the SVID of this connection is not valid"))
			return
		}
		next.ServeHTTP(w, r.WithContext(identity.ContextWithPeer(r.Context(), peer)))
	})
}
