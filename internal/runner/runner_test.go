package runner

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/egress"
	"cardea/internal/permit"
	"cardea/internal/secret"
)

// TestAttemptEndToEnd goes once through push, redeem, act, result and return, with a real target that reflects the credential.
func TestAttemptEndToEnd(t *testing.T) {
	var seen atomic.Pointer[http.Request]
	target := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen.Store(r)
		w.Header()["X-Echo"] = []string{r.Header.Get("Authorization")}
		w.Header()["X-Latin"] = []string{"caf\xe9"}
		w.WriteHeader(201)
		_, _ = fmt.Fprintf(w, "%s %s", body, r.Header.Get("Authorization"))
	}))
	defer target.Close()
	out := egress.New(egress.Options{})
	defer out.Close()
	r := newRig(t, HTTP{Egress: out}, func(_ *Config, a *authority) {
		a.redeem = func(context.Context, *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
			return &cardeav1.RedeemResponse{Deadline: timestamppb.New(time.Now().Add(time.Minute)), Grants: []*cardeav1.Grant{{
				Connection: "bank", Presentation: "bearer", Credential: []byte(token), Hosts: []string{"https://example.com"}, // the name in httptest's certificate
				Address: target.Listener.Addr().String(), Roots: rootsOf(target),
			}}}, nil
		}
	})
	l := r.line()
	r.wantCredit(l, 2)
	task := r.task("prm_1", nil)
	push(l, task)
	if m := r.next(l); m.GetStarted().GetPermitId() != "prm_1" {
		t.Fatalf("%v instead of started", m)
	}
	res := r.wantResult(l)
	if res.Delivery != cardeav1.Delivery_DELIVERY_ANSWERED || res.GetHttp().GetStatus() != 201 || res.Epoch != 7 || res.Task.RunId != "run_1" {
		t.Fatalf("result %v", res)
	}
	if string(res.GetHttp().Body) != `{"amount":1} Bearer [redacted]` {
		t.Fatalf("body %q", res.GetHttp().Body)
	}
	got := seen.Load()
	if got.Header.Get("Authorization") != "Bearer "+token || got.Header.Get("Idempotency-Key") != "idem-1" || got.Method != "POST" || !got.Close {
		t.Fatalf("the target saw %v %v", got.Method, got.Header)
	}
	take1(l, "prm_1")
	r.wantCredit(l, 1)
	r.authority.mu.Lock()
	defer r.authority.mu.Unlock()
	if len(r.authority.redeems) != 1 || r.authority.redeems[0].ActionDigest == "" || r.authority.redeems[0].Permit != task.Permit {
		t.Fatalf("redeems %v", r.authority.redeems)
	}
	back := r.authority.returns[0]
	if back.PermitId != "prm_1" || back.Delivery != cardeav1.Delivery_DELIVERY_ANSWERED || len(back.Actions) != 1 || back.Actions[0].Status != 201 || back.Actions[0].Address != target.Listener.Addr().String() {
		t.Fatalf("return %v", back)
	}
	whole := r.log.String() + res.String() + back.String()
	wire, _ := proto.Marshal(res)
	if _, places, err := secret.NewRedactor(secret.Take([]byte(token))).Redact(append(wire, whole...)); err != nil || places != 0 {
		t.Fatalf("the credential is in a result, a return or the log (%v)", err)
	}
}

func rootsOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// TestRefusesWhatWasNotPermitted proves invariant 18 on this side and the first half of 6: nothing is redeemed, nothing acts.
func TestRefusesWhatWasNotPermitted(t *testing.T) {
	_, foreign, _ := ed25519.GenerateKey(nil)
	type change = func(*permit.Permit, *cardeav1.WorkTask)
	cases := map[string]change{
		"another runner":    func(p *permit.Permit, _ *cardeav1.WorkTask) { p.Confirmation.Runner += "b" },
		"another key":       func(p *permit.Permit, _ *cardeav1.WorkTask) { p.Confirmation.Key = "other" },
		"another hub":       func(p *permit.Permit, _ *cardeav1.WorkTask) { p.Audience = permit.Audience("else") },
		"expired":           func(p *permit.Permit, _ *cardeav1.WorkTask) { p.Expires = time.Now().Unix() - 1 },
		"foreign signature": func(p *permit.Permit, w *cardeav1.WorkTask) { w.Permit, _ = permit.Sign(*p, foreign) },
		"no permit":         func(_ *permit.Permit, w *cardeav1.WorkTask) { w.Permit = "x" },
		"another action":    func(p *permit.Permit, _ *cardeav1.WorkTask) { p.Context.Action = "sha256:00" },
		"changed action": func(_ *permit.Permit, w *cardeav1.WorkTask) {
			w.Action = bytes.Replace(w.Action, []byte("1}"), []byte("9}"), 1)
		},
		"action not canonical": func(p *permit.Permit, w *cardeav1.WorkTask) { w.Action = append(w.Action, ' ') },
		"another permit's id":  func(_ *permit.Permit, w *cardeav1.WorkTask) { w.PermitId += "x" },
		"another run":          func(_ *permit.Permit, w *cardeav1.WorkTask) { w.Task.RunId = "run_2" },
		"another task":         func(_ *permit.Permit, w *cardeav1.WorkTask) { w.Task.Task = "/do/1/y" },
		"no task":              func(_ *permit.Permit, w *cardeav1.WorkTask) { w.Task = nil },
		"another epoch":        func(_ *permit.Permit, w *cardeav1.WorkTask) { w.Epoch = 8 },
	}
	var acted atomic.Int32
	r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome { acted.Add(1); return answered(ctx, a) }), func(c *Config, _ *authority) { c.Slots = 100 })
	l := r.line()
	r.wantCredit(l, 100)
	i := 0
	for name, change := range cases {
		i++
		task := r.task(fmt.Sprint("prm_", i), change)
		push(l, task)
		res := r.wantResult(l)
		if res.PermitId != task.PermitId || res.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT || res.GetError().GetStatus() != 403 {
			t.Errorf("%s: %v", name, res)
		}
	}
	if redeems, returns := r.authority.counts(); redeems != 0 || returns != 0 || acted.Load() != 0 {
		t.Fatalf("%d redeems, %d returns, %d acts", redeems, returns, acted.Load())
	}
}

// TestRedeemFailuresNeverAct: once, never again, and the permit goes back whatever the authority said.
func TestRedeemFailuresNeverAct(t *testing.T) {
	for code, status := range map[connect.Code]int32{
		connect.CodeUnavailable: 503, connect.CodeInternal: 503, connect.CodeUnknown: 503, connect.CodeDeadlineExceeded: 503, connect.CodeAborted: 503,
		connect.CodePermissionDenied: 403, connect.CodeFailedPrecondition: 403, connect.CodeNotFound: 403,
	} {
		t.Run(code.String(), func(t *testing.T) {
			var acted atomic.Int32
			r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome { acted.Add(1); return answered(ctx, a) }), func(_ *Config, a *authority) {
				a.redeem = func(context.Context, *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
					return nil, connect.NewError(code, errors.New("no"))
				}
			})
			l := r.line()
			r.wantCredit(l, 2)
			push(l, r.task("prm_1", nil))
			res := r.wantResult(l)
			if res.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT || res.GetError().GetStatus() != status {
				t.Fatalf("result %v", res)
			}
			take1(l, "prm_1")
			r.wantCredit(l, 1)
			if redeems, returns := r.authority.counts(); redeems != 1 || returns != 1 || acted.Load() != 0 {
				t.Fatalf("%d redeems, %d returns, %d acts", redeems, returns, acted.Load())
			}
		})
	}
}

func TestGrantsMustBeThePermits(t *testing.T) {
	for name, grants := range map[string][]*cardeav1.Grant{
		"none": nil, "another": {{Connection: "hr", Credential: []byte(token)}},
		"one more": {{Connection: "bank", Credential: []byte(token)}, {Connection: "hr", Credential: []byte(token)}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, executor(func(context.Context, Attempt) Outcome { t.Error("acted"); return Outcome{} }), func(_ *Config, a *authority) {
				a.redeem = func(context.Context, *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
					return &cardeav1.RedeemResponse{Grants: grants}, nil
				}
			})
			l := r.line()
			push(l, r.task("prm_1", nil))
			r.wantCredit(l, 2)
			if res := r.wantResult(l); res.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT || res.GetError().GetStatus() != 403 {
				t.Fatalf("result %v", res)
			}
			r.eventually("return", func() bool { _, n := r.authority.counts(); return n == 1 })
		})
	}
}

