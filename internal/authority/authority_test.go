package authority

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/action"
	"cardea/internal/broker"
	"cardea/internal/evidence"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/registry"
	"cardea/internal/store"
)

func TestConstructorNeedsALedger(t *testing.T) {
	h := newHub(t)
	c := h.Config
	c.Ledger = nil
	if _, err := New(t.Context(), c); err == nil {
		t.Fatal("an authority without a ledger was made")
	}
}

func TestGovernedAttempt(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	h.wantOutcome(got, outcomeAllow)
	if got.Epoch != 1 || got.Permit == "" || got.Verdict.Policies[0] != "reads-hr" {
		t.Fatalf("%+v", got)
	}
	redeemed, err := h.redeem(r, got.Permit, readAction())
	h.must(err)
	claims := claimsOf(t, redeemed.Grants[0].Credential)
	if claims["sub"] != "spiffe://test.local/wf/payroll/pay-run/task/do/0/read" || claims["aud"] != "https://hr.example.com" {
		t.Fatalf("claims %v", claims)
	}
	if _, err := h.Return(t.Context(), r.Peer, permitID(h, run), []ActionReport{{Connection: "hr", Method: "GET", Status: 200}}, DeliveryAnswered); err != nil {
		t.Fatal(err)
	}
	closure, _, err := h.EndRun(t.Context(), run, "completed")
	h.must(err)
	if closure.Issued != 1 || len(closure.Live) != 1 {
		t.Fatalf("closure %+v", closure)
	}
	e, err := h.Explain(t.Context(), h.speaks("ana"), run, "")
	h.must(err)
	if len(e.Attempts) != 1 || e.Attempts[0].Permit.state != permitReturned || len(e.Attempts[0].Leases) != 1 || len(e.Attempts[0].Actions) != 1 {
		t.Fatalf("explanation %+v", e.Attempts)
	}
}

func permitID(h *hub, run string) string {
	h.t.Helper()
	var id string
	h.must(h.DB.View(h.t.Context(), func(tx store.Tx) error {
		return tx.QueryRow(`SELECT id FROM permits WHERE run = $1 ORDER BY id DESC LIMIT 1`, run).Scan(&id)
	}))
	return id
}

// Invariant 2: the leaf that names a credential is durable before the credential is released, with every reference.
func TestRecordFirst(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	redeemed, err := h.redeem(r, got.Permit, readAction())
	h.must(err)
	issued := h.leaves(ledger.KindIssuance)
	if len(issued) != 1 {
		t.Fatalf("%d issuance leaves", len(issued))
	}
	want := ledger.Refs{Run: run, Task: "/do/0/read", Attempt: "1", Subject: "spiffe://test.local/wf/payroll/pay-run/task/do/0/read",
		Target: "hr", Lease: redeemed.Grants[0].Lease, Permit: permitID(h, run), Verdict: got.Verdict.Leaf}
	if issued[0].Refs != want {
		t.Fatalf("refs %+v, want %+v", issued[0].Refs, want)
	}
}

// Invariant 2 and 19: a leaf that cannot be written means no credential and no permit.
func TestNoRecordNoCredential(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	breakLedger(h)
	if _, err := h.redeem(r, got.Permit, readAction()); err == nil {
		t.Fatal("a credential was released without a leaf")
	}
	if _, err := h.Authorize(t.Context(), Intent{Task: TaskRef{Run: run, Task: "/do/2/ping"}, Attempt: 1, Action: httpAction("GET", "https://open.example.com/ping", ""), Runner: r.runnerID()}); err == nil {
		t.Fatal("a verdict was given without a leaf")
	}
	var n int
	h.must(h.DB.View(t.Context(), func(tx store.Tx) error { return tx.QueryRow(`SELECT count(*) FROM leases`).Scan(&n) }))
	if n != 0 {
		t.Fatalf("%d leases without a leaf", n)
	}
}

// breakLedger makes every further leaf fail, as a full disk would.
func breakLedger(h *hub) { h.DB = noLeaves{h.DB} }

type noLeaves struct{ store.DB }

func (b noLeaves) Commit(ctx context.Context, fn func(store.Tx) error) error {
	return b.DB.Commit(ctx, func(tx store.Tx) error { return fn(noLeavesTx{tx}) })
}

