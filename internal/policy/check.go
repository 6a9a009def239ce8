package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// maxComplaints bounds how many things are said about one policy.
const maxComplaints = 5

// opening is an attribute of an open record that a policy reads, such as {facts amount}.
type opening struct{ record, name types.String }

// check type-checks a policy against the schema and returns what is wrong with it, sorted.
//
// Open records have no declared members, so their types are read off the policy: one that is compared with decimal("…")
// is a decimal, one that is matched with like is a string. A member whose type the policy leaves open may be any of the
// three that can occur. A member that the policy tests with `has` is taken as optional, which makes the checker demand
// the test before every use; any other is taken as present, and when it is absent at run time the error denies.
func (v *vocabulary) check(p *ast.Policy) []string {
	p = joined(p)
	found := openings(p)
	free := slices.DeleteFunc(slices.SortedFunc(maps.Keys(found), compareOpening), func(o opening) bool { return found[o].kind != nil })
	kinds := []resolved.IsType{resolved.BoolType{}, resolved.StringType{}, resolved.ExtensionType("decimal")}
	if len(free) == 0 {
		return v.complaints(p, found)
	}
	if len(free) > 4 {
		return []string{fmt.Sprintf("the types of %d facts cannot be told from their use; compare them with literals", len(free))}
	}
	var first []string
	tries := 1
	for range free {
		tries *= len(kinds)
	}
	for try := range tries {
		for _, o := range free {
			use := found[o]
			use.kind = kinds[try%len(kinds)]
			found[o] = use
			try /= len(kinds)
		}
		complaints := v.complaints(p, found)
		if len(complaints) == 0 {
			return nil
		}
		if first == nil {
			first = complaints
		}
	}
	return first
}

// joined makes one condition of all, so that a `has` in one guards the next, as at run time.
func joined(p *ast.Policy) *ast.Policy {
	if len(p.Conditions) == 0 {
		return p
	}
	q := *p
	q.Conditions = nil
	var all ast.Node
	for i, c := range p.Conditions {
		n := ast.NewNode(c.Body)
		if c.Condition == ast.ConditionUnless {
			n = ast.Not(n)
		}
		if i == 0 {
			all = n
		} else {
			all = all.And(n)
		}
	}
	return q.When(all)
}

func (v *vocabulary) complaints(p *ast.Policy, found map[opening]use) []string {
	err := validate.New(v.opened(found)).Policy("", p)
	if err == nil {
		return nil
	}
	out := strings.Split(err.Error(), "\n")
	if comparesFacts(p) {
		out = append(out, `facts that are numbers are decimals: compare them with .lessThan(decimal("1.0")) and its like`)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if n := len(out); n > maxComplaints {
		out = append(out[:maxComplaints], fmt.Sprintf("and %d more like it", n-maxComplaints))
	}
	return out
}

// opened returns the schema with the open records of every action's context declared as found.
func (v *vocabulary) opened(found map[opening]use) *resolved.Schema {
	if len(found) == 0 {
		return v.schema
	}
	members := map[types.String]resolved.RecordType{}
	for o, u := range found {
		if members[o.record] == nil {
			members[o.record] = resolved.RecordType{}
		}
		members[o.record][o.name] = resolved.Attribute{Type: u.kind, Optional: u.tested}
	}
	s := *v.schema
	s.Actions = maps.Clone(s.Actions)
	for uid, a := range s.Actions {
		to := *a.AppliesTo
		to.Context = declare(to.Context, members)
		a.AppliesTo = &to
		s.Actions[uid] = a
	}
	return &s
}

// declare fills in the open records of a shape, wherever they stand.
func declare(shape resolved.RecordType, members map[types.String]resolved.RecordType) resolved.RecordType {
	out := maps.Clone(shape)
	for name, attr := range shape {
		inner, ok := attr.Type.(resolved.RecordType)
		if !ok {
			continue
		}
		if len(inner) == 0 {
			inner = members[name]
		} else {
			inner = declare(inner, members)
		}
		if inner != nil {
			attr.Type = inner
			out[name] = attr
		}
	}
	return out
}

// use is what a policy tells about a member of an open record.
type use struct {
	kind   resolved.IsType
	tested bool
}

func compareOpening(a, b opening) int {
	return strings.Compare(string(a.record+"."+a.name), string(b.record+"."+b.name))
}

// openings collects every member of an open record that the policy reads or tests.
func openings(p *ast.Policy) map[opening]use {
	found := map[opening]use{}
	note := func(n ast.IsNode, kind resolved.IsType) {
		if o, ok := openAccess(n); ok {
			u := found[o]
			if u.kind == nil {
				u.kind = kind
			}
			found[o] = u
		}
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			note(n, nil)
			if has, ok := n.(ast.NodeTypeHas); ok {
				if record, ok := openRecord(has.Arg); ok {
					o := opening{record, has.Value}
					found[o] = use{kind: found[o].kind, tested: true}
				}
			}
			hints(n, note)
			return true
		})
	}
	return found
}

