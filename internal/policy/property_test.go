package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"pgregory.net/rapid"
)

// part is a random policy.
type part struct {
	id, text         string
	forbid, liftable bool
}

var (
	principals = []string{
		"principal", "principal is Task", `principal in Process::"payroll"`, `principal in Process::"billing"`,
		`principal in Workflow::"payroll/pay-run"`, `principal == Task::"` + readTask + `"`, `principal == Task::"` + payTask + `"`,
		`principal is Task in Workflow::"payroll/pay-run"`, `principal is Person`, `principal is Task in Process::"billing"`,
	}
	actions   = []string{"action", `action == Action::"use"`, `action in [Action::"use", Action::"reach"]`, `action == Action::"reach"`, `action in Action::"use"`}
	resources = []string{
		"resource", "resource is Connection", `resource == Connection::"hr"`, `resource == Connection::"bank"`,
		`resource in Zone::"production"`, `resource in Zone::"test"`, `resource is Connection in Zone::"production"`,
	}
	// The last two err when they are evaluated: the request has no such facts. They are rare, since an error decides all.
	conditions = []string{
		"", "", "", "", "when { true }", "when { true }", "when { true }", "when { false }", "when { false }",
		`when { context.provenance.kind == "person" }`, `when { context.provenance.kind != "person" }`, `when { context.provenance.kind == "person" }`, `unless { context.production }`,
		`when { context.action.facts has nothing && context.action.facts.nothing == "a" }`,
		`when { context.action.facts.nothing == "a" }`, `unless { context.action.facts.absent.lessThan(decimal("1.0")) }`,
	}
)

// applicable leaves out scopes that the schema refuses.
func drawPart(t *rapid.T, i int) part {
	p := part{id: fmt.Sprintf("p%02d", i), forbid: rapid.Bool().Draw(t, "forbid")}
	principal := rapid.SampledFrom(principals).Draw(t, "principal")
	action := rapid.SampledFrom(actions).Draw(t, "action")
	resource := rapid.SampledFrom(resources).Draw(t, "resource")
	condition := rapid.SampledFrom(conditions).Draw(t, "condition")
	if strings.Contains(condition, "context") { // the condition must exist for every action of the scope
		action = `action in [Action::"use", Action::"reach"]`
	}
	effect, approval := "permit", ""
	if p.forbid {
		effect = "forbid"
		if p.liftable = rapid.Bool().Draw(t, "approval"); p.liftable {
			approval = fmt.Sprintf("@approval(\"rule-%d\") ", i%3)
		}
	}
	p.text = fmt.Sprintf("@id(%q) %s%s (%s, %s, %s) %s;", p.id, approval, effect, principal, action, resource, condition)
	return p
}

// drawSet draws policies that fit the schema one by one, and compiles them together. Every other set permits everything
// that is not forbidden, so that forbids and approvals show.
func drawSet(t *rapid.T) (*Set, []part) {
	v, err := loadVocabulary()
	if err != nil {
		t.Fatal(err)
	}
	var parts []part
	if rapid.Bool().Draw(t, "permissive") {
		parts = append(parts, part{id: "all", text: `@id("all") permit (principal, action, resource);`})
	}
	for i := range rapid.IntRange(0, 6).Draw(t, "n") {
		p := drawPart(t, i)
		var one cedar.Policy
		if err := one.UnmarshalCedar([]byte(p.text)); err != nil {
			t.Fatal(err)
		}
		if len(v.check((*ast.Policy)(one.AST()))) == 0 {
			parts = append(parts, p)
		}
	}
	return together(t, parts), parts
}