type noLeavesTx struct{ store.Tx }

func (b noLeavesTx) Exec(query string, args ...any) (int64, error) {
	if strings.Contains(query, "ledger_leaf") {
		return 0, errors.New("no leaf today")
	}
	return b.Tx.Exec(query, args...)
}

// Invariant 5: no credential outlives the attempt's deadline or the connection's ttl.
func TestWindow(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	before := h.now()
	redeemed, err := h.redeem(r, got.Permit, readAction())
	h.must(err)
	exp := time.Unix(int64(claimsOf(t, redeemed.Grants[0].Credential)["exp"].(float64)), 0)
	if limit := before.Add(time.Minute); exp.After(limit) || exp.After(redeemed.Deadline) {
		t.Fatalf("expires %s, limit %s, deadline %s", exp, limit, redeemed.Deadline)
	}
	// A long ttl is cut at the attempt's deadline.
	long := resource("Connection", "hr", map[string]any{"owner": "group:people-ops", "zone": "office", "hosts": []string{"https://hr.example.com"},
		"provider": map[string]any{"jwt": map[string]any{"audience": "https://hr.example.com"}}, "ttl": "1h",
		"allow": []any{map[string]any{"methods": []string{"GET"}, "path": "/v1/timesheets/{month}"}}})
	h.apply(long)
	run = h.start("ana")
	got = h.authorize(readIntent(run, r))
	h.wait(time.Minute)
	redeemed, err = h.redeem(r, got.Permit, readAction())
	h.must(err)
	if redeemed.Grants[0].Expires.After(redeemed.Deadline) {
		t.Fatalf("expires %s after the deadline %s", redeemed.Grants[0].Expires, redeemed.Deadline)
	}
}

// Invariant 4: every lease ends, across restarts.
func TestLeasesEnd(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	_, err := h.redeem(r, got.Permit, readAction())
	h.must(err)
	_, err = h.ender.Round(t.Context())
	h.must(err)
	h.wantLive(run, 1)
	h.must(h.DB.Close())
	h.open()
	h.wait(2 * time.Minute)
	_, err = h.ender.Round(t.Context())
	h.must(err)
	h.wantLive(run, 0)
	if ends := h.leaves(ledger.KindLeaseEnd); len(ends) != 1 || ends[0].Event != "expired" {
		t.Fatalf("ends %+v", ends)
	}
}

func (h *hub) wantLive(run string, want int) {
	h.t.Helper()
	leases, err := h.Leases(h.t.Context(), h.speaks("ana"), broker.Filter{Run: run, Live: true, Limit: 10})
	h.must(err)
	if len(leases) != want {
		h.t.Fatalf("%d live leases, want %d", len(leases), want)
	}
}

