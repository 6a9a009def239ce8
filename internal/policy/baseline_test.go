package policy

import (
	"slices"
	"strings"
	"testing"
)

// Every policy of the baseline is shown to decide something, in both directions.
func TestBaseline(t *testing.T) {
	permits := `
@id("may-use") permit (principal, action == Action::"use", resource);
@id("may-reach") permit (principal, action == Action::"reach", resource);
@id("agents-start") permit (principal is Agent, action == Action::"start", resource);
@id("agents-approve") permit (principal is Agent, action == Action::"approve", resource);`
	s := compile(t, permits)
	use := func(changes ...change) Request { return with(useRequest(readTask, "hr"), changes...) }
	reach := func(changes ...change) Request {
		r := with(useRequest(readTask, "hr"), changes...)
		r.Action, r.Resource, r.Entities = "reach", Ref{"Host", "https://x.example.com"}, nil
		return r
	}
	shared := use(change{"provenance.external", true}, change{"production", false})
	shared.Entities[0].Attrs["shared"] = true
	sharedByPerson := use()
	sharedByPerson.Entities[0].Attrs["shared"] = true
	execute := func(tier string) Request {
		return Request{Principal: Ref{"Task", readTask}, Action: "execute", Resource: Ref{"Tier", tier}, Context: map[string]any{
			"tier": tier, "provenance": map[string]any{"kind": "person", "origin": "person:ana", "external": false},
			"startedBy": "person:ana", "appliedBy": "person:sam", "now": noon, "dev": false, "production": false,
		}}
	}
	person := func(name, group, action string, resource Ref, changes ...change) Request {
		return with(personRequest(name, []string{group}, action, resource), changes...)
	}
	agent := func(action string, resource Ref, actsFor string, groups ...string) Request {
		r := personRequest(actsFor, groups, action, resource)
		r.Principal, r.Entities = Ref{"Agent", "helper"}, append(r.Entities, AgentEntity("helper", actsFor))
		return r
	}
	workflow, process, hub := Ref{"Workflow", "payroll/pay-run"}, Ref{"Process", "payroll"}, HubRef()
	dev, lone := change{"dev", true}, change{"lone", true}
	tests := []struct {
		name    string
		req     Request
		outcome Outcome
		by      string // a policy that must have determined it
		warns   string
	}{
		{"production from the privileged tier", use(), Allow, "may-use", ""},
		{"production from the standard tier", use(change{"tier", "standard"}), Deny, "baseline-production-needs-privileged-tier", ""},
		{"production from a named tier", use(change{"tier", "gpu"}), Deny, "baseline-production-needs-privileged-tier", ""},
		{"test zone from the standard tier", use(change{"tier", "standard"}, change{"production", false}), Allow, "may-use", ""},
		{"reach production from the standard tier", reach(change{"tier", "standard"}), Deny, "baseline-production-needs-privileged-tier", ""},
		{"strangers on a shared connection", shared, Deny, "baseline-external-never-shares", ""},
		{"person on a shared connection", sharedByPerson, Allow, "may-use", ""},
		{"strangers to production", use(change{"provenance.external", true}), Pending, "baseline-external-production", ""},
		{"strangers reach production", reach(change{"provenance.external", true}), Pending, "baseline-external-production", ""},
		{"strangers elsewhere", use(change{"provenance.external", true}, change{"production", false}), Allow, "may-use", ""},
		{"standard tier", execute("standard"), Allow, "baseline-execute-known-tiers", ""},
		{"privileged tier", execute("privileged"), Allow, "baseline-execute-known-tiers", ""},
		{"named tier", execute("gpu"), Deny, "", ""},

		{"owner starts", person("ana", "people-ops", "start", workflow), Allow, "baseline-owners-start", ""},
		{"admin starts", person("ana", "admins", "start", workflow), Allow, "baseline-owners-start", ""},
		{"stranger starts", person("otto", "sales", "start", workflow), Deny, "", ""},
		{"agent of an owner starts", agent("start", workflow, "ana", "people-ops"), Allow, "agents-start", ""},
		{"agent of a stranger starts", agent("start", workflow, "otto", "sales"), Deny, "", ""},
		{"owner reads", person("ana", "people-ops", "read", process), Allow, "baseline-owners-read", ""},
		{"auditor reads", person("ada", "auditors", "read", process), Allow, "baseline-auditors-read", ""},
		{"auditor reads the hub", person("ada", "auditors", "read", hub), Allow, "baseline-auditors-read", ""},
		{"stranger reads", person("otto", "sales", "read", process), Deny, "", ""},
		{"owner reads the hub", person("ana", "people-ops", "read", hub), Deny, "", ""},
		{"admin quarantines", person("ana", "admins", "quarantine", hub), Allow, "baseline-respond", ""},
		{"security revokes", person("ana", "security", "revoke", hub), Allow, "baseline-respond", ""},
		{"auditor administers", person("ada", "auditors", "administer", hub), Deny, "", ""},

		{"admin adds privilege", person("ana", "admins", "apply", process), Pending, "baseline-four-eyes", ""},
		{"admin adds none", person("ana", "admins", "apply", process, change{"addsPrivilege", false}), Allow, "baseline-apply", ""},
		{"owner applies", person("ana", "people-ops", "apply", process), Deny, "", ""},
		{"dev alone", person("ana", "admins", "apply", process, dev, lone), Allow, "baseline-apply", "baseline-four-eyes: nobody adds privilege alone"},
		{"dev with two", person("ana", "admins", "apply", process, dev), Pending, "baseline-four-eyes", ""},
		{"alone outside dev", person("ana", "admins", "apply", process, lone), Pending, "baseline-four-eyes", ""},

		{"another approves", person("tom", "treasury", "approve", process), Allow, "baseline-approvers", ""},
		{"another approves a plan", person("tom", "security", "approve", hub), Allow, "baseline-approvers", ""},
		{"requester approves", person("ana", "treasury", "approve", process), Deny, "baseline-requester-never-approves", ""},
		{"requester, spelt with a prefix", person("ana", "treasury", "approve", process, change{"requester", "person:ana"}), Deny, "baseline-requester-never-approves", ""},
		{"applier approves", person("sam", "treasury", "approve", process), Deny, "baseline-applier-never-approves", ""},
		{"applier, spelt with a prefix", person("sam", "treasury", "approve", process, change{"appliers", []any{"person:sam"}}), Deny, "baseline-applier-never-approves", ""},
		{"requester in dev with others", person("ana", "treasury", "approve", process, dev), Deny, "baseline-requester-never-approves", ""},
		{"lone evaluator approves", person("ana", "treasury", "approve", process, dev, lone), Allow, "baseline-approvers", "baseline-requester-never-approves: nobody approves their own request"},
		{"lone applier approves", person("sam", "treasury", "approve", process, dev, lone), Allow, "baseline-approvers", "baseline-applier-never-approves: nobody approves what runs by a definition that they applied"},
		{"agent approves", agent("approve", process, "tom", "treasury"), Deny, "baseline-agents-never-approve", ""},
	}
	decided := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := s.Decide(tt.req)
			if v.Outcome != tt.outcome || tt.by != "" && !slices.Contains(v.Policies, tt.by) {
				t.Errorf("%s by %v: %s; want %s by %s", v.Outcome, v.Policies, v.Reason, tt.outcome, tt.by)
			}
			if got := strings.Join(v.Warnings, "; "); got != tt.warns {
				t.Errorf("warnings %q, want %q", got, tt.warns)
			}
			decided[tt.by] = true
		})
	}
	for _, id := range s.IDs() {
		if strings.HasPrefix(id, baselinePrefix) && !decided[id] {
			t.Errorf("nothing shows what %s is for", id)
		}
	}
}

