package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cardea/internal/action"
	"cardea/internal/flow/claims"
)

// Change is what a person asks for. By and At are stamped on what it puts in force; they are no part of the plan's digest.
type Change struct {
	Apply  []Resource // Kind, Body, and Name (which may be empty except for a Policy); Digest is ignored
	Remove []ID
	By     string
	At     time.Time
}

// Plan says what a change would do. Everything in it is in a fixed order.
type Plan struct {
	// Digest names the change and the state it starts from; empty when Errors stop it. Applying under another digest is applying
	// something that nobody has seen.
	Digest     string
	Changes    []Line
	Privileges []Privilege
	Exposures  []Exposure
	// Adds says, a sentence each, why the change adds privilege; empty when it adds none.
	Adds     []string
	Touches  Touches
	Warnings []string
	Errors   []string
}

// AddsPrivilege reports whether anybody could do more after the change than before.
func (p Plan) AddsPrivilege() bool { return len(p.Adds) > 0 }

// Verbs of a Line.
const (
	VerbNew       = "new"
	VerbChanged   = "changed"
	VerbRemoved   = "removed"
	VerbUnchanged = "unchanged"
)

// Line is what happens to one resource.
type Line struct {
	Verb   string
	ID     ID
	Detail string
	// Before and After are the canonical bodies, nil where the resource is absent, so that signers can be shown by value what they
	// grant. They are the state's own: do not write to them.
	Before, After []byte
}

// Privilege is one thing that a process gains or loses.
type Privilege struct {
	Lost       bool
	Process    string
	Workflow   string   // <process>/<workflow>
	Task       string   // JSON pointer
	TaskName   string   // transfer/one
	Connection string   // empty for a host that is asked without a credential
	Access     string   // read or write
	What       string   // GET https://hr.example.com/v1/timesheets/{month}
	Credential string   // identity token, ≤ 5 min, privileged tier
	Approval   string   // two of group:treasury approve (4 h); empty when none may be asked
	Policies   []string // that give it
}

// Exposure sums up a process after the change.
type Exposure struct {
	Process           string
	StrangersCanStart bool
	ReachesProduction bool
	SharesWith        []string
}

// Touches names what a person must be allowed to apply to for this change.
type Touches struct {
	Processes []string
	// Hub: policies, people, groups, runners, processes themselves and everything that belongs to no process. Policies, because
	// one may speak of everything.
	Hub bool
}

// PlanError is what stops a change; the same texts stand in Plan.Errors.
type PlanError struct {
	Errors []string
}

func (e *PlanError) Error() string { return strings.Join(e.Errors, "; ") }

// Plan computes what a change would do to this state and the state after it, and changes nothing. The error is a *PlanError, and
// the state nil, if and only if plan.Errors says what stops it.
func (s *State) Plan(c Change) (Plan, *State, error) {
	p := &planner{now: s, change: c, verbs: map[ID]string{}}
	after := p.run()
	if len(p.plan.Errors) > 0 {
		p.plan.Digest = ""
		return p.plan, nil, &PlanError{p.plan.Errors}
	}
	return p.plan, after, nil
}

type planner struct {
	now    *State
	change Change
	verbs  map[ID]string
	plan   Plan
}

func (p *planner) fail(format string, args ...any) {
	p.plan.Errors = append(p.plan.Errors, fmt.Sprintf(format, args...))
}

func (p *planner) run() *State {
	next := p.next()
	if len(p.plan.Errors) > 0 {
		return nil
	}
	after, err := build(next, p.now)
	if err != nil {
		p.plan.Errors = err.(*BuildError).Problems
		return nil
	}
	if !p.affordable(after) {
		return nil
	}
	p.findings(after)
	p.lines(after)
	before, grants := p.grants(after)
	p.ungranted(after, grants)
	p.plan.Privileges = difference(before, grants)
	p.plan.Adds = p.adds(after, before, grants)
	p.plan.Touches = p.touches(after)
	p.plan.Exposures = p.exposures(after)
	p.plan.Digest, err = p.digest(after)
	if err != nil {
		p.fail("plan digest: %v", err)
	}
	return after
}

// next gives what would be in force, or says why it cannot.
func (p *planner) next() []Stored {
	if n := len(p.change.Apply) + len(p.change.Remove); n > MaxResources {
		p.fail("%d resources in one change; at most %d are allowed", n, MaxResources)
		return nil
	}
	stored := maps.Clone(p.now.stored)
	for _, r := range p.change.Apply {
		p.apply(stored, r)
	}
	for _, id := range p.change.Remove {
		switch _, exists := p.now.stored[id]; {
		case p.verbs[id] != "":
			p.fail("%s: stands twice in this change", id)
		case !exists:
			p.fail("%s: does not exist, so it cannot be removed: mend the name", id)
		default:
			p.verbs[id] = VerbRemoved
			delete(stored, id)
		}
	}
	return slices.SortedFunc(maps.Values(stored), func(a, b Stored) int { return CompareIDs(a.ID(), b.ID()) })
}

func (p *planner) apply(stored map[ID]Stored, asked Resource) {
	r, _, err := NewResource(asked.Kind, asked.Name, asked.Body)
	if err != nil {
		p.fail("%v", err)
		return
	}
	id := r.ID()
	if p.verbs[id] != "" {
		p.fail("%s: stands twice in this change", id)
		return
	}
	before, exists := p.now.stored[id]
	switch {
	case !exists:
		p.verbs[id] = VerbNew
	case before.Digest == r.Digest:
		p.verbs[id] = VerbUnchanged
		return
	case r.Kind == KindWorkflow:
		// Runs are open under it and people have approved it by this name.
		p.fail("%s: this version exists with other content: raise document.version", id)
		return
	default:
		p.verbs[id] = VerbChanged
	}
	stored[id] = Stored{Resource: r, AppliedBy: p.change.By, AppliedAt: p.change.At}
}