// TestResultsAreKeptUntilTaken cuts the line before every acknowledgement.
func TestResultsAreKeptUntilTaken(t *testing.T) {
	r := newRig(t, executor(answered), nil)
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	first := r.wantResult(l)
	for range 3 {
		l.stop()
		l = r.line()
		r.wantNamed(l, "prm_1")
		r.wantCredit(l, 1) // the untaken result holds its slot
		if again := r.wantResult(l); !proto.Equal(again, first) {
			t.Fatalf("%v, first %v", again, first)
		}
	}
	take1(l, "prm_1")
	r.wantCredit(l, 1)
	l.stop()
	l = r.line()
	r.wantCredit(l, 2)
	if redeems, returns := r.authority.counts(); redeems != 1 || returns != 1 {
		t.Fatalf("%d redeems, %d returns", redeems, returns)
	}
}

// TestAttemptsOutliveTheLine: a broken session does not stop what is under way.
func TestAttemptsOutliveTheLine(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome {
		close(begun)
		<-release
		if ctx.Err() != nil {
			t.Error("cancelled by the broken line")
		}
		return answered(ctx, a)
	}), nil)
	l := r.line()
	push(l, r.task("prm_1", nil))
	<-begun
	l.stop()
	l = r.line()
	r.wantNamed(l, "prm_1")
	r.wantCredit(l, 1)
	close(release)
	if res := r.wantResult(l); res.Delivery != cardeav1.Delivery_DELIVERY_ANSWERED {
		t.Fatalf("result %v", res)
	}
}

func TestPushedTwiceActsOnce(t *testing.T) {
	release := make(chan struct{})
	var acted atomic.Int32
	r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome { acted.Add(1); <-release; return answered(ctx, a) }), nil)
	l := r.line()
	task := r.task("prm_1", nil)
	push(l, task)
	push(l, task)
	r.wantCredit(l, 2)
	r.eventually("act", func() bool { return acted.Load() == 1 })
	close(release)
	r.wantResult(l)
	push(l, task)
	r.wantResult(l) // the result again, not the act
	if redeems, _ := r.authority.counts(); redeems != 1 || acted.Load() != 1 {
		t.Fatalf("%d redeems, %d acts", redeems, acted.Load())
	}
}

func TestBeyondCreditEndsTheSession(t *testing.T) {
	release := make(chan struct{})
	var acted atomic.Int32
	r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome { acted.Add(1); <-release; return answered(ctx, a) }), nil)
	l := r.line()
	for i := range 3 {
		push(l, r.task(fmt.Sprint("prm_", i), nil))
	}
	l2 := r.line()
	r.wantNamed(l2, "prm_0", "prm_1")
	r.wantCredit(l2, 0)
	if redeems, _ := r.authority.counts(); redeems > 2 {
		t.Fatalf("%d redeems with two slots", redeems)
	}
	close(release)
	r.wantResult(l2)
	r.wantResult(l2)
}

// TestReturnsUntilConfirmed is the runner's half of invariant 4.
func TestReturnsUntilConfirmed(t *testing.T) {
	var allow atomic.Bool
	r := newRig(t, executor(answered), func(_ *Config, a *authority) {
		a.giveBack = func(int) error {
			if allow.Load() {
				return nil
			}
			return connect.NewError(connect.CodeUnavailable, errors.New("down"))
		}
	})
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	r.wantResult(l)
	take1(l, "prm_1")
	r.eventually("three tries", func() bool { _, n := r.authority.counts(); return n >= 3 })
	if r.runner.occupied() != 1 {
		t.Fatal("the slot is free although the lease has not been returned")
	}
	allow.Store(true)
	r.wantCredit(l, 1)
}

