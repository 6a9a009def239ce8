package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
)

// Bounds of one request. The authority makes requests, but the strings in them come from definitions, people and the
// internet.
const (
	maxID       = 2048
	maxEntities = 256
	maxMembers  = 4096
	maxNesting  = 8
)

// question is a Request that fits the schema, in Cedar's types.
type question struct {
	req      types.Request
	entities types.EntityMap
	// principalUp and resourceUp hold the entity itself and all its ancestors.
	principalUp, resourceUp []types.EntityUID
}

// ask turns a request into a question, or says why it does not fit the schema. Nothing is filled in that could widen an
// answer: only parents that follow from an id, and the name that follows from a person's id.
func (v *vocabulary) ask(r Request) (*question, error) {
	q, err := v.askScope(r)
	if err != nil {
		return nil, err
	}
	context, e := v.record(bareNames(r), v.schema.Actions[q.req.Action].AppliesTo.Context, 0)
	if e != nil {
		return nil, fmt.Errorf("%s: context%w", r.Action, e)
	}
	q.req.Context = context
	return q, nil
}

// askScope is ask without the context.
func (v *vocabulary) askScope(r Request) (*question, error) {
	action, ok := v.actions[r.Action]
	if !ok {
		return nil, fmt.Errorf("there is no action %q", r.Action)
	}
	applies := v.schema.Actions[action].AppliesTo
	if err := v.subject("principal", r.Principal, applies.Principals); err != nil {
		return nil, fmt.Errorf("%s: %w", r.Action, err)
	}
	if err := v.subject("resource", r.Resource, applies.Resources); err != nil {
		return nil, fmt.Errorf("%s: %w", r.Action, err)
	}
	entities, err := v.entityMap(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.Action, err)
	}
	q := &question{
		req:      types.Request{Principal: uid(r.Principal), Action: action, Resource: uid(r.Resource)},
		entities: entities,
	}
	q.principalUp, q.resourceUp = q.ancestry(q.req.Principal), q.ancestry(q.req.Resource)
	return q, nil
}

// bareNames takes "person:" off the names that the approver rules compare with a person's own: an exclusion must not
// hang on which of the two spellings a caller keeps.
func bareNames(r Request) map[string]any {
	if r.Action != "approve" {
		return r.Context
	}
	context := maps.Clone(r.Context)
	if s, ok := context["requester"].(string); ok {
		context["requester"] = strings.TrimPrefix(s, "person:")
	}
	if names, ok := context["appliers"].([]any); ok {
		bare := slices.Clone(names)
		for i := range bare {
			if s, ok := bare[i].(string); ok {
				bare[i] = strings.TrimPrefix(s, "person:")
			}
		}
		context["appliers"] = bare
	}
	return context
}

func uid(r Ref) types.EntityUID {
	return types.NewEntityUID(types.EntityType(r.Type), types.String(r.ID))
}

func (v *vocabulary) subject(role string, r Ref, allowed []types.EntityType) error {
	if err := v.checkRef(r); err != nil {
		return fmt.Errorf("%s: %w", role, err)
	}
	if !slices.Contains(allowed, types.EntityType(r.Type)) {
		return fmt.Errorf("%s: a %s cannot be one", role, r.Type)
	}
	return nil
}

func (v *vocabulary) checkRef(r Ref) error {
	if _, ok := v.schema.Entities[types.EntityType(r.Type)]; !ok {
		return fmt.Errorf("there is no entity type %q", r.Type)
	}
	if r.ID == "" || len(r.ID) > maxID {
		return fmt.Errorf("a %s needs an id of 1 to %d bytes", r.Type, maxID)
	}
	return nil
}

// entityMap describes the request's entities and those that their ids imply.
func (v *vocabulary) entityMap(r Request) (types.EntityMap, error) {
	if len(r.Entities) > maxEntities {
		return nil, fmt.Errorf("%d entities, at most %d", len(r.Entities), maxEntities)
	}
	m := make(types.EntityMap, len(r.Entities)+4)
	for _, e := range r.Entities {
		if _, double := m[uid(e.Ref)]; double {
			return nil, fmt.Errorf("%s %q is described twice", e.Type, e.ID)
		}
		if err := v.describe(m, e); err != nil {
			return nil, fmt.Errorf("%s %q: %w", e.Type, e.ID, err)
		}
	}
	for _, ref := range []Ref{r.Principal, r.Resource} {
		if _, ok := m[uid(ref)]; ok {
			continue
		}
		if len(v.schema.Entities[types.EntityType(ref.Type)].Shape) > 0 {
			return nil, fmt.Errorf("%s %q is not described", ref.Type, ref.ID)
		}
		if err := v.describe(m, Entity{Ref: ref}); err != nil {
			return nil, fmt.Errorf("%s %q: %w", ref.Type, ref.ID, err)
		}
	}
	return m, nil
}

