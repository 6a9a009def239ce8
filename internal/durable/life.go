package durable

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/engine"
	"cardea/internal/fault"
	"cardea/internal/flow/problem"
)

// StartRequest is a verified request to start a run: the ticket fixes everything but the input's bytes, which its digest fixes.
type StartRequest struct {
	Workflow, Version, Digest string
	Person, RequestID         string
	TicketID, Ticket          string
	Input                     []byte
	InputDigest               string
}

// ErrConflict says that the same request id stood for another request before.
var ErrConflict = errors.New("this request id was used for another request")

// Start begins a run and answers with its id once it is durable. The same ticket, or the same person's same request, gets the
// run that it began before.
func (d *Driver) Start(ctx context.Context, q StartRequest) (string, error) {
	if d.ctx.Err() != nil {
		return "", ErrStopped
	}
	at := d.now()
	rec := Record{ID: d.newRunID(at), Workflow: q.Workflow, Version: q.Version, Digest: q.Digest, Person: q.Person, RequestID: q.RequestID,
		TicketID: q.TicketID, InputDigest: q.InputDigest, StartedAt: at}
	if rec.RequestID == "" {
		rec.RequestID = q.TicketID
	}
	ev := engine.Event{At: at, Started: &engine.Started{Run: rec.ID, Digest: q.Digest, Input: q.Input, InputDigest: q.InputDigest, Ticket: q.Ticket}}
	_, commands, err := engine.Step(nil, engine.State{}, ev)
	if err != nil {
		return "", err
	}
	data, err := ev.Encode()
	if err != nil {
		return "", err
	}
	begun, err := d.cfg.Journal.Begin(context.WithoutCancel(ctx), rec, Entry{Seq: 1, Data: data, Commands: engine.Digest(commands)})
	if err != nil {
		return "", d.fail(err)
	}
	if begun.ID != rec.ID {
		if begun.Person != rec.Person || begun.Digest != rec.Digest || begun.InputDigest != rec.InputDigest {
			return "", ErrConflict
		}
		return begun.ID, nil
	}
	fault.Point("engine.start.committed")
	d.metrics.started.Inc()
	d.adopt(rec, ev)
	return rec.ID, nil
}

// adopt makes a run move that has just been journalled.
func (d *Driver) adopt(rec Record, started engine.Event) {
	r := d.runs.pin(rec.ID)
	r.mu.Lock()
	defer d.release(r)
	if r.loaded {
		return // somebody has read it already
	}
	// The same step was made before it was journalled.
	state, commands, err := engine.Step(nil, engine.State{}, started)
	if err != nil {
		d.report("begin", rec.ID, err)
		return
	}
	r.summary = Summary{Record: rec, Progress: Progress{Status: state.Status()}, Format: engine.Format, Revision: 1}
	r.state, r.attempts, r.loaded = state, map[string]*attempt{}, true
	d.execute(r, commands)
}

// open asks the authority to open a run, and fetches its definition.
func (d *Driver) open(ctx context.Context, id string) {
	r, err := d.acquire(ctx, id)
	if err != nil {
		d.report("open", id, err)
		return
	}
	state := r.state
	d.release(r)
	ev := engine.Event{At: d.now(), Refused: &engine.OpenRefused{}}
	var program *engine.Program
	if state.Phase == engine.StatusOpening { // or it was cancelled before anybody was asked
		if ev, program, err = d.askToOpen(ctx, id, state); err != nil {
			d.later(ctx, "open", id, d.opener, err)
			return
		}
	}
	if r, err = d.acquire(ctx, id); err != nil {
		d.report("open", id, err)
		return
	}
	defer d.release(r)
	r.opening, r.program = false, program
	if err := d.apply(r, ev); err != nil && !errors.Is(err, engine.ErrRefused) {
		d.report("open", id, err)
	}
	// It may have been cancelled while the authority was asked: only now may the authority be told of the end.
	if r.state.Phase.Ended() && !r.state.Closed && !r.closing {
		r.closing = true
		d.closer.add(r.id)
	}
}

