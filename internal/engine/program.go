package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cardea/internal/expr"
	"cardea/internal/flow"
)

// What definitions see as $runtime.
const (
	runtimeName    = "cardea"
	runtimeVersion = "1"
)

// DefaultTier is where a task runs whose definition names no tier.
const DefaultTier = "standard"

// Program is a Plan with what Step needs of it computed once. It is immutable and safe for concurrent use.
type Program struct {
	plan       *flow.Plan
	definition any            // the decoded document: $workflow.definition
	tasks      map[string]any // the decoded task at each pointer: $task.definition
	repeats    map[string]bool
	runtime    any
}

// Load prepares a plan.
func Load(plan *flow.Plan) (*Program, error) {
	if plan == nil {
		return nil, errors.New("engine: no plan")
	}
	definition, err := expr.Decode(plan.Canonical)
	if err != nil {
		return nil, fmt.Errorf("engine: decode definition %s: %w", plan.Digest, err)
	}
	p := &Program{plan: plan, definition: definition, tasks: map[string]any{}, repeats: map[string]bool{}}
	p.runtime = map[string]any{"name": runtimeName, "version": runtimeVersion, "metadata": map[string]any{}}
	return p, p.index(plan.Do, false)
}

// Plan is what was loaded.
func (p *Program) Plan() *flow.Plan { return p.plan }

// index notes, for a list and all lists in it, each task's definition and whether it can be visited twice: it can when a
// `then` leads backwards in its own list or in one around it.
func (p *Program) index(list []*flow.Task, repeated bool) error {
	for _, t := range list {
		if t.Then.Kind == flow.ThenTask && t.Then.Index <= t.Index {
			repeated = true
		}
	}
	for _, t := range list {
		definition, err := at(p.definition, t.Pointer)
		if err != nil {
			return err
		}
		p.tasks[t.Pointer] = definition
		p.repeats[t.Pointer] = repeated
		if err := p.index(t.Do, repeated); err != nil {
			return err
		}
	}
	return nil
}

// task finds a task that a state names. A state that names another is of another definition.
func (p *Program) task(pointer string) (*flow.Task, error) {
	t, ok := p.plan.Task(pointer)
	if !ok {
		return nil, fmt.Errorf("%w: definition %s has no task %s", ErrRefused, p.plan.Digest, pointer)
	}
	return t, nil
}

// attempt is the command for a frame's outstanding attempt.
func (p *Program) attempt(f *Frame, tiers map[string]string) Attempt {
	c := Attempt{Task: f.Task, Number: f.Attempt, Action: f.Action, NotBefore: f.NotBefore, Tier: DefaultTier}
	t, ok := p.plan.Task(f.Task.Pointer)
	if !ok || t.HTTP == nil {
		return c
	}
	c.Connections, c.Scopes, c.Effect = connections(t), slices.Clone(t.Meta.Scopes), t.HTTP.Effect
	if tier := cmp.Or(tiers[t.Pointer], t.Meta.Tier); tier != "" {
		c.Tier = tier
	}
	return c
}

// connections are the names that the task's definition gives it, sorted, each once.
func connections(t *flow.Task) []string {
	names := slices.Clone(t.Meta.Uses)
	if t.HTTP.Connection != "" {
		names = append(names, t.HTTP.Connection)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// at resolves a JSON pointer (RFC 6901).
func at(v any, pointer string) (any, error) {
	rest, ok := strings.CutPrefix(pointer, "/")
	if !ok {
		return nil, fmt.Errorf("engine: %q is no task's pointer", pointer)
	}
	for token := range strings.SplitSeq(rest, "/") {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		switch in := v.(type) {
		case map[string]any:
			if v, ok = in[token]; !ok {
				return nil, fmt.Errorf("engine: nothing at %s", pointer)
			}
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(in) {
				return nil, fmt.Errorf("engine: nothing at %s", pointer)
			}
			v = in[i]
		default:
			return nil, fmt.Errorf("engine: nothing at %s", pointer)
		}
	}
	return v, nil
}

// inputValue decodes a run's input; no input is an empty object.
func inputValue(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return map[string]any{}, nil
	}
	return expr.Decode(raw)
}