// Invariant 6: nothing is permitted without an allow over exactly these bytes under the policy in force.
func TestVerdictIsOverTheseBytes(t *testing.T) {
	h := newHub(t)
	standard, safe := h.runner("standard", "one"), h.runner("privileged", "safe")
	run := h.start("ana")
	cases := map[string]struct {
		in   Intent
		want string
	}{
		"allowed":               {readIntent(run, standard), outcomeAllow},
		"no policy":             {Intent{Task: TaskRef{Run: run, Task: "/do/2/ping"}, Attempt: 1, Action: httpAction("GET", "https://open.example.com/ping", ""), Runner: standard.runnerID()}, outcomeDeny},
		"over the limit":        {payIntent(run, safe, "20000.00"), outcomeDeny},
		"needs approval":        {payIntent(run, safe, "1000.01"), outcomePending},
		"under the limit":       {payIntent(run, safe, "999.99"), outcomeAllow},
		"fact of another type":  {payIntent(run, safe, `"1"`), outcomeDeny},
		"wrong tier":            {payIntent(run, standard, "1.00"), outcomeReroute},
		"unknown task":          {with(readIntent(run, standard), func(i *Intent) { i.Task.Task = "/do/9/x" }), outcomeDeny},
		"another task's host":   {with(readIntent(run, standard), func(i *Intent) { i.Action = httpAction("GET", "https://bank.example.com/v1/transfers", "") }), outcomeDeny},
		"another method":        {with(readIntent(run, standard), func(i *Intent) { i.Action = httpAction("DELETE", "https://hr.example.com/v1/timesheets/1", "") }), outcomeDeny},
		"path not allowed":      {with(readIntent(run, standard), func(i *Intent) { i.Action = httpAction("GET", "https://hr.example.com/v1/salaries/1", "") }), outcomeDeny},
		"another connection":    {with(readIntent(run, standard), func(i *Intent) { i.Connections = []string{"bank"} }), outcomeDeny},
		"no connection":         {with(readIntent(run, standard), func(i *Intent) { i.Connections = nil }), outcomeDeny},
		"one connection more":   {with(readIntent(run, standard), func(i *Intent) { i.Connections = []string{"bank", "hr"} }), outcomeDeny},
		"a second visit":        {with(readIntent(run, standard), func(i *Intent) { i.Task.Visit = 1 }), outcomeDeny},
		"an iteration":          {with(readIntent(run, standard), func(i *Intent) { i.Task.Iteration = []uint32{0} }), outcomeDeny},
		"attempt zero":          {with(readIntent(run, standard), func(i *Intent) { i.Attempt = 0 }), outcomeDeny},
		"attempts without end":  {with(readIntent(run, standard), func(i *Intent) { i.Attempt = 1000 }), outcomeDeny},
		"claims change nothing": {with(payIntent(run, safe, "20000.00"), func(i *Intent) { i.Claimed = []byte(`{"provenance":"person"}`) }), outcomeDeny},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := h.Authorize(t.Context(), c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got.Verdict.Outcome != c.want {
				t.Fatalf("outcome %s (%s), want %s", got.Verdict.Outcome, got.Verdict.Reason, c.want)
			}
			if (got.Permit != "") != (c.want == outcomeAllow) {
				t.Fatalf("permit %q with outcome %s", got.Permit, got.Verdict.Outcome)
			}
		})
	}
}

// A policy that lets a task reach any host does not widen what the definition says: the engine cannot choose another.
func TestHostIsTheDefinitions(t *testing.T) {
	h := newHub(t)
	h.apply(policyFile("payroll/reach", `@id("pings") permit (principal in Workflow::"payroll/pay-run", action == Action::"reach", resource);`))
	r := h.runner("standard", "one")
	run := h.start("ana")
	ping := Intent{Task: TaskRef{Run: run, Task: "/do/2/ping"}, Attempt: 1, Action: httpAction("GET", "https://open.example.com/ping", ""), Runner: r.runnerID()}
	h.wantOutcome(h.authorize(with(ping, func(i *Intent) { i.Action = httpAction("GET", "https://evil.example.com/ping", "") })), outcomeDeny)
	h.wantOutcome(h.authorize(ping), outcomeAllow)
}

func with(in Intent, change func(*Intent)) Intent {
	change(&in)
	return in
}

// Invariant 6: a change of policy between verdict and redeem is obeyed.
func TestPolicyInForceAtRedeem(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	h.apply(policyFile("payroll/policy", strings.Replace(policyText, `@id("reads-hr") permit`, `@id("reads-hr") forbid`, 1)))
	_, err := h.redeem(r, got.Permit, readAction())
	h.wantErr(err, ErrDenied)
}

// Invariant 6: a decision over an older state is not committed.
func TestStaleSnapshotIsRedone(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	old := h.current.Load()
	h.apply(policyFile("payroll/policy", strings.Replace(policyText, `@id("reads-hr") permit`, `@id("reads-hr") forbid`, 1)))
	h.current.Store(old) // as if the swap had not been seen yet
	h.wantOutcome(h.authorize(readIntent(run, r)), outcomeDeny)
}