// hints tells note the types that the operator n demands of its operands.
func hints(n ast.IsNode, note func(ast.IsNode, resolved.IsType)) {
	switch n := n.(type) {
	case ast.NodeTypeLike:
		note(n.Arg, resolved.StringType{})
	case ast.NodeTypeEquals:
		note(n.Left, literal(n.Right))
		note(n.Right, literal(n.Left))
	case ast.NodeTypeNotEquals:
		note(n.Left, literal(n.Right))
		note(n.Right, literal(n.Left))
	case ast.NodeTypeContains:
		if set, ok := n.Left.(ast.NodeTypeSet); ok && len(set.Elements) > 0 {
			note(n.Right, literal(set.Elements[0]))
		}
	case ast.NodeTypeExtensionCall:
		if strings.HasPrefix(string(n.Name), "lessThan") || strings.HasPrefix(string(n.Name), "greaterThan") {
			for _, a := range n.Args {
				note(a, resolved.ExtensionType("decimal"))
			}
		}
	}
}

// literal is the type of a literal that can equal a member of an open record, nil for anything else.
func literal(n ast.IsNode) resolved.IsType {
	switch n := n.(type) {
	case ast.NodeValue:
		switch n.Value.(type) {
		case types.String:
			return resolved.StringType{}
		case types.Boolean:
			return resolved.BoolType{}
		}
	case ast.NodeTypeExtensionCall:
		if n.Name == "decimal" {
			return resolved.ExtensionType("decimal")
		}
	}
	return nil
}

// openRecord recognises context.action.facts and context.claimed.
func openRecord(n ast.IsNode) (types.String, bool) {
	a, ok := n.(ast.NodeTypeAccess)
	if !ok {
		return "", false
	}
	switch a.Value {
	case "claimed":
		return a.Value, isContext(a.Arg)
	case "facts":
		if b, ok := a.Arg.(ast.NodeTypeAccess); ok && b.Value == "action" {
			return a.Value, isContext(b.Arg)
		}
	}
	return "", false
}

func openAccess(n ast.IsNode) (opening, bool) {
	a, ok := n.(ast.NodeTypeAccess)
	if !ok {
		return opening{}, false
	}
	record, ok := openRecord(a.Arg)
	return opening{record, a.Value}, ok
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

// comparesFacts says whether a fact stands beside < or its like, which Cedar has for whole numbers only.
func comparesFacts(p *ast.Policy) bool {
	found := false
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			var b ast.BinaryNode
			switch n := n.(type) {
			case ast.NodeTypeLessThan:
				b = n.BinaryNode
			case ast.NodeTypeLessThanOrEqual:
				b = n.BinaryNode
			case ast.NodeTypeGreaterThan:
				b = n.BinaryNode
			case ast.NodeTypeGreaterThanOrEqual:
				b = n.BinaryNode
			}
			_, left := openAccess(b.Left)
			_, right := openAccess(b.Right)
			found = found || left || right
			return !found
		})
	}
	return found
}