func TestEveryBaselinePolicyHasItsReason(t *testing.T) {
	s := compile(t)
	rules := map[string]bool{}
	for _, r := range BuiltinRules() {
		rules[r.Name] = true
		if r.Quorum < 1 || r.Expires <= 0 || r.Attempts < 1 || len(r.Approvers) == 0 {
			t.Errorf("%+v is no rule", r)
		}
	}
	for _, p := range s.policies {
		if p.reason == "" {
			t.Errorf("%s has no @reason", p.id)
		}
		if p.liftable() && !rules[p.rule] {
			t.Errorf("%s asks for %s, which is not built in", p.id, p.rule)
		}
		if strings.Contains(p.text, "claimed") {
			t.Errorf("%s reads what the engine claims", p.id)
		}
	}
}

// Requests that do not fit the schema are denials that name the fault.
func TestUnfitRequests(t *testing.T) {
	s := compile(t, `@id("everything") permit (principal, action, resource);`)
	without := func(r Request, path ...string) Request {
		r = with(r)
		m := r.Context
		for _, p := range path[:len(path)-1] {
			m = m[p].(map[string]any)
		}
		delete(m, path[len(path)-1])
		return r
	}
	use := useRequest(readTask, "hr")
	edit := func(f func(*Request)) Request {
		r := with(useRequest(readTask, "hr"))
		f(&r)
		return r
	}
	for want, r := range map[string]Request{
		`there is no action ""`:                                    {},
		`there is no action "steal"`:                               edit(func(r *Request) { r.Action = "steal" }),
		`principal: a Connection cannot be one`:                    edit(func(r *Request) { r.Principal = r.Resource }),
		`resource: there is no entity type ""`:                     edit(func(r *Request) { r.Resource = Ref{} }),
		`a Task needs an id of 1 to 2048 bytes`:                    edit(func(r *Request) { r.Principal.ID = "" }),
		`context lacks attribute "dev"`:                            without(use, "dev"),
		`context.provenance lacks attribute "external"`:            without(use, "provenance", "external"),
		`context has no attribute "extra"`:                         with(use, change{"extra", true}),
		`context.tier: a int64 does not belong there`:              with(use, change{"tier", int64(1)}),
		`context.attempt: a int does not belong there`:             with(use, change{"attempt", 1}),
		`context.with: a policy.Ref does not belong there`:         with(use, change{"with", []any{Ref{"Host", "x"}}}),
		`context.action.facts.n: a int64 does not belong there`:    with(use, change{"action.facts.n", int64(1)}),
		`context.action.facts.n: "1.00001" is no decimal`:          with(use, change{"action.facts.n", Decimal("1.00001")}),
		`a task is named process/workflow/pointer`:                 edit(func(r *Request) { r.Principal.ID = "payroll" }),
		`Connection "hr" is not described`:                         edit(func(r *Request) { r.Entities = nil }),
		`Connection "hr" is described twice`:                       edit(func(r *Request) { r.Entities = append(r.Entities, r.Entities[0]) }),
		`Connection "hr": attributes lacks attribute "hosts"`:      edit(func(r *Request) { delete(r.Entities[0].Attrs, "hosts") }),
		`Connection "hr": a Connection cannot be in a Group`:       edit(func(r *Request) { r.Entities[0].Parents = []Ref{{"Group", "admins"}} }),
		`Person "ana": the group "person:bob" is another person's`: edit(func(r *Request) { r.Entities = append(r.Entities, PersonEntity("ana", []string{"person:bob"})) }),
		`Person "ana" is not described`:                            {Principal: Ref{"Person", "ana"}, Action: "read", Resource: HubRef(), Context: map[string]any{"now": noon, "dev": false}},
		`Workflow "pay-run": a workflow is named process/workflow`: edit(func(r *Request) { r.Entities = append(r.Entities, WorkflowEntity("pay-run", "group:x", "high")) }),
	} {
		v := s.Decide(r)
		if v.Outcome != Deny || len(v.Errors) != 1 || !strings.Contains(v.Reason, want) {
			t.Errorf("%s: %s (%q), want %s", v.Outcome, v.Reason, v.Errors, want)
		}
	}
	if v := s.Decide(use); v.Outcome != Allow {
		t.Errorf("the request that the others were made from: %s", v.Reason)
	}
}