// findings become errors when they are about a workflow that this change brings, and warnings when they are new.
func (p *planner) findings(after *State) {
	known := map[finding]bool{}
	for _, f := range p.now.findings {
		known[f] = true
	}
	for _, f := range after.findings {
		switch {
		case f.about.Kind == KindWorkflow && p.verbs[f.about] == VerbNew:
			p.fail("%s", f.text)
		case !known[f]:
			p.plan.Warnings = append(p.plan.Warnings, f.text)
		}
	}
}

// ungranted warns of tasks in new definitions that no policy permits: they will be denied, which may be what somebody wants to see.
func (p *planner) ungranted(after *State, grants []grant) {
	granted := map[[3]string]bool{}
	for _, g := range grants {
		granted[[3]string{g.workflow, g.task, g.connection}] = true
	}
	for _, w := range all[*Workflow](after, KindWorkflow) {
		if p.verbs[w.ID()] != VerbNew {
			continue
		}
		for _, t := range w.Tasks {
			for _, name := range t.Connections {
				if !granted[[3]string{w.Title(), t.Pointer, name}] {
					p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf("%s: no policy permits task %s to use connection %s: it will be denied", w.ID(), taskName(t.Pointer), name))
				}
			}
			if len(t.Connections) == 0 && !granted[[3]string{w.Title(), t.Pointer, ""}] {
				p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf("%s: no policy permits task %s to reach %s: it will be denied", w.ID(), taskName(t.Pointer), t.Origin))
			}
		}
	}
}

func (p *planner) lines(after *State) {
	for _, id := range slices.SortedFunc(maps.Keys(p.verbs), CompareIDs) {
		l := Line{Verb: p.verbs[id], ID: id, Before: p.now.stored[id].Body, After: after.stored[id].Body}
		switch {
		case id.Kind == KindPolicy && l.Verb != VerbUnchanged:
			l.Detail = policyDetail(p.now, after, id)
		case l.Verb == VerbChanged:
			l.Detail = strings.Join(changedFields(p.now.stored[id].Body, after.stored[id].Body), ", ")
		}
		p.plan.Changes = append(p.plan.Changes, l)
	}
}

// changedFields names the top-level members in which two canonical bodies differ.
func changedFields(before, after []byte) []string {
	var b, a map[string]json.RawMessage
	if json.Unmarshal(before, &b) != nil || json.Unmarshal(after, &a) != nil {
		return nil
	}
	names := map[string]bool{}
	for _, m := range []map[string]json.RawMessage{b, a} {
		for name := range m {
			if string(b[name]) != string(a[name]) {
				names[name] = true
			}
		}
	}
	return sortedKeys(names)
}

// touches also counts where a resource stood before: moving one away takes it from its process.
func (p *planner) touches(after *State) Touches {
	var t Touches
	processes := map[string]bool{}
	for id, verb := range p.verbs {
		if verb == VerbUnchanged {
			continue
		}
		for _, s := range []*State{p.now, after} {
			if o := s.objects[id]; o != nil {
				process, hub := home(o)
				t.Hub = t.Hub || hub
				if process != "" {
					processes[process] = true
				}
			}
		}
	}
	t.Processes = sortedKeys(processes)
	return t
}

func home(o Object) (process string, hub bool) {
	switch o := o.(type) {
	case *Process:
		return o.Name, true
	case *Connection:
		return o.Process, o.Process == ""
	case *ApprovalRule:
		return o.Process, o.Process == ""
	case *Workflow:
		return o.Process, false
	}
	return "", true
}

func (p *planner) exposures(after *State) []Exposure {
	concerned := map[string]bool{}
	for _, process := range p.plan.Touches.Processes {
		concerned[process] = true
	}
	for _, g := range p.plan.Privileges {
		concerned[g.Process] = true
	}
	var out []Exposure
	for _, name := range sortedKeys(concerned) {
		if _, ok := after.Process(name); ok {
			out = append(out, after.exposure(name))
		}
	}
	return out
}

func (s *State) exposure(process string) Exposure {
	e := Exposure{Process: process, StrangersCanStart: s.strangersCanStart(process)}
	shares := map[string]bool{}
	for _, connection := range s.uses[process] {
		for _, user := range s.usedBy[connection] {
			if user != process && s.objects[ID{KindConnection, connection}] != nil {
				shares[user] = true
			}
		}
	}
	e.SharesWith = sortedKeys(shares)
	for _, w := range s.byProcess[process] {
		e.ReachesProduction = e.ReachesProduction || slices.ContainsFunc(s.granted[w.ID()].list, func(g grant) bool {
			n, ok := s.Connection(g.connection)
			return ok && n.Zone == ZoneProduction
		})
	}
	return e
}

// ZoneProduction is the zone that the baseline guards.
const ZoneProduction = "production"

// digest is over canonical JSON of the state that the plan starts from and of every resource it names, by content.
func (p *planner) digest(after *State) (string, error) {
	doc := map[string]any{"v": 1.0, "from": p.now.digest}
	apply, remove := []any{}, []any{}
	for _, l := range p.plan.Changes {
		entry := map[string]any{"kind": l.ID.Kind, "name": l.ID.Name}
		if l.Verb == VerbRemoved {
			entry["digest"] = p.now.stored[l.ID].Digest
			remove = append(remove, entry)
			continue
		}
		entry["digest"] = after.stored[l.ID].Digest
		apply = append(apply, entry)
	}
	doc["apply"], doc["remove"] = apply, remove
	canonical, err := claims.Canonical(doc)
	if err != nil {
		return "", err
	}
	return action.Digest(canonical), nil
}
