package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	publicast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

const (
	// maxNearest is how many near misses a denial tells.
	maxNearest = 3
	// maxConsidered bounds the work of explaining one denial.
	maxConsidered = 2000
	maxPlain      = 200
)

// plain makes text that others wrote safe to stand in a sentence: one line, visible, bounded.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case isHidden(r):
			return '?'
		}
		return r
	}, s)
	if len(s) > maxPlain {
		s = strings.ToValidUTF8(s[:maxPlain], "") + "…"
	}
	return s
}

// unfit is the verdict on a request that cannot be put to policy.
func (s *Set) unfit(r Request, err error) Verdict {
	why := plain(err.Error())
	return Verdict{
		Outcome: Deny,
		Errors:  []string{"request: " + why},
		Reason:  fmt.Sprintf("denied: the request of %s %s does not fit the schema: %s", plain(r.Principal.Type), plain(r.Principal.ID), why),
		Mend:    "this is a fault of the hub, not of a policy: report it",
	}
}

// explain fills in the sentences. Nothing in them is read back by a decision.
func (s *Set) explain(v *Verdict, r Request, q *question, m *match) {
	if v.Outcome == Allow {
		v.Reason = "allowed by " + strings.Join(v.Policies, ", ")
		return
	}
	what := sentence(r)
	switch {
	case v.Outcome == Pending:
		v.Reason = fmt.Sprintf("pending: %s asks for approval by %s before %s", strings.Join(v.Lifts, ", "), strings.Join(v.Rules, " and "), what)
		v.Reason += s.because(m.lifts)
		v.Mend = "approval by " + strings.Join(v.Rules, " and ")
	case len(m.errors) > 0:
		v.Reason = fmt.Sprintf("denied: %s could not be evaluated when asked for %s", strings.Join(v.Policies, ", "), what)
		v.Mend = "mend the policy or the data that it reads: " + m.errors[0]
	case len(m.forbids) > 0:
		v.Reason = fmt.Sprintf("denied: %s forbids %s", strings.Join(s.ids(m.forbids), ", "), what) + s.because(m.forbids)
		v.Mend = "ask who keeps " + s.policies[m.forbids[0]].id + " (" + s.policies[m.forbids[0]].file + ")"
		if strings.HasPrefix(s.policies[m.forbids[0]].id, baselinePrefix) {
			v.Mend = "the baseline cannot be lifted; see docs/policy.md"
		}
	default:
		v.Reason = "denied: no policy allows " + what
		v.Nearest = s.nearest(q)
		v.Mend = mend(r)
	}
}

// because adds the reason that the first of some policies gives.
func (s *Set) because(members []int) string {
	for _, i := range members {
		if s.policies[i].reason != "" {
			return ": " + s.policies[i].reason
		}
	}
	return ""
}

// sentence says what was asked, such as Task payroll/pay-run/do/0/timesheets to use connection hr.
func sentence(r Request) string {
	what := map[string]string{
		"use": "connection ", "reach": "", "execute": "at tier ", "start": "workflow ",
	}[r.Action]
	object := what + plain(r.Resource.ID)
	switch r.Resource.Type {
	case "Hub":
		object = "the hub"
	case "Process":
		object = "process " + object
	}
	verb := r.Action
	switch r.Action {
	case "approve":
		verb = "approve for"
	case "apply":
		verb = "apply changes to"
	}
	return fmt.Sprintf("%s %s to %s %s", r.Principal.Type, plain(r.Principal.ID), verb, object)
}

// mend says whom to ask for a permit.
func mend(r Request) string {
	for _, e := range r.Entities {
		if e.Ref != r.Resource {
			continue
		}
		if owner, ok := e.Attrs["owner"].(Ref); ok {
			name := plain(owner.ID)
			if !strings.HasPrefix(name, "person:") {
				name = "group:" + name
			}
			return fmt.Sprintf("ask an owner of %s (%s)", plain(r.Resource.ID), name)
		}
	}
	return "ask group:security for a policy that allows it"
}

// miss is a permit that did not match, and how far it was from matching.
type miss struct {
	id       string
	distance int
	text     string
}

