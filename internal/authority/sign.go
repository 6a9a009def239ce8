package authority

import (
	"context"
	"fmt"

	"cardea/internal/approval"
	"cardea/internal/approval/verify"
	"cardea/internal/fault"
	"cardea/internal/ledger"
	"cardea/internal/policy"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// Shown is an approval as one person sees it.
type Shown struct {
	ID, Run, Replaces, Reason string
	State                     approval.State
	Canonical                 []byte
	// Signature is the authority's over the statement.
	Signature   []byte
	Statement   *approval.Statement
	Judgement   approval.Judgement
	Uses        int
	Cannot      string
	Differences []approval.Difference
}

// show judges an approval as it stands and says whether this person could sign it.
func (a *Authority) show(tx store.Tx, s *snapshot, row *approvalRow, person string) (Shown, error) {
	signature, err := verify.SignStatement(a.Keys.permit, row.canonical)
	if err != nil {
		return Shown{}, fmt.Errorf("approval %s: %w", row.id, err)
	}
	w := a.world(s, row.statement)
	out := Shown{ID: row.id, Run: row.run, Replaces: row.replaces, Reason: row.reason, Canonical: row.canonical, Signature: signature,
		Statement: row.statement, Judgement: row.statement.Judge(row.record(), w)}
	if out.State = out.Judgement.State; row.state.Ended() {
		out.State = row.state
	}
	for _, n := range row.uses {
		out.Uses += n
	}
	out.Cannot = a.cannotSign(s, row, person, w)
	if row.replaces != "" {
		before, err := loadApprovals(tx, `WHERE id = $1`, row.replaces)
		if err != nil {
			return Shown{}, err
		}
		for _, b := range before {
			out.Differences = approval.Diff(b.statement, row.statement)
		}
	}
	return out, nil
}

// cannotSign tells why none of the person's keys would count, or nothing.
func (a *Authority) cannotSign(s *snapshot, row *approvalRow, person string, w approval.World) string {
	p, ok := w.Person(person)
	if !ok || len(p.Keys) == 0 {
		return person + " has no SSH key registered: an administrator adds it to the Person resource"
	}
	why := ""
	for _, key := range p.Keys {
		if why = row.statement.CanSign(person, key, row.record(), w); why == "" {
			return ""
		}
	}
	return why
}

// Approvals lists what a person may see: what waits, or what is in one state, or what belongs to one run.
func (a *Authority) Approvals(ctx context.Context, who Speaker, state, run string) ([]Shown, error) {
	s := a.current.Load()
	var out []Shown
	err := a.DB.View(ctx, func(tx store.Tx) error {
		rows, err := loadApprovals(tx, `WHERE ($1 = '' OR run = $1) AND ($2 = '' OR state = $2) AND ($1 <> '' OR $2 <> '' OR state IN ('pending', 'approved'))
			ORDER BY created_at DESC LIMIT 500`, run, state)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if !a.maySee(s, who.Person, row) {
				continue
			}
			shown, err := a.show(tx, s, row, who.Person)
			if err != nil {
				return err
			}
			if run == "" && state == "" && shown.State != approval.Pending {
				continue
			}
			out = append(out, shown)
		}
		return nil
	})
	return out, err
}

// maySee lets signers see what they are asked to sign, and whoever may read the process.
func (a *Authority) maySee(s *snapshot, person string, row *approvalRow) bool {
	if rule, ok := s.Rule(row.statement.Rule.Name, processOf(row)); ok {
		for _, name := range s.Eligible(rule) {
			if name == person {
				return true
			}
		}
	}
	return a.requireRead(s, person, processOf(row)) == nil
}

func processOf(row *approvalRow) string {
	if row.statement.Process == nil {
		return ""
	}
	return row.statement.Process.Name
}

// Approval shows one, by its id or an unambiguous beginning of it.
func (a *Authority) Approval(ctx context.Context, who Speaker, id string) (Shown, error) {
	s := a.current.Load()
	var out Shown
	err := a.DB.View(ctx, func(tx store.Tx) error {
		row, err := a.findApproval(tx, s, who.Person, id)
		if err != nil {
			return err
		}
		out, err = a.show(tx, s, row, who.Person)
		return err
	})
	return out, err
}

// findApproval answers not found for what a person may not see, so that ids cannot be probed.
func (a *Authority) findApproval(tx store.Tx, s *snapshot, person, id string) (*approvalRow, error) {
	const shortest = 4
	if len(id) < shortest {
		return nil, fmt.Errorf("approval %q: give at least %d characters: %w", id, shortest, ErrInvalid)
	}
	rows, err := loadApprovals(tx, `WHERE id = $1 OR substr(id, 1, length($1)) = $1 OR substr(id, length(id) - length($1) + 1) = $1 LIMIT 3`, id)
	if err != nil {
		return nil, err
	}
	if len(rows) > 1 {
		return nil, fmt.Errorf("%q begins or ends several approvals: %w", id, ErrInvalid)
	}
	if len(rows) == 0 || !a.maySee(s, person, rows[0]) {
		return nil, fmt.Errorf("approval %s: %w", id, ErrNotFound)
	}
	return rows[0], nil
}

// Sign adds a person's signature, or their signed refusal, and settles the approval when that decides it.
func (a *Authority) Sign(ctx context.Context, who Speaker, id string, armored []byte, refuse bool, reason string) (Shown, error) {
	var out Shown
	err := a.underPolicy(ctx, func(tx store.Tx, s *snapshot) error {
		if err := a.consumeProof(tx, who); err != nil {
			return err
		}
		row, err := a.findApproval(tx, s, who.Person, id)
		if err != nil {
			return err
		}
		if err := a.addSignature(tx, s, row, who.Person, armored, refuse, reason); err != nil {
			return err
		}
		if err := a.settleBySignatures(tx, s, row); err != nil {
			return err
		}
		out, err = a.show(tx, s, row, who.Person)
		return err
	})
	if err == nil {
		fault.Point("authority.approval.signed")
		a.announce()
	}
	return out, err
}