// describe adds one entity, and bare entries for ancestors that ids imply and nobody described.
func (v *vocabulary) describe(m types.EntityMap, e Entity) error {
	if err := v.checkRef(e.Ref); err != nil {
		return err
	}
	decl := v.schema.Entities[types.EntityType(e.Type)]
	attrs, unfit := v.record(named(e), decl.Shape, 0)
	if unfit != nil {
		return fmt.Errorf("attributes%w", unfit)
	}
	implied, err := impliedParents(e)
	if err != nil {
		return err
	}
	parents := make([]types.EntityUID, 0, len(e.Parents)+len(implied))
	for _, p := range append(implied, e.Parents...) {
		if !slices.Contains(decl.ParentTypes, types.EntityType(p.Type)) {
			return fmt.Errorf("a %s cannot be in a %s", e.Type, p.Type)
		}
		if err := v.checkRef(p); err != nil {
			return err
		}
		if alone, ok := strings.CutPrefix(p.ID, "person:"); ok && e.Type == "Person" && alone != e.ID {
			return fmt.Errorf("the group %q is another person's own", p.ID)
		}
		parents = append(parents, uid(p))
	}
	m[uid(e.Ref)] = types.Entity{UID: uid(e.Ref), Attributes: attrs, Parents: types.NewEntityUIDSet(parents...)}
	if e.Type == "Task" { // its workflow leads on to the process, whether or not anybody described it
		w := implied[0]
		process, err := impliedParents(Entity{Ref: w})
		if err != nil {
			return err
		}
		if _, ok := m[uid(w)]; !ok {
			m[uid(w)] = types.Entity{UID: uid(w), Parents: types.NewEntityUIDSet(uid(process[0]))}
		}
	}
	return nil
}

// named adds the name that a person's or agent's id is: policies compare it with the names in a context.
func named(e Entity) map[string]any {
	if e.Type != "Person" && e.Type != "Agent" {
		return e.Attrs
	}
	attrs := make(map[string]any, len(e.Attrs)+1)
	maps.Copy(attrs, e.Attrs)
	attrs["name"] = e.ID
	return attrs
}

// impliedParents are those that follow from the entity itself. They are added whatever the caller says, because a task
// that a caller forgot to put into its process would escape every forbid on that process.
func impliedParents(e Entity) ([]Ref, error) {
	switch e.Type {
	case "Task":
		process, rest, _ := strings.Cut(e.ID, "/")
		workflow, pointer, _ := strings.Cut(rest, "/")
		if process == "" || workflow == "" || pointer == "" {
			return nil, errors.New("a task is named process/workflow/pointer")
		}
		return []Ref{{"Workflow", process + "/" + workflow}}, nil
	case "Workflow":
		process, workflow, _ := strings.Cut(e.ID, "/")
		if process == "" || workflow == "" || strings.Contains(workflow, "/") {
			return nil, errors.New("a workflow is named process/workflow")
		}
		return []Ref{{"Process", process}}, nil
	case "Person":
		return []Ref{{"Group", "person:" + e.ID}}, nil
	case "Connection":
		if zone, _ := e.Attrs["zone"].(string); zone != "" {
			return []Ref{{"Zone", zone}}, nil
		}
	}
	return nil, nil
}

// ancestry is u and everything above it.
func (q *question) ancestry(u types.EntityUID) []types.EntityUID {
	up := []types.EntityUID{u}
	for i := 0; i < len(up); i++ {
		for p := range q.entities[up[i]].Parents.All() {
			if !slices.Contains(up, p) {
				up = append(up, p)
			}
		}
	}
	return up
}

// misfit is an error at a place of a request; the place grows as it is handed up.
type misfit struct{ at, why string }

