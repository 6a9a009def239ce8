package engine

import (
	"slices"
	"time"

	"cardea/internal/flow"
	"cardea/internal/flow/problem"
)

// machine is one Step under way. It owns the slices of its state, and a map only once it has cloned it.
type machine struct {
	p         *Program
	s         State
	now       time.Time
	budget    int
	out       []Command
	ownVisits bool
	workflow  any // $workflow, built at most once a Step
}

func (m *machine) emit(c Command) { m.out = append(m.out, c) }

func (m *machine) note(t *flow.Task, id TaskID, status TaskStatus, attempt uint32, p *flow.Problem) {
	m.emit(Note{Task: id, Name: t.Name, Status: status, Attempt: attempt, Problem: p})
}

// begin handles the workflow's own input and makes its first task ready.
func (m *machine) begin() error {
	in := m.p.plan.Input
	value, err := m.accept(in, m.s.Raw.V, m.scope(nil, nil))
	if err != nil {
		return err
	}
	m.s.Input = Value{value}
	if len(m.p.plan.Do) == 0 {
		return m.end(value)
	}
	m.ready(0, m.p.plan.Do[0], value)
	return nil
}

func (m *machine) ready(parent uint32, t *flow.Task, raw any) {
	m.s.Ready = append(m.s.Ready, Move{Parent: parent, Pointer: t.Pointer, Raw: Value{raw}})
}

// run enters ready tasks until none is left or the budget is spent.
func (m *machine) run() error {
	for len(m.s.Ready) > 0 && m.s.Phase == StatusRunning {
		if m.budget == 0 {
			m.emit(Continue{})
			return nil
		}
		move := m.s.Ready[0]
		t, err := m.p.task(move.Pointer)
		if err != nil {
			return err
		}
		m.s.Ready = m.s.Ready[1:]
		m.budget--
		m.s.Spin++
		m.enter(t, move)
	}
	if len(m.s.Ready) == 0 {
		m.s.Ready = nil
	}
	return nil
}

// enter begins a task: `if` on the raw input, then the schema on it, then `from`, then the task itself.
func (m *machine) enter(t *flow.Task, move Move) {
	f := Frame{Parent: move.Parent, Raw: move.Raw, Input: move.Raw, StartedAt: m.now}
	f.Task = m.identify(t, move.Parent)
	if m.s.Spin > SpinLimit {
		m.raise(t, &f, problem.Newf(problem.Runtime, "%d tasks in a row reached nothing outside: the definition loops", SpinLimit))
		return
	}
	if err := m.perform(t, &f); err != nil {
		m.raise(t, &f, asProblem(err))
	}
}

func (m *machine) identify(t *flow.Task, parent uint32) TaskID {
	id := TaskID{Pointer: t.Pointer}
	if parent != 0 {
		id.Iteration = m.frame(parent).Task.Iteration
	}
	id.Visit = m.visit(id.Pointer, id.Iteration)
	return id
}

func (m *machine) perform(t *flow.Task, f *Frame) error {
	if t.If != nil {
		holds, err := t.If.True(m.scope(t, f))
		if err != nil {
			return err
		}
		if !holds {
			m.note(t, f.Task, TaskSkipped, 0, nil)
			return m.follow(t, f, flow.Then{Kind: flow.ThenContinue}, f.Raw.V)
		}
	}
	input, err := m.accept(t.Input, f.Raw.V, m.scope(t, f))
	if err != nil {
		return err
	}
	f.Input = Value{input}
	switch t.Kind {
	case flow.KindSet:
		out, err := t.Set.Eval(m.scope(t, f))
		if err != nil {
			return err
		}
		return m.complete(t, f, out)
	case flow.KindDo:
		return m.enterList(t, f)
	case flow.KindHTTP:
		return m.call(t, f)
	}
	return problem.Newf(problem.Configuration, "this build cannot run a task of kind %s", t.Kind)
}

func (m *machine) enterList(t *flow.Task, f *Frame) error {
	if len(t.Do) == 0 {
		return m.complete(t, f, f.Input.V)
	}
	f.Phase = FrameInside
	m.push(f)
	m.note(t, f.Task, TaskRunning, 0, nil)
	m.ready(f.Number, t.Do[0], f.Input.V)
	return nil
}

