package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

const payroll = `
@id("payroll-reads-hr")
permit (principal in Workflow::"payroll/pay-run", action == Action::"use", resource == Connection::"hr");

@id("payroll-pays")
permit (principal == Task::"payroll/pay-run/do/2/transfer/do/0/one", action == Action::"use", resource == Connection::"bank")
when { context.action.facts.amount.lessThan(decimal("20000.00")) };

@id("large-batches-need-treasury")
@approval("two-from-treasury")
forbid (principal in Process::"payroll", action == Action::"use", resource == Connection::"bank")
when { context.provenance.kind != "person" };
`

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func compile(t testing.TB, texts ...string) *Set {
	t.Helper()
	var srcs []Source
	for i, text := range texts {
		srcs = append(srcs, Source{Name: string(rune('a'+i)) + ".cedar", Text: text})
	}
	s, err := Compile(srcs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// change sets one context value, named by a path such as provenance.kind.
type change struct {
	path  string
	value any
}

func with(r Request, changes ...change) Request {
	r.Context = deepCopy(r.Context)
	for _, c := range changes {
		m := r.Context
		path := strings.Split(c.path, ".")
		for _, p := range path[:len(path)-1] {
			m = m[p].(map[string]any)
		}
		m[path[len(path)-1]] = c.value
	}
	return r
}

func deepCopy(m map[string]any) map[string]any {
	out := maps.Clone(m)
	for k, v := range out {
		if inner, ok := v.(map[string]any); ok {
			out[k] = deepCopy(inner)
		}
	}
	return out
}

func useRequest(task, connection string) Request {
	return Request{
		Principal: Ref{"Task", task}, Action: "use", Resource: Ref{"Connection", connection},
		Context: map[string]any{
			"action": map[string]any{
				"kind": "http", "method": "POST", "host": "https://api.bank.example.com", "path": "/v1/transfers",
				"digest": "sha256:00", "facts": map[string]any{"amount": Decimal("1204")},
			},
			"scopes": []any{"transfers:write"}, "tier": "privileged", "effect": "once",
			"provenance": map[string]any{"kind": "person", "origin": "person:ana", "external": false},
			"startedBy":  "person:ana", "appliedBy": "person:sam", "with": []any{}, "attempt": int64(1),
			"now": noon, "dev": false, "production": true, "claimed": map[string]any{},
		},
		Entities: []Entity{ConnectionEntity(Connection{
			Name: connection, Owner: "group:people-ops", Zone: "production", Tier: "privileged", Provider: "jwt",
			Hosts: []string{"https://api.bank.example.com"},
		})},
	}
}

func personRequest(person string, groups []string, action string, resource Ref) Request {
	r := Request{
		Principal: Ref{"Person", person}, Action: action, Resource: resource,
		Context: map[string]any{"now": noon, "dev": false},
		Entities: []Entity{
			PersonEntity(person, groups), ProcessEntity("payroll", "group:people-ops", "high"),
			WorkflowEntity("payroll/pay-run", "group:people-ops", "high"),
		},
	}
	switch action {
	case "start":
		r.Context["provenance"] = map[string]any{"kind": "person", "origin": "person:" + person, "external": false}
		r.Context["criticality"] = "high"
	case "approve":
		r.Context["requester"], r.Context["appliers"], r.Context["lone"] = "ana", []any{"sam"}, false
	case "apply":
		r.Context["addsPrivilege"], r.Context["lone"] = true, false
	}
	return r
}

const (
	payTask  = "payroll/pay-run/do/2/transfer/do/0/one"
	readTask = "payroll/pay-run/do/0/timesheets"
)

func TestVerdicts(t *testing.T) {
	s := compile(t, payroll)
	bySchedule := change{"provenance", map[string]any{"kind": "schedule", "origin": "schedule", "external": false}}
	tests := []struct {
		name     string
		req      Request
		approved []string
		outcome  Outcome
		policies []string
		rules    []string
		reason   string
		nearest  string
	}{
		{name: "allowed", req: useRequest(readTask, "hr"), outcome: Allow, policies: []string{"payroll-reads-hr"}, reason: "allowed by payroll-reads-hr"},
		{name: "no policy", req: useRequest("payroll/pay-run-test/do/0/timesheets", "hr"), outcome: Deny,
			reason:  "denied: no policy allows Task payroll/pay-run-test/do/0/timesheets to use connection hr",
			nearest: "payroll-reads-hr allows Workflow payroll/pay-run (this is payroll/pay-run-test)"},
		{name: "condition false", req: with(useRequest(payTask, "bank"), change{"action.facts.amount", Decimal("20000.00")}), outcome: Deny,
			reason:  "denied: no policy allows Task " + payTask + " to use connection bank",
			nearest: `payroll-pays would allow it, but its condition is false: when { context.action.facts.amount.lessThan(decimal("20000.00")) } (context.action.facts.amount is decimal("20000.0"))`},
		{name: "pending", req: with(useRequest(payTask, "bank"), bySchedule), outcome: Pending,
			policies: []string{"large-batches-need-treasury", "payroll-pays"}, rules: []string{"two-from-treasury"},
			reason: "pending: large-batches-need-treasury asks for approval by two-from-treasury before Task " + payTask + " to use connection bank"},
		{name: "approved", req: with(useRequest(payTask, "bank"), bySchedule), approved: []string{"large-batches-need-treasury"},
			outcome: Allow, policies: []string{"payroll-pays"}, reason: "allowed by payroll-pays"},
		{name: "pending needs a permit behind it", req: with(useRequest(payTask, "bank"), bySchedule, change{"action.facts.amount", Decimal("99999")}), outcome: Deny,
			policies: []string{"large-batches-need-treasury"}, reason: "denied: no policy allows Task " + payTask + " to use connection bank"},
		{name: "approval does not make a permit", req: with(useRequest(payTask, "bank"), bySchedule, change{"action.facts.amount", Decimal("99999")}),
			approved: []string{"large-batches-need-treasury"}, outcome: Deny, reason: "denied: no policy allows Task " + payTask + " to use connection bank"},
		{name: "hard forbid beats approval", req: with(useRequest(payTask, "bank"), bySchedule, change{"tier", "standard"}), outcome: Deny,
			policies: []string{"baseline-production-needs-privileged-tier", "large-batches-need-treasury"},
			reason:   "denied: baseline-production-needs-privileged-tier forbids Task " + payTask + " to use connection bank: production is reached from the privileged tier only"},
		{name: "a hard forbid cannot be named approved", req: with(useRequest(payTask, "bank"), change{"tier", "standard"}),
			approved: []string{"baseline-production-needs-privileged-tier"}, outcome: Deny, policies: []string{"baseline-production-needs-privileged-tier"}},
		{name: "erring", req: with(useRequest(payTask, "bank"), change{"action.facts", map[string]any{}}), outcome: Deny, policies: []string{"payroll-pays"},
			reason: "denied: payroll-pays could not be evaluated when asked for Task " + payTask + " to use connection bank"},
		{name: "fact of another type", req: with(useRequest(payTask, "bank"), change{"action.facts.amount", "1204"}), outcome: Deny, policies: []string{"payroll-pays"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := s.Decide(tt.req, tt.approved...)
			if v.Outcome != tt.outcome || (tt.reason != "" && v.Reason != tt.reason) {
				t.Errorf("got %s: %s\nwant %s: %s", v.Outcome, v.Reason, tt.outcome, tt.reason)
			}
			if !slices.Equal(v.Policies, tt.policies) || !slices.Equal(v.Rules, tt.rules) {
				t.Errorf("policies %q rules %q, want %q %q", v.Policies, v.Rules, tt.policies, tt.rules)
			}
			if tt.nearest != "" && (len(v.Nearest) == 0 || v.Nearest[0] != tt.nearest) {
				t.Errorf("nearest %q\nwant %q", v.Nearest, tt.nearest)
			}
			if (v.Outcome == Allow) == (v.Mend != "") {
				t.Errorf("%s with mend %q", v.Outcome, v.Mend)
			}
		})
	}
}
