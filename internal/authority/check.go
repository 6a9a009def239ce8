package authority

import (
	"encoding/json"
	"fmt"
	"strings"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/policy"
)

// check answers a what-if. It grants nothing and records nothing; whoever may read everything may ask.
func (a *Authority) check(who Speaker, r *cardeav1.CheckRequest) (Verdict, error) {
	s := a.current.Load()
	if err := a.requireRead(s, who.Person, "*"); err != nil {
		return Verdict{}, err
	}
	principal, err := parseRef(r.GetPrincipal())
	if err != nil {
		return Verdict{}, err
	}
	resource, err := parseRef(r.GetResource())
	if err != nil {
		return Verdict{}, err
	}
	context := map[string]any{"now": a.Now(), "dev": a.Dev}
	if raw := r.GetContextJson(); len(raw) > 0 {
		var said map[string]any
		if err := json.Unmarshal(raw, &said); err != nil {
			return Verdict{}, fmt.Errorf("context: %w: %w", ErrInvalid, err)
		}
		for k, v := range said {
			context[k] = cedarValue(v)
		}
	}
	return verdictOf(s.Policies().Decide(policy.Request{Principal: principal, Action: r.GetAction(), Resource: resource,
		Entities: a.known(s, principal, resource), Context: context}), ""), nil
}

// cedarValue turns JSON into policy's values: numbers that are whole become integers, others decimals.
func cedarValue(v any) any {
	switch v := v.(type) {
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
		return policy.Decimal(fmt.Sprintf("%.4f", v))
	case map[string]any:
		out := map[string]any{}
		for k, inner := range v {
			out[k] = cedarValue(inner)
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, inner := range v {
			out = append(out, cedarValue(inner))
		}
		return out
	}
	return v
}

// parseRef reads Type::"id".
func parseRef(s string) (policy.Ref, error) {
	kind, quoted, ok := strings.Cut(s, "::")
	var id string
	if !ok || json.Unmarshal([]byte(quoted), &id) != nil {
		return policy.Ref{}, fmt.Errorf("%q is not like Connection::\"hr\": %w", s, ErrInvalid)
	}
	return policy.Ref{Type: kind, ID: id}, nil
}

// known describes the entities of a question as desired state has them.
func (a *Authority) known(s *snapshot, refs ...policy.Ref) []policy.Entity {
	var entities []policy.Entity
	for _, r := range refs {
		switch r.Type {
		case "Person":
			entities = append(entities, s.person(r.ID))
		case "Process":
			entities = append(entities, s.process(r.ID))
		case "Connection":
			if c, ok := s.Connection(r.ID); ok {
				entities = append(entities, s.ConnectionEntity(c))
			}
		case "Workflow", "Task":
			parts := strings.SplitN(r.ID, "/", 3)
			if len(parts) > 1 {
				entities = append(entities, s.workflow(parts[0], parts[1])...)
			}
			if r.Type == "Task" {
				entities = append(entities, policy.Entity{Ref: r})
			}
		default:
			entities = append(entities, policy.Entity{Ref: r})
		}
	}
	return entities
}
