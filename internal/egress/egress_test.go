package egress

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cardea/internal/action"
	"cardea/internal/secret"
)

func TestExactlyThePermittedRequest(t *testing.T) {
	s, grant := raw(t, ok)
	e := newEgress(t)
	for _, once := range []bool{true, false} {
		s.forget()
		resp, report, err := e.Do(t.Context(), post(grant, func(r *Request) { r.Once = once }))
		if err != nil {
			t.Fatal(err)
		}
		closing := ""
		if once {
			closing = "Connection: close\r\n"
		}
		want := "POST /v1/transfers?dry=no HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: cardea\r\n" + closing + "Content-Length: 12\r\n" +
			"Accept-Encoding: identity\r\nAuthorization: Bearer " + token + "\r\nContent-Type: application/json\r\nIdempotency-Key: idem-1\r\n\r\n" + `{"amount":1}`
		if got := s.received(); got != want {
			t.Fatalf("once %v: the target got\n%q, want\n%q", once, got, want)
		}
		if resp.Status != 200 || string(resp.Body) != "ok" || report.Delivery != Answered || report.Status != 200 || report.Connection != "bank" ||
			report.Address != s.Addr().String() || report.Sent != uint64(len(want)) || report.Received != uint64(len(okAnswer)) || report.Started.After(report.Ended) {
			t.Fatalf("%+v %+v", resp, report)
		}
	}
}

// TestActionsOwnHeadersStay: what the action sets is not replaced by what egress adds by default.
func TestActionsOwnHeadersStay(t *testing.T) {
	s, grant := raw(t, ok)
	_, _, err := newEgress(t).Do(t.Context(), post(grant, func(r *Request) {
		r.Action.Headers = []action.Header{{Name: "accept-encoding", Value: "gzip"}, {Name: "user-agent", Value: "mine"}, {Name: "x-é", Value: "x"}}[:2]
		r.IdempotencyKey = ""
	}))
	if err != nil {
		t.Fatal(err)
	}
	got := s.received()
	if !strings.Contains(got, "Accept-Encoding: gzip\r\n") || !strings.Contains(got, "User-Agent: mine\r\n") || strings.Contains(got, "Idempotency-Key") {
		t.Fatalf("%q", got)
	}
}

// TestOnceIsNeverSentAgain is invariant 7 at the wire. Each server misbehaves in a way that makes Go's transport send again, or could;
// before that, idempotent requests have filled the pool with connections that would be reused.
func TestOnceIsNeverSentAgain(t *testing.T) {
	for name, misbehave := range map[string]func(net.Conn){
		"closes after the request":      func(c net.Conn) { _ = c.Close() },
		"closes within the status line": func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.")); _ = c.Close() },
		"closes within the headers":     func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nA: b")); _ = c.Close() },
		"closes after an interim":       func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 103 Early Hints\r\n\r\n")); _ = c.Close() },
		"answers nonsense":              func(c net.Conn) { _, _ = c.Write([]byte("220 smtp\r\n")); _ = c.Close() },
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			t.Run(name+" "+method, func(t *testing.T) {
				var bad atomic.Bool
				s, grant := raw(t, func(s *rawServer, n int32, conn net.Conn, req *http.Request) {
					if bad.Load() {
						misbehave(conn)
						return
					}
					ok(s, n, conn, req)
				})
				e := newEgress(t)
				request := func(r *Request) {
					if r.Action.Method = method; method == "GET" {
						r.Action.Body = nil
					}
				}
				warm(t, e, grant)
				bad.Store(true)
				before := s.requests.Load()
				_, report, err := e.Do(t.Context(), post(grant, func(r *Request) { request(r); r.Once = true }))
				if err == nil || report.Delivery != Sent {
					t.Fatalf("delivery %d, error %v", report.Delivery, err)
				}
				if n := s.requests.Load() - before; n != 1 {
					t.Fatalf("the target got the request %d times", n)
				}
			})
		}
	}
}