// push makes a frame live.
func (m *machine) push(f *Frame) {
	m.s.LastFrame++
	f.Number = m.s.LastFrame
	m.s.Frames = append(m.s.Frames, *f)
}

// drop ends a frame's life.
func (m *machine) drop(number uint32) {
	m.s.Frames = slices.DeleteFunc(m.s.Frames, func(f Frame) bool { return f.Number == number })
}

// frame finds a live frame by number. Parents outlive their children, so it is always there.
func (m *machine) frame(number uint32) *Frame {
	i := slices.IndexFunc(m.s.Frames, func(f Frame) bool { return f.Number == number })
	if i < 0 {
		panic("engine: a task's parent is not live")
	}
	return &m.s.Frames[i]
}

// complete handles a task's output and goes where its `then` leads.
func (m *machine) complete(t *flow.Task, f *Frame, out any) error {
	s := m.scope(t, f)
	s.Data, s.Input = out, f.Input.V
	s.Task = m.describe(t, f, out)
	value, err := m.release(t.Output, out, s)
	if err != nil {
		return err
	}
	s.Data, s.Output = value, value
	if err := m.export(t.Export, s); err != nil {
		return err
	}
	m.note(t, f.Task, TaskCompleted, f.Attempt, nil)
	return m.follow(t, f, t.Then, value)
}

// follow goes from a finished task to the next. The end of a list completes the composite around it.
func (m *machine) follow(t *flow.Task, f *Frame, then flow.Then, out any) error {
	var next *flow.Task
	switch then.Kind {
	case flow.ThenEnd:
		return m.end(out)
	case flow.ThenTask:
		next = t.Target()
	case flow.ThenContinue:
		next = t.Next()
	}
	if next != nil {
		m.ready(f.Parent, next, out)
		return nil
	}
	if f.Parent == 0 {
		return m.end(out)
	}
	parent := *m.frame(f.Parent)
	m.drop(parent.Number)
	outer, err := m.p.task(parent.Task.Pointer)
	if err != nil {
		return err
	}
	if err := m.complete(outer, &parent, out); err != nil {
		m.raise(outer, &parent, asProblem(err))
	}
	return nil
}

// raise is a task's error. Nothing catches yet: it faults the run, and each composite around the task with it.
func (m *machine) raise(t *flow.Task, f *Frame, p *flow.Problem) {
	p = p.At(t.Pointer)
	m.note(t, f.Task, TaskFaulted, f.Attempt, p)
	for parent := f.Parent; parent != 0; {
		outer := *m.frame(parent)
		m.drop(parent)
		if around, ok := m.p.plan.Task(outer.Task.Pointer); ok {
			m.note(around, outer.Task, TaskFaulted, 0, p)
		}
		parent = outer.Parent
	}
	m.fault(p, "")
}

// end completes the run: `end` inside a composite leaves it without its own output and export.
func (m *machine) end(out any) error {
	s := m.scope(nil, nil)
	s.Data, s.Input = out, m.s.Input.V
	value, err := m.release(m.p.plan.Output, out, s)
	if err != nil {
		m.fault(asProblem(err), "")
		return nil
	}
	m.finish(StatusCompleted, Value{value}, nil)
	return nil
}

func (m *machine) fault(p *flow.Problem, pointer string) {
	m.finish(StatusFaulted, Value{}, p.At(pointer))
}

// finish ends the run, and with it whatever still lives.
func (m *machine) finish(status Status, out Value, p *flow.Problem) {
	var cancelled []TaskID
	for i := range m.s.Frames {
		f := &m.s.Frames[i]
		if f.outstanding() {
			cancelled = append(cancelled, f.Task)
		}
		m.conclude(f, status)
	}
	if len(cancelled) > 0 {
		m.emit(CancelAttempts{Tasks: cancelled})
	}
	m.s.Frames, m.s.Ready, m.s.Ticket = nil, nil, ""
	m.s.Phase, m.s.Output, m.s.Problem = status, out, p
	m.emit(Finish{Status: status, Output: out, Problem: p})
}

// conclude notes what becomes of a task that is live when the run ends.
func (m *machine) conclude(f *Frame, status Status) {
	t, ok := m.p.plan.Task(f.Task.Pointer)
	if !ok {
		return
	}
	as := TaskCancelled
	if status == StatusCompleted && !f.outstanding() {
		as = TaskCompleted
	}
	m.note(t, f.Task, as, f.Attempt, nil)
}
