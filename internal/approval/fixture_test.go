package approval

import (
	"testing"
	"time"

	"cardea/internal/action"
)

var six = time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)

const zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

const ones = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func payment(t testing.TB, body string) []byte {
	t.Helper()
	a := action.Action{Kind: "http", HTTP: &action.HTTP{
		Method: "POST", URL: "https://api.bank.example.com/v1/transfers",
		Headers: []action.Header{{Name: "content-type", Value: "application/json"}}, Body: []byte(body),
	}}
	b, err := a.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func attempt(t testing.TB, bodies ...string) *Statement {
	t.Helper()
	s := &Statement{
		V: Version, Kind: KindAttempt, ID: "apr_01", Hub: "hub-1", Requester: "person:ana", Appliers: []string{"sam"},
		Rule:     Rule{Name: "two-from-treasury", Digest: zeros, Approvers: []string{"group:treasury"}, Quorum: 2},
		Policies: []Policy{{ID: "large-batches-need-treasury", Digest: zeros}},
		Attempts: 3, CreatedAt: At(six), ExpiresAt: At(six.Add(4 * time.Hour)), Nonce: "0123456789abcdef",
		Process:  &Process{Name: "payroll", Owner: "group:people-ops"},
		Workflow: &Workflow{Ref: "payroll/pay-run", Version: "1.2.0", Digest: zeros},
		Run:      "run_01", Task: &Task{Pointer: "/do/2/transfer/do/0/one", Name: "transfer/one"}, Iteration: []uint32{0},
		Connections: []Connection{{
			Name: "bank", Hosts: []string{"https://api.bank.example.com"}, Scopes: []string{"transfers:write"}, Tier: "privileged", Zone: "production",
			Allow:      []Allow{{Methods: []string{"POST"}, Path: "/v1/transfers", Facts: map[string]string{"amount": "/amount"}}},
			Credential: "identity token", TTL: "2m", Provider: "jwt", Audience: "https://api.bank.example.com", Present: "bearer", Deliver: "egress",
		}},
	}
	for i, b := range bodies {
		s.Actions = append(s.Actions, NewAction(payment(t, b), string(rune('a'+i))+"-key"))
	}
	return s
}

func planStatement() *Statement {
	return &Statement{
		V: Version, Kind: KindPlan, ID: "apr_02", Hub: "hub-1", Requester: "person:ana", Appliers: []string{"ana"},
		Rule:     Rule{Name: "four-eyes", Digest: zeros, Approvers: []string{"group:security", "person:zoe"}, Quorum: 1},
		Policies: []Policy{{ID: "baseline-four-eyes", Digest: zeros}}, Attempts: 1,
		CreatedAt: At(six), ExpiresAt: At(six.Add(time.Hour)), Nonce: "0123456789abcdef",
		Plan: &Plan{Digest: zeros, Privileges: []string{"gains  write  bank  POST https://api.bank.example.com/v1/transfers"}, Changes: changes()},
	}
}

func changes() []Change {
	const forbid = "@id(\"no-strangers\")\nforbid (principal, action, resource)\nwhen { context.provenance.external };\n"
	return []Change{
		{Verb: VerbChanged, Kind: "Connection", Name: "bank", Before: `{"hosts":["https://api.bank.example.com"],"kind":"Connection","tier":"privileged"}`,
			After: `{"address":"6.6.6.6:443","hosts":["https://api.bank.example.com"],"kind":"Connection","tier":"standard"}`},
		{Verb: VerbRemoved, Kind: "Person", Name: "zoe", Before: `{"groups":["security"],"kind":"Person","name":"zoe"}`},
		{Verb: VerbChanged, Kind: kindPolicy, Name: "strangers", Before: forbid, After: ""},
		{Verb: VerbNew, Kind: kindPolicy, Name: "payroll/pay", After: "@id(\"pay\")\npermit (principal, action, resource);\n"},
		{Verb: VerbNew, Kind: "Workflow", Name: "payroll/pay-run@1.3.0", After: `{"do":[{"transfer":{"call":"http","with":{"method":"post"}}}],"document":{"dsl":"1.0.0"}}`},
	}
}

// moved is an attempt whose connection goes another way than its URL says.
func moved(t testing.TB) *Statement {
	s := attempt(t, `{"amount":1}`)
	c := &s.Connections[0]
	c.Hosts, c.Address, c.Plaintext, c.Roots = []string{"http://api.bank.example.com"}, "6.6.6.6:443", true, ones
	c.Allow[0].Query, c.Allow[0].Body = []string{"dry-run", "trace"}, ones
	c.Allow = append(c.Allow, Allow{Methods: []string{"GET", "HEAD"}, Path: "/v1/{account}", Query: []string{"*"}})
	return s
}

func canonical(t testing.TB, s *Statement) []byte {
	t.Helper()
	b, err := s.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
