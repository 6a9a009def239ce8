package role

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// unimplemented serves each service of the contracts. A service that is missing here fails the matrix.
func unimplemented() map[string]http.Handler {
	handlers := map[string]http.Handler{}
	add := func(path string, h http.Handler) { handlers[strings.Trim(path, "/")] = h }
	o := HandlerOptions()
	add(cardeav1connect.NewEnrollHandler(cardeav1connect.UnimplementedEnrollHandler{}, o...))
	add(cardeav1connect.NewIdentityHandler(cardeav1connect.UnimplementedIdentityHandler{}, o...))
	add(cardeav1connect.NewDecideHandler(cardeav1connect.UnimplementedDecideHandler{}, o...))
	add(cardeav1connect.NewLeaseHandler(cardeav1connect.UnimplementedLeaseHandler{}, o...))
	add(cardeav1connect.NewControlHandler(cardeav1connect.UnimplementedControlHandler{}, o...))
	add(cardeav1connect.NewLedgerHandler(cardeav1connect.UnimplementedLedgerHandler{}, o...))
	add(cardeav1connect.NewRunsHandler(cardeav1connect.UnimplementedRunsHandler{}, o...))
	add(cardeav1connect.NewIngressHandler(cardeav1connect.UnimplementedIngressHandler{}, o...))
	add(cardeav1connect.NewWorkHandler(cardeav1connect.UnimplementedWorkHandler{}, o...))
	return handlers
}

// refusals collects what is recorded.
type refusals struct {
	mu   sync.Mutex
	list []Refusal
}

func (r *refusals) record(x Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, x)
}

func (r *refusals) take() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list = nil
	return list
}

