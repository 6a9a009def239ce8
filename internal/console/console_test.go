package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
)

const whoami = cardeav1connect.ControlWhoAmIProcedure

// upstream is a role behind the console: it keeps what reaches it and answers as told.
type upstream struct {
	mu     sync.Mutex
	seen   []*http.Request
	bodies [][]byte
	answer func(*http.Request) (*http.Response, error)
}

func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	u.seen, u.bodies = append(u.seen, r), append(u.bodies, body)
	answer := u.answer
	u.mu.Unlock()
	if answer != nil {
		return answer(r)
	}
	return reply("application/proto", "yes"), nil
}

func (u *upstream) calls() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.seen)
}

func reply(contentType, body string) *http.Response {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body))}
}

type fixture struct {
	authority, engine *upstream
	console           *Console
	log               *bytes.Buffer
}

func newFixture(t *testing.T, limits Limits) *fixture {
	t.Helper()
	f := &fixture{authority: &upstream{}, engine: &upstream{}, log: &bytes.Buffer{}}
	var err error
	f.console, err = New(Config{
		Authority: f.authority, Engine: f.engine, Limits: limits,
		Log: slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) calls() int { return f.authority.calls() + f.engine.calls() }

// request is a call as a good client makes it; tests then spoil it.
func request(path, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://cardea"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/proto")
	r.Header.Set("Cardea-Proof", "proof-of-ana")
	r.Header.Set("Cardea-Ticket", "ticket-of-ana")
	r.Header.Set("Connect-Protocol-Version", "1")
	return r
}

func (f *fixture) do(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.console.ServeHTTP(w, r)
	return w
}

// methods lists every procedure of the contracts with its descriptor.
func methods(t *testing.T) map[string]protoreflect.MethodDescriptor {
	t.Helper()
	all := make(map[string]protoreflect.MethodDescriptor)
	protoregistry.GlobalFiles.RangeFilesByPackage("cardea.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all["/"+string(s.FullName())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	if len(all) < 30 {
		t.Fatalf("only %d procedures in the contracts: the descriptors are not linked in", len(all))
	}
	return all
}

func TestProceduresGoToTheirRoleAndNoOther(t *testing.T) {
	toAuthority := map[string]bool{"Control": true, "Ledger": true}
	for procedure, m := range methods(t) {
		t.Run(procedure, func(t *testing.T) {
			f := newFixture(t, Limits{})
			r := request(procedure, "exact bytes")
			if m.IsStreamingServer() {
				r.Header.Set("Content-Type", "application/connect+proto")
			}
			w := f.do(r)
			service := string(m.Parent().Name())
			authority, engine := 0, 0
			switch {
			case toAuthority[service]:
				authority = 1
			case service == "Runs":
				engine = 1
			}
			if f.authority.calls() != authority || f.engine.calls() != engine {
				t.Fatalf("authority got %d calls, engine %d; want %d and %d (status %d)", f.authority.calls(), f.engine.calls(), authority, engine, w.Code)
			}
			if authority+engine == 0 {
				if w.Code != http.StatusNotFound {
					t.Fatalf("status %d, want 404", w.Code)
				}
				return
			}
			f.checkForwarded(t, w, procedure, authority == 1)
		})
	}
}

func (f *fixture) checkForwarded(t *testing.T, w *httptest.ResponseRecorder, procedure string, toAuthority bool) {
	t.Helper()
	to, has, hasNot := f.engine, "Cardea-Ticket", "Cardea-Proof"
	if toAuthority {
		to, has, hasNot = f.authority, "Cardea-Proof", "Cardea-Ticket"
	}
	got := to.seen[0]
	if got.URL.Path != procedure || string(to.bodies[0]) != "exact bytes" || got.ContentLength != int64(len("exact bytes")) {
		t.Fatalf("forwarded %s with %q (length %d)", got.URL.Path, to.bodies[0], got.ContentLength)
	}
	if len(got.Header[has]) != 1 || len(got.Header[hasNot]) != 0 {
		t.Fatalf("evidence: %v", got.Header)
	}
	if w.Code != 200 || w.Body.String() != "yes" {
		t.Fatalf("answer %d %q", w.Code, w.Body)
	}
}

func TestOtherPathsAreNotForwarded(t *testing.T) {
	for _, path := range []string{
		"/", "/metrics", "/healthz", "/cardea.v1.Control", "/cardea.v1.Control/", "/cardea.v1.Control/Nope", whoami + "/",
		"/cardea.v1.Control//WhoAmI", "//cardea.v1.Control/WhoAmI", "/x/../cardea.v1.Control/WhoAmI", "/cardea.v1.Control%2fWhoAmI",
		"/cardea.v1.control/WhoAmI", "/cardea.v1.Control/%57hoAmI", whoami + "?x=1", whoami + "?", "/cardea.v1.Decide/Authorize",
	} {
		t.Run(path, func(t *testing.T) {
			f := newFixture(t, Limits{})
			w := f.do(request(path, "body"))
			if f.calls() != 0 || w.Code < 400 || w.Code >= 500 {
				t.Fatalf("%d calls forwarded, status %d", f.calls(), w.Code)
			}
		})
	}
}

func TestRequestsThatAreNotForwarded(t *testing.T) {
	cases := map[string]func(*http.Request){
		"GET":                      func(r *http.Request) { r.Method = http.MethodGet },
		"PUT":                      func(r *http.Request) { r.Method = http.MethodPut },
		"OPTIONS":                  func(r *http.Request) { r.Method = http.MethodOptions },
		"no proof":                 func(r *http.Request) { r.Header.Del("Cardea-Proof") },
		"two proofs":               func(r *http.Request) { r.Header.Add("Cardea-Proof", "another") },
		"json":                     func(r *http.Request) { r.Header.Set("Content-Type", "application/json") },
		"grpc":                     func(r *http.Request) { r.Header.Set("Content-Type", "application/grpc+proto") },
		"stream type":              func(r *http.Request) { r.Header.Set("Content-Type", "application/connect+proto") },
		"no content type":          func(r *http.Request) { r.Header.Del("Content-Type") },
		"two content types":        func(r *http.Request) { r.Header.Add("Content-Type", "application/proto") },
		"content type parameter":   func(r *http.Request) { r.Header.Set("Content-Type", "application/proto; charset=utf-8") },
		"compressed":               func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") },
		"compressed stream":        func(r *http.Request) { r.Header.Set("Connect-Content-Encoding", "gzip") },
		"no length":                func(r *http.Request) { r.ContentLength = -1 },
		"chunked":                  func(r *http.Request) { r.TransferEncoding = []string{"chunked"} },
		"longer than it says":      func(r *http.Request) { r.ContentLength-- },
		"shorter than it says":     func(r *http.Request) { r.ContentLength++ },
		"too large":                func(r *http.Request) { r.ContentLength = 4<<20 + 1 },
		"body breaks off":          func(r *http.Request) { r.Body = io.NopCloser(io.MultiReader(strings.NewReader("bo"), broken{})) },
		"two proofs in lower case": func(r *http.Request) { r.Header["Cardea-Proof"] = []string{"a", "b"} },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Limits{})
			r := request(whoami, "body")
			spoil(r)
			w := f.do(r)
			if f.calls() != 0 || w.Code < 400 {
				t.Fatalf("%d calls forwarded, status %d", f.calls(), w.Code)
			}
		})
	}
}

