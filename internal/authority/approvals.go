package authority

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"cardea/internal/action"
	"cardea/internal/approval"
	"cardea/internal/flow/claims"
	"cardea/internal/ledger"
	"cardea/internal/permit"
	"cardea/internal/policy"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// approvalRow is an approval as stored. What it is worth is judged anew whenever it is used.
type approvalRow struct {
	id, subject, run string
	canonical        []byte
	statement        *approval.Statement
	lifts            []string
	state            approval.State
	replaces, reason string
	created, expires time.Time
	leaf             string
	signatures       []approval.Signature
	uses             map[string]int
}

func (r *approvalRow) record() approval.Record {
	return approval.Record{Settled: r.state, Signatures: r.signatures, Uses: r.uses}
}

func idsOf(rows []*approvalRow) string {
	ids := make([]string, 0, len(rows))
	for _, r := range rows {
		ids = append(ids, r.id)
	}
	return strings.Join(ids, ",")
}

const approvalColumns = `id, subject, run, statement, lifts, state, replaces, reason, created_at, expires_at, leaf`

// loadApprovals reads approvals with their signatures and uses.
func loadApprovals(tx store.Tx, where string, args ...any) ([]*approvalRow, error) {
	rows, err := tx.Query(`SELECT `+approvalColumns+` FROM approvals `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read approvals: %w", err)
	}
	defer rows.Close()
	var found []*approvalRow
	for rows.Next() {
		r, err := scanApproval(rows)
		if err != nil {
			return nil, err
		}
		found = append(found, r)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("read approvals: %w", err)
	}
	for _, r := range found {
		if err := errors.Join(loadSignatures(tx, r), loadUses(tx, r)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func scanApproval(row store.Row) (*approvalRow, error) {
	r := &approvalRow{uses: map[string]int{}}
	var statement, lifts, state string
	var created, expires int64
	if err := row.Scan(&r.id, &r.subject, &r.run, &statement, &lifts, &state, &r.replaces, &r.reason, &created, &expires, &r.leaf); err != nil {
		return nil, fmt.Errorf("read an approval: %w", err)
	}
	r.canonical, r.state, r.created, r.expires = []byte(statement), approval.State(state), store.Time(created), store.Time(expires)
	var err error
	if r.statement, err = approval.Decode(r.canonical); err != nil {
		return nil, fmt.Errorf("approval %s as stored: %w", r.id, err)
	}
	if err := json.Unmarshal([]byte(lifts), &r.lifts); err != nil {
		return nil, fmt.Errorf("approval %s as stored: %w", r.id, err)
	}
	return r, nil
}

func loadUses(tx store.Tx, r *approvalRow) error {
	rows, err := tx.Query(`SELECT key FROM approval_uses WHERE approval = $1`, r.id)
	if err != nil {
		return fmt.Errorf("read the uses of approval %s: %w", r.id, err)
	}
	defer rows.Close()
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			return fmt.Errorf("read the uses of approval %s: %w", r.id, err)
		}
		r.uses[key]++
	}
	return rows.Err()
}

// world is what else counts when signatures of this statement are judged.
func (a *Authority) world(s *snapshot, st *approval.Statement) approval.World {
	return approval.World{
		Person: func(name string) (approval.Person, bool) {
			p, ok := s.Person(name)
			if !ok {
				return approval.Person{}, false
			}
			keys := []string{}
			for _, k := range p.Keys() {
				keys = append(keys, ssh.FingerprintSHA256(k))
			}
			return approval.Person{Name: p.Name, Active: true, Groups: p.Groups, Keys: keys}, true
		},
		Forbidden: func(name string) string { return a.mayApprove(s, name, st) },
		Lone:      s.lone(),
		Now:       a.Now(),
	}
}

// mayApprove asks policy whether this person may approve this statement at all; it answers with the reason if not.
func (a *Authority) mayApprove(s *snapshot, person string, st *approval.Statement) string {
	who, target := s.person(person), policy.Entity{Ref: policy.HubRef()}
	if st.Process != nil {
		target = s.process(st.Process.Name)
	}
	appliers := []any{}
	for _, name := range st.Appliers {
		appliers = append(appliers, name)
	}
	v := s.Policies().Decide(policy.Request{Principal: who.Ref, Action: "approve", Resource: target.Ref, Entities: []policy.Entity{who, target},
		Context: map[string]any{"requester": st.Requester, "appliers": appliers, "now": a.Now(), "dev": a.Dev, "lone": s.lone()}})
	if v.Outcome == policy.Allow {
		return ""
	}
	return v.Reason
}

// consent is how far the approvals of one instance carry a question that is pending.
type consent struct {
	// verdict is policy's, with everything lifted that approvals lift.
	verdict policy.Verdict
	lifted  []*approvalRow
	// rule still asks when verdict is pending: waiting is the open question about it, if there is one.
	rule    string
	waiting *approvalRow
	// drifted are open questions that do not say what would happen now, each with what is different.
	drifted map[*approvalRow]string
}

// pending looks for approvals that lift what stands between the intent and its permission, and asks for the next one that is missing.
// Policy has been asked anew before.
func (d *decision) pending(v policy.Verdict) (Authorization, *permit.Permit, error) {
	rows, err := loadApprovals(d.tx, `WHERE subject = $1 ORDER BY created_at`, d.instance.id)
	if err != nil {
		return Authorization{}, nil, err
	}
	if no := answeredNo(rows); no != nil {
		v.Outcome, v.Reason = policy.Deny, "denied: approval "+no.id+": "+no.reason
		v.Mend = "start another run when whoever refused, or did not answer, would agree"
		return d.answer(verdictOf(v, ""), no.id)
	}
	if len(rows) >= maxQuestions {
		v.Outcome, v.Reason = policy.Deny, fmt.Sprintf("denied: people have been asked %d times about this visit of the task", len(rows))
		return d.answer(verdictOf(v, ""), "")
	}
	c, err := d.weigh(v, rows, false)
	if err != nil {
		return Authorization{}, nil, err
	}
	var replaced *approvalRow
	for row, why := range c.drifted {
		if err := d.a.settleApproval(d.tx, row, approval.Voided, why); err != nil {
			return Authorization{}, nil, err
		}
		replaced = row
	}
	if d.lifted = c.lifted; c.verdict.Outcome != policy.Pending {
		return d.settle(c.verdict)
	}
	if c.waiting != nil {
		return d.stillPending(c.verdict, c.waiting)
	}
	row, err := d.askFor(c.verdict, c.rule, replaced)
	if err != nil {
		return Authorization{}, nil, err
	}
	return d.answer(verdictOf(c.verdict, ""), row.id)
}

// maxQuestions bounds how often people can be asked about one visit of a task: an engine that is taken could ask without end.
const maxQuestions = 12

// weigh goes from rule to rule. An approval counts for exactly what it says: the statement is written again from what would happen
// now, and must agree byte for byte with the one that was signed (invariant 10). spent means that this question's own permit has
// been counted already.
func (d *decision) weigh(v policy.Verdict, rows []*approvalRow, spent bool) (consent, error) {
	c := consent{verdict: v, drifted: map[*approvalRow]string{}}
	for c.verdict.Outcome == policy.Pending {
		c.rule, c.waiting = c.verdict.Rules[0], nil
		now, err := d.statementNow(c.verdict, c.rule)
		if err != nil {
			return c, err
		}
		found := false
		for _, row := range rows {
			if row.state.Ended() && !spent || row.statement.Rule.Name != c.rule {
				continue
			}
			if !now.SameMatter(row.statement) {
				if !row.state.Ended() {
					c.drifted[row] = whatDrifted(row.statement, now)
				}
				continue
			}
			w := d.a.world(d.s, row.statement)
			if row.statement.Use(d.q.digest, d.instance.key, d.recordOf(row, spent), w) == nil {
				c.lifted, found = append(c.lifted, row), true
				break
			}
			if row.statement.Judge(row.record(), w).State == approval.Pending {
				c.waiting = row
			}
		}
		if !found {
			return c, nil
		}
		c.verdict = d.a.verdict(d.s, d.q, liftsOf(c.lifted))
	}
	return c, nil
}

// recordOf is an approval as it stood before this question's own permit was counted, when it has been.
func (d *decision) recordOf(row *approvalRow, spent bool) approval.Record {
	r := row.record()
	if !spent {
		return r
	}
	r.Uses = map[string]int{d.instance.key: row.uses[d.instance.key] - 1}
	if r.Settled == approval.Used {
		r.Settled = approval.Approved
	}
	return r
}

// whatDrifted names the first place at which what would happen differs from what was to be approved.
func whatDrifted(before, now *approval.Statement) string {
	differences := approval.Diff(before, now)
	if len(differences) == 0 {
		return "what would happen is not what was to be approved"
	}
	return "what would happen is not what was to be approved: " + differences[0].Path + " is different"
}

// answeredNo finds a question about this visit that people have refused, or have let expire unsigned: asking again, for a cent more, would
// wear them down. One that was signed and expired before it was used may be asked again.
func answeredNo(rows []*approvalRow) *approvalRow {
	for _, row := range rows {
		if row.state == approval.Refused || row.state == approval.Expired && row.reason == unanswered {
			return row
		}
	}
	return nil
}

// unanswered is the reason of approvals that expired before enough people had signed.
const unanswered = "not enough people signed in time"

func liftsOf(rows []*approvalRow) []string {
	var lifts []string
	for _, r := range rows {
		lifts = append(lifts, r.lifts...)
	}
	return lifts
}

// policyDrift tells whether policies or rule of a statement are not what they were.
func policyDrift(s *snapshot, process string, st *approval.Statement) string {
	for _, p := range st.Policies {
		if _, digest, ok := s.Policies().Text(p.ID); !ok || digest != p.Digest {
			return "policy " + p.ID + " has changed"
		}
	}
	if rule, ok := s.Rule(st.Rule.Name, process); !ok || statementRule(rule).Digest != st.Rule.Digest {
		return "rule " + st.Rule.Name + " has changed"
	}
	return ""
}

// stillPending answers a question that has been asked and recorded before, without recording it again.
func (d *decision) stillPending(v policy.Verdict, row *approvalRow) (Authorization, *permit.Permit, error) {
	var text string
	err := d.tx.QueryRow(`SELECT verdict FROM attempts WHERE instance = $1 AND approval = $2 AND outcome = 'pending' ORDER BY id DESC LIMIT 1`,
		d.instance.id, row.id).Scan(&text)
	if errors.Is(err, store.ErrNoRows) {
		return d.answer(verdictOf(v, ""), row.id)
	}
	if err != nil {
		return Authorization{}, nil, fmt.Errorf("read a pending verdict: %w", err)
	}
	var known Verdict
	if err := json.Unmarshal([]byte(text), &known); err != nil {
		return Authorization{}, nil, fmt.Errorf("read a pending verdict: %w", err)
	}
	out := d.base(known)
	out.Approval = row.id
	return out, nil, nil
}

func statementRule(r *registry.ApprovalRule) approval.Rule {
	text, _ := json.Marshal(map[string]any{"name": r.Name, "approvers": r.Approvers, "quorum": r.Quorum, "expires": r.Expires, "attempts": r.Attempts})
	return approval.Rule{Name: r.Name, Digest: action.Digest(text), Approvers: r.Approvers, Quorum: r.Quorum}
}

func statementPolicies(s *snapshot, ids []string) []approval.Policy {
	var list []approval.Policy
	for _, id := range ids {
		if _, digest, ok := s.Policies().Text(id); ok {
			list = append(list, approval.Policy{ID: id, Digest: digest})
		}
	}
	return list
}

// statementNow writes a statement that contains, by value, everything that the approval would let happen.
func (d *decision) statementNow(v policy.Verdict, ruleName string) (*approval.Statement, error) {
	rule, ok := d.s.Rule(ruleName, d.q.run.Process)
	if !ok {
		return nil, fmt.Errorf("policy asks for approval by rule %q, which is not there: %w", ruleName, ErrDenied)
	}
	st := d.a.newStatement(approval.KindAttempt, rule, d.s, v)
	owner, _ := d.s.ownerOf(d.q.run.Process)
	st.Requester, st.Appliers = d.q.run.StartedBy, d.q.appliers
	st.Process = &approval.Process{Name: d.q.run.Process, Owner: owner}
	st.Workflow = &approval.Workflow{Ref: d.q.run.Process + "/" + d.q.run.Workflow, Version: d.q.run.Version, Digest: d.q.run.Digest}
	st.Run, st.Iteration, st.Visit = d.q.run.ID, d.q.intent.Task.Iteration, d.q.intent.Task.Visit
	st.Task = &approval.Task{Pointer: d.q.intent.Task.Task, Name: d.q.claim.Name}
	st.Actions = []approval.Action{approval.NewAction(d.q.intent.Action, d.instance.key)}
	for _, c := range d.q.connections {
		st.Connections = append(st.Connections, d.statementConnection(c))
	}
	if d.q.claim.Effect == claims.EffectOnce {
		st.Attempts = 1
	}
	return st, nil
}

// askFor asks people, saying what is different from the question that it replaces.
func (d *decision) askFor(v policy.Verdict, ruleName string, replaced *approvalRow) (*approvalRow, error) {
	st, err := d.statementNow(v, ruleName)
	if err != nil {
		return nil, err
	}
	if replaced != nil {
		st.Replaces = replaced.id
	}
	return d.a.insertApproval(d.tx, st, d.instance.id, lifted(d.s, v, ruleName))
}

// lifted are the forbids that this rule's approval lifts.
func lifted(s *snapshot, v policy.Verdict, rule string) []string {
	return slices.DeleteFunc(slices.Clone(v.Lifts), func(id string) bool {
		r, ok := s.Policies().Rule(id)
		return !ok || r != rule
	})
}

// statementConnection is a connection by value: whatever decides where the request goes, what it carries and how.
func (d *decision) statementConnection(c *registry.Connection) approval.Connection {
	out := approval.Connection{Name: c.Name, Hosts: c.Hosts, Scopes: d.q.claim.Scopes, Tier: d.q.tier, Zone: c.Zone,
		Credential: "identity token for " + audienceOf(c), TTL: c.TTL.String(), Address: c.Address, Plaintext: c.Plaintext,
		Present: c.Present, Deliver: c.Deliver, Audience: audienceOf(c), Provider: c.Provider.Name()}
	if c.Roots != "" {
		out.Roots = action.Digest([]byte(c.Roots))
	}
	for _, allow := range c.Allow {
		entry := approval.Allow{Methods: allow.Methods, Path: allow.Path, Query: allow.Query, Facts: allow.Facts}
		if allow.Body != "" {
			entry.Body = action.Digest([]byte(allow.Body))
		}
		out.Allow = append(out.Allow, entry)
	}
	return out
}

func (a *Authority) newStatement(kind string, rule *registry.ApprovalRule, s *snapshot, v policy.Verdict) *approval.Statement {
	now := a.Now()
	nonce := make([]byte, 16)
	rand.Read(nonce)
	return &approval.Statement{
		V: approval.Version, Kind: kind, ID: a.ids.next("apr_", now), Hub: a.Hub, Dev: a.Dev, Rule: statementRule(rule),
		Policies: statementPolicies(s, v.Policies), Attempts: rule.Attempts, CreatedAt: approval.At(now), ExpiresAt: approval.At(now.Add(rule.Expires)),
		Nonce: base64.RawURLEncoding.EncodeToString(nonce),
	}
}

func (a *Authority) insertApproval(tx store.Tx, st *approval.Statement, subject string, lifts []string) (*approvalRow, error) {
	canonical, err := st.Canonical()
	if err != nil {
		return nil, err
	}
	row := &approvalRow{id: st.ID, subject: subject, run: st.Run, canonical: canonical, statement: st, lifts: lifts, state: approval.Pending,
		replaces: st.Replaces, created: st.CreatedAt.Time, expires: st.ExpiresAt.Time, uses: map[string]int{}}
	row.leaf, err = a.recordEvent(tx, ledger.KindApproval, "created", ledger.Refs{Run: st.Run, Approval: st.ID}, map[string]any{
		"statement": approval.Digest(canonical), "rule": st.Rule, "policies": st.Policies, "replaces": st.Replaces,
	})
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(`INSERT INTO approvals (id, subject, run, statement, lifts, state, replaces, created_at, expires_at, leaf)
		VALUES ($1, $2, $3, $4, $5, 'pending', $6, $7, $8, $9)`, row.id, subject, row.run, string(canonical), jsonText(lifts), row.replaces,
		store.Micros(row.created), store.Micros(row.expires), row.leaf)
	if err != nil {
		return nil, fmt.Errorf("record approval %s: %w", row.id, err)
	}
	return row, nil
}

// useApproval counts one use in the transaction of what it lets through.
func useApproval(tx store.Tx, row *approvalRow, use, key string) error {
	_, err := tx.Exec(`INSERT INTO approval_uses (approval, use, key) VALUES ($1, $2, $3)`, row.id, use, key)
	if err != nil {
		return fmt.Errorf("use approval %s: %w", row.id, err)
	}
	return nil
}

// exhaustApprovals settles what a redeemed permit has used up: from here on no use can be given back.
func (a *Authority) exhaustApprovals(tx store.Tx, row permitRow) error {
	for _, id := range approvalIDs(row) {
		rows, err := loadApprovals(tx, `WHERE id = $1 AND state = 'approved'`, id)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.uses[row.claims.Context.IdempotencyKey] < r.statement.Attempts {
				continue
			}
			if err := a.settleApproval(tx, r, approval.Used, "all its attempts have been made"); err != nil {
				return err
			}
		}
	}
	return nil
}