// matrix is a server per service, on a listener of its own, and the callers to try on it.
type matrix struct {
	t *testing.T
	// network is unix or tcp.
	network string
	dir     string
	ca      *identity.CA
	trust   identity.Bundle
	got     *refusals
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	early, err := identity.NewCA(testTD, func() time.Time { return time.Now().Add(-3 * time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	ca, err := identity.ParseCA(testTD, mustPEM(t, early), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := identity.PinnedBundle(testTD, []*x509.Certificate{ca.Root()})
	if err != nil {
		t.Fatal(err)
	}
	return &matrix{t: t, network: "unix", dir: shortDir(t), ca: ca, trust: trust, got: &refusals{}}
}

func callerID(t *testing.T, caller string) spiffeid.ID {
	t.Helper()
	id, err := identity.RoleID(testTD, caller, caller)
	if caller == Runner {
		id, err = identity.RunnerID(testTD, "standard", "standard-1")
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (m *matrix) serve(service protoreflect.ServiceDescriptor, h http.Handler) string {
	m.t.Helper()
	source := newSource(m.t, m.ca, callerID(m.t, Authority), time.Hour, time.Now, m.trust)
	addr, b := "unix:"+filepath.Join(m.dir, string(service.Name())+".sock"), peerBounds()
	if m.network == "tcp" {
		addr = "tcp:127.0.0.1:0"
	}
	conf := source.ServerTLS(func(reason, peer string) { m.got.record(Refusal{Peer: peer, Reason: identity.Reason(reason)}) })
	g := guarded{source: source, onRefusal: m.got.record, held: newBudget(listenerBudget, nil)}
	if service.FullName() == cardeav1connect.EnrollName {
		conf, b, g.joiners = source.ServerTLSWithoutClientSVID(), joinerBounds(), rate.NewLimiter(rate.Inf, 1)
	}
	ln, err := openGate(addr, b, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	mux := http.NewServeMux()
	s := newServer(ln, conf, mux, discardLog())
	g.calls = s.calls
	if err := g.mount(mux, Mount{Service: string(service.FullName()), Handler: h}); err != nil {
		m.t.Fatal(err)
	}
	go s.serve()
	m.t.Cleanup(func() { s.http.Close() })
	return s.bound
}

// call makes one call of any shape and returns its error.
func call(ctx context.Context, web *http.Client, method protoreflect.MethodDescriptor) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	schema := connect.WithSchema(method)
	answer := connect.WithResponseInitializer(func(_ connect.Spec, msg any) error {
		*msg.(*dynamicpb.Message) = *dynamicpb.NewMessage(method.Output())
		return nil
	})
	client := connect.NewClient[dynamicpb.Message, dynamicpb.Message](web, BaseURL+procedure(method), append(ClientOptions(), schema, answer)...)
	request := dynamicpb.NewMessage(method.Input())
	switch {
	case method.IsStreamingClient():
		stream := client.CallBidiStream(ctx)
		sent := stream.Send(request)
		_, err := stream.Receive()
		return errors.Join(err, sent, stream.CloseRequest(), stream.CloseResponse())
	case method.IsStreamingServer():
		stream, err := client.CallServerStream(ctx, connect.NewRequest(request))
		if err != nil {
			return err
		}
		defer stream.Close()
		stream.Receive()
		return stream.Err()
	}
	_, err := client.CallUnary(ctx, connect.NewRequest(request))
	return err
}

// TestMatrix tries every method of every service with every kind of caller, over real sockets and handshakes.
func TestMatrix(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) { tryMatrix(t, network) })
	}
}

func tryMatrix(t *testing.T, network string) {
	m := newMatrix(t)
	m.network = network
	handlers := unimplemented()
	cells := Matrix()
	for _, service := range Services() {
		h, ok := handlers[string(service.FullName())]
		if !ok {
			t.Errorf("service %s has no handler in this test: add it", service.FullName())
			continue
		}
		if _, ok := CallerOf(service); !ok {
			t.Errorf("service %s names no caller", service.FullName())
			continue
		}
		addr := m.serve(service, h)
		for _, caller := range Callers() {
			web := m.client(addr, caller)
			for i := range service.Methods().Len() {
				method := service.Methods().Get(i)
				at := slices.IndexFunc(cells, func(c Cell) bool { return c.Procedure == procedure(method) && c.Caller == caller })
				if at < 0 {
					t.Fatalf("%s by %q is not in the matrix", method.FullName(), caller)
				}
				m.try(web, method, cells[at], service.FullName() == cardeav1connect.EnrollName)
			}
			web.CloseIdleConnections()
		}
	}
}

func (m *matrix) client(addr, caller string) *http.Client {
	if caller == "" {
		return Dial(addr, identity.ClientTLSWithoutSVID(m.trust, identity.WantRole(Authority), time.Now))
	}
	source := newSource(m.t, m.ca, callerID(m.t, caller), time.Hour, time.Now, m.trust)
	return Dial(addr, source.ClientTLS(identity.WantRole(Authority)))
}

func (m *matrix) try(web *http.Client, method protoreflect.MethodDescriptor, cell Cell, anonymous bool) {
	m.t.Helper()
	m.got.take()
	err := call(m.t.Context(), web, method)
	code := connect.CodeOf(err)
	// Enroll's listener asks nobody for an SVID: every caller is a stranger there, and is judged by its token.
	if cell.Allowed || anonymous {
		if code != connect.CodeUnimplemented || len(m.got.take()) > 0 {
			m.t.Errorf("%s by %q: %v, want to reach the handler", cell.Procedure, cell.Caller, err)
		}
		return
	}
	recorded := m.got.take()
	if code == connect.CodeUnimplemented || err == nil {
		m.t.Errorf("%s by %q reached the handler: %v", cell.Procedure, cell.Caller, err)
	}
	if len(recorded) == 0 {
		m.t.Errorf("%s by %q: nobody recorded the refusal (%v)", cell.Procedure, cell.Caller, err)
	}
	want := identity.WrongRole
	if cell.Caller == "" {
		want = identity.Missing
	}
	for _, r := range recorded {
		if r.Reason != want {
			m.t.Errorf("%s by %q: recorded %+v, want reason %q", cell.Procedure, cell.Caller, r, want)
		}
	}
}

// TestMatrixBadSVID: the one caller that a service admits is refused too when its SVID is expired, foreign or banned.
func TestMatrixBadSVID(t *testing.T) {
	m := newMatrix(t)
	other, err := identity.NewCA(testTD, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	past := func() time.Time { return time.Now().Add(-2 * time.Hour) }
	old, err := identity.ParseCA(testTD, mustPEM(t, m.ca), past)
	if err != nil {
		t.Fatal(err)
	}
	otherTrust := m.trust
	otherTrust.RoleRoots = []*x509.Certificate{other.Root(), m.ca.Root()}
	for _, service := range Services() {
		if service.FullName() == cardeav1connect.EnrollName {
			continue
		}
		addr := m.serve(service, unimplemented()[string(service.FullName())])
		caller := allowedCaller(service)
		// The client's own clock and trust let it present what the server must refuse.
		expired := newSource(t, old, callerID(t, caller), time.Hour, past, m.trust)
		foreign := newSource(t, other, callerID(t, caller), time.Hour, time.Now, otherTrust)
		for reason, source := range map[identity.Reason]*identity.Source{identity.Expired: expired, identity.Foreign: foreign} {
			conf := source.ClientTLS(nil)
			conf.VerifyConnection = func(tls.ConnectionState) error { return nil }
			web := Dial(addr, conf)
			for i := range service.Methods().Len() {
				m.got.take()
				method := service.Methods().Get(i)
				err := call(t.Context(), web, method)
				recorded := m.got.take()
				if err == nil || connect.CodeOf(err) == connect.CodeUnimplemented || len(recorded) == 0 || recorded[0].Reason != reason {
					t.Errorf("%s with an SVID that is %s: %v, recorded %v", procedure(method), reason, err, recorded)
				}
			}
		}
	}
}

func allowedCaller(service protoreflect.ServiceDescriptor) string {
	for _, c := range Matrix() {
		if c.Allowed && strings.HasPrefix(c.Procedure, "/"+string(service.FullName())+"/") {
			return c.Caller
		}
	}
	return ""
}

func mustPEM(t *testing.T, ca *identity.CA) []byte {
	t.Helper()
	text, err := ca.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestServiceWithoutCallerIsRefused: forgetting the option must not open a service.
func TestServiceWithoutCallerIsRefused(t *testing.T) {
	file := dynamicFile(t)
	service := file.Services().Get(0)
	if _, ok := CallerOf(service); ok {
		t.Fatal("the test's service names a caller")
	}
	reached := false
	h := Admit(service, nil)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	for _, caller := range Callers() {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://cardea"+procedure(service.Methods().Get(0)), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/proto")
		if caller != "" {
			peer, err := identity.ParsePeer(callerID(t, caller))
			if err != nil {
				t.Fatal(err)
			}
			r = r.WithContext(identity.ContextWithPeer(r.Context(), peer))
		}
		h.ServeHTTP(discardResponse{http.Header{}}, r)
	}
	if reached {
		t.Error("a service that names no caller was reached")
	}
	if err := (guarded{}).mount(http.NewServeMux(), Mount{Service: string(service.FullName())}); err == nil {
		t.Error("a service that names no caller was mounted")
	}
}

type discardResponse struct{ h http.Header }

func (d discardResponse) Header() http.Header         { return d.h }
func (d discardResponse) Write(b []byte) (int, error) { return len(b), nil }
func (d discardResponse) WriteHeader(int)             {}
