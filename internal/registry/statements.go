package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"cardea/internal/policy"
)

// statement is what plans need to know of one policy beyond its scope.
type statement struct {
	forbid, conditional bool
}

// statement reads a compiled policy's own text. What cannot be read counts as a conditional permit, the reading that plans treat with
// the most suspicion.
func (s *State) statement(id string) statement {
	text, _, ok := s.policies.Text(id)
	var p cedar.Policy
	if !ok || p.UnmarshalCedar([]byte(text)) != nil {
		return statement{conditional: true}
	}
	var doc struct {
		Conditions []json.RawMessage `json:"conditions"`
	}
	raw, err := p.MarshalJSON()
	if err != nil || json.Unmarshal(raw, &doc) != nil {
		return statement{conditional: true}
	}
	return statement{forbid: p.Effect() == cedar.Forbid, conditional: len(doc.Conditions) > 0}
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

// strangersCanStart reports whether the scope of some permit lets an event from outside start a workflow of a process.
func (s *State) strangersCanStart(process string) bool {
	stranger := policy.Entity{Ref: policy.Ref{Type: "Route", ID: "any"}}
	return slices.ContainsFunc(all[*Workflow](s, KindWorkflow), func(w *Workflow) bool {
		if w.Process != process {
			return false
		}
		m, err := s.policies.Scope(policy.Request{
			Principal: stranger.Ref, Action: "start", Resource: policy.Ref{Type: "Workflow", ID: w.Title()},
			Entities: append(s.WorkflowEntities(w), stranger),
		})
		return err == nil && len(m.Permits) > 0
	})
}
