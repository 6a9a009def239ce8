package egress

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestUnsearchableAnswersAreRefused: a target may not choose an encoding that hides the credential.
func TestUnsearchableAnswersAreRefused(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 64<<20))
	_ = z.Close()
	for name, write := range map[string]func(http.ResponseWriter){
		"brotli": func(w http.ResponseWriter) { w.Header().Set("Content-Encoding", "br"); _, _ = w.Write([]byte("x")) },
		"gzip, brotli": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip, br")
			_, _ = w.Write([]byte("x"))
		},
		"bomb": func(w http.ResponseWriter) { _, _ = w.Write(bomb.Bytes()) },
	} {
		t.Run(name, func(t *testing.T) {
			_, grant := server(t, func(w http.ResponseWriter, _ *http.Request) { write(w) })
			resp, report, err := newEgress(t).Do(t.Context(), post(grant, nil))
			if kindOf(err) != Unusable || report.Delivery != Answered || resp.Body != nil {
				t.Fatalf("%v, delivery %d", err, report.Delivery)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	big := strings.Repeat("x", 70<<10)
	for name, c := range map[string]struct {
		write    http.HandlerFunc
		kind     Kind
		delivery Delivery
	}{
		"long body, stated": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			_, _ = io.WriteString(w, big)
		}, Unusable, Answered},
		"long body, chunked": {func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, big)
		}, Unusable, Answered},
		"long header": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", big) }, Broken, Sent},
		"cut body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "x")
		}, Broken, Answered},
	} {
		t.Run(name, func(t *testing.T) {
			_, grant := server(t, c.write)
			resp, report, err := newEgress(t).Do(t.Context(), post(grant, func(r *Request) { r.MaxBody = 64 << 10 }))
			if kindOf(err) != c.kind || report.Delivery != c.delivery || resp.Body != nil {
				t.Fatalf("%v, delivery %d", err, report.Delivery)
			}
		})
	}
	_, grant := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, big[:64<<10]) })
	if resp, _, err := newEgress(t).Do(t.Context(), post(grant, func(r *Request) { r.MaxBody = 64 << 10 })); err != nil || len(resp.Body) != 64<<10 {
		t.Fatalf("a body of exactly the limit: %d bytes, %v", len(resp.Body), err)
	}
}

// TestSlowTargets drip bytes for ever; the deadline ends them.
func TestSlowTargets(t *testing.T) {
	drip := func(conn net.Conn, first, each string) {
		_, err := io.WriteString(conn, first)
		for err == nil {
			time.Sleep(5 * time.Millisecond)
			_, err = io.WriteString(conn, each)
		}
	}
	for name, c := range map[string]struct {
		first, each string
		delivery    Delivery
	}{
		"headers": {"HTTP/1.1 200 OK\r\n", "A: b\r\n", Sent},
		"body":    {"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "x", Answered},
		"chunks":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", Answered},
	} {
		for _, once := range []bool{true, false} {
			t.Run(fmt.Sprint(name, once), func(t *testing.T) {
				_, grant := raw(t, func(_ *rawServer, _ int32, conn net.Conn, _ *http.Request) { drip(conn, c.first, c.each) })
				_, report, err := newEgress(t).Do(t.Context(), post(grant, func(r *Request) { r.Once, r.Deadline = once, time.Now().Add(300*time.Millisecond) }))
				if kindOf(err) != Timeout || report.Delivery != c.delivery {
					t.Fatalf("%v, delivery %d", err, report.Delivery)
				}
			})
		}
	}
}

func TestCancelledByTheCaller(t *testing.T) {
	arrived := make(chan struct{})
	_, grant := raw(t, func(_ *rawServer, _ int32, _ net.Conn, _ *http.Request) { close(arrived); select {} })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, report, err := newEgress(t).Do(ctx, post(grant, func(r *Request) { r.Once = true }))
	if kindOf(err) != Cancelled || report.Delivery != Sent {
		t.Fatalf("%v, delivery %d", err, report.Delivery)
	}
}

func TestSwitchingProtocolsIsRefused(t *testing.T) {
	_, grant := raw(t, func(_ *rawServer, _ int32, conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
	})
	if _, report, err := newEgress(t).Do(t.Context(), post(grant, nil)); kindOf(err) != Broken || report.Delivery != Answered {
		t.Fatalf("%v, delivery %d", err, report.Delivery)
	}
}

func TestDefaultLimitIsFourMebibytes(t *testing.T) {
	c, err := New(Options{}).prepare(post(grantFor("127.0.0.1:1", ""), nil))
	if err != nil || c.maxBody != 4<<20 {
		t.Fatalf("%v", err)
	}
}