func TestBodiesThatAreTooLarge(t *testing.T) {
	f := newFixture(t, Limits{BodyBytes: 3})
	if w := f.do(request(whoami, "body")); f.calls() != 0 || connectCode(t, w) != connect.CodeResourceExhausted {
		t.Fatalf("%d calls forwarded, status %d", f.calls(), w.Code)
	}
	if w := f.do(request(whoami, "bod")); f.calls() != 1 {
		t.Fatalf("status %d", w.Code)
	}
}

// TestOnlyTheConsolesServicesAreRouted makes a service that takes people's proofs from another role: it is none of the console's.
func TestOnlyTheConsolesServicesAreRouted(t *testing.T) {
	for caller, want := range map[cardeav1.Caller]cardeav1.OnBehalf{
		cardeav1.Caller_CALLER_GATEWAY: cardeav1.OnBehalf_ON_BEHALF_UNSPECIFIED,
		cardeav1.Caller_CALLER_CONSOLE: cardeav1.OnBehalf_ON_BEHALF_PERSON,
	} {
		options := &descriptorpb.ServiceOptions{}
		proto.SetExtension(options, cardeav1.E_Caller, caller)
		proto.SetExtension(options, cardeav1.E_OnBehalf, cardeav1.OnBehalf_ON_BEHALF_PERSON)
		file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
			Name: proto.String("x.proto"), Package: proto.String("x"), Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("X"), Options: options}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := behalf(file.Services().Get(0)); got != want {
			t.Errorf("%v: %v, want %v", caller, got, want)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestOnlyListedHeadersTravel(t *testing.T) {
	f := newFixture(t, Limits{})
	f.authority.answer = func(*http.Request) (*http.Response, error) {
		a := reply("application/proto", "yes")
		for _, name := range []string{"Set-Cookie", "Location", "Trailer-X", "Server", "Access-Control-Allow-Origin", "Cardea-Proof"} {
			a.Header.Set(name, "x")
		}
		a.Header.Set("Connect-Content-Encoding", "identity")
		return a, nil
	}
	r := request(whoami, "body")
	for _, name := range []string{"Authorization", "Cookie", "X-Forwarded-For", "Forwarded", "Host", "Te", "Upgrade", "Connection", "Accept-Encoding",
		"Grpc-Timeout", "Connect-Accept-Encoding", "Cardea-Other", "Idempotency-Key", "User-Agent"} {
		r.Header.Set(name, "spoofed")
	}
	w := f.do(r)
	want := map[string]bool{"Content-Type": true, "Cardea-Proof": true, "Connect-Protocol-Version": true, "User-Agent": true}
	for name, values := range f.authority.seen[0].Header {
		if !want[name] || name == "User-Agent" && values[0] != "cardea-console" {
			t.Errorf("%s: %v reached the authority", name, values)
		}
	}
	wantBack := map[string]bool{"Content-Type": true, "Connect-Content-Encoding": true, "Cache-Control": true, "X-Content-Type-Options": true}
	for name := range w.Header() {
		if !wantBack[name] {
			t.Errorf("%s reached the person", name)
		}
	}
	if got := f.authority.seen[0].Host; got != "cardea" {
		t.Errorf("host %q", got)
	}
}

func TestNothingOfACallIsLogged(t *testing.T) {
	f := newFixture(t, Limits{})
	f.authority.answer = func(*http.Request) (*http.Response, error) { return nil, errors.New("away") }
	w := f.do(request(whoami, "canary-body"))
	f.do(request("/nowhere/canary-path", "canary-body"))
	if got := connectCode(t, w); got != connect.CodeUnavailable {
		t.Fatalf("code %v", got)
	}
	for _, secret := range []string{"canary-body", "proof-of-ana", "ticket-of-ana", "canary-path"} {
		if strings.Contains(f.log.String(), secret) {
			t.Errorf("%s stands in the log:\n%s", secret, f.log)
		}
	}
	if strings.Contains(w.Body.String(), "away") {
		t.Errorf("the person is told about the inside: %s", w.Body)
	}
	if !strings.Contains(f.log.String(), "away") {
		t.Errorf("the operator is told nothing:\n%s", f.log)
	}
}

// connectCode reads the code of a refusal as the generated client does.
func connectCode(t *testing.T, w *httptest.ResponseRecorder) connect.Code {
	t.Helper()
	once := roundTripper(func(*http.Request) (*http.Response, error) { return w.Result(), nil })
	_, err := cardeav1connect.NewControlClient(&http.Client{Transport: once}, "https://x").WhoAmI(t.Context(), &cardeav1.WhoAmIRequest{})
	return connect.CodeOf(err)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnswersThatAreTooLargeAreCut(t *testing.T) {
	f := newFixture(t, Limits{AnswerBytes: 10})
	f.authority.answer = func(*http.Request) (*http.Response, error) { return reply("application/proto", "12345678901"), nil }
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Fatal("an answer that was cut short ended like a whole one")
		}
		if got := f.console.clients.total; got != (use{}) {
			t.Fatalf("slots were not given back: %+v", got)
		}
	}()
	f.do(request(whoami, "body"))
}

func TestAnswersThatBreakOffAreCut(t *testing.T) {
	f := newFixture(t, Limits{})
	f.authority.answer = func(*http.Request) (*http.Response, error) {
		a := reply("application/proto", "")
		a.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), broken{}))
		return a, nil
	}
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Fatal("half an answer ended like a whole one")
		}
	}()
	f.do(request(whoami, "body"))
}

