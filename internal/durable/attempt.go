package durable

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/dispatch"
	"cardea/internal/engine"
	"cardea/internal/fault"
)

type phase int

const (
	// phaseOpen: it waits for its time, for credit or for a verdict.
	phaseOpen phase = iota
	// phaseGiven: a runner has it.
	phaseGiven
	// phaseWaiting: people are asked.
	phaseWaiting
	// phaseDoubt: a person must decide, or the runner's late answer.
	phaseDoubt
	// phaseOver: nobody has it and nobody will be asked.
	phaseOver
)

// attempt is one outstanding attempt. Its tier never changes: rerouting makes another attempt of it.
type attempt struct {
	run    string
	task   string // the task's key
	tier   string
	cmd    engine.Attempt
	intent *cardeav1.Intent // but for the runner
	// gone is set when the attempt is no longer outstanding, so that nobody asks about it any more; probed, when its verdict is
	// known and only a runner is missing.
	gone, probed atomic.Bool

	// Guarded by the run's lock.
	phase    phase
	delay    *time.Timer
	approval string
	// grant is who holds it: while phaseGiven, now; otherwise who held it last, as long as no newer epoch has been issued.
	grant   *engine.Grant
	verdict engine.Verdict
}

// Run implements dispatch.Attempt.
func (a *attempt) Run() string { return a.run }

// Tier implements dispatch.Attempt.
func (a *attempt) Tier() string { return a.tier }

func newAttempt(run string, c engine.Attempt) *attempt {
	return &attempt{run: run, task: c.Task.Key(), tier: c.Tier, cmd: c, intent: &cardeav1.Intent{Task: taskRef(run, c.Task),
		Attempt: c.Number, Action: c.Action, Connections: c.Connections}}
}

func taskRef(run string, id engine.TaskID) *cardeav1.TaskRef {
	return &cardeav1.TaskRef{RunId: run, Task: id.Pointer, Iteration: id.Iteration, Visit: id.Visit}
}

func taskID(ref *cardeav1.TaskRef) engine.TaskID {
	return engine.TaskID{Pointer: ref.GetTask(), Iteration: ref.GetIteration(), Visit: ref.GetVisit()}
}

// begin makes an attempt outstanding. The run's lock is held.
func (d *Driver) begin(r *run, c engine.Attempt) {
	a := newAttempt(r.id, c)
	if before := r.attempts[a.task]; before != nil {
		d.withdraw(before)
	}
	r.attempts[a.task] = a
	f, _ := r.state.Frame(c.Task)
	a.approval = f.Approval
	if f.Last.Epoch != 0 {
		last := f.Last
		a.grant = &last
	}
	switch {
	case d.recovered(r, a, f):
	case f.Phase == engine.FrameWaiting:
		a.phase = phaseWaiting
	case f.Phase == engine.FrameDoubt:
		a.phase = phaseDoubt
	default:
		d.enqueue(a, c.NotBefore.Sub(d.now()))
	}
}

// recovered finds that a runner was given the attempt before this process began. A grant of an earlier attempt, or of an epoch that
// is known to be over, is none.
func (d *Driver) recovered(r *run, a *attempt, f engine.Frame) bool {
	g, ok := d.takeGrant(r.id, a.task)
	if !ok || g.Attempt != f.Attempt || g.Epoch < f.Floor || f.Phase == engine.FrameDoubt {
		return false
	}
	a.phase = phaseGiven
	a.grant = &engine.Grant{Epoch: g.Epoch, Permit: g.Permit, Runner: g.Runner.ID, Key: g.Runner.Key}
	d.pool.Restore(g.Held)
	return true
}

// enqueue makes an attempt wait for credit, after a delay if there is one. The run's lock is held.
func (d *Driver) enqueue(a *attempt, delay time.Duration) {
	a.phase = phaseOpen
	a.probed.Store(false)
	if delay <= 0 {
		d.pool.Enqueue(a)
		return
	}
	a.delay = time.AfterFunc(delay, func() {
		if !a.gone.Load() {
			d.pool.Enqueue(a)
		}
	})
}

// withdraw ends an attempt wherever it is. The run's lock is held.
func (d *Driver) withdraw(a *attempt) {
	a.gone.Store(true)
	if a.delay != nil {
		a.delay.Stop()
	}
	switch a.phase {
	case phaseOpen:
		d.pool.Withdraw(a)
	case phaseGiven:
		d.pool.Cancel(a.grant.Runner, a.grant.Permit)
	}
}