// Invariant 7: a once action is delivered at most one time; doubt goes to a person.
func TestOnce(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	again := func(run string) Authorization {
		in := payIntent(run, r, "10.00")
		in.Attempt = 2
		return h.authorize(in)
	}
	for name, c := range map[string]struct {
		after func(run, permit string)
		want  string
	}{
		"not redeemed":          {func(string, string) {}, outcomeAllow},
		"redeemed and silent":   {func(_, p string) { _, err := h.redeem(r, p, payAction("10.00")); h.must(err) }, outcomeDoubt},
		"redeemed and not sent": {func(run, p string) { h.redeemAndReturn(r, run, p, DeliveryNotSent) }, outcomeAllow},
		"redeemed and sent":     {func(run, p string) { h.redeemAndReturn(r, run, p, DeliverySent) }, outcomeDoubt},
		"redeemed and answered": {func(run, p string) { h.redeemAndReturn(r, run, p, DeliveryAnswered) }, outcomeDoubt},
		"redeemed, then quarantined": {func(run, p string) {
			_, err := h.redeem(r, p, payAction("10.00"))
			h.must(err)
			_, _, err = h.Quarantine(t.Context(), h.speaks("ana"), r.runnerID(), "lost", false)
			h.must(err)
			_, _, err = h.Quarantine(t.Context(), h.speaks("ana"), r.runnerID(), "", true)
			h.must(err)
		}, outcomeDoubt},
	} {
		t.Run(name, func(t *testing.T) {
			run := h.start("ana")
			got := h.authorize(payIntent(run, r, "10.00"))
			h.wantOutcome(got, outcomeAllow)
			c.after(run, got.Permit)
			h.wantOutcome(again(run), c.want)
		})
	}
}

func (h *hub) redeemAndReturn(r runnerSide, run, permit string, d Delivery) {
	h.t.Helper()
	_, err := h.redeem(r, permit, payAction("10.00"))
	h.must(err)
	_, err = h.Return(h.t.Context(), r.Peer, permitID(h, run), nil, d)
	h.must(err)
}

// An idempotent action is given out again, under the same key, and what the lost attempt held ends.
func TestIdempotentIsGivenOutAgain(t *testing.T) {
	h := newHub(t)
	r, other := h.runner("standard", "one"), h.runner("standard", "two")
	run := h.start("ana")
	first := h.authorize(readIntent(run, r))
	_, err := h.redeem(r, first.Permit, readAction())
	h.must(err)
	second := h.authorize(with(readIntent(run, other), func(i *Intent) { i.Attempt = 2 }))
	h.wantOutcome(second, outcomeAllow)
	if second.Epoch != first.Epoch+1 || second.IdempotencyKey != first.IdempotencyKey {
		t.Fatalf("first %+v, second %+v", first, second)
	}
}

// Invariant 9: at most one epoch is valid.
func TestFencing(t *testing.T) {
	h := newHub(t)
	r, other := h.runner("standard", "one"), h.runner("standard", "two")
	run := h.start("ana")
	first := h.authorize(readIntent(run, r))
	second := h.authorize(readIntent(run, other))
	if second.Epoch <= first.Epoch {
		t.Fatalf("epochs %d, %d", first.Epoch, second.Epoch)
	}
	_, err := h.redeem(r, first.Permit, readAction())
	h.wantErr(err, ErrStale)
	_, err = h.redeem(other, second.Permit, readAction())
	h.must(err)
	_, err = h.redeem(other, second.Permit, readAction())
	h.wantErr(err, ErrStale)
}

// An epoch that a newer one has replaced is refused even where its permit's row says minted.
func TestFencingByEpoch(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	h.must(h.DB.Commit(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`UPDATE instances SET epoch = epoch + 1`)
		return err
	}))
	_, err := h.redeem(r, got.Permit, readAction())
	h.wantErr(err, ErrStale)
}

// Asked again before the permit is redeemed, the same question has the same answer.
func TestAuthorizeIsIdempotent(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	first, second := h.authorize(readIntent(run, r)), h.authorize(readIntent(run, r))
	if first.Permit != second.Permit || first.Epoch != second.Epoch {
		t.Fatal("the same attempt got two permits")
	}
	if n := len(h.leaves(ledger.KindVerdict)); n != 1 {
		t.Fatalf("%d verdict leaves", n)
	}
}