// server is the console behind a real HTTP/2 listener.
func (f *fixture) server(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(f.console)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func TestSlowBodiesAreCutOff(t *testing.T) {
	f := newFixture(t, Limits{BodyTime: 30 * time.Millisecond})
	s := f.server(t)
	hold, held := io.Pipe()
	defer held.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+whoami, hold)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = request(whoami, "").Header
	r.ContentLength = 10
	go held.Write([]byte("ha"))
	answer, err := s.Client().Do(r)
	if err == nil {
		answer.Body.Close()
		if answer.StatusCode < 400 {
			t.Fatalf("status %d", answer.StatusCode)
		}
	}
	if f.calls() != 0 {
		t.Fatal("a part of a body was forwarded")
	}
}

func TestStreamsPassMessageByMessage(t *testing.T) {
	f := newFixture(t, Limits{WriteTime: time.Minute})
	from, to := io.Pipe()
	gone := make(chan struct{})
	f.engine.answer = func(r *http.Request) (*http.Response, error) {
		context.AfterFunc(r.Context(), func() { close(gone) })
		a := reply("application/connect+proto", "")
		a.Body = from
		return a, nil
	}
	s := f.server(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+cardeav1connect.RunsWatchProcedure, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = request("", "").Header
	r.Header.Set("Content-Type", "application/connect+proto")
	go to.Write([]byte("first"))
	answer, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	buf := make([]byte, 5)
	if _, err := io.ReadFull(answer.Body, buf); err != nil || string(buf) != "first" {
		t.Fatalf("%q, %v", buf, err) // it arrives although the stream goes on
	}
	go to.Write([]byte("again"))
	if _, err := io.ReadFull(answer.Body, buf); err != nil || string(buf) != "again" {
		t.Fatalf("%q, %v", buf, err)
	}
	cancel()
	<-gone // the engine learns that nobody listens any more
	to.Close()
}
