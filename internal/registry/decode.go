package registry

import (
	"encoding/json"
	"fmt"
	"strings"

	"cardea/internal/action"
	"cardea/internal/flow/claims"
)

// DecodeError lists everything that is wrong with one resource.
type DecodeError struct {
	Resource ID
	Problems []string
}

func (e *DecodeError) Error() string {
	who := e.Resource.Kind
	if e.Resource.Name != "" {
		who = e.Resource.String()
	}
	return who + ": " + strings.Join(e.Problems, "; ")
}

// Decode reads one resource strictly. The error, a *DecodeError, names each place that is wrong and what would mend it.
func Decode(kind string, body []byte) (Object, error) {
	if kind == KindPolicy {
		return nil, &DecodeError{ID{Kind: kind}, []string{"is Cedar text, which has no name inside: use DecodePolicy"}}
	}
	object, _, err := decode(kind, body)
	return object, err
}

// decode also gives what the body's canonical form is made from: bytes that are canonical already, or a tree of bounded size.
func decode(kind string, body []byte) (Object, any, error) {
	if kind == KindWorkflow {
		w, err := decodeWorkflow(body)
		return w, body, err
	}
	read := reader(kind)
	if read == nil {
		return nil, nil, &DecodeError{ID{Kind: kind}, []string{unknownKind(kind)}}
	}
	return decodeObject(kind, body, read)
}

func decodeObject(kind string, body []byte, read func(*object, string) Object) (Object, any, error) {
	tree, err := parseJSON(body, limits{MaxResource, MaxDepth, MaxNodes})
	if err != nil {
		return nil, nil, &DecodeError{ID{Kind: kind}, []string{err.Error()}}
	}
	var problems []string
	o := newObject(tree, "", &problems)
	if stated := o.text("kind", true); stated != kind && stated != "" {
		o.bad("kind", "says %q, but the resource was sent as %q", stated, kind)
	}
	name := o.text("name", true)
	if err := checkName(name); err != nil && name != "" {
		o.bad("name", "%v", err)
	}
	object := read(o, name)
	o.done()
	if len(problems) > 0 {
		return nil, nil, &DecodeError{ID{kind, name}, problems}
	}
	return object, tree, nil
}

func reader(kind string) func(*object, string) Object {
	switch kind {
	case KindProcess:
		return readProcess
	case KindConnection:
		return readConnection
	case KindApprovalRule:
		return readRule
	case KindPerson:
		return readPerson
	case KindGroup:
		return readGroup
	case KindRunner:
		return readRunner
	}
	return nil
}

func unknownKind(kind string) string {
	switch kind {
	case "Route", "Agent", "Schedule":
		return fmt.Sprintf("this build has no kind %s: it comes with a later version", kind)
	case "Binding":
		return "a Binding is applied by the client before anything is sent; it is no resource"
	}
	return fmt.Sprintf("kind %q is not known; these are: Process, Connection, ApprovalRule, Person, Group, Runner, Workflow, Policy", kind)
}

// NewResource decodes a body and gives it its canonical form, name and digest. A Policy has no name inside: it is called name;
// for every other kind, name is what the body must say, or empty.
func NewResource(kind, name string, body []byte) (Resource, Object, error) {
	if kind == KindPolicy {
		p, err := DecodePolicy(name, body)
		if err != nil {
			return Resource{}, nil, err
		}
		return Resource{kind, name, body, action.Digest(body)}, p, nil
	}
	object, tree, err := decode(kind, body)
	if err != nil {
		return Resource{}, nil, err
	}
	id := object.ID()
	if name != "" && name != id.Name {
		return Resource{}, nil, &DecodeError{ID{kind, name}, []string{fmt.Sprintf("the body says it is called %q", id.Name)}}
	}
	body, err = canonical(tree)
	if err != nil {
		return Resource{}, nil, &DecodeError{id, []string{"no canonical form: " + err.Error()}}
	}
	return Resource{kind, id.Name, body, action.Digest(body)}, object, nil
}

// canonical gives the RFC 8785 form of what decode read, in time n log n: transforming the text again would cost the square of its
// keys, which anybody who may ask for a plan chooses.
func canonical(tree any) ([]byte, error) {
	if done, ok := tree.([]byte); ok {
		return done, nil
	}
	doubles, err := withDoubles(tree)
	if err != nil {
		return nil, err
	}
	return claims.Canonical(doubles)
}

// withDoubles gives a tree's numbers the only form that RFC 8785 knows.
func withDoubles(tree any) (any, error) {
	var err error
	switch v := tree.(type) {
	case json.Number:
		return v.Float64()
	case []any:
		out := make([]any, len(v))
		for i := range v {
			if out[i], err = withDoubles(v[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for key := range v {
			if out[key], err = withDoubles(v[key]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return tree, nil
}