// settled forgets an attempt that an event has ended. The run's lock is held.
func (r *run) settled(a *attempt) {
	a.gone.Store(true)
	if r.attempts[a.task] == a {
		delete(r.attempts, a.task)
	}
}

// answered handles the authority's answer to a question about an attempt.
func (d *Driver) answered(q question, auth *cardeav1.Authorization) {
	a, s := q.attempt, q.session
	r, err := d.acquire(d.ctx, a.run)
	if err != nil {
		release(s)
		d.report("handle a verdict", a.run, err)
		return
	}
	defer d.release(r)
	if r.attempts[a.task] != a || a.phase != phaseOpen {
		release(s)
		return
	}
	if s == nil && !d.pool.Withdraw(a) {
		return // a runner has got credit meanwhile: the answer that names it decides
	}
	if err := d.decided(r, q, auth); err != nil {
		d.report("handle a verdict", a.run, err)
	}
}

// decided acts on a verdict about an attempt that is neither queued nor given out. The run's lock is held.
func (d *Driver) decided(r *run, q question, auth *cardeav1.Authorization) error {
	a, s := q.attempt, q.session
	v := verdict(auth.GetVerdict())
	a.verdict = v
	switch auth.GetVerdict().GetOutcome() {
	case cardeav1.Outcome_OUTCOME_ALLOW:
		return d.allowed(r, a, s, auth)
	case cardeav1.Outcome_OUTCOME_REROUTE:
		release(s)
		d.reroute(r, a, auth.GetTier())
		return nil
	case cardeav1.Outcome_OUTCOME_PENDING:
		release(s)
		return d.pending(r, q, auth.GetApprovalId(), v)
	case cardeav1.Outcome_OUTCOME_IN_DOUBT:
		release(s)
		a.phase = phaseDoubt
		return d.apply(r, engine.Event{At: d.now(), InDoubt: &engine.InDoubt{Task: a.cmd.Task, Attempt: a.cmd.Number, Verdict: v}})
	case cardeav1.Outcome_OUTCOME_DENY:
	default:
		v.Reason = "the authority gave no verdict that this build knows"
	}
	release(s)
	d.metrics.denied.Inc()
	v.Outcome, a.phase = "deny", phaseOver
	err := d.apply(r, engine.Event{At: d.now(), Denied: &engine.Denied{Task: a.cmd.Task, Attempt: a.cmd.Number, Verdict: v}})
	if err == nil {
		r.settled(a)
	}
	return err
}

func release(s *dispatch.Session) {
	if s != nil {
		s.Release()
	}
}

// retryShort is the wait before a question is asked again whose answer could not be used.
const retryShort = 100 * time.Millisecond

// allowed gives the attempt to the runner that the permit names. The run's lock is held.
func (d *Driver) allowed(r *run, a *attempt, s *dispatch.Session, auth *cardeav1.Authorization) error {
	if s == nil {
		d.enqueueAllowed(r, a, auth.GetTier())
		return nil
	}
	a.grant = nil // a newer epoch has been issued: whoever held the attempt before is too late
	p, err := readPermit(auth.GetPermit())
	if err != nil || p.expires.Before(d.now().Add(time.Second)) {
		s.Release()
		d.enqueue(a, retryShort)
		return err
	}
	g := engine.Grant{Epoch: auth.GetEpoch(), Permit: p.id, Runner: s.Runner().ID, Key: s.Runner().Key}
	held := dispatch.Held{Run: a.run, Task: a.task, Permit: p.id, Epoch: g.Epoch, Deadline: p.deadline}
	task := &cardeav1.WorkTask{Task: a.intent.GetTask(), Epoch: g.Epoch, Permit: auth.GetPermit(), PermitId: p.id, Action: a.cmd.Action,
		IdempotencyKey: auth.GetIdempotencyKey(), Effect: effect(a.cmd.Effect), Deadline: timestamppb.New(p.deadline)}
	held.Runner = s.Runner()
	a.phase, a.grant = phaseGiven, &g
	fault.Point("engine.authorized")
	if !s.Assign(held, task) {
		// The runner has never had it: the same attempt is asked for again.
		a.grant = nil
		d.enqueue(a, 0)
		return nil
	}
	d.grants.add(Grant{Held: held, Attempt: a.cmd.Number})
	d.metrics.dispatched.WithLabelValues(a.tier).Inc()
	r.announce()
	return nil
}

