package durable

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/engine"
	"cardea/internal/flow/problem"
)

// maxTasks is how many tasks a run shows: the newest. A loop may have had millions.
const maxTasks = 1000

// taskList is what a run shows of its tasks: made of notes, and of no consequence.
type taskList struct {
	order []string
	known map[string]*cardeav1.TaskState
	// closure is set when the run has been closed.
	closure *cardeav1.Closure
}

// project adds what an event and its commands tell.
func (l *taskList) project(ev engine.Event, commands []engine.Command) {
	at := timestamppb.New(ev.At)
	for _, c := range commands {
		switch c := c.(type) {
		case engine.Note:
			l.note(c, at)
		case engine.Attempt:
			if t := l.known[c.Task.Key()]; t != nil {
				t.Connections = c.Connections
			}
		}
	}
	switch {
	case ev.Result != nil:
		if t := l.known[ev.Result.Task.Key()]; t != nil {
			t.Runner, t.Epoch = ev.Result.Grant.Runner, ev.Result.Grant.Epoch
			t.Verdict = protoVerdict(ev.Result.Verdict)
		}
	case ev.Denied != nil:
		if t := l.known[ev.Denied.Task.Key()]; t != nil {
			t.Verdict = protoVerdict(ev.Denied.Verdict)
		}
	case ev.Waiting != nil:
		if t := l.known[ev.Waiting.Task.Key()]; t != nil {
			t.ApprovalId, t.Verdict = ev.Waiting.Approval, protoVerdict(ev.Waiting.Verdict)
		}
	case ev.InDoubt != nil:
		if t := l.known[ev.InDoubt.Task.Key()]; t != nil {
			t.Verdict = protoVerdict(ev.InDoubt.Verdict)
		}
	case ev.Closed != nil:
		l.closure = protoClosure(ev.Closed)
	}
}

func protoClosure(c *engine.Closed) *cardeav1.Closure {
	out := &cardeav1.Closure{Issued: c.Issued, Ended: c.Ended, LeafId: c.Leaf}
	for _, live := range c.Live {
		out.Live = append(out.Live, &cardeav1.LiveLease{LeaseId: live.Lease, Connection: live.Connection, Until: timestamppb.New(live.Until), Why: live.Why})
	}
	return out
}

func (l *taskList) note(n engine.Note, at *timestamppb.Timestamp) {
	key := n.Task.Key()
	t := l.known[key]
	if t == nil {
		t = &cardeav1.TaskState{Task: n.Task.Pointer, Iteration: n.Task.Iteration, Visit: n.Task.Visit, Name: n.Name, StartedAt: at}
		l.add(key, t)
	}
	t.Status, t.Attempt = string(n.Status), n.Attempt
	switch n.Status {
	case engine.TaskCompleted, engine.TaskSkipped, engine.TaskFaulted, engine.TaskCancelled:
		t.EndedAt = at
	}
	if n.Problem != nil {
		t.ErrorJson = problemJSON(n.Problem)
	}
}

func (l *taskList) add(key string, t *cardeav1.TaskState) {
	if l.known == nil {
		l.known = map[string]*cardeav1.TaskState{}
	}
	l.known[key] = t
	l.order = append(l.order, key)
	if len(l.order) > maxTasks {
		delete(l.known, l.order[0])
		l.order = l.order[1:]
	}
}

func problemJSON(p *problem.Problem) []byte {
	data, err := json.Marshal(p)
	if err != nil {
		return nil
	}
	return data
}

func protoVerdict(v engine.Verdict) *cardeav1.Verdict {
	if v.Outcome == "" {
		return nil
	}
	outcomes := map[string]cardeav1.Outcome{"allow": cardeav1.Outcome_OUTCOME_ALLOW, "deny": cardeav1.Outcome_OUTCOME_DENY,
		"pending": cardeav1.Outcome_OUTCOME_PENDING, "in_doubt": cardeav1.Outcome_OUTCOME_IN_DOUBT}
	return &cardeav1.Verdict{Outcome: outcomes[v.Outcome], Policies: v.Policies, Reason: v.Reason, Mend: v.Mend, LeafId: v.Leaf}
}

// Get is a run as it is now.
func (d *Driver) Get(ctx context.Context, id string) (*cardeav1.Run, error) {
	r, err := d.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	defer d.release(r)
	return d.view(r)
}