// later does a run's work again, and others' meanwhile.
func (d *Driver) later(ctx context.Context, what, id string, w *workers, err error) {
	if ctx.Err() == nil {
		d.log.ErrorContext(ctx, "could not "+what+" a run; trying again", "run", id, "in", lastRetry, "error", err)
		time.AfterFunc(lastRetry, func() { w.add(id) })
	}
}

// askToOpen gives the event that the authority's answer is, and the program when the run may go. An error means that there is no
// answer yet.
func (d *Driver) askToOpen(ctx context.Context, id string, s engine.State) (engine.Event, *engine.Program, error) {
	request := &cardeav1.OpenRunRequest{RunId: id, WorkflowDigest: s.Digest, InputDigest: s.InputDigest,
		Evidence: &cardeav1.OpenRunRequest_Ticket{Ticket: s.Ticket}}
	answer, err := persist(ctx, d.log, d.metrics.away.Inc, func(ctx context.Context) (*cardeav1.OpenRunResponse, error) {
		return d.cfg.Authority.OpenRun(ctx, request)
	})
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refusedToOpen(d.now(), engine.Verdict{Outcome: "deny", Reason: refusal.Reason}, nil), nil, nil
	case err != nil:
		return engine.Event{}, nil, err
	}
	v := verdict(answer.GetVerdict())
	if answer.GetVerdict().GetOutcome() != cardeav1.Outcome_OUTCOME_ALLOW {
		return refusedToOpen(d.now(), v, nil), nil, nil
	}
	program, err := d.plans.get(ctx, s.Digest)
	switch {
	case unrunnable(err):
		return refusedToOpen(d.now(), v, problem.New(problem.Configuration, err.Error())), nil, nil
	case err != nil:
		return engine.Event{}, nil, err
	}
	return engine.Event{At: d.now(), Opened: &engine.Opened{Verdict: v, Kind: answer.GetProvenance().GetKind(),
		Origin: answer.GetProvenance().GetOrigin(), StartedBy: answer.GetStartedBy(), Tiers: answer.GetTiers()}}, program, nil
}

func refusedToOpen(at time.Time, v engine.Verdict, p *problem.Problem) engine.Event {
	return engine.Event{At: at, Refused: &engine.OpenRefused{Verdict: v, Problem: p}}
}

// close tells the authority that a run has ended, and journals the closure.
func (d *Driver) close(ctx context.Context, id string) {
	r, err := d.acquire(ctx, id)
	if err != nil {
		d.report("close", id, err)
		return
	}
	status := r.state.Phase
	d.release(r)
	answer, err := persist(ctx, d.log, d.metrics.away.Inc, func(ctx context.Context) (*cardeav1.EndRunResponse, error) {
		return d.cfg.Authority.EndRun(ctx, &cardeav1.EndRunRequest{RunId: id, Status: string(status)})
	})
	var refusal *Refusal
	switch {
	case err != nil && !errors.As(err, &refusal):
		d.later(ctx, "close", id, d.closer, err)
		return
	case err != nil:
		// A run that the authority never opened has nothing to close.
		d.log.InfoContext(ctx, "the authority has no such run to end", "run", id, "error", err)
	}
	fault.Point("engine.run.ended")
	if r, err = d.acquire(ctx, id); err != nil {
		d.report("close", id, err)
		return
	}
	defer d.release(r)
	r.closing = false
	if err := d.apply(r, engine.Event{At: d.now(), Closed: closed(answer.GetClosure())}); err != nil && !errors.Is(err, engine.ErrRefused) {
		d.report("close", id, err)
	}
}

func closed(c *cardeav1.Closure) *engine.Closed {
	out := &engine.Closed{Issued: c.GetIssued(), Ended: c.GetEnded(), Leaf: c.GetLeafId()}
	for _, l := range c.GetLive() {
		out.Live = append(out.Live, engine.LiveLease{Lease: l.GetLeaseId(), Connection: l.GetConnection(),
			Until: l.GetUntil().AsTime().Truncate(time.Microsecond), Why: l.GetWhy()})
	}
	return out
}

// Cancel ends a run because a person asked for it, and answers once that is durable. A run that has ended stays as it is.
func (d *Driver) Cancel(ctx context.Context, id, by, reason string) error {
	r, err := d.acquire(ctx, id)
	if err != nil {
		return err
	}
	defer d.release(r)
	err = d.apply(r, engine.Event{At: d.now(), Cancelled: &engine.Cancelled{By: by, Reason: reason}})
	if errors.Is(err, engine.ErrRefused) {
		return nil
	}
	return err
}

