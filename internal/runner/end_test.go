package runner

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/action"
	"cardea/internal/egress"
	"cardea/internal/permit"
	"cardea/internal/secret"
)

// TestCancellation stops an attempt from each side. The executor says that something had left.
func TestCancellation(t *testing.T) {
	for name, stop := range map[string]func(*rig, *line){
		"engine": func(_ *rig, l *line) {
			l.out <- &cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Cancel{Cancel: &cardeav1.CancelTask{PermitId: "prm_1"}}}
		},
		"authority": func(r *rig, _ *line) {
			r.authority.voids <- &cardeav1.PermitVoided{PermitId: "prm_1", Reason: "quarantined"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			begun := make(chan struct{})
			r := newRig(t, executor(func(ctx context.Context, _ Attempt) Outcome {
				close(begun)
				<-ctx.Done()
				return Outcome{Delivery: cardeav1.Delivery_DELIVERY_SENT, Err: taskError(cancelled, context.Cause(ctx).Error())}
			}), nil)
			l := r.line()
			push(l, r.task("prm_1", nil))
			r.wantCredit(l, 2)
			<-begun
			stop(r, l)
			if res := r.wantResult(l); res.Delivery != cardeav1.Delivery_DELIVERY_SENT || res.GetError().GetStatus() != 499 {
				t.Fatalf("result %v", res)
			}
			r.eventually("return", func() bool { _, n := r.authority.counts(); return n == 1 })
		})
	}
}

// TestCancelledWhileRedeemingDoesNotAct: the credential may be here, the request does not go out.
func TestCancelledWhileRedeemingDoesNotAct(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	r := newRig(t, executor(func(context.Context, Attempt) Outcome { t.Error("acted"); return Outcome{} }), func(_ *Config, a *authority) {
		redeem := a.redeem
		a.redeem = func(ctx context.Context, req *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
			close(asked)
			<-answer
			return redeem(ctx, req)
		}
	})
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	<-asked
	l.out <- &cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Cancel{Cancel: &cardeav1.CancelTask{PermitId: "prm_1"}}}
	if res := r.wantResult(l); res.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT {
		t.Fatalf("result %v", res)
	}
	close(answer)
	r.eventually("return", func() bool { _, n := r.authority.counts(); return n == 1 })
}

// TestDeadline: the earliest of task, permit and redeem bounds the attempt.
func TestDeadline(t *testing.T) {
	soon := func() time.Time { return time.Now().Add(2 * time.Second) }
	for name, change := range map[string]struct {
		task   func(*permit.Permit, *cardeav1.WorkTask)
		redeem func(*cardeav1.RedeemResponse)
	}{
		"task":   {task: func(_ *permit.Permit, w *cardeav1.WorkTask) { w.Deadline = timestamppb.New(soon()) }},
		"permit": {task: func(p *permit.Permit, _ *cardeav1.WorkTask) { p.Context.Deadline = soon().Unix() }},
		"redeem": {redeem: func(r *cardeav1.RedeemResponse) { r.Deadline = timestamppb.New(soon()) }},
	} {
		t.Run(name, func(t *testing.T) {
			deadlines := make(chan time.Duration, 1)
			r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome {
				by, ok := ctx.Deadline()
				if !ok || by.After(a.Deadline) {
					t.Error("the context outlives the deadline")
				}
				deadlines <- time.Until(a.Deadline)
				return answered(ctx, a)
			}), func(_ *Config, a *authority) {
				redeem := a.redeem
				a.redeem = func(ctx context.Context, req *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
					resp, err := redeem(ctx, req)
					if change.redeem != nil {
						change.redeem(resp)
					}
					return resp, err
				}
			})
			l := r.line()
			push(l, r.task("prm_1", change.task))
			r.wantCredit(l, 2)
			r.wantResult(l)
			if left := <-deadlines; left > 2*time.Second {
				t.Fatalf("%s left", left)
			}
		})
	}
	r := newRig(t, executor(answered), nil)
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", func(p *permit.Permit, _ *cardeav1.WorkTask) { p.Context.Deadline = time.Now().Unix() - 1 }))
	if res := r.wantResult(l); res.GetError().GetStatus() != 408 || res.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT {
		t.Fatalf("past deadline: %v", res)
	}
}

