package role

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
)

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
