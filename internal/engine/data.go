package engine

import (
	"time"

	"cardea/internal/expr"
	"cardea/internal/flow"
)

// scope is what an expression of a task sees before the task has run. t and f are nil for the workflow's own.
func (m *machine) scope(t *flow.Task, f *Frame) expr.Scope {
	s := expr.Scope{Data: m.s.Raw.V, Input: m.s.Raw.V, Context: m.s.Context.V, Workflow: m.describeWorkflow(), Now: m.now}
	if m.p != nil {
		s.Runtime = m.p.runtime
	}
	if t != nil {
		s.Data, s.Input = f.Input.V, f.Input.V
		s.Task = m.describe(t, f, nil)
	}
	return s
}

// accept applies an input: the schema holds for the raw value, then `from` transforms it.
func (m *machine) accept(in flow.Input, raw any, s expr.Scope) (any, error) {
	if in.Schema != nil {
		if err := in.Schema.Validate(raw); err != nil {
			return nil, err
		}
	}
	if in.From == nil {
		return raw, nil
	}
	s.Data, s.Input = raw, raw
	return in.From.Eval(s)
}

// release applies an output: `as` transforms it, then the schema holds for what came out.
func (m *machine) release(o flow.Output, raw any, s expr.Scope) (any, error) {
	value := raw
	if o.As != nil {
		var err error
		if value, err = o.As.Eval(s); err != nil {
			return nil, err
		}
	}
	if o.Schema != nil {
		if err := o.Schema.Validate(value); err != nil {
			return nil, err
		}
	}
	return value, nil
}

// export replaces $context.
func (m *machine) export(x flow.Export, s expr.Scope) error {
	if x.As == nil {
		return nil
	}
	value, err := x.As.Eval(s)
	if err != nil {
		return err
	}
	if x.Schema != nil {
		if err := x.Schema.Validate(value); err != nil {
			return err
		}
	}
	m.s.Context = Value{value}
	return nil
}

// describe is $task. output is null until the task has run.
func (m *machine) describe(t *flow.Task, f *Frame, output any) any {
	return map[string]any{"name": t.Name, "reference": t.Pointer, "definition": m.p.tasks[t.Pointer], "input": f.Raw.V, "output": output,
		"startedAt": instant(f.StartedAt)}
}

// describeWorkflow is $workflow.
func (m *machine) describeWorkflow() any {
	if m.workflow == nil && m.p != nil {
		m.workflow = map[string]any{"id": m.s.Run, "definition": m.p.definition, "input": m.s.Raw.V, "startedAt": instant(m.s.StartedAt)}
	}
	return m.workflow
}

// instant is how a definition sees a time.
func instant(t time.Time) any {
	return map[string]any{"iso8601": t.UTC().Format("2006-01-02T15:04:05.000Z"),
		"epoch": map[string]any{"seconds": int(t.Unix()), "milliseconds": int(t.UnixMilli())}}
}
