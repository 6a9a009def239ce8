package runner

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/action"
	"cardea/internal/egress"
	"cardea/internal/fault"
	"cardea/internal/permit"
	"cardea/internal/secret"
)

// attempt verifies, redeems and acts. owes says that the authority was asked to redeem: whatever it answered, the permit is
// returned, which ends what was issued and voids a permit whose redeem is still on its way.
func (r *Runner) attempt(ctx context.Context, t *cardeav1.WorkTask) (out Outcome, owes bool) {
	p, a, err := r.verify(t)
	if err != nil {
		r.cfg.Log.Warn("refused a task", "permit", t.PermitId, "error", err)
		r.metrics.refused.Inc()
		return refusal(authorization, err.Error()), false
	}
	exec := r.cfg.Executors[a.Kind]
	if exec == nil {
		return refusal(configuration, fmt.Sprintf("this runner has no executor for actions of kind %q", a.Kind)), false
	}
	deadline := time.Unix(p.Context.Deadline, 0)
	if t.Deadline.IsValid() {
		deadline = earliest(deadline, t.Deadline.AsTime()) // the engine may shorten it, never prolong it
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	redeemed, err := r.redeem(ctx, t)
	if err != nil {
		return redeemFailed(ctx, err), true
	}
	fault.Point("runner.redeemed")
	grants := take(redeemed.Grants)
	defer func() {
		for _, g := range grants {
			g.Credential.Wipe()
		}
	}()
	if err := matches(p, grants); err != nil {
		return refusal(authorization, err.Error()), true
	}
	if redeemed.Deadline.IsValid() {
		deadline = earliest(deadline, redeemed.Deadline.AsTime())
	}
	r.tell(started(p.ID))
	if ctx.Err() != nil {
		return ended(ctx), true
	}
	return r.execute(ctx, exec, Attempt{Permit: p, Action: a, Grants: grants, Deadline: deadline}), true
}

// verify is what keeps an engine that has been taken from using this runner for anything but what the authority has permitted: to
// this runner, for these very bytes. Nothing of the task is believed that the permit does not say.
func (r *Runner) verify(t *cardeav1.WorkTask) (permit.Permit, action.Action, error) {
	self := r.cfg.Self()
	p, err := permit.Verify(t.Permit, self.PermitKeys, permit.Expect{TrustDomain: self.TrustDomain, Runner: self.ID, Key: self.Key, Now: r.cfg.Now()})
	if err != nil {
		return permit.Permit{}, action.Action{}, err
	}
	if digest := action.Digest(t.Action); digest != p.Context.Action {
		return permit.Permit{}, action.Action{}, fmt.Errorf("permit %s is for action %s, not %s", p.ID, p.Context.Action, digest)
	}
	a, err := action.Parse(t.Action)
	if err != nil {
		return permit.Permit{}, action.Action{}, fmt.Errorf("permit %s: %w", p.ID, err)
	}
	if t.PermitId != p.ID || t.Task.GetRunId() != p.Run || t.Task.GetTask() != p.Context.Task || t.Epoch != p.Context.Epoch {
		return permit.Permit{}, action.Action{}, fmt.Errorf("permit %s is not of the attempt that it came with", p.ID)
	}
	return p, a, nil
}

// redeem asks once. It is never tried again: the first call may have succeeded without our hearing of it, and the authority gives a
// permit's credentials a single time (design §3.6).
func (r *Runner) redeem(ctx context.Context, t *cardeav1.WorkTask) (*cardeav1.RedeemResponse, error) {
	begun := time.Now()
	resp, err := r.cfg.Lease.Redeem(ctx, &cardeav1.RedeemRequest{Permit: t.Permit, ActionDigest: action.Digest(t.Action)})
	r.metrics.redeem.Observe(time.Since(begun).Seconds())
	if err != nil {
		r.cfg.Log.Warn("redeem failed", "permit", t.PermitId, "error", err)
	}
	return resp, err
}

// ambiguous says that the authority may have redeemed although we were told of a failure: unless it gave an answer that means no.
func ambiguous(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
		connect.CodeFailedPrecondition, connect.CodeUnauthenticated, connect.CodeUnimplemented:
		return false
	}
	return true
}

func redeemFailed(ctx context.Context, err error) Outcome {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	var said *connect.Error
	if !ambiguous(err) && errors.As(err, &said) {
		return refusal(authorization, "the authority did not redeem the permit: "+said.Message())
	}
	return refusal(unavailable, "the authority's answer to the redeem is not known; nothing was done")
}

// take moves the credentials out of the message, which is overwritten.
func take(grants []*cardeav1.Grant) []egress.Grant {
	taken := make([]egress.Grant, len(grants))
	for i, g := range grants {
		taken[i] = egress.Grant{
			Connection: g.Connection, Presentation: g.Presentation, Credential: secret.Take(g.Credential), Hosts: g.Hosts,
			Address: g.Address, Roots: g.Roots, Plaintext: g.Plaintext,
		}
		if g.ExpiresAt.IsValid() {
			taken[i].Expires = g.ExpiresAt.AsTime()
		}
	}
	return taken
}

// matches refuses grants for other connections than the permit names, and a permit's connection without its grant: the request would
// go out without the credential that policy was asked about.
func matches(p permit.Permit, grants []egress.Grant) error {
	var want, got []string
	for _, c := range p.Context.Connections {
		want = append(want, c.Name)
	}
	for _, g := range grants {
		got = append(got, g.Connection)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return fmt.Errorf("permit %s names connections %q, but %q were granted", p.ID, want, got)
	}
	return nil
}

// execute turns a panic into a result: one attempt must not take the others with it. What had left by then is not known.
func (r *Runner) execute(ctx context.Context, exec Executor, a Attempt) (out Outcome) {
	begun := time.Now()
	ctx, cancel := context.WithDeadline(ctx, a.Deadline)
	defer cancel()
	defer func() {
		r.metrics.act.Observe(time.Since(begun).Seconds())
		if p := recover(); p != nil {
			// The value may quote what the executor held, a credential too: only where it happened is logged.
			r.cfg.Log.Error("executor panicked", "permit", a.Permit.ID, "kind", a.Action.Kind, "stack", string(debug.Stack()))
			out = Outcome{Delivery: cardeav1.Delivery_DELIVERY_SENT, Err: taskError(internal, "the executor failed")}
		}
	}()
	out = exec.Execute(ctx, a)
	if out.Err == nil && out.HTTP == nil || out.Delivery == cardeav1.Delivery_DELIVERY_UNSPECIFIED {
		return Outcome{Delivery: cardeav1.Delivery_DELIVERY_SENT, Err: taskError(internal, "the executor gave no outcome"), Actions: out.Actions}
	}
	return out
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