func approvalIDs(row permitRow) []string {
	if row.claims.Context.Approval == "" {
		return nil
	}
	return strings.Split(row.claims.Context.Approval, ",")
}

// settleApproval moves an approval to another state, with its leaf. Who waits is told after the commit.
func (a *Authority) settleApproval(tx store.Tx, row *approvalRow, to approval.State, reason string) error {
	if err := approval.Next(row.state, to); err != nil {
		return fmt.Errorf("approval %s: %w: %w", row.id, err, ErrConflict)
	}
	if _, err := tx.Exec(`UPDATE approvals SET state = $2, reason = $3 WHERE id = $1`, row.id, string(to), reason); err != nil {
		return fmt.Errorf("settle approval %s: %w", row.id, err)
	}
	event := "settled"
	if to == approval.Voided {
		event = "voided"
	}
	_, err := a.recordEvent(tx, ledger.KindApproval, event, ledger.Refs{Run: row.run, Approval: row.id}, map[string]any{"state": to, "reason": reason})
	if err != nil {
		return err
	}
	row.state, row.reason = to, reason
	a.settledLater(ApprovalSettled{Approval: row.id, Run: row.run, State: string(to), Reason: reason})
	return nil
}

// voidApprovalsOf voids what a run still waits for.
func (a *Authority) voidApprovalsOf(tx store.Tx, run, reason string) error {
	open, err := loadApprovals(tx, `WHERE run = $1 AND state IN ('pending', 'approved')`, run)
	if err != nil {
		return err
	}
	for _, row := range open {
		if err := a.settleApproval(tx, row, approval.Voided, reason); err != nil {
			return err
		}
	}
	return nil
}

