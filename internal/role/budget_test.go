package role

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/reflect/protoreflect"

	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

func methodOf(t *testing.T, service, name string) protoreflect.MethodDescriptor {
	t.Helper()
	s, err := ServiceByName(service)
	if err != nil {
		t.Fatal(err)
	}
	return s.Methods().ByName(protoreflect.Name(name))
}

// holder is a handler that reads the whole body and keeps its call until it is released.
type holder struct {
	read, release chan struct{}
	got           chan error
}

func newHolder() *holder {
	return &holder{read: make(chan struct{}, 10), release: make(chan struct{}), got: make(chan error, 10)}
}

func (h *holder) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	_, err := io.Copy(io.Discard, r.Body)
	h.got <- err
	h.read <- struct{}{}
	<-h.release
}

func endRun(t *testing.T, size int, announced bool) *http.Request {
	t.Helper()
	peer, err := identity.ParsePeer(callerID(t, Engine))
	if err != nil {
		t.Fatal(err)
	}
	ctx := identity.ContextWithPeer(context.Background(), peer)
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, cardeav1connect.DecideEndRunProcedure, bytes.NewReader(make([]byte, size)))
	if !announced {
		r.ContentLength = -1
	}
	r.Header.Set("Content-Type", "application/proto")
	return r
}

// TestBodiesShareMemory: what one call holds another cannot have, of the listener's part and of the role's; when it ends, it can.
func TestBodiesShareMemory(t *testing.T) {
	for name, c := range map[string]struct {
		own, shared int64
		announced   bool
	}{
		"the listener's, announced":     {1000, 1 << 20, true},
		"the listener's, not announced": {1000, 1 << 20, false},
		"the role's, announced":         {1 << 20, 1000, true},
		"the role's, not announced":     {1 << 20, 1000, false},
	} {
		t.Run(name, func(t *testing.T) {
			var got refusals
			g := guarded{onRefusal: got.record, calls: newCalls(10), held: newBudget(c.own, semaphore.NewWeighted(c.shared)), log: discardLog()}
			method := methodOf(t, cardeav1connect.DecideName, "EndRun")
			first := newHolder()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				g.call(httptest.NewRecorder(), endRun(t, 600, c.announced), first, method, 1<<20)
			}()
			<-first.read
			second := newHolder()
			close(second.release)
			w := httptest.NewRecorder()
			g.call(w, endRun(t, 600, c.announced), second, method, 1<<20)
			if c.announced { // the handler was not asked
				if w.Code != http.StatusTooManyRequests {
					t.Errorf("answered %d", w.Code)
				}
			} else if err := <-second.got; connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("the handler read: %v", err)
			}
			want := Refusal{Procedure: cardeav1connect.DecideEndRunProcedure, Peer: callerID(t, Engine).String(), Proven: true, Reason: Exhausted}
			if list := got.take(); len(list) != 1 || list[0] != want {
				t.Errorf("recorded %+v", list)
			}
			if !g.held.room(400) || g.held.room(401) {
				t.Error("the call that was refused holds something, or the first does not")
			}
			close(first.release)
			<-ended
			if !g.held.room(1000) {
				t.Error("a call that has ended holds something")
			}
		})
	}
}

// TestAnnouncedIsNotHeld: a call that announces much and sends nothing takes nothing from the others.
func TestAnnouncedIsNotHeld(t *testing.T) {
	g := guarded{calls: newCalls(10), held: newBudget(1000, nil), log: discardLog()}
	body, sender := io.Pipe()
	r := endRun(t, 0, true)
	r.Body, r.ContentLength = body, 900
	entered := make(chan struct{})
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		_, _ = io.Copy(io.Discard, r.Body)
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		g.call(httptest.NewRecorder(), r, h, methodOf(t, cardeav1connect.DecideName, "EndRun"), 1<<20)
	}()
	<-entered
	if !g.held.room(1000) {
		t.Error("it holds what it has not sent")
	}
	sender.Close()
	<-ended
}