// TestNotSentIsReturnedBeforeItIsTold: the engine asks again at once, and the authority must know by then that nothing was done.
func TestNotSentIsReturnedBeforeItIsTold(t *testing.T) {
	var confirmed atomic.Bool
	r := newRig(t, executor(func(context.Context, Attempt) Outcome { return refusal(communication, "unreachable") }), func(_ *Config, a *authority) {
		a.giveBack = func(int) error {
			time.Sleep(100 * time.Millisecond)
			confirmed.Store(true)
			return nil
		}
	})
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	if r.wantResult(l); !confirmed.Load() {
		t.Fatal("the result came before the authority had the return")
	}
	take1(l, "prm_1")
	r.wantCredit(l, 1)
}

// TestAnswersDoNotWaitForTheReturn: off the path of the step.
func TestAnswersDoNotWaitForTheReturn(t *testing.T) {
	let := make(chan struct{})
	r := newRig(t, executor(answered), func(_ *Config, a *authority) { a.giveBack = func(int) error { <-let; return nil } })
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	r.wantResult(l)
	close(let)
}

func TestReturnStopsWhenThePermitIsUnknown(t *testing.T) {
	r := newRig(t, executor(answered), func(_ *Config, a *authority) {
		a.giveBack = func(int) error { return connect.NewError(connect.CodeNotFound, errors.New("unknown")) }
	})
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	r.wantResult(l)
	take1(l, "prm_1")
	r.wantCredit(l, 1)
	if _, n := r.authority.counts(); n != 1 {
		t.Fatalf("%d returns", n)
	}
}

// lateCancel gives the credential and takes the attempt back before the runner can act.
type lateCancel struct {
	cardeav1connect.LeaseClient
	cancel func()
}

func (l *lateCancel) Redeem(ctx context.Context, r *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
	resp, err := l.LeaseClient.Redeem(ctx, r)
	l.cancel()
	return resp, err
}

func TestCancelledAfterRedeemingDoesNotAct(t *testing.T) {
	var late *lateCancel
	r := newRig(t, executor(func(context.Context, Attempt) Outcome { t.Error("acted"); return Outcome{} }), func(c *Config, _ *authority) {
		late = &lateCancel{LeaseClient: c.Lease}
		c.Lease = late
	})
	late.cancel = func() { r.runner.cancelJob("prm_1", errVoided) }
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	if res := r.wantResult(l); res.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT || res.GetError().GetStatus() != 499 {
		t.Fatalf("result %v", res)
	}
	r.eventually("return", func() bool { _, n := r.authority.counts(); return n == 1 })
}

func TestCredentialsAreWiped(t *testing.T) {
	var kept secret.Value
	r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome {
		kept = a.Grants[0].Credential
		if kept.Empty() {
			t.Error("no credential while acting")
		}
		return answered(ctx, a)
	}), nil)
	l := r.line()
	push(l, r.task("prm_1", nil))
	r.wantCredit(l, 2)
	r.wantResult(l)
	if !kept.Empty() {
		t.Fatal("the credential outlived the attempt")
	}
}

func TestManyAttempts(t *testing.T) {
	const n, slots = 500, 16
	var now, most, total atomic.Int32
	r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome {
		if c := now.Add(1); c > most.Load() {
			most.Store(c)
		}
		defer now.Add(-1)
		total.Add(1)
		return answered(ctx, a)
	}), func(c *Config, _ *authority) { c.Slots = slots })
	l := r.line()
	var pushed, results int
	credit := 0
	var once sync.Map
	for results < n {
		m := r.next(l)
		switch {
		case m.GetCredit() != nil:
			credit += int(m.GetCredit().Slots)
		case m.GetResult() != nil:
			if _, twice := once.LoadOrStore(m.GetResult().PermitId, true); twice {
				t.Fatal("a result came twice")
			}
			results++
			take1(l, m.GetResult().PermitId)
		}
		for ; credit > 0 && pushed < n; credit-- {
			push(l, r.task(fmt.Sprint("prm_", pushed), nil))
			pushed++
		}
	}
	r.eventually("all slots free", func() bool { return r.runner.occupied() == 0 })
	if most.Load() > slots || total.Load() != n {
		t.Fatalf("%d at once with %d slots, %d in all", most.Load(), slots, total.Load())
	}
	if _, returns := r.authority.counts(); returns != n {
		t.Fatalf("%d returns", returns)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Fatal("an empty configuration was accepted")
	}
}
