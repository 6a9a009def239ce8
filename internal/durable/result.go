package durable

import (
	"context"
	"errors"
	"fmt"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/dispatch"
	"cardea/internal/engine"
	"cardea/internal/fault"
	"cardea/internal/flow/problem"
)

// MaxResponseBody bounds the body of a response that a run takes.
const MaxResponseBody = 8 << 20

// Result takes what a runner says of an attempt, and answers once it is durable. A result that is not of the attempt's current
// epoch, or not from the runner and key that hold it, is stale: it changes nothing and is not journalled (invariant 9). An
// error means that the runner must keep the result and send it again.
func (d *Driver) Result(ctx context.Context, from dispatch.Runner, res *cardeav1.TaskResult) (stale bool, err error) {
	r, err := d.acquire(ctx, res.GetTask().GetRunId())
	switch {
	case errors.Is(err, ErrNoRun), errors.Is(err, ErrReplay):
		return d.staleResult(from, res), nil
	case err != nil:
		return false, err
	}
	defer d.release(r)
	a := r.attempts[taskID(res.GetTask()).Key()]
	if a == nil || !a.heldBy(from, res) {
		return d.staleResult(from, res), nil
	}
	fault.Point("engine.result.received")
	was := a.phase
	a.phase = phaseOver
	grant := *a.grant
	if was == phaseOpen {
		d.pool.Withdraw(a) // its next attempt waited already, and is not needed
	}
	err = d.apply(r, engine.Event{At: d.now(), Result: resultOf(a, grant, res)})
	if errors.Is(err, engine.ErrRefused) {
		if a.phase = was; was == phaseOpen {
			d.enqueue(a, 0)
		}
		return d.staleResult(from, res), nil
	}
	if err != nil {
		return false, err
	}
	fault.Point("engine.result.committed")
	d.pool.Settle(grant.Runner, grant.Permit)
	if f, live := r.state.Frame(a.cmd.Task); live && f.Phase == engine.FrameDoubt {
		a.phase = phaseDoubt
		return false, nil
	}
	r.settled(a)
	return false, nil
}

func (d *Driver) staleResult(from dispatch.Runner, res *cardeav1.TaskResult) bool {
	d.metrics.stale.Inc()
	d.log.InfoContext(d.ctx, "refused a result that is not the current one", "run", res.GetTask().GetRunId(), "task", res.GetTask().GetTask(),
		"epoch", res.GetEpoch(), "runner", from.ID)
	return true
}

// heldBy says whether a result is from whoever holds the attempt, of the epoch that it was given.
func (a *attempt) heldBy(from dispatch.Runner, res *cardeav1.TaskResult) bool {
	g := a.grant
	return g != nil && g.Runner == from.ID && g.Key == from.Key && g.Epoch == res.GetEpoch() && g.Permit == res.GetPermitId()
}

// resultOf makes an event of what a runner said. What it left out is read so that nothing is attempted again that may have been done.
func resultOf(a *attempt, g engine.Grant, res *cardeav1.TaskResult) *engine.Result {
	out := &engine.Result{Task: a.cmd.Task, Attempt: a.cmd.Number, Grant: g, Verdict: a.verdict, Delivery: engine.Sent}
	switch res.GetDelivery() {
	case cardeav1.Delivery_DELIVERY_NOT_SENT:
		out.Delivery = engine.NotSent
	case cardeav1.Delivery_DELIVERY_ANSWERED:
		out.Delivery = engine.Answered
	}
	switch o := res.GetOutcome().(type) {
	case *cardeav1.TaskResult_Http:
		out.Delivery = engine.Answered
		if err := fits(o.Http); err != nil {
			out.Problem = problem.New(problem.Communication, err.Error())
			break
		}
		out.HTTP = &engine.HTTPResponse{Status: int(o.Http.GetStatus()), Body: o.Http.GetBody()}
		for _, h := range o.Http.GetHeaders() {
			out.HTTP.Headers = append(out.HTTP.Headers, [2]string{h.GetName(), h.GetValue()})
		}
	case *cardeav1.TaskResult_Error:
		out.Problem = &problem.Problem{Type: o.Error.GetType(), Status: int(o.Error.GetStatus()), Title: o.Error.GetTitle(), Detail: o.Error.GetDetail()}
	default:
		out.Problem = problem.New(problem.Runtime, "the runner said nothing about the outcome")
	}
	return out
}

// fits bounds what a response may add to a run's journal.
func fits(h *cardeav1.HttpResponse) error {
	const maxFields, maxFieldBytes = 256, 256 << 10
	size := 0
	for _, f := range h.GetHeaders() {
		size += len(f.GetName()) + len(f.GetValue())
	}
	switch {
	case len(h.GetBody()) > MaxResponseBody:
		return fmt.Errorf("the response has %d bytes; at most %d are taken", len(h.GetBody()), MaxResponseBody)
	case len(h.GetHeaders()) > maxFields || size > maxFieldBytes:
		return fmt.Errorf("the response has %d header fields of %d bytes; at most %d and %d are taken", len(h.GetHeaders()), size, maxFields, maxFieldBytes)
	}
	return nil
}
