package authority

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"cardea/internal/approval"
	"cardea/internal/ledger"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// pending asks for something that needs treasury, and returns the approval.
func (h *hub) pending(run string, r runnerSide, amount string) string {
	h.t.Helper()
	got := h.authorize(payIntent(run, r, amount))
	h.wantOutcome(got, outcomePending)
	if got.Approval == "" || got.Permit != "" {
		h.t.Fatalf("pending with approval %q and permit %q", got.Approval, got.Permit)
	}
	return got.Approval
}

// Invariant 10: an approval covers exactly the signed digest.
func TestApprovalCannotDrift(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	first := h.pending(run, r, "5000.00")
	_, err := h.sign("bo", first, false)
	h.must(err)
	second := h.pending(run, r, "9000.00")
	if second == first {
		t.Fatal("a changed action kept its approval")
	}
	voided, err := h.Approval(t.Context(), h.speaks("bo"), first)
	h.must(err)
	if voided.State != approval.Voided {
		t.Fatalf("the drifted approval is %s", voided.State)
	}
	shown, err := h.Approval(t.Context(), h.speaks("bo"), second)
	h.must(err)
	if shown.Replaces != first || len(shown.Differences) == 0 || !strings.Contains(shown.Differences[0].Path, "body/amount") {
		t.Fatalf("differences %+v", shown.Differences)
	}
}

// Invariant 10: used for at most the stated attempts, counted with the permit.
func TestApprovalIsUsedUp(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	_, err := h.sign("bo", id, false)
	h.must(err)
	got := h.authorize(payIntent(run, r, "5000.00"))
	h.wantOutcome(got, outcomeAllow)
	if got.Approval != id {
		t.Fatalf("allowed under %q, not %s", got.Approval, id)
	}
	h.redeemAndReturnAction(r, run, got.Permit, payAction("5000.00"), DeliveryNotSent)
	again := h.authorize(with(payIntent(run, r, "5000.00"), func(i *Intent) { i.Attempt = 2 }))
	h.wantOutcome(again, outcomePending)
	if again.Approval == id {
		t.Fatal("an approval for one attempt was used twice")
	}
	issued := h.leaves(ledger.KindIssuance)
	if issued[0].Refs.Approval != id {
		t.Fatalf("issuance names approval %q", issued[0].Refs.Approval)
	}
}

func (h *hub) redeemAndReturnAction(r runnerSide, run, permit string, canonical []byte, d Delivery) {
	h.t.Helper()
	_, err := h.redeem(r, permit, canonical)
	h.must(err)
	_, err = h.Return(h.t.Context(), r.Peer, permitID(h, run), nil, d)
	h.must(err)
}

// A permit that was never redeemed gives its use back: the runner was lost, nobody acted.
func TestUnredeemedPermitGivesTheUseBack(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	_, err := h.sign("bo", id, false)
	h.must(err)
	h.wantOutcome(h.authorize(payIntent(run, r, "5000.00")), outcomeAllow)
	h.wantOutcome(h.authorize(with(payIntent(run, r, "5000.00"), func(i *Intent) { i.Attempt = 2 })), outcomeAllow)
}

// The runner was lost before it had the permit, and no other is there: the engine asks without one, and nobody is asked to sign again.
func TestAskingWithoutARunnerGivesTheUseBack(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	_, err := h.sign("bo", id, false)
	h.must(err)
	lost := h.authorize(payIntent(run, r, "5000.00"))
	h.wantOutcome(lost, outcomeAllow)
	nobody := with(payIntent(run, r, "5000.00"), func(i *Intent) { i.Runner = "" })
	if got := h.authorize(nobody); got.Approval != id {
		t.Fatalf("asked for approval %q again, %s was given", got.Approval, id)
	}
	_, err = h.redeem(r, lost.Permit, payAction("5000.00"))
	h.wantErr(err, ErrStale)
	got := h.authorize(payIntent(run, r, "5000.00"))
	h.wantOutcome(got, outcomeAllow)
	h.redeemAndReturnAction(r, run, got.Permit, payAction("5000.00"), DeliveryAnswered)
}

// Invariant 11: who signs is judged when it counts.
func TestApprovers(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	h.apply(resource("Person", "ana", map[string]any{"groups": []string{"admins", "treasury"}, "sshKeys": personKeys(h, "ana")}))
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	_, err := h.sign("ana", id, false) // asked for it
	h.wantErr(err, ErrDenied)
	_, err = h.sign("bo", id, false)
	h.must(err)
	h.apply(resource("Person", "bo", map[string]any{"groups": []string{}, "sshKeys": personKeys(h, "bo")}))
	h.wantOutcome(h.authorize(payIntent(run, r, "5000.00")), outcomePending)
	h.apply(resource("Person", "bo", map[string]any{"groups": []string{"treasury"}, "sshKeys": personKeys(h, "bo")}))
	h.wantOutcome(h.authorize(payIntent(run, r, "5000.00")), outcomeAllow)
}

