package registry

import (
	"fmt"
	"reflect"
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
		if !reflect.DeepEqual(rebuilt.allGrants(nil), b.allGrants(nil)) {
			rt.Fatal("what a plan kept of an earlier state is not what is so")
		}
	})
}

// someAllow draws an entry from a universe so small that every request in it can be tried.
func someAllow(t *rapid.T, name string) string {
	methods := rapid.SampledFrom([]string{`["POST"]`, `["PUT"]`, `["POST","PUT"]`}).Draw(t, name+" methods")
	where := rapid.SampledFrom([]string{"/a", "/b", "/{x}"}).Draw(t, name+" path")
	rest := rapid.SampledFrom([]string{"", `,"facts":{"f":"/f"}`, `,"facts":{"f":"/g"}`, `,"query":["q"]`, `,"query":["*"]`, `,"body":"{\"required\":[\"f\"]}"`, `,"body":"{\"required\":[\"f\"]}","facts":{"f":"/f"}`}).Draw(t, name+" rest")
	return `{"methods":` + methods + `,"path":"` + where + `"` + rest + `}`
}

func someAllows(t *rapid.T, name string) []string {
	list := make([]string, rapid.IntRange(0, 3).Draw(t, name))
	for i := range list {
		list[i] = someAllow(t, fmt.Sprint(name, i))
	}
	return list
}

// TestNarrows: when a new allow is said to narrow an old one, each request that passes now passed then, and showed policy the same
// facts.
func TestNarrows(t *testing.T) {
	narrowed := 0
	rapid.Check(t, func(rt *rapid.T) {
		old := someAllows(rt, "old")
		next := slices.Clone(old)
		if rapid.Bool().Draw(rt, "unrelated") {
			next = someAllows(rt, "new")
		} else if len(next) > 0 { // change or take one, which is where narrowing happens
			i := rapid.IntRange(0, len(next)-1).Draw(rt, "which")
			next = slices.Delete(next, i, i+1)
			if rapid.Bool().Draw(rt, "change") {
				next = slices.Insert(next, i, someAllow(rt, "changed"))
			}
		}
		before := decodeConnection(t, bankBody("allow", "["+strings.Join(old, ",")+"]"))
		after := decodeConnection(t, bankBody("allow", "["+strings.Join(next, ",")+"]"))
		if !narrows(before.Allow, after.Allow) {
			if slices.Equal(old, next) {
				rt.Fatal("what did not change is said to widen")
			}
			return
		}
		narrowed++
		for _, method := range []string{"POST", "PUT"} {
			for _, path := range []string{"/a", "/b", "/c", "/a?q=1", "/a?r=1"} {
				for _, body := range []string{"", "{}", `{"f":1}`, `{"g":2}`, `{"f":1,"g":2}`} {
					m, err := after.Match(method, "https://api.bank.example.com"+path, []byte(body))
					if err != nil {
						continue
					}
					was, err := before.Match(method, "https://api.bank.example.com"+path, []byte(body))
					if err != nil || fmt.Sprint(was.Facts) != fmt.Sprint(m.Facts) {
						rt.Fatalf("%s %s %s passes now with %v, and passed with %v (%v)\nold %v\nnew %v", method, path, body, m.Facts, was.Facts, err, old, next)
					}
				}
			}
		}
	})
	if narrowed == 0 {
		t.Error("nothing was ever narrowed")
	}
}

// TestNarrowsUncovers: an entry that shrinks leaves its requests to a later one, which shows policy other facts.
func TestNarrowsUncovers(t *testing.T) {
	allow := func(text string) []Allow { return decodeConnection(t, bankBody("allow", text)).Allow }
	const second = `{"methods":["POST"],"path":"/a","facts":{"g":"/g"}}`
	before := allow(`[{"methods":["PUT","POST"],"path":"/a","facts":{"f":"/f"}},` + second + `]`)
	if narrows(before, allow(`[{"methods":["PUT"],"path":"/a","facts":{"f":"/f"}},`+second+`]`)) {
		t.Error("POST /a shows policy g instead of f, and that counts as narrowing")
	}
	if !narrows(before, allow(`[{"methods":["PUT"],"path":"/a","facts":{"f":"/f"}}]`)) {
		t.Error("POST /a is gone, and that counts as widening")
	}
}