// warm leaves several idle connections in the pool.
func warm(t *testing.T, e *Egress, grant Grant) {
	t.Helper()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, _, err := e.Do(t.Context(), post(grant, func(r *Request) { r.Action.Method, r.Action.Body = "GET", nil })); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestSingleUseHasOneConnection: even asked directly, the transport of a once request cannot get a second connection.
func TestSingleUseHasOneConnection(t *testing.T) {
	s, grant := raw(t, ok)
	e := newEgress(t)
	c, err := e.prepare(post(grant, nil))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := e.pool.line(c.target, &e.dial).connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	transport := singleUse(conn)
	for i := range 3 {
		resp, err := transport.RoundTrip(c.request(c.use.trace(t.Context())))
		if (err == nil) != (i == 0) || i > 0 && !strings.Contains(err.Error(), "never sent again") {
			t.Fatalf("request %d: %v", i, err)
		}
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
	if n := s.requests.Load(); n != 1 {
		t.Fatalf("%d requests", n)
	}
}

// TestIdempotentSurvivesAStaleConnection shows what once must not have: a request on a pooled connection that the target closed.
func TestIdempotentSurvivesAStaleConnection(t *testing.T) {
	s, grant := raw(t, func(s *rawServer, n int32, conn net.Conn, req *http.Request) {
		if n == 2 {
			_ = conn.Close()
			return
		}
		ok(s, n, conn, req)
	})
	e := newEgress(t)
	for range 2 {
		if _, _, err := e.Do(t.Context(), post(grant, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.requests.Load(); n != 3 {
		t.Fatalf("%d requests, want the second one twice", n)
	}
}

func TestIdempotentReusesOneConnectionPerTrust(t *testing.T) {
	var conns atomic.Int32
	var known sync.Map
	_, grant := server(t, func(w http.ResponseWriter, r *http.Request) {
		if _, old := known.LoadOrStore(r.RemoteAddr, true); !old {
			conns.Add(1)
		}
		_, _ = io.WriteString(w, "ok")
	})
	e := newEgress(t)
	do := func(g Grant, want int32) {
		t.Helper()
		for range 3 {
			if _, _, err := e.Do(t.Context(), post(g, nil)); err != nil {
				t.Fatal(err)
			}
		}
		if n := conns.Load(); n != want {
			t.Fatalf("%d connections, want %d", n, want)
		}
	}
	do(grant, 1)
	other := grant
	other.Connection = "another"
	do(other, 2)
	moreRoots := grant
	moreRoots.Roots += newCerts(t, "x").roots
	do(moreRoots, 3)
}

func TestPoolIsBounded(t *testing.T) {
	var p pool
	d := newDialer(nil)
	for i := range maxLines + 50 {
		p.line(target{connection: fmt.Sprint(i)}, &d)
	}
	if len(p.lines) != maxLines || p.lines[target{connection: "0"}] != nil {
		t.Fatalf("%d lines", len(p.lines))
	}
}

// TestNotSent: whatever fails before the first byte is reported as such, and the target has seen nothing.
func TestNotSent(t *testing.T) {
	s, grant := raw(t, ok)
	closed, _ := net.Listen("tcp", "127.0.0.1:0")
	_ = closed.Close()
	for name, c := range map[string]struct {
		change func(*Request)
		kind   Kind
	}{
		"nobody listens":    {func(r *Request) { r.Grants[0].Address = closed.Addr().String() }, Unreachable},
		"foreign authority": {func(r *Request) { r.Grants[0].Roots = newCerts(t, host).roots }, Unreachable},
		"system's roots":    {func(r *Request) { r.Grants[0].Roots = "" }, Unreachable},
		"roots are no PEM":  {func(r *Request) { r.Grants[0].Roots = "garbage" }, Refused},
		"another name": {func(r *Request) {
			r.Action.URL, r.Grants[0].Hosts = "https://other.example/", []string{"https://other.example"}
		}, Unreachable},
		"deadline has passed": {func(r *Request) { r.Deadline = time.Now().Add(-time.Second) }, Timeout},
		"no deadline":         {func(r *Request) { r.Deadline = time.Time{} }, Refused},
		"credential expired":  {func(r *Request) { r.Grants[0].Expires = time.Now().Add(-time.Second) }, Timeout},
	} {
		for _, once := range []bool{true, false} {
			t.Run(fmt.Sprint(name, once), func(t *testing.T) {
				_, report, err := newEgress(t).Do(t.Context(), post(grant, func(r *Request) { c.change(r); r.Once = once }))
				if kindOf(err) != c.kind || report.Delivery != NotSent || report.Error == "" {
					t.Fatalf("%v (%v), delivery %d", err, kindOf(err), report.Delivery)
				}
			})
		}
	}
	if got := s.received(); got != "" {
		t.Fatalf("the target got %q", got)
	}
}

// TestNotSentIsNeverALie gives up at every moment: when the report says not sent, no byte may have come, now or later.
func TestNotSentIsNeverALie(t *testing.T) {
	var arrived sync.Map
	_, grant := raw(t, func(s *rawServer, n int32, conn net.Conn, req *http.Request) {
		arrived.Store(req.Header.Get("Idempotency-Key"), true)
		ok(s, n, conn, req)
	})
	e := newEgress(t)
	var notSent []string
	for i := range 300 {
		key := fmt.Sprint("key-", i)
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(i%60)*20*time.Microsecond, cancel)
		_, report, err := e.Do(ctx, post(grant, func(r *Request) { r.IdempotencyKey, r.Once = key, i%2 == 0 }))
		timer.Stop()
		cancel()
		if err != nil && report.Delivery == NotSent {
			notSent = append(notSent, key)
		}
	}
	time.Sleep(50 * time.Millisecond) // what was wrongly let go arrives
	for _, key := range notSent {
		if _, came := arrived.Load(key); came {
			t.Errorf("%s was reported as not sent, and came", key)
		}
	}
	if len(notSent) == 0 {
		t.Log("every request had left before it was given up")
	}
}

// TestSealedUsageWritesNothing is the same without luck: a write after the report fails before the connection.
func TestSealedUsageWritesNothing(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	w, u := &wire{Conn: a}, &usage{}
	w.use.Store(u)
	var r Report
	u.fill(&r)
	_ = a.SetWriteDeadline(time.Now().Add(time.Second))
	if n, err := w.Write([]byte("x")); n != 0 || err == nil || r.Delivery != NotSent || strings.Contains(err.Error(), "timeout") {
		t.Fatalf("%d bytes left after the request was reported as not sent (%v)", n, err)
	}
}

func TestRedirectsAreReturned(t *testing.T) {
	var followed atomic.Bool
	_, grant := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			followed.Store(true)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(302)
	})
	for _, once := range []bool{true, false} {
		resp, _, err := newEgress(t).Do(t.Context(), post(grant, func(r *Request) { r.Once, r.Action.Method, r.Action.Body = once, "GET", nil }))
		if err != nil || resp.Status != 302 || followed.Load() {
			t.Fatalf("status %d, followed %v, %v", resp.Status, followed.Load(), err)
		}
	}
}

// TestReflectedCredential is invariant 16 at egress: in headers, body, compressed bodies and errors.
func TestReflectedCredential(t *testing.T) {
	zip := func(s string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, s)
		_ = z.Close()
		return b.Bytes()
	}
	for name, write := range map[string]func(http.ResponseWriter, string){
		"body":        func(w http.ResponseWriter, s string) { _, _ = io.WriteString(w, `{"auth":"`+s+`"}`) },
		"header":      func(w http.ResponseWriter, s string) { w.Header().Set("X-Echo", "Bearer "+s) },
		"header name": func(w http.ResponseWriter, s string) { w.Header()["X-"+s] = []string{"x"} },
		"base64 body": func(w http.ResponseWriter, s string) {
			_, _ = io.WriteString(w, base64.URLEncoding.EncodeToString([]byte("a"+s)))
		},
		"base64 header": func(w http.ResponseWriter, s string) {
			w.Header().Set("X-Echo", base64.StdEncoding.EncodeToString([]byte(s)))
		},
		"gzip": func(w http.ResponseWriter, s string) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zip(s))
		},
		"gzip, unstated": func(w http.ResponseWriter, s string) { _, _ = w.Write(append(zip("x"), zip(s)...)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, grant := server(t, func(w http.ResponseWriter, r *http.Request) {
				write(w, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
			})
			resp, report, err := newEgress(t).Do(t.Context(), post(grant, nil))
			if err != nil || report.Redactions == 0 {
				t.Fatalf("%d redactions, %v", report.Redactions, err)
			}
			all := append([]byte(fmt.Sprint(resp.Headers, report)), resp.Body...)
			if _, places, err := secret.NewRedactor(secret.Take([]byte(token))).Redact(all); err != nil || places != 0 {
				t.Fatalf("the credential came through in %q (%v)", all, err)
			}
			for _, h := range resp.Headers {
				if h.Name == "Content-Length" && h.Value != fmt.Sprint(len(resp.Body)) {
					t.Fatalf("Content-Length %s for %d bytes", h.Value, len(resp.Body))
				}
			}
		})
	}
	t.Run("error text", func(t *testing.T) {
		_, grant := raw(t, func(_ *rawServer, _ int32, conn net.Conn, req *http.Request) {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n%s\r\n\r\n", strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
			_ = conn.Close()
		})
		_, report, err := newEgress(t).Do(t.Context(), post(grant, nil))
		if err == nil || !strings.Contains(err.Error(), secret.Redacted) {
			t.Fatalf("the transport's error does not quote the target any more, or is not redacted: %v", err)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v %+v", err, err, err, report), token) {
			t.Fatal("the credential is in the error")
		}
	})
}

func TestBasicAndHeaderPresentation(t *testing.T) {
	_, grant := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s|%s|s3cret-pass", r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"))
	})
	basic := grant
	basic.Presentation, basic.Credential = "basic", secret.Take([]byte("user:s3cret-pass"))
	resp, _, err := newEgress(t).Do(t.Context(), post(basic, nil))
	if err != nil || string(resp.Body) != "Basic [redacted]||[redacted]" {
		t.Fatalf("%q %v", resp.Body, err)
	}
	header := grant
	header.Presentation = "header:x-api-key"
	if resp, _, err = newEgress(t).Do(t.Context(), post(header, nil)); err != nil || string(resp.Body) != "|[redacted]|s3cret-pass" {
		t.Fatalf("%q %v", resp.Body, err)
	}
}

func BenchmarkDo(b *testing.B) {
	for _, once := range []bool{false, true} {
		b.Run(fmt.Sprint("once=", once), func(b *testing.B) {
			_, grant := server(b, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"ok":true}`) })
			e := newEgress(b)
			for b.Loop() {
				if _, _, err := e.Do(context.Background(), post(grant, func(r *Request) { r.Once = once })); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
