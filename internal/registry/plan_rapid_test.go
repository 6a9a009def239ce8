package registry

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// someHub draws a hub whose parts fit together.
func someHub(t *rapid.T) map[ID]Resource {
	set := map[ID]Resource{}
	put := func(r Resource) {
		r, _, err := NewResource(r.Kind, r.Name, r.Body)
		if err != nil {
			t.Fatal(err)
		}
		set[r.ID()] = r
	}
	put(resource(KindProcess, processBody))
	put(resource(KindGroup, `{"kind":"Group","name":"treasury"}`))
	put(resource(KindApprovalRule, fmt.Sprintf(`{"kind":"ApprovalRule","name":"treasury","approvers":["group:treasury"],"quorum":%d,"expires":"4h"}`, rapid.IntRange(1, 3).Draw(t, "quorum"))))
	tier := rapid.SampledFrom([]string{`"standard"`, `"privileged"`}).Draw(t, "tier")
	put(resource(KindConnection, hrBody("ttl", fmt.Sprintf(`"%ds"`, rapid.IntRange(1, 3).Draw(t, "ttl")), "tier", tier)))
	put(resource(KindConnection, bankBody("zone", rapid.SampledFrom([]string{`"internal"`, `"production"`}).Draw(t, "zone"))))
	for _, name := range []string{"ana", "ben"} {
		if rapid.Bool().Draw(t, name) {
			put(resource(KindPerson, personBody(name, rapid.SampledFrom([][]string{nil, {"treasury"}}).Draw(t, name+" groups"))))
		}
	}
	for i, statement := range strings.Split(strings.TrimSpace(payrollPolicy), "@id")[1:] {
		if rapid.Bool().Draw(t, fmt.Sprint("statement ", i)) {
			put(policyFile(fmt.Sprintf("payroll/p%d", i), "@id"+statement))
		}
	}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		tasks := rapid.SampledFrom([][]task{nil, {readsHR}, {pays}, {readsHR, pays}}).Draw(t, version)
		if len(tasks) > 0 {
			put(definition(t, "payroll", fmt.Sprintf("run%d", len(tasks)), version, tasks...))
		}
	}
	return set
}

func changeBetween(from, to map[ID]Resource) Change {
	var c Change
	for _, r := range to {
		c.Apply = append(c.Apply, r)
	}
	for id := range from {
		if _, stays := to[id]; !stays {
			c.Remove = append(c.Remove, id)
		}
	}
	return c
}

func flip(list []Privilege) []string {
	var out []string
	for _, p := range list {
		p.Lost = !p.Lost
		out = append(out, fmt.Sprintf("%#v", p))
	}
	slices.Sort(out)
	return out
}

func shown(list []Privilege) []string {
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf("%#v", p))
	}
	slices.Sort(out)
	return out
}

// TestPlanProperties: applying twice changes nothing; going there and back loses what it gained; the order of a change does not
// matter; and a change that gains nothing it had not, in either direction, cannot both ways add nothing but differ in grants.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		start, err := Build(nil)
		if err != nil {
			rt.Fatal(err)
		}
		from, to := someHub(rt), someHub(rt)
		for id, r := range from { // a version never changes its content
			if other, both := to[id]; both && id.Kind == KindWorkflow && other.Digest != r.Digest {
				delete(to, id)
			}
		}
		_, a, err := start.Plan(changeBetween(nil, from))
		if err != nil {
			rt.Skip(err) // such as a policy that names a rule that was not drawn
		}
		there, b, err := a.Plan(changeBetween(from, to))
		if err != nil {
			rt.Skip(err)
		}
		again, _, err := b.Plan(changeBetween(to, to))
		if err != nil || len(again.Privileges) > 0 || len(again.Warnings) > 0 || again.AddsPrivilege() || slices.ContainsFunc(again.Changes, func(l Line) bool { return l.Verb != VerbUnchanged }) {
			rt.Fatalf("a plan of what was applied is not empty: %+v %v", again, err)
		}
		back, home, err := b.Plan(changeBetween(to, from))
		if err != nil {
			rt.Fatal(err)
		}
		if home.Digest() != a.Digest() {
			rt.Fatal("there and back is another state")
		}
		if !slices.Equal(flip(there.Privileges), shown(back.Privileges)) {
			rt.Fatalf("gains and losses differ:\n%+v\n%+v", there.Privileges, back.Privileges)
		}
		gains := slices.ContainsFunc(there.Privileges, func(p Privilege) bool { return !p.Lost })
		loses := slices.ContainsFunc(there.Privileges, func(p Privilege) bool { return p.Lost })
		if gains && !loses && !there.AddsPrivilege() || loses && !gains && !back.AddsPrivilege() {
			rt.Fatalf("a pure gain adds no privilege: %+v", there.Privileges)
		}
		change := changeBetween(from, to)
		slices.Reverse(change.Apply)
		if reversed, _, err := a.Plan(change); err != nil || fmt.Sprintf("%#v", reversed) != fmt.Sprintf("%#v", there) {
			rt.Fatalf("the order of a change matters: %v", err)
		}
		rebuilt, err := Build(b.List(""))
		if err != nil || rebuilt.Digest() != b.Digest() {
			rt.Fatalf("what was planned does not build: %v", err)
		}
	})
}