// nearest tells which permits came closest. Those that differ in both principal and resource say nothing to anyone.
func (s *Set) nearest(q *question) []string {
	var misses []miss
	for _, i := range s.index[q.req.Action].all[:min(maxConsidered, len(s.index[q.req.Action].all))] {
		if p := s.policies[i]; !p.forbids() {
			if m, ok := missed(p, q); ok {
				misses = append(misses, m)
			}
		}
	}
	slices.SortStableFunc(misses, func(a, b miss) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.id, b.id))
	})
	var out []string
	for _, m := range misses[:min(maxNearest, len(misses))] {
		out = append(out, m.text)
	}
	return out
}

func missed(p *statement, q *question) (miss, bool) {
	principal := scopeMatches(p.ast.Principal, q.principalUp)
	resource := scopeMatches(p.ast.Resource, q.resourceUp)
	switch {
	case !principal && !resource:
		return miss{}, false
	case !principal:
		allowed, this, distance := differs(p.ast.Principal, q.principalUp)
		return miss{p.id, distance, fmt.Sprintf("%s allows %s (this is %s)", p.id, allowed, this)}, true
	case !resource:
		allowed, this, distance := differs(p.ast.Resource, q.resourceUp)
		return miss{p.id, distance + 1, fmt.Sprintf("%s allows it for %s (this is %s)", p.id, allowed, this)}, true
	}
	return miss{p.id, 0, fmt.Sprintf("%s would allow it, but its condition is false: %s", p.id, falseCondition(p, q))}, true
}

// differs says what a scope wants and what stands in its place: of the same type if there is one.
func differs(scope ast.IsScopeNode, up []types.EntityUID) (allowed, this string, distance int) {
	var want types.EntityUID
	switch sc := scope.(type) {
	case ast.ScopeTypeEq:
		want = sc.Entity
	case ast.ScopeTypeIn:
		want = sc.Entity
	case ast.ScopeTypeIsIn:
		want = sc.Entity
	case ast.ScopeTypeIs:
		return "any " + string(sc.Type), describe(up[0]), 9
	}
	for _, u := range up {
		if u.Type == want.Type {
			return describe(want), plain(string(u.ID)), 10 - min(8, shared(string(u.ID), string(want.ID)))
		}
	}
	return describe(want), describe(up[0]), 10
}

// shared counts the leading path segments and characters that two ids have in common, so that payroll/pay-run is nearer
// to payroll/pay-run-test than to billing/send.
func shared(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func describe(u types.EntityUID) string {
	return string(u.Type) + " " + plain(string(u.ID))
}

// falseCondition finds the first part of a permit's conditions that is false, as it was written, with the values it read.
func falseCondition(p *statement, q *question) string {
	env := eval.Env{Entities: q.entities, Principal: q.req.Principal, Action: q.req.Action, Resource: q.req.Resource, Context: q.req.Context}
	for _, c := range p.ast.Conditions {
		parts := []ast.IsNode{c.Body}
		if c.Condition == ast.ConditionWhen {
			parts = conjuncts(c.Body, nil)
		}
		for _, part := range parts {
			value, err := eval.Eval(part, env)
			if err == nil && value != types.Boolean(c.Condition) {
				return conditionText(c.Condition, part) + values(part, env)
			}
		}
	}
	return "its conditions"
}

func conjuncts(n ast.IsNode, to []ast.IsNode) []ast.IsNode {
	and, ok := n.(ast.NodeTypeAnd)
	if !ok {
		return append(to, n)
	}
	return conjuncts(and.Right, conjuncts(and.Left, to))
}

// conditionText writes one condition as Cedar.
func conditionText(kind ast.Condition, body ast.IsNode) string {
	p := ast.Permit().When(ast.NewNode(body))
	text := string(cedar.NewPolicyFromAST((*publicast.Policy)(p)).MarshalCedar())
	_, text, _ = strings.Cut(text, "when {")
	text = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "};"))
	word := "when"
	if kind == ast.ConditionUnless {
		word = "unless"
	}
	return plain(word + " { " + text + " }")
}

// values tells what the attributes in an expression are, at most three.
func values(n ast.IsNode, env eval.Env) string {
	var out []string
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		a, ok := n.(ast.NodeTypeAccess)
		if !ok {
			return true
		}
		value, err := eval.Eval(n, env)
		if err == nil && len(out) < 3 {
			name := strings.TrimSuffix(strings.TrimPrefix(conditionText(ast.ConditionWhen, a), "when { "), " }")
			if said := name + " is " + plain(string(value.MarshalCedar())); !slices.Contains(out, said) {
				out = append(out, said)
			}
		}
		return false
	})
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, ", ") + ")"
}
