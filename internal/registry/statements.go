package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"cardea/internal/policy"
)

// statement is what plans need to know of one policy.
type statement struct {
	digest              string
	forbid, conditional bool
	who                 policy.Ref // the principal that its scope names; no ID for a type, and nothing for everyone
	actions             []string   // nil for every action
	groups              []string   // that a forbid names anywhere
}

// readStatements reads every compiled policy's own text, or takes what an earlier state read of the same text.
func (s *State) readStatements(before *State) map[string]statement {
	out := map[string]statement{}
	for _, id := range s.policies.IDs() {
		text, digest, _ := s.policies.Text(id)
		if before != nil && before.statements[id].digest == digest {
			out[id] = before.statements[id]
			continue
		}
		out[id] = readStatement(text)
		known := out[id]
		known.digest = digest
		out[id] = known
	}
	return out
}

type scopeText struct {
	Entity, In *policyRef
	Entities   []policyRef
	EntityType string `json:"entity_type"`
}

type policyRef struct {
	Type, ID string
	Entity   *policyRef // of is … in
}

// readStatement takes what it cannot read for a conditional permit that bears on everything, which plans treat with the most suspicion.
func readStatement(text string) statement {
	suspicious := statement{conditional: true}
	var p cedar.Policy
	if p.UnmarshalCedar([]byte(text)) != nil {
		return suspicious
	}
	raw, err := p.MarshalJSON()
	if err != nil {
		return suspicious
	}
	var doc struct {
		Principal, Action scopeText
		Conditions        []json.RawMessage
	}
	if json.Unmarshal(raw, &doc) != nil {
		return suspicious
	}
	s := statement{forbid: p.Effect() == cedar.Forbid, conditional: len(doc.Conditions) > 0, who: doc.Principal.who()}
	for _, action := range append(doc.Action.Entities, deref(doc.Action.Entity)...) {
		s.actions = append(s.actions, action.ID)
	}
	var tree any
	if s.forbid && json.Unmarshal(raw, &tree) == nil {
		s.groups = groupsIn(tree, nil)
	}
	return s
}

func deref(r *policyRef) []policyRef {
	if r == nil {
		return nil
	}
	return []policyRef{*r}
}

func (t scopeText) who() policy.Ref {
	switch {
	case t.Entity != nil:
		return policy.Ref{Type: t.Entity.Type, ID: t.Entity.ID}
	case t.In != nil && t.In.Entity != nil:
		return policy.Ref{Type: t.In.Entity.Type, ID: t.In.Entity.ID}
	}
	return policy.Ref{Type: t.EntityType}
}

// groupsIn finds every group that a policy's JSON names, however its text spells it.
func groupsIn(tree any, found []string) []string {
	switch v := tree.(type) {
	case map[string]any:
		if id, ok := v["id"].(string); ok && v["type"] == "Group" {
			found = append(found, id)
		}
		for _, x := range v {
			found = groupsIn(x, found)
		}
	case []any:
		for _, x := range v {
			found = groupsIn(x, found)
		}
	}
	return found
}

// policyDetail tells which statements of a file a change brings, mends and takes.
func policyDetail(now, after *State, file ID) string {
	before, next := statementsOf(now, file), statementsOf(after, file)
	var fresh, changed []string
	for _, id := range sortedKeys(next) {
		if digest, existed := before[id]; !existed {
			fresh = append(fresh, id)
		} else if digest != next[id] {
			changed = append(changed, id)
		}
	}
	removed := missing(sortedKeys(before), sortedKeys(next))
	var parts []string
	for _, part := range []struct {
		verb string
		ids  []string
	}{{VerbNew, fresh}, {VerbChanged, changed}, {VerbRemoved, removed}} {
		if len(part.ids) > 0 {
			parts = append(parts, fmt.Sprintf("%s: %s", part.verb, strings.Join(part.ids, ", ")))
		}
	}
	return strings.Join(parts, "; ")
}

// statementsOf gives the ids of a file's statements with their digests in the compiled set.
func statementsOf(s *State, file ID) map[string]string {
	out := map[string]string{}
	p, ok := find[*Policy](s, KindPolicy, file.Name)
	if !ok {
		return out
	}
	list, err := cedar.NewPolicyListFromBytes(p.Name, []byte(p.Text))
	if err != nil {
		return out // Build compiled it, so this cannot be
	}
	for _, statement := range list {
		id := string(statement.Annotations()["id"])
		if _, digest, ok := s.policies.Text(id); ok {
			out[id] = digest
		}
	}
	return out
}

// stranger stands for whatever event from outside a policy may speak of. Never written to.
var stranger = policy.Ref{Type: "Route", ID: "any"}

// strangersCanStart reports whether the scope of some permit lets an event from outside start a workflow of a process.
func (s *State) strangersCanStart(process string) bool {
	asked := map[string]bool{}
	return slices.ContainsFunc(s.byProcess[process], func(w *Workflow) bool {
		if asked[w.Title()] {
			return false
		}
		asked[w.Title()] = true
		m, err := s.policies.Scope(policy.Request{
			Principal: stranger, Action: "start", Resource: policy.Ref{Type: "Workflow", ID: w.Title()},
			Entities: append(s.WorkflowEntities(w), policy.Entity{Ref: stranger}),
		})
		return err == nil && len(m.Permits) > 0
	})
}
