package registry

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"cardea/internal/policy"
)

// manyTasks writes a definition whose tasks ask hosts without a credential.
func manyTasks(t testing.TB, name string, tasks int) Resource {
	list := make([]task, tasks)
	for i := range list {
		list[i] = task{name: fmt.Sprint("t", i), method: "get", uri: "https://a.example/"}
	}
	return definition(t, "payroll", name, "1.0.0", list...)
}

// manyPermits writes a policy file whose statements all bear on every task.
func manyPermits(name string, statements int) Resource {
	var text strings.Builder
	for i := range statements {
		fmt.Fprintf(&text, "@id(%q) permit (principal is Task, action == Action::\"reach\", resource);\n", fmt.Sprint(name, i))
	}
	return policyFile(name, text.String())
}

// TestPlanIsBounded: what a plan costs is refused before it is spent, whichever side of the product is large.
func TestPlanIsBounded(t *testing.T) {
	tooMany := Change{}
	for i := range 11 {
		tooMany.Apply = append(tooMany.Apply, manyTasks(t, fmt.Sprint("w", i), 1000))
	}
	for _, c := range []struct {
		name   string
		change Change
		want   string
	}{
		{"tasks", tooMany, "brings 11000 tasks"},
		{"tasks times policies", Change{Apply: []Resource{manyTasks(t, "w", 1000), manyPermits("a", 1000), manyPermits("b", 1001)}}, "comparisons with policies"},
	} {
		now, err := Build(hub(t).List(""))
		if err != nil {
			t.Fatal(err)
		}
		p := &planner{now: now, change: c.change, verbs: map[ID]string{}}
		after := p.run()
		if after != nil || len(p.plan.Errors) != 1 || !strings.Contains(p.plan.Errors[0], c.want) {
			t.Errorf("%s: %.300s", c.name, p.plan.Errors)
		}
		if p.now.granted != nil || len(p.plan.Adds) > 0 {
			t.Errorf("%s: was computed and then refused", c.name)
		}
	}
}

// TestBeyondTheLimitOneMayTakeAway: a hub that stands beyond the limit is not stuck there.
func TestBeyondTheLimitOneMayTakeAway(t *testing.T) {
	heavy := append(payroll(t), manyTasks(t, "w", 1000), manyPermits("a", 1000), manyPermits("b", 1001), manyPermits("c", 5))
	var stored []Stored
	for _, r := range heavy {
		r, _, err := NewResource(r.Kind, r.Name, r.Body)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, Stored{Resource: r})
	}
	s, err := Build(stored)
	if err != nil {
		t.Fatal(err)
	}
	if p, _, err := s.Plan(Change{Apply: []Resource{manyTasks(t, "x", 1)}}); err == nil || p.Digest != "" {
		t.Error("a hub beyond the limit took more")
	}
	p := &planner{now: s, change: Change{Remove: []ID{{KindPolicy, "c"}}}, verbs: map[ID]string{}}
	after, err := build(p.next(), s)
	if err != nil || after.weigh() <= MaxComparisons || !p.affordable(after) {
		t.Errorf("taking away is refused: %v %v", err, p.plan.Errors)
	}
}

// TestPlanPaysForWhatItChanges counts comparisons: what is in force and does not change is not asked again.
func TestPlanPaysForWhatItChanges(t *testing.T) {
	var more []Resource
	for i := range 20 {
		more = append(more, definition(t, "payroll", fmt.Sprint("reads", i), "1.0.0", readsHR))
	}
	_, s := mustPlan(t, hub(t), Change{Apply: more})
	cost := func(s *State, concerned func(*Workflow) bool) int {
		n := 0
		for _, w := range all[*Workflow](s, KindWorkflow) {
			if concerned(w) {
				n += s.comparisons(w)
			}
		}
		return n
	}
	for _, c := range []struct {
		name      string
		change    Change
		concerned func(*Workflow) bool
	}{
		{"group", Change{Apply: []Resource{resource(KindGroup, `{"kind":"Group","name":"x"}`)}}, func(*Workflow) bool { return false }},
		{"removal", Change{Remove: []ID{{KindWorkflow, "payroll/reads3@1.0.0"}}}, func(*Workflow) bool { return false }},
		{"workflow", Change{Apply: []Resource{definition(t, "payroll", "reads1", "1.1.0", readsHR)}}, func(w *Workflow) bool { return w.Version == "1.1.0" }},
		{"connection of one workflow", Change{Apply: []Resource{resource(KindConnection, bankBody("process", `"payroll"`, "ttl", `"1m"`))}}, func(w *Workflow) bool { return w.Workflow == "pay-run" }},
		{"connection of all", Change{Apply: []Resource{resource(KindConnection, hrBody("ttl", `"1m"`))}}, func(*Workflow) bool { return true }},
		{"process", Change{Apply: []Resource{resource(KindProcess, strings.Replace(processBody, "high", "critical", 1))}}, func(*Workflow) bool { return true }},
		{"rule", Change{Apply: []Resource{resource(KindApprovalRule, strings.Replace(ruleBody, "4h", "3h", 1))}}, func(*Workflow) bool { return true }},
		{"policy", Change{Apply: []Resource{policyFile("x", `@id("x") permit (principal, action == Action::"reach", resource);`)}}, func(*Workflow) bool { return true }},
	} {
		_, after := mustPlan(t, s, c.change)
		if want := cost(after, c.concerned); after.evaluated != want {
			t.Errorf("%s: %d comparisons, want %d", c.name, after.evaluated, want)
		}
		fresh, err := Build(after.List(""))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(fresh.allGrants(nil), after.granted) {
			t.Errorf("%s: what was kept is not what is so", c.name)
		}
		if whole := cost(after, func(*Workflow) bool { return true }); fresh.evaluated != whole || whole == 0 {
			t.Errorf("%s: a fresh state took %d comparisons, want %d", c.name, fresh.evaluated, whole)
		}
	}
}

