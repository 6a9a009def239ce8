package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
)

// task describes one HTTP call of a test definition.
type task struct {
	name, method, uri, connection string
	metadata, then, body          string
}

// failer is what tests and properties have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// definition writes a canonical document.
func definition(t failer, process, name, version string, tasks ...task) Resource {
	t.Helper()
	var do, secrets []any
	auth := map[string]any{}
	for _, k := range tasks {
		with := map[string]any{"method": k.method, "endpoint": map[string]any{"uri": k.uri}}
		if k.connection != "" {
			with["endpoint"] = map[string]any{"uri": k.uri, "authentication": map[string]any{"use": k.connection}}
			if auth[k.connection] == nil {
				secrets = append(secrets, k.connection)
			}
			auth[k.connection] = map[string]any{"bearer": map[string]any{"use": k.connection}}
		}
		if k.body != "" {
			with["body"] = k.body
		}
		call := map[string]any{"call": "http", "with": with}
		if k.metadata != "" {
			call["metadata"] = map[string]any{"cardea/v1": json.RawMessage(k.metadata)}
		}
		if k.then != "" {
			call["then"] = k.then
		}
		do = append(do, map[string]any{k.name: call})
	}
	doc := map[string]any{"document": map[string]any{"dsl": "1.0.3", "namespace": process, "name": name, "version": version}, "do": do}
	if len(secrets) > 0 {
		doc["use"] = map[string]any{"secrets": secrets, "authentications": auth}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := jcs.Transform(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Resource{Kind: KindWorkflow, Body: canonical}
}

func resource(kind, body string) Resource {
	return Resource{Kind: kind, Body: []byte(body)}
}

func policyFile(name, text string) Resource {
	return Resource{Kind: KindPolicy, Name: name, Body: []byte(text)}
}

const payrollPolicy = `
@id("reads-hr") permit (principal in Workflow::"payroll/pay-run", action == Action::"use", resource == Connection::"hr");
@id("pays") permit (principal in Workflow::"payroll/pay-run", action == Action::"use", resource == Connection::"bank")
when { context.action.facts.amount.lessThan(decimal("20000.00")) };
@id("needs-treasury") @approval("treasury") forbid (principal in Process::"payroll", action == Action::"use", resource == Connection::"bank");
@id("contractors-stay-out") forbid (principal in Group::"contractors", action == Action::"start", resource);
`

func hrBody(changes ...string) string {
	base := []string{
		"name", `"hr"`, "owner", `"group:people-ops"`, "zone", `"internal"`, "tier", "", "ttl", "",
		"hosts", `["https://hr.example.com"]`, "provider", `{"jwt":{"audience":"https://hr.example.com"}}`,
		"allow", `[{"methods":["GET"],"path":"/v1/timesheets/{month}"}]`,
	}
	return bankBody(append(base, changes...)...)
}

const (
	processBody = `{"kind":"Process","name":"payroll","owner":"group:people-ops","purpose":"Pays","criticality":"high"}`
	ruleBody    = `{"kind":"ApprovalRule","name":"treasury","process":"payroll","approvers":["group:treasury"],"quorum":2,"expires":"4h"}`
	runnerBody  = `{"kind":"Runner","name":"r1","tier":"standard","processes":["payroll"],"zones":["internal"]}`
)

func personBody(name string, groups []string, keys ...string) string {
	raw, err := json.Marshal(map[string]any{"kind": KindPerson, "name": name, "groups": append([]string{}, groups...), "sshKeys": append([]string{}, keys...)})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

var (
	readsHR = task{name: "timesheets", method: "get", uri: "https://hr.example.com/v1/timesheets/{month}", connection: "hr"}
	pays    = task{name: "transfer", method: "post", uri: "https://api.bank.example.com/v1/transfers", connection: "bank", body: "${ . }"}
)

// payroll is a small hub's whole desired state.
func payroll(t testing.TB) []Resource {
	return []Resource{
		resource(KindProcess, processBody), resource(KindConnection, hrBody()), resource(KindConnection, bankBody("process", `"payroll"`)),
		resource(KindApprovalRule, ruleBody), resource(KindRunner, runnerBody), policyFile("payroll/policy", payrollPolicy),
		resource(KindGroup, `{"kind":"Group","name":"treasury"}`), resource(KindGroup, `{"kind":"Group","name":"people-ops"}`),
		resource(KindGroup, `{"kind":"Group","name":"contractors"}`),
		resource(KindPerson, personBody("ana", []string{"treasury"}, keyLine(t, 0))),
		resource(KindPerson, personBody("ben", []string{"treasury", "contractors"}, keyLine(t, 1))),
		definition(t, "payroll", "pay-run", "1.2.0", readsHR, pays),
	}
}

func empty(t testing.TB) *State {
	t.Helper()
	s, err := Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustPlan(t testing.TB, s *State, c Change) (Plan, *State) {
	t.Helper()
	p, after, err := s.Plan(c)
	if err != nil {
		t.Fatal(err)
	}
	return p, after
}

func hub(t testing.TB) *State {
	t.Helper()
	_, s := mustPlan(t, empty(t), Change{Apply: payroll(t), By: "dev"})
	return s
}

func TestPlanSaysPrivileges(t *testing.T) {
	p, after := mustPlan(t, empty(t), Change{Apply: payroll(t), By: "dev", At: time.Unix(1, 0)})
	want := []Privilege{
		{Process: "payroll", Workflow: "payroll/pay-run", Task: "/do/0/timesheets", TaskName: "timesheets", Connection: "hr", Access: "read",
			What: "GET https://hr.example.com/v1/timesheets/{month}", Credential: "identity token, ≤ 5 min", Policies: []string{"reads-hr"}},
		{Process: "payroll", Workflow: "payroll/pay-run", Task: "/do/1/transfer", TaskName: "transfer", Connection: "bank", Access: "write",
			What: "POST https://api.bank.example.com/v1/transfers", Credential: "identity token, ≤ 2 min, privileged tier",
			Approval: "two of group:treasury approve (4 h)", Policies: []string{"pays"}},
	}
	if fmt.Sprintf("%#v", p.Privileges) != fmt.Sprintf("%#v", want) {
		t.Errorf("privileges:\n%+v\nwant\n%+v", p.Privileges, want)
	}
	if len(p.Exposures) != 1 || !p.Exposures[0].ReachesProduction || p.Exposures[0].StrangersCanStart || len(p.Exposures[0].SharesWith) != 0 {
		t.Errorf("exposures: %+v", p.Exposures)
	}
	if !p.AddsPrivilege() || !p.Touches.Hub || !slices.Equal(p.Touches.Processes, []string{"payroll"}) {
		t.Errorf("adds %v, touches %+v", p.Adds, p.Touches)
	}
	if by := after.AppliedBy(ID{KindWorkflow, "payroll/pay-run@1.2.0"}); by != "dev" {
		t.Errorf("applied by %q", by)
	}
	if len(p.Warnings) != 0 {
		t.Errorf("warnings: %v", p.Warnings)
	}
}

func TestPlanSaysWhatIsLost(t *testing.T) {
	p, _ := mustPlan(t, hub(t), Change{Remove: []ID{{KindWorkflow, "payroll/pay-run@1.2.0"}}})
	if len(p.Privileges) != 2 || !p.Privileges[0].Lost || !p.Privileges[1].Lost || p.AddsPrivilege() {
		t.Errorf("%+v adds %v", p.Privileges, p.Adds)
	}
	// A shorter life reads as one line lost and one gained, and adds nothing.
	p, _ = mustPlan(t, hub(t), Change{Apply: []Resource{resource(KindConnection, hrBody("ttl", `"1m"`))}})
	if len(p.Privileges) != 2 || !p.Privileges[0].Lost || p.Privileges[1].Credential != "identity token, ≤ 1 min" || p.AddsPrivilege() {
		t.Errorf("%+v adds %v", p.Privileges, p.Adds)
	}
	if len(p.Changes) != 1 || p.Changes[0].Verb != VerbChanged || p.Changes[0].Detail != "ttl" {
		t.Errorf("changes: %+v", p.Changes)
	}
}

func TestPlanExposesSharing(t *testing.T) {
	other := []Resource{
		resource(KindProcess, `{"kind":"Process","name":"audit","owner":"group:people-ops","purpose":"Looks","criticality":"low"}`),
		definition(t, "audit", "look", "1.0.0", readsHR),
		policyFile("audit/policy", `@id("audit-reads") permit (principal in Process::"audit", action == Action::"use", resource == Connection::"hr");
			@id("anyone") permit (principal is Route, action == Action::"start", resource == Workflow::"audit/look");`),
	}
	p, after := mustPlan(t, hub(t), Change{Apply: other})
	if len(p.Exposures) != 1 || !slices.Equal(p.Exposures[0].SharesWith, []string{"payroll"}) || !p.Exposures[0].StrangersCanStart || p.Exposures[0].ReachesProduction {
		t.Errorf("exposures: %+v", p.Exposures)
	}
	if !after.Shared("hr") || after.Shared("bank") {
		t.Error("hr is used by two processes and bank by one")
	}
	// When payroll lets go of hr, strangers' runs of audit may use it: taking away gave.
	p, _ = mustPlan(t, after, Change{Remove: []ID{{KindWorkflow, "payroll/pay-run@1.2.0"}}})
	if !strings.Contains(strings.Join(p.Adds, "\n"), "no longer shared") {
		t.Errorf("adds %v", p.Adds)
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change Change
		want   string
	}{
		{"what does not decode", Change{Apply: []Resource{resource(KindGroup, `{}`)}}, "/name: is missing"},
		{"twice", Change{Apply: []Resource{resource(KindGroup, `{"kind":"Group","name":"x"}`), resource(KindGroup, `{"kind":"Group", "name":"x"}`)}}, "stands twice"},
		{"apply and remove", Change{Apply: []Resource{resource(KindGroup, `{"kind":"Group","name":"treasury"}`)}, Remove: []ID{{KindGroup, "treasury"}}}, "stands twice"},
		{"removing nothing", Change{Remove: []ID{{KindPerson, "alcie"}}}, "does not exist"},
		{"too much", Change{Remove: make([]ID, MaxResources+1)}, "at most 1000"},
		{"version rewritten", Change{Apply: []Resource{definition(t, "payroll", "pay-run", "1.2.0", readsHR)}}, "raise document.version"},
		{"no process", Change{Apply: []Resource{definition(t, "other", "x", "1.0.0", readsHR)}}, "there is no Process other"},
		{"process in use", Change{Remove: []ID{{KindProcess, "payroll"}}}, "there is no Process payroll"},
		{"no connection", Change{Apply: []Resource{definition(t, "payroll", "x", "1.0.0", task{name: "a", method: "get", uri: "https://a.example/", connection: "nope"})}}, "there is no Connection nope"},
		{"connection in use", Change{Remove: []ID{{KindConnection, "hr"}}}, "there is no Connection hr"},
		{"host that the connection has not", Change{Apply: []Resource{definition(t, "payroll", "x", "1.0.0", task{name: "a", method: "get", uri: "https://a.example/", connection: "hr"})}}, "not a host of connection hr"},
		{"path that the connection has not", Change{Apply: []Resource{definition(t, "payroll", "x", "1.0.0", task{name: "a", method: "get", uri: "https://hr.example.com/v1/salaries", connection: "hr"})}}, "which connection hr does not allow"},
		{"scope that the connection has not", Change{Apply: []Resource{definition(t, "payroll", "x", "1.0.0", task{name: "a", method: "get", uri: "https://hr.example.com/v1/timesheets/1", connection: "hr", metadata: `{"scopes":["admin"]}`})}}, "does not grant"},
		{"rule in use", Change{Remove: []ID{{KindApprovalRule, "treasury"}}}, "there is no ApprovalRule treasury"},
		{"rule that is built in", Change{Apply: []Resource{resource(KindApprovalRule, `{"kind":"ApprovalRule","name":"four-eyes","approvers":["group:x"],"quorum":1,"expires":"1h"}`)}}, "is built in"},
		{"rule of no process", Change{Apply: []Resource{resource(KindApprovalRule, `{"kind":"ApprovalRule","name":"r","process":"nope","approvers":["group:x"],"quorum":1,"expires":"1h"}`)}}, "there is no Process nope"},
		{"policy of no process", Change{Apply: []Resource{policyFile("nope/p", "")}}, "there is no Process nope"},
		{"policy that does not compile", Change{Apply: []Resource{policyFile("p", "permit (")}}, "p.cedar:1:"},
		{"policy with a taken id", Change{Apply: []Resource{policyFile("p", `@id("pays") permit (principal, action == Action::"use", resource);`)}}, "pays"},
		{"group that does not exist", Change{Apply: []Resource{resource(KindPerson, personBody("cy", []string{"treasurey"}))}}, "there is no Group treasurey"},
		{"group in use", Change{Remove: []ID{{KindGroup, "treasury"}}}, "there is no Group treasury"},
		{"a second account", Change{Apply: []Resource{resource(KindPerson, personBody("ana-two", nil, keyLine(t, 0)))}}, "a key belongs to one person"},
		{"a shared audience", Change{Apply: []Resource{resource(KindConnection, hrBody("name", `"hr-two"`, "hosts", `["https://evil.example"]`))}}, "could use the other's tokens"},
		{"kind of a later version", Change{Apply: []Resource{resource("Agent", `{}`)}}, "later version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, after, err := hub(t).Plan(c.change)
			if err == nil || after != nil || p.Digest != "" || !strings.Contains(err.Error(), c.want) || len(p.Errors) == 0 {
				t.Errorf("got %v (digest %q), want it to say %q", err, p.Digest, c.want)
			}
		})
	}
}

func TestPlanWarns(t *testing.T) {
	for _, c := range []struct {
		name   string
		change Change
		want   string
	}{
		{"no policy", Change{Apply: []Resource{definition(t, "payroll", "pay-run-test", "1.0.0", readsHR)}}, "no policy permits task timesheets to use connection hr"},
		{"no policy to reach", Change{Apply: []Resource{definition(t, "payroll", "x", "1.0.0", task{name: "a", method: "get", uri: "https://a.example/"})}}, "no policy permits task a to reach https://a.example"},
		{"owner", Change{Apply: []Resource{resource(KindProcess, `{"kind":"Process","name":"x","owner":"group:nope","purpose":"x","criticality":"low"}`)}}, "group:nope does not exist yet"},
		{"too few signers", Change{Remove: []ID{{KindPerson, "ana"}}}, "asks for 2 signatures, and 1 people"},
		{"an allow that old definitions need", Change{Apply: []Resource{resource(KindConnection, hrBody("allow", `[]`))}}, "it would always be denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _ := mustPlan(t, hub(t), c.change)
			if !strings.Contains(strings.Join(p.Warnings, "\n"), c.want) {
				t.Errorf("warnings %v, want %q", p.Warnings, c.want)
			}
		})
	}
}

// TestAddsPrivilege: one row per rule; each widening has its narrowing beside it, which must not ask for a second person.
func TestAddsPrivilege(t *testing.T) {
	run := func(version string, tasks ...task) Change {
		return Change{Apply: []Resource{definition(t, "payroll", "pay-run", version, tasks...)}}
	}
	hr := func(changes ...string) Change {
		return Change{Apply: []Resource{resource(KindConnection, hrBody(changes...))}}
	}
	bank := func(changes ...string) Change {
		return Change{Apply: []Resource{resource(KindConnection, bankBody(append([]string{"process", `"payroll"`}, changes...)...))}}
	}
	pol := func(old, new string) Change {
		text := strings.Replace(payrollPolicy, old, new, 1)
		if text == payrollPolicy {
			t.Fatalf("policy does not hold %q", old)
		}
		return Change{Apply: []Resource{policyFile("payroll/policy", text)}}
	}
	body := func(kind, text, old, new string) Change {
		if !strings.Contains(text, old) {
			t.Fatalf("%s does not hold %q", text, old)
		}
		return Change{Apply: []Resource{resource(kind, strings.Replace(text, old, new, 1))}}
	}
	ana := func(groups []string, keys ...string) Change {
		return Change{Apply: []Resource{resource(KindPerson, personBody("ana", groups, keys...))}}
	}
	ben := func(groups []string) Change {
		return Change{Apply: []Resource{resource(KindPerson, personBody("ben", groups, keyLine(t, 1)))}}
	}
	twice, again := readsHR, readsHR
	twice.then = "timesheets"
	again.name = "again"
	const facts = `"facts":{"amount":"/amount"}`
	for _, c := range []struct {
		name   string
		change Change
		want   string // empty: adds nothing
	}{
		{"nothing", Change{}, ""},
		{"same again", Change{Apply: payroll(t)}, ""},

		{"version that asks the same", run("1.3.0", readsHR, pays), ""},
		{"version that asks less", run("1.3.0", readsHR), ""},
		{"task more", run("1.3.0", readsHR, pays, again), "task again may read"},
		{"task that may repeat", run("1.3.0", twice, pays), "task timesheets may read"},

		{"host gained", hr("hosts", `["https://hr.example.com","https://hr2.example.com"]`), "gains host https://hr2.example.com"},
		{"connection new", hr("name", `"other"`, "address", `"10.0.0.9:443"`, "provider", `{"jwt":{"audience":"other"}}`),
			"Connection other is new: whatever names it reaches https://hr.example.com at 10.0.0.9:443 (zone internal"},
		{"connection new that may be asked nothing", hr("name", `"other"`, "allow", `[]`), "Connection other is new"},
		{"connection new says what it may be asked", hr("name", `"other"`), "Connection other may be asked GET /v1/timesheets/{month}"},
		{"connection new with scopes", hr("name", `"other"`, "grants", `{"scopes":["a"]}`), "Connection other grants scope a"},
		{"zone", bank("zone", `"internal"`), "its zone changes"},
		{"owner", hr("owner", `"group:treasury"`), "its owner changes"},
		{"process", hr("process", `"payroll"`), "its process changes"},
		{"address", hr("address", `"10.0.0.1:443"`), "its address changes from none to 10.0.0.1:443"},
		{"audience", hr("provider", `{"jwt":{"audience":"other"}}`), "its provider changes"},
		{"plaintext", hr("plaintext", `true`), "in the clear"},
		{"tier lowered", bank("tier", `"standard"`), "moves from tier privileged to standard"},
		{"tier raised", hr("tier", `"privileged"`), ""},
		{"tier named", hr("tier", `"own"`), "moves from tier standard to own"},
		{"scope", hr("grants", `{"scopes":["a"]}`), "grants scope a"},
		{"ttl longer", hr("ttl", `"6m"`), "credentials live 6 min instead of 5 min"},
		{"ttl shorter", hr("ttl", `"4m"`), ""},
		{"allow emptied", hr("allow", `[]`), ""},
		{"allow of other path", hr("allow", `[{"methods":["GET"],"path":"/v1/salaries"}]`), "allow"},
		{"allow of a method more", hr("allow", `[{"methods":["GET","HEAD"],"path":"/v1/timesheets/{month}"}]`), "allow"},
		{"allow of a query", hr("allow", `[{"methods":["GET"],"path":"/v1/timesheets/{month}","query":["a"]}]`), "allow"},
		{"allow with an entry more", hr("allow", `[{"methods":["GET"],"path":"/v1/timesheets/{month}"},{"methods":["GET"],"path":"/"}]`), "allow"},
		{"allow without its facts", bank("allow", `[{"methods":["POST"],"path":"/v1/transfers"}]`), "allow"},
		{"allow with other facts", bank("allow", `[{"methods":["POST"],"path":"/v1/transfers","facts":{"amount":"/other"}}]`), "allow"},
		{"allow with a schema more", bank("allow", `[{"methods":["POST"],"path":"/v1/transfers",`+facts+`,"body":"{\"maxProperties\":3}"}]`), ""},
		{"allow with facts shadowed", bank("allow", `[{"methods":["POST"],"path":"/v1/{x}"},{"methods":["POST"],"path":"/v1/transfers",`+facts+`}]`), "allow"},
		{"allow emptied of facts", bank("allow", `[]`), ""},

		{"permit new", pol("\n@id(\"pays\")", "\n@id(\"more\") permit (principal, action == Action::\"reach\", resource);\n@id(\"pays\")"), "policy more permits something new"},
		{"permit changed", pol("20000.00", "10000.00"), "policy pays reads differently"},
		{"permit removed", pol(`@id("reads-hr") permit (principal in Workflow::"payroll/pay-run", action == Action::"use", resource == Connection::"hr");`, ""), ""},
		{"forbid removed", pol(`@id("contractors-stay-out") forbid (principal in Group::"contractors", action == Action::"start", resource);`, ""), "policy contractors-stay-out no longer forbids"},
		{"approval removed", pol(`@id("needs-treasury") @approval("treasury") forbid (principal in Process::"payroll", action == Action::"use", resource == Connection::"bank");`, ""), "policy needs-treasury no longer forbids"},
		{"forbid changed", pol(`forbid (principal in Process::"payroll"`, `forbid (principal in Process::"nothing"`), "policy needs-treasury reads differently"},
		{"forbid that becomes a permit", pol(`forbid (principal in Group::"contractors"`, `permit (principal in Group::"contractors"`), "reads differently"},
		{"forbid new", pol("\n@id(\"pays\")", "\n@id(\"less\") forbid (principal, action == Action::\"reach\", resource);\n@id(\"pays\")"), ""},
		{"file removed", Change{Remove: []ID{{KindPolicy, "payroll/policy"}}}, "no longer forbids"},

		{"quorum lowered", body(KindApprovalRule, ruleBody, `"quorum":2`, `"quorum":1`), "asks for 1 signatures instead of 2"},
		{"quorum raised", body(KindApprovalRule, ruleBody, `"quorum":2`, `"quorum":3`), ""},
		{"approver more", body(KindApprovalRule, ruleBody, `"group:treasury"`, `"group:treasury","person:ben"`), "lets person:ben sign"},
		{"expires longer", body(KindApprovalRule, ruleBody, `"4h"`, `"5h"`), "live 5 h instead of 4 h"},
		{"expires shorter", body(KindApprovalRule, ruleBody, `"4h"`, `"3h"`), ""},
		{"attempts more", body(KindApprovalRule, ruleBody, `"quorum":2`, `"quorum":2,"attempts":2`), "covers 2 attempts"},
		{"rule moved", body(KindApprovalRule, ruleBody, `"process":"payroll",`, ``), "passes from process"},
		{"rule new", body(KindApprovalRule, ruleBody, `"name":"treasury"`, `"name":"other"`), "ApprovalRule other is new: whatever asks for it is approved by 2 of group:treasury"},

		{"person new", Change{Apply: []Resource{resource(KindPerson, personBody("cy", nil))}}, "Person cy is new"},
		{"person removed", Change{Remove: []ID{{KindPerson, "ben"}}}, "leaves one person on the hub"},
		{"group joined", ana([]string{"treasury", "people-ops"}, keyLine(t, 0)), "joins group people-ops"},
		{"group left", ana(nil, keyLine(t, 0)), ""},
		{"group left that a forbid holds back", ben([]string{"treasury"}), "leaves group contractors"},
		{"key gained", ana([]string{"treasury"}, keyLine(t, 0), keyLine(t, 2)), "gains SSH key SHA256:"},
		{"key lost", ana([]string{"treasury"}), ""},
		{"key's comment", ana([]string{"treasury"}, keyLine(t, 0)+"-renamed"), ""},
		{"group new with a member", Change{Apply: []Resource{resource(KindGroup, `{"kind":"Group","name":"new"}`), resource(KindPerson, personBody("ana", []string{"treasury", "new"}, keyLine(t, 0)))}}, "joins group new"},
		{"group new", Change{Apply: []Resource{resource(KindGroup, `{"kind":"Group","name":"new"}`)}}, ""},

		{"runner new", body(KindRunner, runnerBody, `"r1"`, `"r2"`), "Runner r2 is new"},
		{"runner's tier", body(KindRunner, runnerBody, `"standard"`, `"privileged"`), "moves from tier"},
		{"runner's process", body(KindRunner, runnerBody, `["payroll"]`, `["*"]`), "may work for process *"},
		{"runner's zone", body(KindRunner, runnerBody, `["internal"]`, `["internal","production"]`), "may reach zone production"},
		{"runner with less", body(KindRunner, runnerBody, `["internal"]`, `[]`), ""},

		{"process new", body(KindProcess, processBody, `"payroll"`, `"other"`), "Process other is new: group:people-ops may start and read it"},
		{"process's owner", body(KindProcess, processBody, "people-ops", "treasury"), "passes from group:people-ops"},
		{"process's criticality lowered", body(KindProcess, processBody, "high", "low"), "falls from criticality"},
		{"process's criticality raised", body(KindProcess, processBody, "high", "critical"), ""},
		{"process's purpose", body(KindProcess, processBody, "Pays", "Pays people"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, _ := mustPlan(t, hub(t), c.change)
			got := strings.Join(p.Adds, "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("adds %q, want %q", got, c.want)
			}
		})
	}
}

// TestTakenAwayAndMadeAnew: whatever may be taken away without a second person must not come back without one, by whatever steps it
// went: open runs use it by name.
func TestTakenAwayAndMadeAnew(t *testing.T) {
	for _, c := range []struct {
		name    string
		removed []ID
		again   []Resource
		want    string
	}{
		{"connection", []ID{{KindWorkflow, "payroll/pay-run@1.2.0"}, {KindConnection, "bank"}},
			[]Resource{resource(KindConnection, bankBody("process", `"payroll"`, "address", `"10.6.6.6:443"`))}, "at 10.6.6.6:443"},
		{"workflow", []ID{{KindWorkflow, "payroll/pay-run@1.2.0"}}, []Resource{definition(t, "payroll", "pay-run", "1.2.0", pays)}, "task transfer may write"},
		{"runner", []ID{{KindRunner, "r1"}}, []Resource{resource(KindRunner, runnerBody)}, "Runner r1 is new"},
		{"person", []ID{{KindPerson, "ana"}}, []Resource{resource(KindPerson, personBody("ana", []string{"treasury"}, keyLine(t, 2)))}, "joins group treasury"},
		{"process", []ID{{KindWorkflow, "payroll/pay-run@1.2.0"}, {KindPolicy, "payroll/policy"}, {KindApprovalRule, "treasury"}, {KindConnection, "bank"}, {KindProcess, "payroll"}},
			[]Resource{resource(KindProcess, strings.Replace(processBody, "people-ops", "contractors", 1))}, "group:contractors may start"},
		{"rule", []ID{{KindPolicy, "payroll/policy"}, {KindApprovalRule, "treasury"}},
			[]Resource{resource(KindApprovalRule, strings.Replace(ruleBody, `"quorum":2`, `"quorum":1`, 1))}, "by 1 of group:treasury"},
		{"permit", []ID{{KindPolicy, "payroll/policy"}}, []Resource{policyFile("payroll/policy", payrollPolicy)}, "policy pays permits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, without := mustPlan(t, hub(t), Change{Remove: c.removed})
			if p, _ := mustPlan(t, without, Change{Apply: c.again}); !strings.Contains(strings.Join(p.Adds, "\n"), c.want) {
				t.Errorf("adds %q, want %q", p.Adds, c.want)
			}
		})
	}
}

// TestLinesShowBodies: signers see what they grant by value.
func TestLinesShowBodies(t *testing.T) {
	s := hub(t)
	p, after := mustPlan(t, s, Change{
		Apply:  []Resource{resource(KindConnection, hrBody("ttl", `"1m"`)), resource(KindGroup, `{"kind":"Group","name":"new"}`), resource(KindGroup, `{"kind":"Group","name":"treasury"}`)},
		Remove: []ID{{KindRunner, "r1"}},
	})
	if len(p.Changes) != 4 {
		t.Fatal(p.Changes)
	}
	for _, l := range p.Changes {
		before, was := s.Get(l.ID)
		next, is := after.Get(l.ID)
		if string(l.Before) != string(before.Body) || string(l.After) != string(next.Body) || (l.Before != nil) != was || (l.After != nil) != is {
			t.Errorf("%s: before %s, after %s", l.ID, l.Before, l.After)
		}
	}
}

func TestPlanDigest(t *testing.T) {
	s := hub(t)
	shorter := Change{Apply: []Resource{resource(KindConnection, hrBody("ttl", `"1m"`))}}
	a, after := mustPlan(t, s, shorter)
	b, _ := mustPlan(t, s, Change{Apply: shorter.Apply, By: "somebody else", At: time.Now()})
	if a.Digest != b.Digest || !strings.HasPrefix(a.Digest, "sha256:") {
		t.Error("the same change to the same state has two digests")
	}
	c, _ := mustPlan(t, s, Change{Apply: []Resource{resource(KindConnection, hrBody("ttl", `"2m"`))}})
	_, drifted := mustPlan(t, s, Change{Apply: []Resource{resource(KindGroup, `{"kind":"Group","name":"late"}`)}})
	d, _ := mustPlan(t, drifted, shorter)
	e, _ := mustPlan(t, after, shorter)
	if seen := []string{a.Digest, c.Digest, d.Digest, e.Digest}; len(slices.Compact(slices.Sorted(slices.Values(seen)))) != 4 {
		t.Errorf("another change, or another state, has the same digest: %v", seen)
	}
}

func TestTouches(t *testing.T) {
	moved := Change{Apply: []Resource{
		resource(KindProcess, `{"kind":"Process","name":"other","owner":"group:treasury","purpose":"x","criticality":"low"}`),
	}}
	_, s := mustPlan(t, hub(t), moved)
	for _, c := range []struct {
		name   string
		change Change
		want   string
	}{
		{"connection moved away", Change{Apply: []Resource{resource(KindConnection, bankBody("process", `"other"`))}}, "[other payroll] false"},
		{"connection of the hub", Change{Apply: []Resource{resource(KindConnection, hrBody("ttl", `"1m"`))}}, "[] true"},
		{"workflow", Change{Remove: []ID{{KindWorkflow, "payroll/pay-run@1.2.0"}}}, "[payroll] false"},
		{"policy", Change{Apply: []Resource{policyFile("payroll/more", "")}}, "[] true"},
		{"unchanged", Change{Apply: payroll(t)}, "[] false"},
	} {
		p, _ := mustPlan(t, s, c.change)
		if got := fmt.Sprint(p.Touches.Processes, p.Touches.Hub); got != c.want {
			t.Errorf("%s touches %s, want %s", c.name, got, c.want)
		}
	}
}
