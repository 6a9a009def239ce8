package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cardea/internal/flow"
	"cardea/internal/flow/problem"
)

// Bounds on what a definition can compute without reaching outside.
const (
	// StepBudget is how many tasks one Step enters before it asks to be continued.
	StepBudget = 1000
	// SpinLimit is how many tasks a run enters in a row without any effect before it faults.
	SpinLimit = 100_000
)

// ErrRefused is the error of an event that does not fit the state: it must not be journalled, and nothing has changed.
var ErrRefused = errors.New("event does not fit the run's state")

// ErrInput is the error of a start whose input cannot be read.
var ErrInput = errors.New("the input is not JSON that this engine takes")

// Step handles one event. The program may be nil until the run is opened. The returned state shares memory with the one given,
// which stays valid. An error means that nothing happened; ErrRefused tells a misplaced event from a broken one.
func Step(p *Program, s State, e Event) (State, []Command, error) {
	if err := e.check(); err != nil {
		return s, nil, err
	}
	if s.Format != 0 && s.Format != Format {
		return s, nil, fmt.Errorf("state has format %d; this build knows %d", s.Format, Format)
	}
	m := machine{p: p, s: s, now: e.At, budget: StepBudget}
	m.s.Frames = slices.Clone(s.Frames)
	m.s.Ready = slices.Clone(s.Ready)
	if err := m.handle(e); err != nil {
		return s, nil, err
	}
	return m.s, m.out, nil
}

func (m *machine) handle(e Event) error {
	if err := m.admissible(e); err != nil {
		return err
	}
	switch {
	case e.Started != nil:
		return m.start(e.Started)
	case e.Opened != nil:
		return m.opened(e.Opened)
	case e.Refused != nil:
		return m.refused(e.Refused)
	case e.Result != nil:
		return m.result(e.Result)
	case e.Denied != nil:
		return m.denied(e.Denied)
	case e.Waiting != nil:
		return m.waiting(e.Waiting)
	case e.InDoubt != nil:
		return m.inDoubt(e.InDoubt)
	case e.Lost != nil:
		return m.lost(e.Lost)
	case e.Continued != nil:
		return m.run()
	case e.Cancelled != nil:
		m.finish(StatusCancelled, Value{}, nil)
	default:
		m.s.Closed = true
	}
	return nil
}

// admissible says whether this kind of event can come now at all.
func (m *machine) admissible(e Event) error {
	phase, ok := m.s.Phase, false
	switch {
	case e.Started != nil:
		ok = phase == ""
	case e.Opened != nil, e.Refused != nil:
		ok = phase == StatusOpening
	case e.Cancelled != nil:
		ok = phase == StatusOpening || phase == StatusRunning
	case e.Closed != nil:
		ok = phase.Ended() && !m.s.Closed
	case e.Continued != nil:
		ok = phase == StatusRunning && len(m.s.Ready) > 0
	default:
		ok = phase == StatusRunning
	}
	if !ok {
		return fmt.Errorf("%w: run %s is %q", ErrRefused, m.s.Run, phase)
	}
	if phase == StatusRunning && m.p == nil || e.Opened != nil && m.p == nil {
		return fmt.Errorf("engine: run %s has no program", m.s.Run)
	}
	return nil
}

func (m *machine) start(e *Started) error {
	input, err := inputValue(e.Input)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInput, err)
	}
	m.s = State{Format: Format, Run: e.Run, Phase: StatusOpening, Digest: e.Digest, StartedAt: m.now, Raw: Value{input},
		Context: Value{map[string]any{}}, InputDigest: e.InputDigest, Ticket: e.Ticket}
	m.emit(OpenRun{Digest: e.Digest, InputDigest: e.InputDigest, Ticket: e.Ticket})
	return nil
}

func (m *machine) opened(e *Opened) error {
	if m.p.plan.Digest != m.s.Digest {
		return fmt.Errorf("engine: run %s is of definition %s, not %s", m.s.Run, m.s.Digest, m.p.plan.Digest)
	}
	m.s.Phase, m.s.Ticket, m.s.Tiers = StatusRunning, "", e.Tiers
	if err := m.begin(); err != nil {
		m.fault(asProblem(err), "")
		return nil
	}
	return m.run()
}

func (m *machine) refused(e *OpenRefused) error {
	fault := e.Problem
	if fault == nil {
		fault = denial(e.Verdict)
	}
	m.s.Ticket = ""
	m.fault(fault, "")
	return nil
}