// Invariant 18: a permit is of use to the runner alone that it was minted for.
func TestIsolation(t *testing.T) {
	h := newHub(t)
	r, other := h.runner("standard", "one"), h.runner("standard", "two")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	_, err := h.redeem(other, got.Permit, readAction())
	h.wantErr(err, ErrDenied)
	imposter := r
	imposter.KeyThumbprint = other.KeyThumbprint
	_, err = h.redeem(imposter, got.Permit, readAction())
	h.wantErr(err, ErrDenied)
	_, err = h.Return(t.Context(), other.Peer, permitID(h, run), nil, DeliverySent)
	h.wantErr(err, ErrDenied)
	again := h.runner("standard", "one") // joined again with another key
	_, err = h.redeem(r, got.Permit, readAction())
	h.wantErr(err, ErrDenied)
	_, err = h.redeem(again, got.Permit, readAction())
	h.wantErr(err, ErrDenied)
}

func TestRunnerLimits(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	h.apply(resource("Runner", "one", map[string]any{"tier": "standard", "processes": []string{"crm"}, "zones": []string{"*"}}))
	run := h.start("ana")
	h.wantOutcome(h.authorize(readIntent(run, r)), outcomeReroute)
}

func TestQuarantine(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	_, _, err := h.Quarantine(t.Context(), h.speaks("bo"), r.runnerID(), "lost", false)
	h.wantErr(err, ErrDenied)
	voided, _, err := h.Quarantine(t.Context(), h.speaks("ana"), r.runnerID(), "lost", false)
	h.must(err)
	if voided != 1 {
		t.Fatalf("%d permits voided", voided)
	}
	_, err = h.redeem(r, got.Permit, readAction())
	h.wantErr(err, ErrStale)
	h.wantOutcome(h.authorize(readIntent(run, r)), outcomeReroute) // the runner is refused, not the attempt
	_, _, err = h.Quarantine(t.Context(), h.speaks("ana"), "spiffe://test.local/role/engine/engine", "", false)
	h.wantErr(err, ErrInvalid)
	_, _, err = h.Quarantine(t.Context(), h.speaks("ana"), "spiffe://test.local/runner/standard/onee", "", false)
	h.wantErr(err, ErrNotFound)
}

// A runner that has returned its permit may have kept the token: quarantine says what still lives.
func TestQuarantineTellsWhatLives(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	_, err := h.redeem(r, got.Permit, readAction())
	h.must(err)
	_, err = h.Return(t.Context(), r.Peer, permitID(h, run), nil, DeliveryAnswered)
	h.must(err)
	_, live, err := h.Quarantine(t.Context(), h.speaks("ana"), r.runnerID(), "lost", false)
	h.must(err)
	if len(live) != 1 {
		t.Fatalf("%d live leases told", len(live))
	}
}

// The engine sends the headers that the definition sets, and no others.
func TestHeadersAreTheDefinitions(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	strange := action.Action{Kind: "http", HTTP: &action.HTTP{Method: "GET", URL: "https://hr.example.com/v1/timesheets/2026-03", Headers: []action.Header{{Name: "x-tenant", Value: "other"}}}}
	canonical, err := strange.Canonical()
	h.must(err)
	h.wantOutcome(h.authorize(with(readIntent(run, r), func(i *Intent) { i.Action = canonical })), outcomeDeny)
}

// Issued counts: one visit has one action, and no more credentials than its definition and lost runners explain.
func TestIssuedCounts(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	_, err := h.redeem(r, got.Permit, readAction())
	h.must(err)
	other := httpAction("GET", "https://hr.example.com/v1/timesheets/2026-04", "")
	h.wantOutcome(h.authorize(with(readIntent(run, r), func(i *Intent) { i.Action = other; i.Attempt = 2 })), outcomeDeny)
	issued := 1
	for range 10 * lostRunners {
		got := h.authorize(readIntent(run, r))
		if got.Verdict.Outcome != outcomeAllow {
			break
		}
		_, err := h.redeem(r, got.Permit, readAction())
		h.must(err)
		issued++
	}
	if issued > 1+lostRunners {
		t.Fatalf("%d credentials for one visit", issued)
	}
}

// Repeating a denied question costs no row and no leaf.
func TestRepeatedQuestionsAreNotStored(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	for range 5 {
		h.wantOutcome(h.authorize(payIntent(run, r, "20000.00")), outcomeDeny)
	}
	if n := len(h.leaves(ledger.KindVerdict)); n != 1 {
		t.Fatalf("%d verdict leaves", n)
	}
}