// A caller that forgets to say where a task belongs must not free it from its process's policies.
func TestParentsFollowFromIDs(t *testing.T) {
	s := compile(t, `
@id("everything") permit (principal, action, resource);
@id("not-payroll") forbid (principal in Process::"payroll", action, resource);
@id("not-production") forbid (principal, action, resource in Zone::"production");`)
	if v := s.Decide(useRequest(readTask, "hr")); v.Outcome != Deny || !slices.Equal(v.Policies, []string{"not-payroll", "not-production"}) {
		t.Errorf("%s by %v", v.Outcome, v.Policies)
	}
}

func TestDecimal(t *testing.T) {
	for in, want := range map[Decimal]string{
		"0": "0.0", "-0": "0.0", "1204": "1204.0", "1204.00": "1204.0", "-0.5": "-0.5", "1e3": "1000.0", "1.5E-3": "0.0015", "12.34567e1": "123.4567",
		"0.10000000": "0.1", "0e60": "0.0", "922337203685477.5807": "922337203685477.5807", "-922337203685477.5808": "-922337203685477.5808",
		"0.00001": "", "922337203685477.5808": "", "1e60": "", "1e999999999": "", "": "", "-": "", ".5": "", "5.": "", "0x10": "", "1_000": "", "NaN": "", "1e": "", "1e1e1": "", "--1": "", "١": "",
	} {
		got, err := in.parse()
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q: %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestScope(t *testing.T) {
	s := compile(t, payroll)
	m, err := s.Scope(useRequest(payTask, "bank"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.Permits, []string{"payroll-pays"}) || !slices.Contains(m.Forbids, "baseline-production-needs-privileged-tier") ||
		!slices.Equal(m.Approvals, []Lift{{"baseline-external-production", "owners"}, {"large-batches-need-treasury", "two-from-treasury"}}) {
		t.Errorf("%+v", m)
	}
	if _, err := s.Scope(Request{}); err == nil {
		t.Error("scope of nothing")
	}
}

// actionMatches compares actions one by one, which is right only while the schema has no groups of them.
func TestSchemaHasNoActionGroups(t *testing.T) {
	v, err := loadVocabulary()
	if err != nil {
		t.Fatal(err)
	}
	for id, a := range v.schema.Actions {
		if a.Entity.Parents.Len() > 0 || a.AppliesTo == nil {
			t.Errorf("%s has parents or applies to nothing", id)
		}
	}
}

// Explanations carry text that others wrote.
func TestExplanationsAreOneVisibleLine(t *testing.T) {
	s := compile(t, payroll)
	r := with(useRequest(payTask, "bank"), change{"action.facts.amount", "1\x1b[2J\n\u202e" + strings.Repeat("x", 10_000)})
	r.Resource.ID, r.Entities[0].ID = "bank", "bank"
	long := with(useRequest(payTask, "h\x1br\n"+strings.Repeat("y", 1000)))
	for _, v := range []Verdict{s.Decide(r), s.Decide(long)} {
		for _, text := range append(append([]string{v.Reason, v.Mend}, v.Errors...), v.Nearest...) {
			if strings.ContainsFunc(text, isHidden) || strings.Contains(text, "\n") || len(text) > 2000 {
				t.Errorf("%q", text)
			}
		}
	}
}
