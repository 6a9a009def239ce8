package registry

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"cardea/internal/flow/claims"
)

func TestBuildRefusesWhatWasEdited(t *testing.T) {
	for name, edit := range map[string]func(*Stored){
		"body":   func(r *Stored) { r.Body = []byte(strings.Replace(string(r.Body), `"quorum":2`, `"quorum":1`, 1)) },
		"digest": func(r *Stored) { r.Digest = "sha256:" + strings.Repeat("0", 64) },
		"name":   func(r *Stored) { r.Name = "other" },
		"kind":   func(r *Stored) { r.Kind = KindGroup },
		"form":   func(r *Stored) { r.Body = append([]byte(" "), r.Body...) },
	} {
		stored := hub(t).List("")
		if _, err := Build(stored); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(stored, func(r Stored) bool { return r.Kind == KindApprovalRule })
		edit(&stored[i])
		if _, err := Build(stored); err == nil {
			t.Errorf("a stored resource whose %s was edited was believed", name)
		}
	}
	twice := hub(t).List("")
	if _, err := Build(append(twice, twice[0])); err == nil || !strings.Contains(err.Error(), "stands twice") {
		t.Errorf("one resource twice: %v", err)
	}
}

func TestUnchangedKeepsItsApplier(t *testing.T) {
	_, after := mustPlan(t, hub(t), Change{Apply: payroll(t), By: "mallory", At: time.Now()})
	for _, r := range after.List("") {
		if r.AppliedBy != "dev" {
			t.Errorf("%s was applied by dev, and re-applying it made it %s's", r.ID(), r.AppliedBy)
		}
	}
	_, after = mustPlan(t, after, Change{Apply: []Resource{resource(KindConnection, hrBody("ttl", `"1m"`))}, By: "mallory"})
	if by := after.AppliedBy(ID{KindConnection, "hr"}); by != "mallory" {
		t.Errorf("a changed connection is %s's", by)
	}
}

func TestVersions(t *testing.T) {
	var change Change
	for _, v := range []string{"1.2.1", "1.10.0", "2.0.0-rc.1", "1.9.0"} {
		change.Apply = append(change.Apply, definition(t, "payroll", "pay-run", v, readsHR))
	}
	_, s := mustPlan(t, hub(t), change)
	var got []string
	for _, w := range s.Versions("payroll/pay-run") {
		got = append(got, w.Version)
	}
	if strings.Join(got, " ") != "2.0.0-rc.1 1.10.0 1.9.0 1.2.1 1.2.0" {
		t.Errorf("versions: %v", got)
	}
	latest, ok := s.Latest("payroll/pay-run")
	if !ok || latest.Version != "1.10.0" {
		t.Errorf("latest: %+v", latest)
	}
	if w, ok := s.WorkflowByDigest(latest.Digest); !ok || w != latest {
		t.Error("a definition is not found by its digest")
	}
	if w, ok := s.Workflow("payroll/pay-run@1.9.0"); !ok || w.Version != "1.9.0" {
		t.Error("a definition is not found by its name")
	}
	if _, ok := s.Latest("payroll/none"); ok {
		t.Error("a workflow that does not exist has a latest version")
	}
}