// A ticket that was held back opens nothing after a day, nor for a definition that has been removed.
func TestHoardedTickets(t *testing.T) {
	h := newHub(t)
	request, _ := proto.Marshal(&cardeav1.StartRunRequest{Workflow: "payroll/pay-run", InputJson: []byte(`{}`)})
	open := func(ticket string) error {
		_, err := h.OpenRun(t.Context(), h.ids.next("run_", h.now()), definitionResource(definitionText).Digest, ticket, action.Digest([]byte(`{}`)))
		return err
	}
	late, err := h.Ticket(t.Context(), h.speaks("ana"), procedureStart, request)
	h.must(err)
	removed, err := h.Ticket(t.Context(), h.speaks("ana"), procedureStart, request)
	h.must(err)
	h.wait(25 * time.Hour)
	h.wantErr(open(late), ErrDenied)
	h.wait(-24*time.Hour + 30*time.Second)
	h.must(h.applyAs(t.Context(), "dee", registry.Change{Remove: []registry.ID{{Kind: registry.KindWorkflow, Name: "payroll/pay-run@1.0.0"}}}))
	h.wantErr(open(removed), ErrDenied)
}

// Strangers' proofs are not remembered, so they cannot fill the memory that keeps replays out.
func TestStrangersFillNoMemory(t *testing.T) {
	h := newHub(t)
	key, err := identity.NewKey()
	h.must(err)
	for range 10 {
		proof, err := evidence.NewProof(key, "/a", nil, h.now())
		h.must(err)
		_, err = h.Identify(t.Context(), proof, "/a", nil)
		h.wantErr(err, ErrUnknownUser)
	}
	if n := len(h.seen.sessions); n != 0 {
		t.Fatalf("%d strangers are remembered", n)
	}
}

func TestDenialsOfPeopleAreRecorded(t *testing.T) {
	h := newHub(t)
	if _, _, err := h.tryStart("bo"); err == nil {
		t.Fatal("bo may start")
	}
	h.must(h.recordRefusals(t.Context()))
	if n := len(h.leaves(ledger.KindRefusal)); n != 1 {
		t.Fatalf("%d refusal leaves", n)
	}
}

func TestPlanningIsForThoseWhoMayApply(t *testing.T) {
	h := newHub(t)
	_, err := h.Plan(t.Context(), h.speaks("cy"), registry.Change{})
	h.wantErr(err, ErrDenied)
}

func TestEvidenceOnce(t *testing.T) {
	h := newHub(t)
	run, ticket, err := h.tryStart("ana")
	h.must(err)
	digest, input := definitionResource(definitionText).Digest, action.Digest([]byte(`{}`))
	if _, err := h.OpenRun(t.Context(), run, digest, ticket, input); err != nil {
		t.Fatalf("asked again for the same run: %v", err)
	}
	_, err = h.OpenRun(t.Context(), h.ids.next("run_", h.now()), digest, ticket, input)
	h.wantErr(err, ErrDenied)
	_, err = h.OpenRun(t.Context(), h.ids.next("run_", h.now()), digest, ticket, action.Digest([]byte(`{"a":1}`)))
	h.wantErr(err, ErrDenied)
	_, err = h.OpenRun(t.Context(), h.ids.next("run_", h.now()), action.Digest(nil), ticket, input)
	h.wantErr(err, ErrDenied)
}

func TestWhoMayStart(t *testing.T) {
	h := newHub(t)
	_, _, err := h.tryStart("bo")
	h.wantErr(err, ErrDenied)
	var denied *DeniedError
	if !errors.As(err, &denied) || denied.Verdict.Reason == "" {
		t.Fatalf("a denial without a reason: %v", err)
	}
}

