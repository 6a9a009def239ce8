package role

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// failing panics over one question.
type failing struct {
	cardeav1connect.UnimplementedDecideHandler
}

func (failing) EndRun(context.Context, *cardeav1.EndRunRequest) (*cardeav1.EndRunResponse, error) {
	panic("over a secret")
}

// TestPanicIsAnAnswer: whoever asked is told of a fault, not that nobody is there, and the log tells where, without what.
func TestPanicIsAnAnswer(t *testing.T) {
	service, err := ServiceByName(cardeav1connect.DecideName)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	mux := http.NewServeMux()
	_, handler := cardeav1connect.NewDecideHandler(failing{}, HandlerOptions()...)
	g := guarded{joiners: rate.NewLimiter(rate.Inf, 1), calls: newCalls(1), held: newBudget(1<<20, nil), log: slog.New(slog.NewTextHandler(&text, nil))}
	if err := g.mount(mux, Mount{Service: string(service.FullName()), Handler: handler}); err != nil {
		t.Fatal(err)
	}
	peer := identity.Peer{Kind: identity.KindRole, Role: Engine}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(identity.ContextWithPeer(r.Context(), peer)))
	}))
	defer server.Close()
	_, err = cardeav1connect.NewDecideClient(server.Client(), server.URL, ClientOptions()...).EndRun(t.Context(), &cardeav1.EndRunRequest{})
	if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	if log := text.String(); !strings.Contains(log, "failing") || strings.Contains(log, "over a secret") {
		t.Errorf("the log: %s", log)
	}
}

// TestAnswerThatBreaksOffIsUnavailable: what the console says of a role that is gone in the middle of an answer is no bug of ours.
func TestAnswerThatBreaksOffIsUnavailable(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"before the head": func(http.ResponseWriter) {},
		"before the body": func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
		"behind the head": func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"inside the body": func(w http.ResponseWriter) { _, _ = w.Write([]byte{0x0a}); w.(http.Flusher).Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/proto")
				begin(w)
				panic(http.ErrAbortHandler)
			}))
			server.EnableHTTP2 = true
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.StartTLS()
			defer server.Close()
			conf := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}} // this is about what comes after
			client := cardeav1connect.NewDecideClient(Dial("tcp:"+server.Listener.Addr().String(), conf), BaseURL, ClientOptions()...)
			_, err := client.EndRun(t.Context(), &cardeav1.EndRunRequest{})
			if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "broke off") {
				t.Errorf("%v: %v", connect.CodeOf(err), err)
			}
		})
	}
}