func (e *misfit) Error() string { return e.at + e.why }

func within(name string, e *misfit) *misfit {
	return &misfit{"." + name + e.at, e.why}
}

// misfits keeps the fault with the first name.
type misfits struct {
	name string
	*misfit
}

func (m *misfits) add(name string, e *misfit) {
	if m.misfit == nil || name < m.name {
		m.name, m.misfit = name, e
	}
}

// record converts by the schema: an attribute that is missing, unknown or of another type is an error. A record that the
// schema leaves empty is open: its names are the caller's, its values strings, booleans and decimals. Of several faults the
// one with the first name is told, so that the answer does not depend on the order of a map.
func (v *vocabulary) record(attrs map[string]any, shape resolved.RecordType, depth int) (types.Record, *misfit) {
	if depth > maxNesting || len(attrs) > maxMembers {
		return types.Record{}, &misfit{why: " is too deep or too large"}
	}
	open := len(shape) == 0 && depth > 0
	out := make(types.RecordMap, len(attrs))
	var first misfits
	for name, attr := range attrs {
		decl, known := shape[types.String(name)]
		want := decl.Type
		switch {
		case open:
			want = openType(attr)
		case !known:
			first.add(name, &misfit{why: fmt.Sprintf(" has no attribute %q", name)})
			continue
		}
		value, e := v.value(attr, want, depth+1)
		if e != nil {
			first.add(name, within(name, e))
			continue
		}
		out[types.String(name)] = value
	}
	if first.misfit == nil && len(out) < len(shape) {
		for name, decl := range shape {
			if _, ok := out[name]; !ok && !decl.Optional {
				first.add(string(name), &misfit{why: fmt.Sprintf(" lacks attribute %q", name)})
			}
		}
	}
	if first.misfit != nil {
		return types.Record{}, first.misfit
	}
	return types.NewRecord(out), nil
}

// openType is the type of a value in an open record, nil for one that may not stand there.
func openType(v any) resolved.IsType {
	switch v.(type) {
	case string:
		return resolved.StringType{}
	case bool:
		return resolved.BoolType{}
	case Decimal:
		return resolved.ExtensionType("decimal")
	}
	return nil
}

func (v *vocabulary) value(in any, want resolved.IsType, depth int) (types.Value, *misfit) {
	switch want := want.(type) {
	case resolved.StringType:
		if s, ok := in.(string); ok {
			return types.String(s), nil
		}
	case resolved.BoolType:
		if b, ok := in.(bool); ok {
			return types.Boolean(b), nil
		}
	case resolved.LongType:
		if n, ok := in.(int64); ok {
			return types.Long(n), nil
		}
	case resolved.EntityType:
		if r, ok := in.(Ref); ok && r.Type == string(want) {
			if err := v.checkRef(r); err != nil {
				return nil, &misfit{why: ": " + err.Error()}
			}
			return uid(r), nil
		}
	case resolved.RecordType:
		if m, ok := in.(map[string]any); ok {
			return v.record(m, want, depth)
		}
	case resolved.SetType:
		if s, ok := in.([]any); ok {
			return v.set(s, want, depth)
		}
	case resolved.ExtensionType:
		return extension(in, want)
	}
	return nil, misplaced(in)
}

func misplaced(in any) *misfit {
	return &misfit{why: fmt.Sprintf(": a %T does not belong there", in)}
}

func (v *vocabulary) set(in []any, want resolved.SetType, depth int) (types.Value, *misfit) {
	if len(in) > maxMembers {
		return nil, &misfit{why: fmt.Sprintf(": %d members, at most %d", len(in), maxMembers)}
	}
	members := make([]types.Value, len(in))
	for i, m := range in {
		var e *misfit
		if members[i], e = v.value(m, want.Element, depth); e != nil {
			return nil, e
		}
	}
	return types.NewSet(members...), nil
}

func extension(in any, want resolved.ExtensionType) (types.Value, *misfit) {
	switch in := in.(type) {
	case Decimal:
		if want == "decimal" {
			d, err := in.parse()
			if err != nil {
				return nil, &misfit{why: ": " + err.Error()}
			}
			return d, nil
		}
	case time.Time:
		if want == "datetime" {
			return types.NewDatetime(in), nil
		}
	}
	return nil, misplaced(in)
}