// TestStreamHoldsOneMessage: of a stream that lasts for days, not all that was ever said.
func TestStreamHoldsOneMessage(t *testing.T) {
	var sent bytes.Buffer
	send := func(size int) {
		var prefix [prefixSize]byte
		binary.BigEndian.PutUint32(prefix[1:], uint32(size))
		sent.Write(prefix[:])
		sent.Write(make([]byte, size))
	}
	held := newBudget(1000, nil)
	full := 0
	m := &messages{heldBody: &heldBody{ReadCloser: io.NopCloser(&sent), budget: held, full: func() { full++ }}, limit: 5000}
	receive := func(size int) error {
		_, err := io.ReadFull(m, make([]byte, prefixSize+size))
		return err
	}
	for _, size := range []int{600, 0, 700} {
		send(size)
		if err := receive(size); err != nil {
			t.Fatalf("a message of %d bytes: %v", size, err)
		}
	}
	if !held.room(300) || held.room(301) {
		t.Error("the last message is not held, or another is too")
	}
	send(1001)
	if err := receive(1001); connect.CodeOf(err) != connect.CodeResourceExhausted || full != 1 || !held.room(1000) {
		t.Errorf("a message beyond the budget: %v, %d recorded", err, full)
	}
}

// deadlines is a response whose connection has deadlines, as a stream's must.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetReadDeadline(time.Time) error  { return nil }
func (deadlines) SetWriteDeadline(time.Time) error { return nil }

// TestStreamIsBoundedByMessage: its mount's bound is for each message, not for all of them.
func TestStreamIsBoundedByMessage(t *testing.T) {
	g := guarded{calls: newCalls(10), held: newBudget(1000, nil), log: discardLog()}
	read := func(sent ...byte) (n int, err error) {
		r := endRun(t, 0, false)
		r.Body = io.NopCloser(bytes.NewReader(sent))
		h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var text []byte
			text, err = io.ReadAll(r.Body)
			n = len(text)
		})
		g.call(deadlines{httptest.NewRecorder()}, r, h, methodOf(t, cardeav1connect.WorkName, "Session"), 2)
		return n, err
	}
	if n, err := read(0, 0, 0, 0, 2, 'a', 'b', 0, 0, 0, 0, 2, 'c', 'd'); n != 14 || err != nil {
		t.Errorf("two messages: %d bytes, %v", n, err)
	}
	if _, err := read(0, 0, 0, 0, 3, 'a', 'b', 'c'); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a message beyond the bound: %v", err)
	}
}

func TestMessageIsLimited(t *testing.T) {
	m := &messages{heldBody: &heldBody{ReadCloser: io.NopCloser(bytes.NewReader([]byte{0, 0, 0, 0, 11})), budget: newBudget(1000, nil)}, limit: 10}
	if _, err := io.ReadAll(m); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a message beyond the limit: %v", err)
	}
}

// TestEndedBodyGivesNothing: a goroutine that a handler left behind cannot take memory that nobody would give back.
func TestEndedBodyGivesNothing(t *testing.T) {
	held := newBudget(1000, nil)
	b := &heldBody{ReadCloser: io.NopCloser(bytes.NewReader(make([]byte, 500))), budget: held}
	b.end()
	if n, err := b.Read(make([]byte, 100)); n != 0 || err == nil || errors.Is(err, io.EOF) || !held.room(1000) {
		t.Errorf("read %d, %v", n, err)
	}
}

// TestJoinersAreSlowed: whoever has no SVID cannot make the authority look up tokens as fast as it can.
func TestJoinersAreSlowed(t *testing.T) {
	var got refusals
	reached := 0
	g := guarded{onRefusal: got.record, joiners: rate.NewLimiter(0, 2)}
	h := g.authenticate(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	for range 5 {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, cardeav1connect.EnrollJoinProcedure, http.NoBody)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	if list := got.take(); reached != 2 || len(list) != 3 || list[0] != (Refusal{Procedure: cardeav1connect.EnrollJoinProcedure, Reason: Exhausted}) {
		t.Errorf("%d were let through, recorded %+v", reached, list)
	}
}