// Whoever applied the definition that runs does not approve what it does.
func TestApplierDoesNotApprove(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	h.must(h.DB.Commit(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`UPDATE definitions SET applied_by = 'bo'`)
		return err
	}))
	h.definitions.Clear()
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	_, err := h.sign("bo", id, false)
	h.wantErr(err, ErrDenied)
	_, err = h.sign("cy", id, false)
	h.must(err)
}

func personKeys(h *hub, name string) []string {
	p, _ := h.current.Load().Person(name)
	return p.SSHKeys
}

func TestSignatureOverAnotherStatementIsRefused(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	one, two := h.pending(h.start("ana"), r, "5000.00"), h.pending(h.start("ana"), r, "5000.00")
	shown, err := h.Approval(t.Context(), h.speaks("bo"), one)
	h.must(err)
	armored, err := testSigner{h.people["bo"].signer}.Sign(approval.Message(shown.Canonical), "cardea-approval")
	h.must(err)
	_, err = h.Sign(t.Context(), h.speaks("bo"), two, armored, false, "")
	h.wantErr(err, ErrInvalid)
	_, err = h.Sign(t.Context(), h.speaks("cy"), one, armored, false, "") // bo's key, cy's session
	h.wantErr(err, ErrDenied)
}

// Whoever edits the store gains nothing: signatures are verified again over what stands there.
func TestForgedRowsCountForNothing(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	h.must(h.DB.Commit(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO signatures (approval, person, key, signature, refused, reason, signed_at, leaf) VALUES ($1, 'bo', $2, $3, 0, '', 1, '')`,
			id, ssh.FingerprintSHA256(testSigner{h.people["bo"].signer}.PublicKey()), []byte("forged"))
		if err == nil {
			_, err = tx.Exec(`UPDATE approvals SET state = 'approved' WHERE id = $1`, id)
		}
		return err
	}))
	if got := h.authorize(payIntent(run, r, "5000.00")); got.Verdict.Outcome == outcomeAllow {
		t.Fatal("a forged signature was taken")
	}
}

func TestRefusedAndExpired(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	shown, err := h.sign("bo", id, true)
	h.must(err)
	if shown.State != approval.Refused {
		t.Fatalf("refused, yet %s", shown.State)
	}
	denied := h.authorize(payIntent(run, r, "5000.00"))
	h.wantOutcome(denied, outcomeDeny)
	if !strings.Contains(denied.Verdict.Reason, "bo") {
		t.Fatalf("the denial does not say who refused: %s", denied.Verdict.Reason)
	}
	h.wantOutcome(h.authorize(payIntent(run, r, "5000.01")), outcomeDeny) // a cent more is no other question
	run = h.start("ana")
	h.pending(run, r, "5000.00")
	h.wait(5 * time.Hour)
	h.must(h.expireApprovals(t.Context()))
	h.wantOutcome(h.authorize(payIntent(run, r, "5000.00")), outcomeDeny)
	run = h.start("ana")
	id = h.pending(run, r, "5000.00")
	_, err = h.sign("bo", id, false)
	h.must(err)
	h.wait(5 * time.Hour)
	h.must(h.expireApprovals(t.Context()))
	got := h.authorize(payIntent(run, r, "5000.00"))
	h.wantOutcome(got, outcomePending)
	if got.Approval == id {
		t.Fatal("an expired approval is still asked for")
	}
}

// A plan that adds privilege is signed by somebody else, for exactly that plan.
func TestFourEyesOnApply(t *testing.T) {
	h := newHub(t)
	h.add("eve", "security")
	change := registry.Change{Apply: []registry.Resource{resource("Connection", "hr", map[string]any{"owner": "group:people-ops", "zone": "office",
		"hosts": []string{"https://hr.example.com"}, "provider": map[string]any{"jwt": map[string]any{"audience": "https://hr.example.com"}}, "ttl": "1m",
		"allow": []any{map[string]any{"methods": []string{"GET"}, "path": "/v1/timesheets/{month}"}, map[string]any{"methods": []string{"GET"}, "path": "/v1/salaries/{month}"}}})}}
	plan, err := h.Plan(t.Context(), h.speaks("ana"), change)
	h.must(err)
	asked, err := h.Apply(t.Context(), h.speaks("ana"), change, plan.Digest)
	h.must(err)
	if asked.Done || asked.Approval == "" {
		t.Fatalf("privilege was added alone: %+v", asked)
	}
	_, err = h.sign("ana", asked.Approval, false)
	h.wantErr(err, ErrDenied)
	_, err = h.sign("eve", asked.Approval, false)
	h.must(err)
	done, err := h.Apply(t.Context(), h.speaks("ana"), change, plan.Digest)
	h.must(err)
	if !done.Done || done.Approval != asked.Approval {
		t.Fatalf("approved, yet %+v", done)
	}
}

// A change of what was decided over voids what people are being asked, in the change's own transaction.
func TestAChangeOfPolicyVoidsTheQuestion(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	h.apply(policyFile("payroll/policy", strings.Replace(policyText, `decimal("20000.00")`, `decimal("30000.00")`, 1)))
	_, err := h.sign("bo", id, false)
	h.wantErr(err, ErrDenied)
	if again := h.pending(run, r, "5000.00"); again == id {
		t.Fatal("a question about another policy is still asked")
	}
}

// Invariant 10: an approval holds the connection too: another address, audience or anything else is another question.
func TestApprovalHoldsTheConnection(t *testing.T) {
	bank := func(change func(map[string]any)) registry.Resource {
		body := map[string]any{"owner": "group:treasury", "zone": "production", "tier": "privileged", "hosts": []string{"https://bank.example.com"},
			"provider": map[string]any{"jwt": map[string]any{"audience": "https://bank.example.com"}}, "ttl": "1m",
			"grants": map[string]any{"scopes": []string{"transfers:write"}},
			"allow":  []any{map[string]any{"methods": []string{"POST"}, "path": "/v1/transfers", "facts": map[string]any{"amount": "/amount"}}}}
		change(body)
		return resource("Connection", "bank", body)
	}
	for name, change := range map[string]func(map[string]any){
		"address": func(b map[string]any) { b["address"] = "203.0.113.9:443" },
		"audience": func(b map[string]any) {
			b["provider"] = map[string]any{"jwt": map[string]any{"audience": "https://evil.example.com"}}
		},
		"ttl": func(b map[string]any) { b["ttl"] = "1h" },
		"allow": func(b map[string]any) {
			b["allow"] = []any{map[string]any{"methods": []string{"POST", "PUT"}, "path": "/v1/transfers", "facts": map[string]any{"amount": "/amount"}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			r := h.runner("privileged", "safe")
			run := h.start("ana")
			id := h.pending(run, r, "5000.00")
			_, err := h.sign("bo", id, false)
			h.must(err)
			got := h.authorize(payIntent(run, r, "5000.00"))
			h.wantOutcome(got, outcomeAllow)
			h.apply(bank(change))
			_, err = h.redeem(r, got.Permit, payAction("5000.00")) // minted before the change, redeemed after
			h.wantErr(err, ErrDenied)
			if again := h.pending(run, r, "5000.00"); again == id {
				t.Fatal("an approval for another connection is still used")
			}
		})
	}
}

func TestSignersOfAPlanReadWhatTheyGrant(t *testing.T) {
	h := newHub(t)
	h.add("eve", "security")
	change := registry.Change{Apply: []registry.Resource{resource("Runner", "evil", map[string]any{"tier": "privileged", "processes": []string{"*"}, "zones": []string{"*"}})}}
	plan, err := h.Plan(t.Context(), h.speaks("ana"), change)
	h.must(err)
	asked, err := h.Apply(t.Context(), h.speaks("ana"), change, plan.Digest)
	h.must(err)
	shown, err := h.Approval(t.Context(), h.speaks("eve"), asked.Approval)
	h.must(err)
	changes := shown.Statement.Plan.Changes
	if len(changes) != 1 || !strings.Contains(changes[0].After, `"zones":["*"]`) {
		t.Fatalf("signers are shown %+v", changes)
	}
}

// What has ended is not signed or refused any more, and a used consent stays what it was.
func TestRefusalAfterUseChangesNothing(t *testing.T) {
	h := newHub(t)
	r := h.runner("privileged", "safe")
	run := h.start("ana")
	id := h.pending(run, r, "5000.00")
	_, err := h.sign("bo", id, false)
	h.must(err)
	got := h.authorize(payIntent(run, r, "5000.00"))
	h.redeemAndReturnAction(r, run, got.Permit, payAction("5000.00"), DeliveryAnswered)
	_, err = h.sign("bo", id, true)
	h.wantErr(err, ErrDenied)
	shown, err := h.Approval(t.Context(), h.speaks("bo"), id)
	h.must(err)
	if shown.State != approval.Used || shown.Judgement.Signatures[0].Refuse {
		t.Fatalf("state %s, signatures %+v", shown.State, shown.Judgement.Signatures)
	}
}
