package registry

import (
	"fmt"
	"strings"

	"github.com/gowebpki/jcs"

	"cardea/internal/action"
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
	switch kind {
	case KindWorkflow:
		return decodeWorkflow(body)
	case KindPolicy:
		return nil, &DecodeError{ID{Kind: kind}, []string{"is Cedar text, which has no name inside: use DecodePolicy"}}
	}
	read := reader(kind)
	if read == nil {
		return nil, &DecodeError{ID{Kind: kind}, []string{unknownKind(kind)}}
	}
	return decodeObject(kind, body, read)
}

func decodeObject(kind string, body []byte, read func(*object, string) Object) (Object, error) {
	tree, err := parseJSON(body, limits{MaxResource, MaxDepth, MaxNodes})
	if err != nil {
		return nil, &DecodeError{ID{Kind: kind}, []string{err.Error()}}
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
		return nil, &DecodeError{ID{kind, name}, problems}
	}
	return object, nil
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
	object, err := Decode(kind, body)
	if err != nil {
		return Resource{}, nil, err
	}
	id := object.ID()
	if name != "" && name != id.Name {
		return Resource{}, nil, &DecodeError{ID{kind, name}, []string{fmt.Sprintf("the body says it is called %q", id.Name)}}
	}
	canonical, err := jcs.Transform(body)
	if err != nil {
		return Resource{}, nil, &DecodeError{id, []string{"no canonical form: " + err.Error()}}
	}
	return Resource{kind, id.Name, canonical, action.Digest(canonical)}, object, nil
}