// enqueueAllowed puts an attempt back whose verdict is known while nobody has credit. It is not asked about again until
// somebody has. The run's lock is held.
func (d *Driver) enqueueAllowed(r *run, a *attempt, tier string) {
	if tier != "" && tier != a.tier {
		d.reroute(r, a, tier)
		return
	}
	a.phase = phaseOpen
	a.probed.Store(true)
	d.pool.Enqueue(a)
}

// reroute asks again for a runner of the tier that the authority names. The run's lock is held.
func (d *Driver) reroute(r *run, a *attempt, tier string) {
	b := newAttempt(a.run, a.cmd)
	b.approval, b.grant, b.verdict = a.approval, a.grant, a.verdict
	delay := time.Duration(0)
	if tier == "" || tier == a.tier {
		delay = time.Second // this runner may not have it; another of the tier may come
	} else {
		b.tier = tier
	}
	a.gone.Store(true)
	r.attempts[a.task] = b
	d.enqueue(b, delay)
}

// pending waits for people. Which approval is waited for is journalled once. The run's lock is held.
func (d *Driver) pending(r *run, q question, approval string, v engine.Verdict) error {
	a := q.attempt
	a.phase = phaseWaiting
	if a.approval != approval {
		ev := engine.Event{At: d.now(), Waiting: &engine.Waiting{Task: a.cmd.Task, Attempt: a.cmd.Number, Approval: approval, Verdict: v}}
		if err := d.apply(r, ev); err != nil {
			return err
		}
		a.approval = approval
	}
	if d.approvals.settledSince(approval, q.asked) {
		d.enqueue(a, 0) // it was settled before the answer reached us
	}
	return nil
}

// askAgain asks again about attempts of a run that wait for people: for one approval, or for any when it is empty.
func (d *Driver) askAgain(ctx context.Context, id, approval string) {
	r, err := d.acquire(ctx, id)
	if err != nil {
		d.report("ask again", id, err)
		return
	}
	defer d.release(r)
	for _, a := range r.attempts {
		if a.phase == phaseWaiting && (approval == "" || a.approval == approval) {
			d.enqueue(a, 0)
		}
	}
}

// lost begins the next attempt of one whose runner is gone. It is the pool's to call, on a goroutine of its own.
func (d *Driver) lost(h dispatch.Held) {
	r, err := d.acquire(d.ctx, h.Run)
	if err != nil {
		d.report("handle a lost runner", h.Run, err)
		return
	}
	defer d.release(r)
	a := r.attempts[h.Task]
	if a == nil || a.phase != phaseGiven || a.grant.Permit != h.Permit {
		return
	}
	d.metrics.lost.Inc()
	g := *a.grant
	a.phase = phaseOver
	err = d.apply(r, engine.Event{At: d.now(), Lost: &engine.Lost{Task: a.cmd.Task, Attempt: a.cmd.Number, Grant: g}})
	if err != nil {
		d.report("handle a lost runner", h.Run, err)
	}
}

// permitClaims is what the driver reads of a permit: its name and times. The permit came from the authority over its own connection;
// whom it binds is the runner's and the authority's to verify.
type permitClaims struct {
	id                string
	expires, deadline time.Time
}

func readPermit(token string) (permitClaims, error) {
	var claims struct {
		ID      string `json:"jti"`
		Expires int64  `json:"exp"`
		Context struct {
			Deadline int64 `json:"deadline"`
		} `json:"tctx"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return permitClaims{}, errors.New("the authority's permit is no compact JWS")
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &claims)
	}
	if err != nil || claims.ID == "" {
		return permitClaims{}, fmt.Errorf("read the authority's permit: %w", errors.Join(err, errors.New("no name")))
	}
	return permitClaims{id: claims.ID, expires: time.Unix(claims.Expires, 0), deadline: time.Unix(claims.Context.Deadline, 0)}, nil
}

func effect(name string) cardeav1.Effect {
	if name == "idempotent" {
		return cardeav1.Effect_EFFECT_IDEMPOTENT
	}
	return cardeav1.Effect_EFFECT_ONCE
}

func verdict(v *cardeav1.Verdict) engine.Verdict {
	out := engine.Verdict{Policies: v.GetPolicies(), Reason: v.GetReason(), Mend: v.GetMend(), Leaf: v.GetLeafId()}
	out.Outcome = strings.ToLower(strings.TrimPrefix(v.GetOutcome().String(), "OUTCOME_"))
	return out
}