// TestDrainFinishesAndFlushes: no new credit, what runs ends, results and returns go out before Run does.
func TestDrainFinishesAndFlushes(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, executor(func(ctx context.Context, a Attempt) Outcome { close(begun); <-release; return answered(ctx, a) }), nil)
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	<-begun
	r.stop()
	r.eventually("draining", func() bool { r.runner.mu.Lock(); defer r.runner.mu.Unlock(); return r.runner.draining })
	push(l, r.task("prm_2", nil))
	late := r.wantResult(l)
	if late.PermitId != "prm_2" || late.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT || late.GetError().GetStatus() != 503 {
		t.Fatalf("a task during the drain: %v", late)
	}
	close(release)
	if res := r.wantResult(l); res.Delivery != cardeav1.Delivery_DELIVERY_ANSWERED {
		t.Fatalf("result %v", res)
	}
	select {
	case err := <-r.done:
		t.Fatalf("Run ended before its results were taken: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	take1(l, "prm_1")
	take1(l, "prm_2")
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
	for m := range l.in {
		if m.GetCredit() != nil {
			t.Fatalf("credit after the drain: %v", m)
		}
	}
	if redeems, returns := r.authority.counts(); redeems != 1 || returns != 1 {
		t.Fatalf("%d redeems, %d returns", redeems, returns)
	}
}

func TestDrainCancelsWhatTakesTooLong(t *testing.T) {
	begun := make(chan struct{})
	r := newRig(t, executor(func(ctx context.Context, _ Attempt) Outcome {
		close(begun)
		<-ctx.Done()
		return Outcome{Delivery: cardeav1.Delivery_DELIVERY_SENT, Err: taskError(cancelled, context.Cause(ctx).Error())}
	}), func(c *Config, _ *authority) { c.Drain, c.Flush = 20*time.Millisecond, 100*time.Millisecond })
	l := r.line()
	r.wantCredit(l, 2)
	push(l, r.task("prm_1", nil))
	<-begun
	r.stop()
	if res := r.wantResult(l); res.Delivery != cardeav1.Delivery_DELIVERY_SENT {
		t.Fatalf("result %v", res)
	}
	if err := <-r.done; err == nil { // the result is never taken
		t.Fatal("Run said that everything was flushed")
	}
}

func TestPanicsAreResults(t *testing.T) {
	r := newRig(t, executor(func(context.Context, Attempt) Outcome { panic("quotes " + token) }), nil)
	l := r.line()
	push(l, r.task("prm_1", nil))
	r.wantCredit(l, 2)
	res := r.wantResult(l)
	if res.Delivery != cardeav1.Delivery_DELIVERY_SENT || res.GetError().GetStatus() != 500 {
		t.Fatalf("result %v", res)
	}
	if strings.Contains(r.log.String()+res.String(), token) {
		t.Fatal("the panic's value was logged")
	}
	take1(l, "prm_1")
	r.wantCredit(l, 1)
}

// TestHTTPErrors are the standard's families, by how the request failed, through a real egress.
func TestHTTPErrors(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	out := egress.New(egress.Options{})
	defer out.Close()
	for name, c := range map[string]struct {
		change func(*Attempt)
		status int32
	}{
		"refused":     {func(a *Attempt) { a.Grants[0].Hosts = nil }, 400},
		"unreachable": {func(*Attempt) {}, 502},
		"late":        {func(a *Attempt) { a.Deadline = time.Now().Add(-time.Second) }, 408},
	} {
		t.Run(name, func(t *testing.T) {
			a := Attempt{Deadline: time.Now().Add(20 * time.Second), Grants: []egress.Grant{{
				Connection: "bank", Presentation: "bearer", Credential: secret.Take([]byte(token)), Hosts: []string{"https://example.com"}, Address: closed.Listener.Addr().String(),
			}}}
			a.Action.HTTP = &action.HTTP{Method: "GET", URL: "https://example.com/"}
			c.change(&a)
			got := HTTP{Egress: out}.Execute(t.Context(), a)
			if got.Err.GetStatus() != c.status || got.Delivery != cardeav1.Delivery_DELIVERY_NOT_SENT || len(got.Actions) != 1 || got.Actions[0].Error == "" {
				t.Fatalf("%+v", got)
			}
		})
	}
}