func TestPeople(t *testing.T) {
	s := hub(t)
	rule, ok := s.Rule("treasury", "payroll")
	if !ok || !slices.Equal(s.Eligible(rule), []string{"ana", "ben"}) {
		t.Errorf("eligible: %v", s.Eligible(rule))
	}
	if got := s.Eligible(&ApprovalRule{Approvers: []string{"person:ana", "group:treasury", "person:gone"}}); !slices.Equal(got, []string{"ana", "ben"}) {
		t.Errorf("eligible twice over: %v", got)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(keyLine(t, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := s.PersonByKey(key); !ok || p.Name != "ben" {
		t.Errorf("key of %+v", p)
	}
	key, _, _, _, err = ssh.ParseAuthorizedKey([]byte(keyLine(t, 9)))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := s.PersonByKey(key); ok {
		t.Errorf("an unknown key is %s's", p.Name)
	}
	for name, want := range map[string]string{"four-eyes": "[group:admins group:security]", "owners": "[group:people-ops group:security]"} {
		if r, ok := s.Rule(name, "payroll"); !ok || fmt.Sprint(r.Approvers) != want || r.Quorum < 1 || r.Expires <= 0 || r.Attempts != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, ok := s.Rule("none", "payroll"); ok {
		t.Error("a rule that does not exist was found")
	}
	if !slices.Equal(s.Members("contractors"), []string{"ben"}) {
		t.Errorf("members: %v", s.Members("contractors"))
	}
}

func TestTaskTier(t *testing.T) {
	_, s := mustPlan(t, hub(t), Change{Apply: []Resource{resource(KindConnection, hrBody("name", `"vault"`, "tier", `"vaults"`, "provider", `{"jwt":{"audience":"v"}}`))}})
	for _, c := range []struct {
		task string
		uses []string
		want string // "!" for a contradiction
	}{
		{"", nil, "standard"}, {"", []string{"hr"}, "standard"}, {"", []string{"bank"}, "privileged"}, {"standard", []string{"bank"}, "privileged"},
		{"privileged", []string{"hr"}, "privileged"}, {"privileged", []string{"hr", "bank"}, "privileged"}, {"", []string{"bank", "hr"}, "privileged"},
		{"", []string{"bank", "vault"}, "!"}, {"vaults", []string{"bank"}, "!"}, {"vaults", []string{"vault"}, "vaults"}, {"", []string{"none"}, "!"},
	} {
		got, err := s.TaskTier(claims.TaskClaim{Tier: c.task, Connections: c.uses})
		if err != nil {
			got = "!"
		}
		if got != c.want {
			t.Errorf("%q with %v: %s (%v), want %s", c.task, c.uses, got, err, c.want)
		}
	}
}

// TestWithin: each way in which a grant can be more than another, alone.
func TestWithin(t *testing.T) {
	base := grant{
		credential: "identity token", tier: "standard", ttl: time.Minute, scopes: []string{"a"}, permits: []string{"p"}, approvals: []string{"x"},
		loopDepth: 1, maxAttempts: 2, gates: []string{"/do/0/g"},
	}
	if !base.within(base) {
		t.Fatal("a grant is not within itself")
	}
	for name, more := range map[string]func(*grant){
		"ttl": func(g *grant) { g.ttl++ }, "scope": func(g *grant) { g.scopes = []string{"a", "b"} }, "permit": func(g *grant) { g.permits = []string{"q"} },
		"approval": func(g *grant) { g.approvals = nil }, "gate": func(g *grant) { g.gates = nil }, "loop": func(g *grant) { g.loopDepth++ },
		"attempts": func(g *grant) { g.maxAttempts++ }, "repeats": func(g *grant) { g.repeats = true }, "credential": func(g *grant) { g.credential = "password" },
		"tier": func(g *grant) { g.tier = "own" },
	} {
		g := base
		more(&g)
		if g.within(base) {
			t.Errorf("more %s counts as no more", name)
		}
	}
	for name, less := range map[string]func(*grant){
		"ttl": func(g *grant) { g.ttl-- }, "scope": func(g *grant) { g.scopes = nil }, "approval": func(g *grant) { g.approvals = []string{"x", "y"} },
		"gate": func(g *grant) { g.gates = []string{"/do/0/g", "/do/1/h"} }, "loop": func(g *grant) { g.loopDepth = 0 }, "attempts": func(g *grant) { g.maxAttempts = 1 },
		"tier": func(g *grant) { g.tier = "privileged" },
	} {
		g := base
		less(&g)
		if !g.within(base) {
			t.Errorf("less %s counts as more", name)
		}
	}
}

func TestScopesOfATaskAreAPrivilege(t *testing.T) {
	_, s := mustPlan(t, hub(t), Change{Apply: []Resource{resource(KindConnection, hrBody("grants", `{"scopes":["a","b"]}`))}})
	with := func(scopes string) task {
		k := readsHR
		k.metadata = `{"scopes":` + scopes + `}`
		return k
	}
	_, s = mustPlan(t, s, Change{Apply: []Resource{definition(t, "payroll", "pay-run", "1.3.0", with(`["a"]`), pays)}, Remove: []ID{{KindWorkflow, "payroll/pay-run@1.2.0"}}})
	p, _ := mustPlan(t, s, Change{Apply: []Resource{definition(t, "payroll", "pay-run", "1.4.0", with(`["a","b"]`), pays)}})
	if !p.AddsPrivilege() || len(p.Privileges) != 1 || p.Privileges[0].Credential != "identity token a b, ≤ 5 min" {
		t.Errorf("%+v adds %v", p.Privileges, p.Adds)
	}
}

func TestTaskName(t *testing.T) {
	for pointer, want := range map[string]string{
		"/do/2/transfer": "transfer", "/do/2/transfer/do/0/one": "transfer/one", "/do/0/f/fork/branches/1/b": "f/b", "/do/0/7": "7", "/do/0/a~1b": "a/b", "": "",
	} {
		if got := taskName(pointer); got != want {
			t.Errorf("%s: %s, want %s", pointer, got, want)
		}
	}
	if comparePointers("/do/2/a", "/do/10/b") >= 0 {
		t.Error("the tenth task stands before the second")
	}
}

func TestSplitWorkflowName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a/b": true, "a/b@1.0.0": true, "a/b@1.0.0-rc.1": true, "a": false, "a/b/c": false, "A/b": false, "a/b@x": false, "a/b@": false,
	} {
		if _, _, _, err := SplitWorkflowName(name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, w, v, err := SplitWorkflowName("a/b@1.2.3")
	if p != "a" || w != "b" || v != "1.2.3" || err != nil {
		t.Error(p, w, v, err)
	}
}