// result ends an attempt. The driver has fenced it by the authority's epochs; here only an epoch known to be older is refused.
func (m *machine) result(r *Result) error {
	f, t, err := m.live(r.Task)
	if err != nil {
		return err
	}
	if r.Attempt > f.Attempt || r.Grant.Epoch < f.Floor {
		return fmt.Errorf("%w: task %s is at attempt %d, epoch %d or later", ErrRefused, r.Task.Pointer, f.Attempt, f.Floor)
	}
	m.s.Spin = 0
	switch {
	case retriable(r) && f.Failures < MaxFailures:
		m.again(f, t, r.Grant.Epoch)
		return nil
	case leavesDoubt(t, r) && f.Phase == FrameDoubt:
		return fmt.Errorf("%w: task %s is in doubt already", ErrRefused, r.Task.Pointer)
	case leavesDoubt(t, r):
		m.doubt(f, t, r.Grant)
		return nil
	}
	frame := *f
	m.drop(frame.Number)
	out, err := m.output(t, frame, r)
	if err == nil {
		err = m.complete(t, &frame, out)
	}
	if err != nil {
		m.raise(t, &frame, asProblem(err))
	}
	return m.run()
}

func (m *machine) denied(e *Denied) error {
	f, t, err := m.live(e.Task)
	if err != nil {
		return err
	}
	if e.Attempt != f.Attempt {
		return fmt.Errorf("%w: task %s is at attempt %d", ErrRefused, e.Task.Pointer, f.Attempt)
	}
	frame := *f
	m.drop(frame.Number)
	m.raise(t, &frame, denial(e.Verdict))
	return m.run()
}

func (m *machine) waiting(e *Waiting) error {
	f, t, err := m.live(e.Task)
	if err != nil {
		return err
	}
	if e.Attempt != f.Attempt || f.Phase == FrameDoubt {
		return fmt.Errorf("%w: task %s is %s at attempt %d", ErrRefused, e.Task.Pointer, f.Phase, f.Attempt)
	}
	f.Phase, f.Approval = FrameWaiting, e.Approval
	m.note(t, f.Task, TaskWaiting, f.Attempt, nil)
	return nil
}

func (m *machine) inDoubt(e *InDoubt) error {
	f, t, err := m.live(e.Task)
	if err != nil {
		return err
	}
	if e.Attempt != f.Attempt || f.Phase == FrameDoubt {
		return fmt.Errorf("%w: task %s is %s at attempt %d", ErrRefused, e.Task.Pointer, f.Phase, f.Attempt)
	}
	m.doubt(f, t, f.Last)
	return nil
}

func (m *machine) doubt(f *Frame, t *flow.Task, last Grant) {
	f.Phase, f.Last, f.Floor = FrameDoubt, last, max(f.Floor, last.Epoch)
	m.note(t, f.Task, TaskInDoubt, f.Attempt, nil)
}

// lost begins the next attempt of one whose runner is gone. Whether it may be delivered again is the authority's to say.
func (m *machine) lost(e *Lost) error {
	f, t, err := m.live(e.Task)
	if err != nil {
		return err
	}
	if e.Attempt != f.Attempt || f.Phase == FrameDoubt {
		return fmt.Errorf("%w: task %s is %s at attempt %d", ErrRefused, e.Task.Pointer, f.Phase, f.Attempt)
	}
	f.Phase, f.NotBefore, f.Approval = FrameAttempt, time.Time{}, ""
	f.Last, f.Floor = e.Grant, max(f.Floor, e.Grant.Epoch)
	f.Attempt++
	m.note(t, f.Task, TaskPending, f.Attempt, nil)
	m.emit(m.p.attempt(f, m.s.Tiers))
	return nil
}

// live finds the outstanding frame of a task and its definition.
func (m *machine) live(id TaskID) (*Frame, *flow.Task, error) {
	for i := range m.s.Frames {
		if f := &m.s.Frames[i]; f.outstanding() && f.Task.Equal(id) {
			t, err := m.p.task(id.Pointer)
			return f, t, err
		}
	}
	return nil, nil, fmt.Errorf("%w: task %s has no attempt outstanding", ErrRefused, id.Pointer)
}

// denial is how a definition sees a verdict against it.
func denial(v Verdict) *flow.Problem {
	reason := v.Reason
	if reason == "" {
		reason = "policy does not allow this"
	}
	return problem.New(problem.Authorization, reason)
}

func asProblem(err error) *flow.Problem {
	var p *flow.Problem
	if errors.As(err, &p) {
		return p
	}
	return problem.New(problem.Runtime, err.Error())
}

// visit gives the next visit number of a task.
func (m *machine) visit(pointer string, iteration []uint32) uint32 {
	if !m.p.repeats[pointer] {
		return 0
	}
	key := TaskID{Pointer: pointer, Iteration: iteration}.Key()
	n := m.s.Visits[key]
	if !m.ownVisits {
		m.s.Visits, m.ownVisits = maps.Clone(m.s.Visits), true
		if m.s.Visits == nil {
			m.s.Visits = map[string]uint32{}
		}
	}
	m.s.Visits[key] = n + 1
	return n
}