func TestProofsAreOneUseAndBound(t *testing.T) {
	h := newHub(t)
	body := []byte("body")
	proof, err := evidence.NewProof(h.people["ana"].session, "/a", body, h.now())
	h.must(err)
	_, err = h.Identify(t.Context(), proof, "/b", body)
	h.wantErr(err, ErrUnknownUser)
	_, err = h.Identify(t.Context(), proof, "/a", []byte("other"))
	h.wantErr(err, ErrUnknownUser)
	who, err := h.Identify(t.Context(), proof, "/a", body)
	h.must(err)
	_, err = h.Identify(t.Context(), proof, "/a", body)
	h.wantErr(err, ErrUnknownUser)

	request, _ := proto.Marshal(&cardeav1.StartRunRequest{Workflow: "payroll/pay-run"})
	_, err = h.Ticket(t.Context(), who, procedureStart, request)
	h.must(err)
	h.must(h.DB.Close())
	h.open() // the memory of proofs is gone; what changed something is remembered all the same
	who, err = h.Identify(t.Context(), proof, "/a", body)
	h.must(err)
	_, err = h.Ticket(t.Context(), who, procedureStart, request)
	h.wantErr(err, ErrUnknownUser)
}

func TestClockMayNotGoBack(t *testing.T) {
	h := newHub(t)
	h.must(h.DB.Close())
	h.wait(-2 * time.Minute)
	defer func() {
		if recover() != nil {
			t.Fatal("panic")
		}
	}()
	_, err := reopen(h)
	h.wantErr(err, ErrUnavailable)
}

func TestEndRunVoidsAndCloses(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	closure, leaf, err := h.EndRun(t.Context(), run, "cancelled")
	h.must(err)
	if closure.Issued != 0 || leaf == "" {
		t.Fatalf("closure %+v, leaf %q", closure, leaf)
	}
	_, err = h.redeem(r, got.Permit, readAction())
	h.wantErr(err, ErrStale)
	_, err = h.Authorize(t.Context(), readIntent(run, r))
	h.wantErr(err, ErrStale)
	_, again, err := h.EndRun(t.Context(), run, "completed")
	h.must(err)
	if again != leaf {
		t.Fatal("a second closure was written")
	}
}

func TestRefusalsAreRecordedAndBounded(t *testing.T) {
	h := newHub(t)
	for range 1000 {
		h.Refused("decide.sock", "wrong-role", "spiffe://test.local/role/console/console")
	}
	for i := range 1000 {
		h.Refused("decide.sock", "wrong-role", strings.Repeat("x", i))
	}
	h.must(h.recordRefusals(t.Context()))
	if n := len(h.leaves(ledger.KindRefusal)); n == 0 || n > maxRefusals+1 {
		t.Fatalf("%d refusal leaves", n)
	}
	whole := h.DB
	breakLedger(h)
	h.Refused("lease.sock", "expired", "")
	if h.recordRefusals(t.Context()) == nil {
		t.Fatal("the broken ledger took a leaf")
	}
	h.DB = whole
	before := len(h.leaves(ledger.KindRefusal))
	h.must(h.recordRefusals(t.Context()))
	if after := len(h.leaves(ledger.KindRefusal)); after != before+1 {
		t.Fatal("a refusal that could not be written was forgotten")
	}
}

func TestDevPeopleOnlyInDev(t *testing.T) {
	h := newHub(t)
	h.Dev = false
	h.wantErr(h.AllowDevPerson(t.Context(), DevPerson{Name: "eve"}), ErrDenied)
}

func TestApplyNeedsThePlanThatWasSeen(t *testing.T) {
	h := newHub(t)
	change := registry.Change{Apply: []registry.Resource{resource("Group", "new", map[string]any{})}}
	plan, err := h.Plan(t.Context(), h.speaks("ana"), change)
	h.must(err)
	_, err = h.Apply(t.Context(), h.speaks("bo"), change, plan.Digest)
	h.wantErr(err, ErrDenied)
	h.apply(resource("Group", "meanwhile", map[string]any{}))
	_, err = h.Apply(t.Context(), h.speaks("ana"), change, plan.Digest)
	h.wantErr(err, ErrConflict)
}

// namedProvider looks into the store at the moment of minting.
type namedProvider struct {
	h    *hub
	seen []broker.Lease
	fail error
}

func (*namedProvider) Name() string                { return "jwt" }
func (*namedProvider) Promise() broker.Promise     { return broker.Named }
func (*namedProvider) ShortestLife() time.Duration { return time.Second }
func (*namedProvider) Local() bool                 { return false }