// watch listens to the authority for as long as ctx lives.
func (d *Driver) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.cfg.Authority.Watch(ctx, func(m *cardeav1.WatchDecideResponse) { d.heard(ctx, m) })
		if ctx.Err() == nil {
			d.log.WarnContext(ctx, "lost the authority's watch; listening again", "error", err)
			sleep(ctx, firstRetry*4)
		}
	}
}

// heard handles what the authority tells. After a gap, everything that waits is asked about again.
func (d *Driver) heard(ctx context.Context, m *cardeav1.WatchDecideResponse) {
	if a := m.GetApproval(); a != nil {
		if a.GetRunId() == "" {
			return // it is over a change of desired state
		}
		d.approvals.settle(a.GetApprovalId(), d.now())
		d.spawn(func() { d.askAgain(ctx, a.GetRunId(), a.GetApprovalId()) })
		return
	}
	if m != nil {
		return // a void or a new generation reaches the attempt when its runner redeems
	}
	d.spawn(func() {
		err := d.eachLive(ctx, []engine.Status{engine.StatusWaiting}, func(s Summary) error {
			d.askAgain(ctx, s.ID, "")
			return ctx.Err()
		})
		if err != nil {
			d.report("find the runs that wait", "", err)
		}
	})
}

// errDefinition says that a definition's bytes are not what this build can run, however often they are read.
var errDefinition = errors.New("the definition cannot be run")

// unrunnable says that asking for a definition again would not help.
func unrunnable(err error) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) || errors.Is(err, errDefinition)
}

// plans keeps programs by digest.
type plans struct {
	d     *Driver
	mu    sync.Mutex
	known map[string]*engine.Program
	order []string
}

func newPlans(d *Driver) *plans { return &plans{d: d, known: map[string]*engine.Program{}} }

// get gives the program of a definition: from memory, from the journal, or from the authority, whose bytes are journalled
// before anything depends on them. The bytes decide: a definition that is not the one named is refused.
func (p *plans) get(ctx context.Context, digest string) (*engine.Program, error) {
	p.mu.Lock()
	known := p.known[digest]
	p.mu.Unlock()
	if known != nil {
		return known, nil
	}
	program, err := p.fetch(ctx, digest)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[digest] == nil {
		p.order = append(p.order, digest)
	}
	p.known[digest] = program
	if len(p.order) > p.d.cfg.Plans {
		delete(p.known, p.order[0])
		p.order = p.order[1:]
	}
	return program, nil
}

func (p *plans) fetch(ctx context.Context, digest string) (*engine.Program, error) {
	canonical, err := p.d.cfg.Definitions.Definition(ctx, digest)
	if err != nil {
		return nil, err
	}
	kept := canonical != nil
	if !kept {
		answer, err := persist(ctx, p.d.log, p.d.metrics.away.Inc, func(ctx context.Context) (*cardeav1.WorkflowResponse, error) {
			return p.d.cfg.Authority.Workflow(ctx, &cardeav1.WorkflowRequest{Digest: digest})
		})
		if err != nil {
			return nil, err
		}
		canonical = answer.GetCanonical()
	}
	program, err := p.d.cfg.Load(canonical)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errDefinition, digest, err)
	}
	if program.Plan().Digest != digest {
		return nil, fmt.Errorf("%w: the bytes given for %s are those of %s", errDefinition, digest, program.Plan().Digest)
	}
	if !kept {
		return program, p.d.cfg.Definitions.KeepDefinition(ctx, digest, canonical)
	}
	return program, nil
}

// AwaitOpening waits until a run is open, or refused, or the time is up: for courtesy alone, so that whoever started the run finds it at
// the authority too.
func (d *Driver) AwaitOpening(ctx context.Context, id string, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		r, err := d.acquire(ctx, id)
		if err != nil {
			return
		}
		opening, changes := r.state.Phase == engine.StatusOpening, r.changes()
		d.release(r)
		if !opening {
			return
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return
		}
	}
}