func together(t *rapid.T, parts []part) *Set {
	var text strings.Builder
	for _, p := range parts {
		text.WriteString(p.text + "\n")
	}
	s, err := Compile([]Source{{Name: "all", Text: text.String()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawRequest(t *rapid.T) Request {
	r := useRequest(rapid.SampledFrom([]string{readTask, payTask, "billing/send/do/0/mail"}).Draw(t, "task"), rapid.SampledFrom([]string{"hr", "bank"}).Draw(t, "connection"))
	zone := rapid.SampledFrom([]string{"production", "test"}).Draw(t, "zone")
	r.Entities[0].Attrs["zone"] = zone
	r.Entities[0].Attrs["shared"] = rapid.Bool().Draw(t, "shared")
	return with(r,
		change{"production", zone == "production"},
		change{"tier", rapid.SampledFrom([]string{"standard", "privileged", "privileged", "privileged"}).Draw(t, "tier")},
		change{"provenance.kind", rapid.SampledFrom([]string{"person", "external"}).Draw(t, "kind")},
		change{"provenance.external", rapid.IntRange(0, 4).Draw(t, "external") == 0})
}

func drawApproved(t *rapid.T, s *Set) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(s.IDs()), 0, 4, rapid.ID[string]).Draw(t, "approved")
}

// oracle is the definition of a verdict, read literally and evaluated with Cedar alone: no index, no pick.
func oracle(t *rapid.T, s *Set, r Request, approved []string) Outcome {
	q, err := s.vocabulary.ask(r)
	if err != nil {
		t.Fatal(err)
	}
	considered := cedar.PolicyMap{}
	for _, p := range s.policies {
		if !(p.liftable() && slices.Contains(approved, p.id)) {
			considered[cedar.PolicyID(p.id)] = p.policy
		}
	}
	decision, d := cedar.Authorize(considered, q.entities, q.req)
	if len(d.Errors) > 0 {
		return Deny
	}
	if decision == cedar.Allow {
		return Allow
	}
	withoutMatched := cedar.PolicyMap{}
	lifts, walls := 0, 0
	for id, p := range considered {
		if p.Effect() == cedar.Forbid {
			if _, alone := cedar.Authorize(cedar.PolicyMap{id: p}, q.entities, q.req); len(alone.Reasons) > 0 {
				if p.Annotations()["approval"] != "" {
					lifts++
					continue
				}
				walls++
			}
		}
		withoutMatched[id] = p
	}
	decision, _ = cedar.Authorize(withoutMatched, q.entities, q.req)
	if lifts > 0 && walls == 0 && decision == cedar.Allow {
		return Pending
	}
	return Deny
}

func TestVerdictIsItsDefinition(t *testing.T) {
	seen := map[Outcome]int{}
	rapid.Check(t, func(t *rapid.T) {
		s, _ := drawSet(t)
		r := drawRequest(t)
		approved := drawApproved(t, s)
		v := s.Decide(r, approved...)
		if want := oracle(t, s, r, approved); v.Outcome != want {
			t.Fatalf("got %s (%s), want %s", v.Outcome, v.Reason, want)
		}
		if v.Outcome == Pending && s.Decide(r, append(slices.Clone(approved), v.Lifts...)...).Outcome != Allow {
			t.Fatalf("approving %v does not allow", v.Lifts)
		}
		if !reflect.DeepEqual(v, s.Decide(r, approved...)) {
			t.Fatal("the same question got another answer")
		}
		seen[v.Outcome]++
	})
	if seen[Allow] == 0 || seen[Pending] == 0 || seen[Deny] == 0 {
		t.Errorf("the generator never produced every outcome: %v", seen)
	}
}

// A candidate that the index left out would be a forbid that does not forbid.
func TestIndexLeavesOutNothingThatMatters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _ := drawSet(t)
		q, err := s.vocabulary.ask(drawRequest(t))
		if err != nil {
			t.Fatal(err)
		}
		every := make([]int, len(s.policies))
		for i := range every {
			every[i] = i
		}
		got, want := s.evaluate(q, s.candidates(q), nil), s.evaluate(q, every, nil)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("with the index %+v, without %+v", got, want)
		}
	})
}

func TestErringForbidAlwaysDenies(t *testing.T) {
	const erring = `@id("erring") @approval("anyone") forbid (principal, action == Action::"use", resource) when { context.action.facts.nothing == "a" };`
	rapid.Check(t, func(t *rapid.T) {
		_, parts := drawSet(t)
		s := together(t, append(parts, part{text: erring}))
		v := s.Decide(drawRequest(t))
		if v.Outcome != Deny || !slices.Contains(v.Policies, "erring") || len(v.Errors) == 0 {
			t.Fatalf("%s by %v: %s", v.Outcome, v.Policies, v.Reason)
		}
	})
}

func TestForbidNeverOpens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, parts := drawSet(t)
		extra := drawPart(t, 99)
		if !extra.forbid {
			t.Skip("not a forbid")
		}
		text := extra.text
		for _, p := range parts {
			text += "\n" + p.text
		}
		more, err := Compile([]Source{{Name: "all", Text: text}})
		if err != nil {
			t.Skip("does not fit the schema")
		}
		r := drawRequest(t)
		before, after := s.Decide(r).Outcome, more.Decide(r).Outcome
		if before == Deny && after != Deny || before == Pending && after == Allow {
			t.Fatalf("%s became %s by %s", before, after, extra.text)
		}
	})
}

func TestOrderOfSourcesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, parts := drawSet(t)
		var srcs []Source
		for _, p := range rapid.Permutation(parts).Draw(t, "order") {
			srcs = append(srcs, Source{Name: "all", Text: p.text})
		}
		other, err := Compile(srcs)
		if err != nil {
			t.Fatal(err)
		}
		r := drawRequest(t)
		a, b := s.Decide(r), other.Decide(r)
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v\n%+v", a, b)
		}
	})
}