func (p *namedProvider) Mint(ctx context.Context, o broker.Order) (broker.Minted, error) {
	err := p.h.DB.View(ctx, func(tx store.Tx) (err error) {
		p.seen, err = broker.List(tx, broker.Filter{ID: o.Lease})
		return err
	})
	return broker.Minted{Credential: []byte("secret"), Expires: o.NotAfter}, errors.Join(err, p.fail)
}

func (*namedProvider) Revoke(context.Context, string, string) error { return nil }

// Invariant 3: the lease is durable under its name before anything outside can know of it.
func TestIntentFirst(t *testing.T) {
	h := newHub(t)
	p := &namedProvider{h: h}
	h.providers["jwt"] = p
	r := h.runner("standard", "one")
	got := h.authorize(readIntent(h.start("ana"), r))
	redeemed, err := h.redeem(r, got.Permit, readAction())
	if len(p.seen) != 1 || p.seen[0].State != broker.Intended {
		t.Fatalf("minted with the lease recorded as %+v", p.seen)
	}
	h.must(err)
	if issued := h.leaves(ledger.KindIssuance); len(issued) != 2 || issued[0].Event != "intended" || issued[1].Event != "issued" {
		t.Fatalf("leaves %+v", issued)
	}
	if string(redeemed.Grants[0].Credential) != "secret" {
		t.Fatal("another credential was released")
	}
}

// A mint that fails, or says that it failed, leaves an intent that the Ender undoes.
func TestFailedMintIsUndone(t *testing.T) {
	h := newHub(t)
	h.providers["jwt"] = &namedProvider{h: h, fail: broker.ErrAmbiguous}
	r := h.runner("standard", "one")
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	_, err := h.redeem(r, got.Permit, readAction())
	h.wantErr(err, ErrUnavailable)
	h.wantLive(run, 1)
	h.wait(40 * time.Second)
	_, err = h.ender.Round(t.Context())
	h.must(err)
	h.wantLive(run, 0)
}

// A credential whose permit was voided while it was being minted is ended and not released.
func TestVoidedWhileMinting(t *testing.T) {
	h := newHub(t)
	r := h.runner("standard", "one")
	run := h.start("ana")
	p := &voidingProvider{namedProvider: namedProvider{h: h}, run: run}
	h.providers["jwt"] = p
	got := h.authorize(readIntent(run, r))
	_, err := h.redeem(r, got.Permit, readAction())
	h.wantErr(err, ErrStale)
	_, err = h.ender.Round(t.Context())
	h.must(err)
	h.wantLive(run, 0)
	if !p.revoked {
		t.Fatal("the credential was left at its target")
	}
}

type voidingProvider struct {
	namedProvider
	run     string
	revoked bool
}

func (p *voidingProvider) Mint(ctx context.Context, o broker.Order) (broker.Minted, error) {
	if _, _, err := p.h.EndRun(ctx, p.run, "cancelled"); err != nil {
		return broker.Minted{}, err
	}
	return p.namedProvider.Mint(ctx, o)
}

func (p *voidingProvider) Revoke(context.Context, string, string) error {
	p.revoked = true
	return nil
}

// Invariant 17: a run keeps the provenance that it was opened with, whoever vouches for it later.
func TestProvenanceIsFixed(t *testing.T) {
	h := newHub(t)
	h.add("eve", "admins")
	run := h.start("ana")
	request, _ := proto.Marshal(&cardeav1.StartRunRequest{Workflow: "payroll/pay-run", InputJson: []byte(`{}`)})
	ticket, err := h.Ticket(t.Context(), h.speaks("eve"), procedureStart, request)
	h.must(err)
	_, err = h.OpenRun(t.Context(), run, definitionResource(definitionText).Digest, ticket, action.Digest([]byte(`{}`)))
	h.wantErr(err, ErrConflict)
	e, err := h.Explain(t.Context(), h.speaks("ana"), run, "")
	h.must(err)
	if e.Run.Provenance != (Provenance{Kind: ProvenancePerson, Origin: "ana"}) {
		t.Fatalf("provenance %+v", e.Run.Provenance)
	}
}