const maxReason = 1000

func (a *Authority) addSignature(tx store.Tx, s *snapshot, row *approvalRow, person string, armored []byte, refuse bool, reason string) error {
	namespace := verify.NamespaceApproval
	if refuse {
		namespace = verify.NamespaceRefusal
	}
	if len(reason) > maxReason {
		return fmt.Errorf("a reason of more than %d bytes: %w", maxReason, ErrInvalid)
	}
	signed, err := verify.Person(row.canonical, armored, namespace)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	sig := approvalSignature(person, signed.Fingerprint, a.Now(), refuse, reason)
	if why := wouldNotCount(row, sig, a.world(s, row.statement)); why != "" {
		return fmt.Errorf("this signature would not count: %s: %w", why, ErrDenied)
	}
	event := "signed"
	if refuse {
		event = "refused"
	}
	leaf, err := a.recordEvent(tx, ledger.KindApproval, event, ledger.Refs{Run: row.run, Approval: row.id}, map[string]any{
		"person": person, "key": signed.Fingerprint, "signature": string(armored), "reason": reason,
	})
	if err != nil {
		return err
	}
	return insertSignature(tx, row, sig, armored, leaf)
}

// wouldNotCount tells why a signature is not taken. A refusal is for those who could consent, and for the requester and appliers, who may
// always withdraw; what has ended takes neither.
func wouldNotCount(row *approvalRow, sig approval.Signature, w approval.World) string {
	if !sig.Refuse {
		return row.statement.CanSign(sig.Person, sig.Key, row.record(), w)
	}
	if j := row.statement.Judge(row.record(), w); j.State != approval.Pending && j.State != approval.Approved {
		return j.Reason
	}
	alone := row.statement.Judge(approval.Record{Settled: approval.Pending, Signatures: []approval.Signature{sig}}, w)
	return alone.Signatures[0].Because
}

// settleBySignatures moves the approval on when its signatures now decide it.
func (a *Authority) settleBySignatures(tx store.Tx, s *snapshot, row *approvalRow) error {
	j := row.statement.Judge(row.record(), a.world(s, row.statement))
	if j.State == row.state || j.State == approval.Pending {
		return nil
	}
	return a.settleApproval(tx, row, j.State, j.Reason)
}

// planApproval finds an approval for exactly this plan that still counts.
func (a *Authority) planApproval(tx store.Tx, s *snapshot, digest string) ([]string, *approvalRow, error) {
	rows, err := loadApprovals(tx, `WHERE subject = $1 AND state IN ('pending', 'approved') ORDER BY created_at`, "plan "+digest)
	if err != nil {
		return nil, nil, err
	}
	for _, row := range rows {
		if row.statement.UsePlan(digest, row.record(), a.world(s, row.statement)) == nil && policyDrift(s, "", row.statement) == "" {
			return row.lifts, row, nil
		}
	}
	return nil, nil, nil
}

// askForPlan asks others to sign a change, once for each plan.
func (a *Authority) askForPlan(tx store.Tx, s *snapshot, after *registry.State, who Speaker, plan registry.Plan, v policy.Verdict) (string, error) {
	subject := "plan " + plan.Digest
	rows, err := loadApprovals(tx, `WHERE subject = $1 AND state = 'pending'`, subject)
	if err != nil {
		return "", err
	}
	for _, row := range rows {
		return row.id, nil
	}
	ruleName := v.Rules[0]
	rule, ok := s.Rule(ruleName, "")
	if !ok {
		return "", fmt.Errorf("policy asks for approval by rule %q, which is not there: %w", ruleName, ErrDenied)
	}
	st := a.newStatement(approval.KindPlan, rule, s, v)
	st.Requester, st.Appliers = "person:"+who.Person, []string{who.Person}
	st.Plan = &approval.Plan{Digest: plan.Digest, Privileges: planLines(plan), Changes: planChanges(s, after, plan)}
	row, err := a.insertApproval(tx, st, subject, lifted(s, v, ruleName))
	if err != nil {
		return "", err
	}
	return row.id, nil
}

// planChanges are the resources that change, by value: signers read what they grant, not its name.
func planChanges(before *snapshot, after *registry.State, plan registry.Plan) []approval.Change {
	var changes []approval.Change
	for _, l := range plan.Changes {
		if l.Verb == registry.VerbUnchanged {
			continue
		}
		old, _ := before.Get(l.ID)
		now, _ := after.Get(l.ID)
		changes = append(changes, approval.Change{Verb: l.Verb, Kind: l.ID.Kind, Name: l.ID.Name, Before: string(old.Body), After: string(now.Body)})
	}
	return changes
}

// planLines are what signers of a change read: why it adds privilege, and each privilege gained or lost.
func planLines(plan registry.Plan) []string {
	lines := []string{}
	for _, p := range plan.Privileges {
		verb := "gains"
		if p.Lost {
			verb = "loses"
		}
		lines = append(lines, fmt.Sprintf("%s %s  %s  %s  %s  task %s  %s", p.Workflow, verb, p.Access, p.Connection, p.What, p.TaskName, p.Credential))
	}
	for _, add := range plan.Adds {
		lines = append(lines, "adds: "+add)
	}
	return lines
}
