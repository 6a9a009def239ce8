package console

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"cardea/api/cardea/v1/cardeav1connect"
)

func TestRateOfOneClientDoesNotStopAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Limits{Rate: 1, Burst: 2})
		from := func(addr string) connect.Code {
			r := request(whoami, "body")
			r.RemoteAddr = addr
			w := f.do(r)
			if w.Code == http.StatusOK {
				return 0
			}
			return connectCode(t, w)
		}
		for i := range 2 {
			if got := from("192.0.2.1:1000"); got != 0 {
				t.Fatalf("call %d: %v", i, got)
			}
		}
		if got := from("192.0.2.1:2000"); got != connect.CodeResourceExhausted {
			t.Fatalf("third call: %v", got)
		}
		if got := from("192.0.2.2:1000"); got != 0 {
			t.Fatalf("another client: %v", got)
		}
		time.Sleep(time.Second)
		if got := from("192.0.2.1:1000"); got != 0 {
			t.Fatalf("after a second: %v", got)
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	cases := map[string]struct {
		limits        Limits
		path          string
		contentType   string
		first, second string
	}{
		"one client's calls":   {Limits{ClientCalls: 1}, whoami, unaryType, "192.0.2.1:1", "192.0.2.1:2"},
		"one client's streams": {Limits{ClientStreams: 1}, cardeav1connect.RunsWatchProcedure, streamType, "192.0.2.1:1", "192.0.2.1:2"},
		"all calls":            {Limits{Calls: 1}, whoami, unaryType, "192.0.2.1:1", "192.0.2.2:1"},
		"all streams":          {Limits{Streams: 1}, cardeav1connect.RunsWatchProcedure, streamType, "192.0.2.1:1", "192.0.2.2:1"},
		"memory":               {Limits{HeldBytes: 7}, whoami, unaryType, "192.0.2.1:1", "192.0.2.2:1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, c.limits)
			call := func(from string) *http.Request {
				r := request(c.path, "body")
				r.Header.Set("Content-Type", c.contentType)
				r.RemoteAddr = from
				return r
			}
			entered, leave, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
			block := func(*http.Request) (*http.Response, error) {
				close(entered)
				<-leave
				return reply(c.contentType, "yes"), nil
			}
			f.authority.answer, f.engine.answer = block, block
			go func() { defer close(done); f.do(call(c.first)) }()
			<-entered
			w := f.do(call(c.second))
			if f.calls() != 1 || !strings.Contains(w.Body.String(), "resource_exhausted") {
				t.Fatalf("%d calls, status %d: %s", f.calls(), w.Code, w.Body)
			}
			close(leave)
			<-done
			f.authority.answer, f.engine.answer = nil, nil
			if w := f.do(call(c.second)); w.Code != 200 || f.calls() != 2 {
				t.Fatalf("after the first had ended: status %d: %s", w.Code, w.Body)
			}
		})
	}
}

func TestTheTableOfClientsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, Limits{Rate: 1, Burst: 1})
		for i := range maxClients + 100 {
			r := request(whoami, "body")
			r.RemoteAddr = fmt.Sprintf("10.%d.%d.1:1", i>>8, i&255)
			f.do(r)
		}
		if n := len(f.console.clients.byName); n > maxClients+1 {
			t.Fatalf("%d entries", n)
		}
		time.Sleep(2 * time.Second) // all have their full allowance again: forgetting them gives nobody more
		r := request(whoami, "body")
		r.RemoteAddr = "192.0.2.1:1"
		if w := f.do(r); w.Code != 200 {
			t.Fatalf("status %d", w.Code)
		}
		if n := len(f.console.clients.byName); n > 2 {
			t.Fatalf("%d idle entries were kept", n)
		}
	})
}

func TestClientNames(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:5":              "192.0.2.1",
		"[::ffff:192.0.2.1]:5":     "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:5": "2001:db8:1:2::/64",
		"@":                        "local",
		"":                         "local",
	} {
		if got := clientOf(&http.Request{RemoteAddr: remote}); got != want {
			t.Errorf("%q: %q, want %q", remote, got, want)
		}
	}
}