// Watch gives a run as it is, and again after each change that send has had time for, until the run is closed. Between two sends pace
// passes, so that a busy run costs its watchers little; but nobody waits longer than they must to hear that it has ended.
func (d *Driver) Watch(ctx context.Context, id string, pace time.Duration, send func(*cardeav1.Run) error) error {
	pinned := d.runs.pin(id)
	defer d.runs.unpin(pinned)
	for {
		v, now, err := d.look(ctx, id, true)
		if err != nil {
			return err
		}
		if err := send(v); err != nil || now.closed {
			return err
		}
		if err := d.news(ctx, id, now, pace); err != nil {
			return err
		}
	}
}

// glance is what a watch needs to know of a run to wait for what comes next.
type glance struct {
	ended, closed bool
	changes       <-chan struct{}
}

// look reads a run, with its view when that is wanted.
func (d *Driver) look(ctx context.Context, id string, view bool) (*cardeav1.Run, glance, error) {
	r, err := d.acquire(ctx, id)
	if err != nil {
		return nil, glance{}, err
	}
	defer d.release(r)
	g := glance{ended: r.state.Phase.Ended(), closed: r.state.Closed, changes: r.changes()}
	if !view {
		return nil, g, nil
	}
	v, err := d.view(r)
	return v, g, err
}

// news waits until the run has changed and pace has passed, or until it has come nearer to its end.
func (d *Driver) news(ctx context.Context, id string, last glance, pace time.Duration) error {
	timer := time.NewTimer(pace)
	defer timer.Stop()
	soon, now := timer.C, last
	for changed := false; !changed || soon != nil; {
		select {
		case <-soon:
			soon = nil
		case <-now.changes:
			changed = true
			var err error
			if _, now, err = d.look(ctx, id, false); err != nil {
				return err
			}
			if now.ended != last.ended || now.closed != last.closed {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ctx.Done():
			return ErrStopped
		}
	}
	return nil
}

// view makes a copy. The run's lock is held.
func (d *Driver) view(r *run) (*cardeav1.Run, error) {
	out := SummaryProto(r.summary)
	for _, key := range r.tasks.order {
		t := cloneTask(r.tasks.known[key])
		if a := r.attempts[key]; a != nil {
			if a.phase == phaseGiven {
				t.Status, t.Runner, t.Epoch = string(engine.TaskRunning), a.grant.Runner, a.grant.Epoch
				t.Verdict = protoVerdict(a.verdict)
				out.Status = runningUnless(out.GetStatus())
			}
		}
		out.Tasks = append(out.Tasks, t)
	}
	if p := r.state.Problem; p != nil {
		out.ErrorJson = problemJSON(p)
	}
	if r.state.Phase == engine.StatusCompleted {
		data, err := r.state.Output.MarshalJSON()
		if err != nil {
			return nil, err
		}
		out.OutputJson = data
	}
	out.Closure = r.tasks.closure
	return out, nil
}

// runningUnless shows a run as running in which an attempt is under way that people had to approve first.
func runningUnless(status string) string {
	if status == string(engine.StatusWaiting) {
		return string(engine.StatusRunning)
	}
	return status
}

func cloneTask(t *cardeav1.TaskState) *cardeav1.TaskState {
	return &cardeav1.TaskState{Task: t.GetTask(), Iteration: t.GetIteration(), Visit: t.GetVisit(), Name: t.GetName(), Status: t.GetStatus(),
		Attempt: t.GetAttempt(), StartedAt: t.GetStartedAt(), EndedAt: t.GetEndedAt(), Connections: t.GetConnections(), Verdict: t.GetVerdict(),
		ApprovalId: t.GetApprovalId(), ErrorJson: t.GetErrorJson(), Runner: t.GetRunner(), Epoch: t.GetEpoch()}
}

// SummaryProto is a run's row for people.
func SummaryProto(s Summary) *cardeav1.Run {
	out := &cardeav1.Run{Id: s.ID, Workflow: s.Workflow, Version: s.Version, WorkflowDigest: s.Digest, Status: string(s.Status),
		StartedBy: s.StartedBy, StartedAt: timestamppb.New(s.StartedAt), Revision: s.Revision}
	if s.Kind != "" {
		out.Provenance = &cardeav1.Provenance{Kind: s.Kind, Origin: s.Origin}
	}
	if !s.EndedAt.IsZero() {
		out.EndedAt = timestamppb.New(s.EndedAt)
	}
	return out
}

// List reads rows of runs.
func (d *Driver) List(ctx context.Context, f Filter) ([]Summary, error) {
	return d.cfg.Journal.List(ctx, f)
}