// voidDrifted voids every open question that would not be asked so any more, in the transaction of the change: nobody is to sign what
// would count for nothing, and whoever waits asks again at once. A change that waits for signatures was planned from another state.
func (a *Authority) voidDrifted(tx store.Tx, next *snapshot) error {
	open, err := loadApprovals(tx, `WHERE state IN ('pending', 'approved')`)
	if err != nil {
		return err
	}
	for _, row := range open {
		why := "the state that the change was planned from is not in force any more"
		if row.statement.Kind == approval.KindAttempt {
			if why, err = a.driftUnder(tx, next, row); err != nil {
				return err
			}
		}
		if why == "" {
			continue
		}
		if err := a.settleApproval(tx, row, approval.Voided, why); err != nil {
			return err
		}
	}
	return nil
}

// driftUnder asks the question of an approval again under another state, and says what is different.
func (a *Authority) driftUnder(tx store.Tx, next *snapshot, row *approvalRow) (string, error) {
	st := row.statement
	run, err := loadRun(tx, row.run)
	if err != nil {
		return "", err
	}
	in := Intent{Task: TaskRef{Run: st.Run, Task: st.Task.Pointer, Iteration: st.Iteration, Visit: st.Visit}, Attempt: 1, Action: st.Actions[0].Action}
	for _, c := range st.Connections {
		in.Connections = append(in.Connections, c.Name)
	}
	q, err := a.ask(tx, next, run, in)
	if err != nil {
		return "", err
	}
	d := decision{a: a, tx: tx, s: next, q: q, instance: instance{key: st.Actions[0].IdempotencyKey}}
	v := a.verdict(next, q, nil)
	if v.Outcome != policy.Pending || !slices.Contains(v.Rules, st.Rule.Name) {
		return "policy does not ask this any more: " + v.Reason, nil
	}
	if v.Rules[0] != st.Rule.Name {
		return policyDrift(next, run.Process, st), nil // a later rule: it is compared in full when it is used
	}
	now, err := d.statementNow(v, st.Rule.Name)
	if err != nil || now.SameMatter(st) {
		return "", err
	}
	return whatDrifted(st, now), nil
}

// expireApprovals settles approvals whose time is over.
func (a *Authority) expireApprovals(ctx context.Context) error {
	var due int
	now := store.Micros(a.Now())
	err := a.DB.View(ctx, func(tx store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM approvals WHERE state IN ('pending', 'approved') AND expires_at <= $1`, now).Scan(&due)
	})
	if err != nil || due == 0 {
		return err
	}
	err = a.DB.Commit(ctx, func(tx store.Tx) error {
		rows, err := loadApprovals(tx, `WHERE state IN ('pending', 'approved') AND expires_at <= $1`, now)
		if err != nil {
			return err
		}
		for _, row := range rows {
			reason := unanswered
			if row.state == approval.Approved {
				reason = "it was approved and not used in time"
			}
			if err := a.settleApproval(tx, row, approval.Expired, reason); err != nil {
				return err
			}
		}
		return nil
	})
	a.announce()
	return err
}