// TestCountsNoComparisonTooFew: whatever form a scope has, a policy that bears on a task was counted.
func TestCountsNoComparisonTooFew(t *testing.T) {
	for scope, counted := range map[string]bool{
		`principal, action, resource`:                          true,
		`principal is Task, action == Action::"use", resource`: true,
		`principal == Task::"payroll/pay-run/do/1/transfer", action in [Action::"use", Action::"reach"], resource`: true,
		`principal in Workflow::"payroll/pay-run", action == Action::"use", resource == Connection::"bank"`:        true,
		`principal is Task in Process::"payroll", action == Action::"use", resource in Zone::"production"`:         true,
		`principal in Process::"p\u{61}yroll", action == Action::"use", resource is Connection`:                    true,
		`principal in Process::"payroll", action == Action::"reach", resource`:                                     false,
		`principal is Task in Process::"other", action == Action::"use", resource`:                                 false,
		`principal in Process::"other", action == Action::"use", resource`:                                         false,
		`principal == Task::"payroll/pay-run/do/0/timesheets", action == Action::"use", resource`:                  false,
		`principal is Person, action == Action::"start", resource`:                                                 false,
		`principal is Task in Process::"payroll", action == Action::"use", resource == Connection::"hr"`:           true,
	} {
		s := hub(t)
		ask := func(s *State) (matched, compared int) {
			bank, _ := s.Connection("bank")
			task := policy.TaskRef("payroll/pay-run", "/do/1/transfer")
			m, err := s.policies.Scope(policy.Request{Principal: task, Action: "use", Resource: s.ConnectionEntity(bank).Ref, Entities: []policy.Entity{s.ConnectionEntity(bank)}})
			if err != nil {
				t.Fatal(err)
			}
			return len(m.Permits), s.asker.comparisons("use", policy.Ref{}, policy.Ref{Type: "Task"}, policy.Ref{Type: "Workflow", ID: "payroll/pay-run"}, policy.Ref{Type: "Process", ID: "payroll"}, task)
		}
		_, after := mustPlan(t, s, Change{Apply: []Resource{policyFile("x", `@id("x") permit (`+scope+`);`)}})
		matched, compared := ask(s)
		matchedAfter, comparedAfter := ask(after)
		if (comparedAfter > compared) != counted || comparedAfter-compared < matchedAfter-matched {
			t.Errorf("%s: %d comparisons more for %d matches more", scope, comparedAfter-compared, matchedAfter-matched)
		}
	}
}

// TestForbidNamesGroup: a forbid holds a group's members back however its text spells the group.
func TestForbidNamesGroup(t *testing.T) {
	for _, text := range []string{
		`forbid (principal in Group::"people-ops", action == Action::"start", resource);`,
		`forbid (principal is Person in Group :: "people\u{2d}ops", action == Action::"start", resource);`,
		`forbid (principal is Person, action == Action::"start", resource) when { principal in [Group::"treasury", Group::"people-ops"] };`,
	} {
		_, s := mustPlan(t, hub(t), Change{Apply: []Resource{
			policyFile("held", `@id("held") `+text), resource(KindPerson, personBody("cy", []string{"people-ops"})),
		}})
		p, _ := mustPlan(t, s, Change{Apply: []Resource{resource(KindPerson, personBody("cy", nil))}})
		if !strings.Contains(strings.Join(p.Adds, "\n"), "leaves group people-ops, which policy held holds back") {
			t.Errorf("%s: adds %q", text, p.Adds)
		}
	}
}
