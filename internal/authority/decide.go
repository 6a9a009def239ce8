package authority

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cardea/internal/broker"
	"cardea/internal/fault"
	"cardea/internal/flow/claims"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/permit"
	"cardea/internal/policy"
	"cardea/internal/store"
)

// Outcomes of an authorization, as the attempts table spells them.
const (
	outcomeAllow   = "allow"
	outcomeDeny    = "deny"
	outcomePending = "pending"
	outcomeDoubt   = "in_doubt"
	// outcomeReroute is answered and never stored: nothing was decided.
	outcomeReroute = "reroute"
)

// Verdict is a decision with its explanation, as it is stored and shown.
type Verdict struct {
	Outcome  string   `json:"outcome"`
	Policies []string `json:"policies,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Mend     string   `json:"mend,omitempty"`
	Nearest  []string `json:"nearest,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Leaf     string   `json:"leaf,omitempty"`
}

func verdictOf(v policy.Verdict, leaf string) Verdict {
	return Verdict{Outcome: v.Outcome.String(), Policies: v.Policies, Reason: v.Reason, Mend: v.Mend, Nearest: v.Nearest, Warnings: v.Warnings, Leaf: leaf}
}

// Authorization answers one intent.
type Authorization struct {
	Verdict        Verdict
	Epoch          uint64
	IdempotencyKey string
	Permit         string
	PermitExpires  time.Time
	Approval       string
	Tier           string
}

// How long a permit may wait to be redeemed, and how long an attempt may take once it is.
const (
	permitLife  = 2 * time.Minute
	attemptLife = 5 * time.Minute
)

// errGeneration makes underPolicy decide again: desired state changed between the decision and its commit.
var errGeneration = errors.New("desired state has changed meanwhile")

// underPolicy commits what fn decides over a snapshot, only if that snapshot is still in force in the same transaction.
func (a *Authority) underPolicy(ctx context.Context, fn func(store.Tx, *snapshot) error) error {
	const tries = 5
	for range tries {
		s := a.current.Load()
		err := a.DB.Commit(ctx, func(tx store.Tx) error {
			if err := requireGeneration(tx, s); err != nil {
				return err
			}
			return fn(tx, s)
		})
		if !errors.Is(err, errGeneration) {
			return err
		}
		if err := a.reload(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w", errGeneration, ErrUnavailable)
}

func requireGeneration(tx store.Tx, s *snapshot) error {
	stored, err := metaValue(tx, metaGeneration)
	if err != nil {
		return err
	}
	if stored != s.generation {
		return errGeneration
	}
	return nil
}

// Authorize decides one intent, records the verdict and, when it allows and a runner is named, mints the permit. Asked again for the
// same attempt by the same runner before the permit is redeemed, it answers with the same permit.
func (a *Authority) Authorize(ctx context.Context, in Intent) (Authorization, error) {
	started := a.Now()
	var out Authorization
	var minted *permit.Permit
	err := a.underPolicy(ctx, func(tx store.Tx, s *snapshot) error {
		out, minted = Authorization{}, nil
		run, err := openRun(tx, in.Task.Run)
		if err != nil {
			return err
		}
		q, err := a.ask(tx, s, run, in)
		if err != nil {
			return err
		}
		d := decision{a: a, tx: tx, s: s, q: q}
		out, minted, err = d.make()
		fault.Point("authority.verdict.decided")
		return err
	})
	if err != nil {
		return Authorization{}, err
	}
	fault.Point("authority.verdict.committed")
	a.announce()
	if minted != nil {
		if out.Permit, err = permit.Sign(*minted, a.Keys.permit); err != nil {
			return Authorization{}, err
		}
		out.PermitExpires = time.Unix(minted.Expires, 0).UTC()
	}
	a.metrics.verdict(out.Verdict.Outcome, a.Now().Sub(started))
	return out, nil
}

// openRun reads a run that attempts can be decided for, as the decision's transaction sees it.
func openRun(tx store.Tx, id string) (Run, error) {
	run, err := loadRun(tx, id)
	if err == nil && !run.Open() {
		err = fmt.Errorf("run %s is %s: %w", id, run.State, ErrStale)
	}
	return run, err
}

// definition is what the authority keeps of a workflow's bytes.
type definition struct {
	claims.Claims
	// appliers are all who ever applied these bytes: none of them approves what they do.
	appliers []string
}

// definition reads the claims of a definition that was ever applied: a new version never changes a running run. Claims are cached, as
// they follow from the digest; who applied them is read each time.
func (a *Authority) definition(tx store.Tx, digest string) (definition, error) {
	var canonical []byte
	var appliers string
	var d definition
	known, cached := a.definitions.Load(digest)
	columns := `canonical, applied_by`
	if cached {
		columns = `NULL, applied_by`
	}
	err := tx.QueryRow(`SELECT `+columns+` FROM definitions WHERE digest = $1`, digest).Scan(&canonical, &appliers)
	if errors.Is(err, store.ErrNoRows) {
		return d, fmt.Errorf("definition %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return d, fmt.Errorf("read definition %s: %w", digest, err)
	}
	d.appliers = strings.Split(appliers, ",")
	if cached {
		d.Claims = known.(claims.Claims)
		return d, nil
	}
	if d.Claims, err = claims.Decode(canonical); err != nil {
		return d, fmt.Errorf("definition %s: %w", digest, err)
	}
	if d.Digest != digest {
		return d, fmt.Errorf("the stored bytes of definition %s are not that definition: %w", digest, ErrConflict)
	}
	a.definitions.Store(digest, d.Claims)
	return d, nil
}

// decision is one intent being decided within one transaction.
type decision struct {
	a  *Authority
	tx store.Tx
	s  *snapshot
	q  question

	instance instance
	// lifted are the approvals that lift what would be pending.
	lifted []*approvalRow
}

// instance is one visit of a task: at most one epoch of it is valid (invariant 9).
type instance struct {
	id     string
	epoch  uint64
	key    string
	permit *permitRow
	// redeemed counts the permits of this visit that were turned into credentials; digest is the action they were all for.
	redeemed int
	digest   string
}

func (d *decision) make() (Authorization, *permit.Permit, error) {
	if err := d.load(); err != nil {
		return Authorization{}, nil, err
	}
	d.countIssued()
	if d.q.refusal != "" {
		return d.settle(d.a.verdict(d.s, d.q, nil))
	}
	if again, p, ok, err := d.sameAgain(); ok || err != nil {
		return again, p, err
	}
	if err := d.abandon(); err != nil {
		return Authorization{}, nil, err
	}
	if doubt := d.doubt(); doubt != "" {
		return d.answer(Verdict{Outcome: outcomeDoubt, Reason: doubt, Mend: "look at the target whether it was delivered, then end the run with cardea run cancel, or let the late answer end the doubt"}, "")
	}
	if d.q.intent.Runner != "" && !d.q.reroute {
		if err := d.runnerFit(); err != nil {
			return Authorization{}, nil, err
		}
	}
	if d.q.reroute {
		return d.base(Verdict{Outcome: outcomeReroute, Reason: "the attempt needs a runner of tier " + d.q.tier + " that may serve " + d.q.run.Process}), nil, nil
	}
	v := d.a.verdict(d.s, d.q, nil)
	if v.Outcome == policy.Pending {
		return d.pending(v)
	}
	return d.settle(v)
}

// countIssued refuses what no engine that follows the definition would ask for: another action under the idempotency key of one that
// was begun, or more credentials than its retries and lost runners explain.
func (d *decision) countIssued() {
	switch {
	case d.q.refusal != "" || d.instance.redeemed == 0:
	case d.instance.digest != d.q.digest:
		d.q.refusal = "this visit of task " + d.q.intent.Task.Task + " has begun another action under the same idempotency key"
	case d.instance.redeemed >= d.q.claim.MaxAttempts+lostRunners:
		d.q.refusal = fmt.Sprintf("task %s has been given credentials %d times, more than its definition and lost runners explain", d.q.intent.Task.Task, d.instance.redeemed)
	}
}

// load reads the instance as this transaction sees it.
func (d *decision) load() error {
	d.instance = instance{id: d.q.intent.Task.key(), key: idempotencyKey(d.a.Hub, d.q.intent.Task)}
	var permitID string
	err := d.tx.QueryRow(`SELECT epoch, idempotency_key, permit, redeemed, action_digest FROM instances WHERE id = $1`, d.instance.id).Scan(
		&d.instance.epoch, &d.instance.key, &permitID, &d.instance.redeemed, &d.instance.digest)
	if errors.Is(err, store.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read task %s of run %s: %w", d.q.intent.Task.Task, d.q.run.ID, err)
	}
	if permitID != "" {
		row, err := loadPermit(d.tx, permitID)
		if err != nil {
			return err
		}
		d.instance.permit = &row
	}
	return nil
}

// idempotencyKey is the same for every attempt of one visit, and another for every other visit anywhere.
func idempotencyKey(hub string, t TaskRef) string {
	sum := sha256.Sum256([]byte(hub + "\x00" + t.key()))
	return "idk_" + base64.RawURLEncoding.EncodeToString(sum[:18])
}

// sameAgain answers a repeated question with the permit that was minted for it: the first answer may have been lost.
func (d *decision) sameAgain() (Authorization, *permit.Permit, bool, error) {
	p := d.instance.permit
	if p == nil || p.state != permitMinted || d.q.intent.Runner == "" || p.runner != d.q.intent.Runner ||
		p.generation != d.s.generation || !d.a.Now().Before(p.expires) {
		return Authorization{}, nil, false, nil
	}
	if p.claims.Context.Action != d.q.digest || p.claims.Context.Attempt != d.q.intent.Attempt {
		return Authorization{}, nil, false, nil
	}
	key, err := currentKey(d.tx, p.runner)
	if err != nil || key != p.claims.Confirmation.Key {
		return Authorization{}, nil, false, err
	}
	v, err := loadVerdict(d.tx, p.attempt)
	if err != nil {
		return Authorization{}, nil, false, err
	}
	out := d.base(v)
	out.Epoch, out.Approval = p.claims.Context.Epoch, p.claims.Context.Approval
	return out, &p.claims, true, nil
}

// doubt tells why a once action may already have been delivered (invariant 7). The runner's own word that it did not send is taken,
// as the runner could have sent it at any time anyway.
func (d *decision) doubt() string {
	p := d.instance.permit
	if p == nil || d.q.claim.Effect != claims.EffectOnce {
		return ""
	}
	switch {
	case p.state == permitRedeemed:
		return "runner " + shortRunner(p.runner) + " redeemed the permit of epoch " + epochText(p) + " and has not said what became of it"
	case p.state == permitReturned && p.delivery != DeliveryNotSent:
		return "the request of epoch " + epochText(p) + " was sent and its answer is not known here"
	case p.state == permitVoided && p.redeemed:
		return "the permit of epoch " + epochText(p) + " was voided after it had been redeemed"
	}
	return ""
}

func epochText(p *permitRow) string { return strconv.FormatUint(p.claims.Context.Epoch, 10) }

func shortRunner(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

func (d *decision) base(v Verdict) Authorization {
	return Authorization{Verdict: v, IdempotencyKey: d.instance.key, Tier: d.q.tier}
}

// settle records a verdict that is not pending, and mints when it allows.
func (d *decision) settle(v policy.Verdict) (Authorization, *permit.Permit, error) {
	approval := idsOf(d.lifted)
	if v.Outcome != policy.Allow || d.q.intent.Runner == "" {
		return d.answer(verdictOf(v, ""), approval)
	}
	return d.mint(verdictOf(v, ""), approval)
}

// answer records a verdict without a permit, unless the last one was the same answer to the same question: repeating it costs nothing.
func (d *decision) answer(v Verdict, approval string) (Authorization, *permit.Permit, error) {
	if known, ok, err := d.lastAnswer(v.Outcome, approval); ok || err != nil {
		out := d.base(known)
		out.Approval = approval
		return out, nil, err
	}
	_, v, err := d.recordVerdict(v, approval, 0)
	out := d.base(v)
	out.Approval = approval
	return out, nil, err
}

// lastAnswer is the newest verdict on this instance when it was given for the same action and runner under the same desired state.
func (d *decision) lastAnswer(outcome, approval string) (Verdict, bool, error) {
	var v Verdict
	var text, digest, runner, was, through string
	var generation int64
	err := d.tx.QueryRow(`SELECT verdict, action_digest, runner, outcome, approval, generation FROM attempts WHERE instance = $1 ORDER BY id DESC LIMIT 1`,
		d.instance.id).Scan(&text, &digest, &runner, &was, &through, &generation)
	if errors.Is(err, store.ErrNoRows) {
		return v, false, nil
	}
	if err != nil {
		return v, false, fmt.Errorf("read the last verdict on task %s: %w", d.q.intent.Task.Task, err)
	}
	if digest != d.q.digest || runner != d.q.intent.Runner || was != outcome || through != approval || generation != d.s.generation {
		return v, false, nil
	}
	return v, true, json.Unmarshal([]byte(text), &v)
}

// recordVerdict writes the leaf and the attempt's row, which stand or fall with whatever follows from the verdict.
func (d *decision) recordVerdict(v Verdict, approval string, epoch uint64) (attempt int64, _ Verdict, err error) {
	t := d.q.intent.Task
	refs := ledger.Refs{Run: t.Run, Task: t.Task, Approval: approval, Attempt: strconv.FormatUint(epoch, 10), Target: strings.Join(d.q.intent.Connections, ",")}
	v.Leaf, err = d.a.recordEvent(d.tx, ledger.KindVerdict, v.Outcome, refs, map[string]any{
		"iteration": t.Iteration, "visit": t.Visit, "attempt": d.q.intent.Attempt, "epoch": epoch, "runner": d.q.intent.Runner,
		"connections": d.q.intent.Connections, "action": d.q.digest, "tier": d.q.tier, "effect": d.q.claim.Effect, "verdict": v,
		"workflow": d.q.run.Digest, "generation": d.s.generation, "provenance": d.q.run.Provenance,
	})
	if err != nil {
		return 0, v, err
	}
	verdict, err := json.Marshal(v)
	if err != nil {
		return 0, v, fmt.Errorf("encode a verdict: %w", err)
	}
	if _, err := d.tx.Exec(`INSERT INTO actions (digest, canonical) VALUES ($1, $2) ON CONFLICT DO NOTHING`, d.q.digest, string(d.q.intent.Action)); err != nil {
		return 0, v, fmt.Errorf("store the action of task %s of run %s: %w", t.Task, t.Run, err)
	}
	err = d.tx.QueryRow(`INSERT INTO attempts (instance, run, task, iteration, visit, attempt, epoch, runner, connections, action_digest, generation,
		outcome, verdict, approval, leaf, decided_at) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16) RETURNING id`,
		d.instance.id, t.Run, t.Task, jsonText(t.Iteration), int64(t.Visit), int64(d.q.intent.Attempt), int64(epoch), d.q.intent.Runner,
		jsonText(d.q.intent.Connections), d.q.digest, d.s.generation, v.Outcome, string(verdict), approval, v.Leaf, store.Micros(d.a.Now())).Scan(&attempt)
	if err != nil {
		return 0, v, fmt.Errorf("record a verdict on task %s of run %s: %w", t.Task, t.Run, err)
	}
	return attempt, v, nil
}

// mint issues the next epoch and its permit. Whatever an earlier epoch still holds ends here.
func (d *decision) mint(v Verdict, approval string) (Authorization, *permit.Permit, error) {
	key, err := d.runnerKey()
	if err != nil {
		return Authorization{}, nil, err
	}
	if err := d.supersede(); err != nil {
		return Authorization{}, nil, err
	}
	epoch := d.instance.epoch + 1
	attempt, v, err := d.recordVerdict(v, approval, epoch)
	if err != nil {
		return Authorization{}, nil, err
	}
	claims, err := d.permitClaims(v, approval, epoch, key)
	if err != nil {
		return Authorization{}, nil, err
	}
	if err := d.storePermit(attempt, claims); err != nil {
		return Authorization{}, nil, err
	}
	for _, approved := range d.lifted {
		if err := useApproval(d.tx, approved, claims.ID, d.instance.key); err != nil {
			return Authorization{}, nil, err
		}
	}
	out := d.base(v)
	out.Epoch, out.Approval = epoch, approval
	return out, &claims, nil
}

// runnerFit turns a runner that is shut out, or that never joined, into a reroute: the attempt is not refused, that runner is.
func (d *decision) runnerFit() error {
	_, err := d.runnerKey()
	if errors.Is(err, ErrDenied) || errors.Is(err, ErrNotFound) {
		d.q.reroute = true
		return nil
	}
	return err
}

// runnerKey is the key that the named runner holds now, by the authority's own record: the engine cannot choose it (invariant 18).
func (d *decision) runnerKey() (string, error) {
	if err := refuseBanned(d.tx, d.q.runner.ID); err != nil {
		return "", err
	}
	return currentKey(d.tx, d.q.runner.ID.String())
}

// abandon voids a permit that waits to be redeemed: the engine asks for another one in its place, or asks without a runner because
// nobody has the attempt. The approval that the permit has used is there again: people need not sign what was never sent twice.
func (d *decision) abandon() error {
	if p := d.instance.permit; p != nil && p.state == permitMinted {
		return d.a.voidPermit(d.tx, p, "another attempt was given out")
	}
	return nil
}

// supersede starts the ending of what the epoch before was given.
func (d *decision) supersede() error {
	p := d.instance.permit
	if p == nil || p.state != permitRedeemed {
		return nil
	}
	if err := d.a.voidPermit(d.tx, p, "another attempt was given out"); err != nil {
		return err
	}
	_, err := broker.EndOfPermit(d.tx, p.id, d.a.Now())
	return err
}

func (d *decision) permitClaims(v Verdict, approval string, epoch uint64, key string) (permit.Permit, error) {
	t, now := d.q.intent.Task, d.a.Now()
	subject, err := identity.TaskID(d.a.TrustDomain, d.q.run.Process, d.q.run.Workflow, t.Task)
	if err != nil {
		return permit.Permit{}, err
	}
	hub := permit.Audience(d.a.TrustDomain.Name())
	connections := make([]permit.Connection, 0, len(d.q.connections))
	for _, c := range d.q.connections {
		connections = append(connections, permit.Connection{Name: c.Name, Scopes: d.q.claim.Scopes})
	}
	return permit.Permit{
		ID: d.a.ids.next("prm_", now), Issuer: hub, Audience: hub, IssuedAt: now.Unix(), Expires: now.Add(permitLife).Unix(),
		Run: t.Run, Subject: subject.String(), Scope: strings.Join(d.q.claim.Scopes, " "),
		Purpose:      d.q.run.Process + "/" + d.q.run.Workflow + " " + d.q.run.Version,
		Confirmation: permit.Confirmation{Key: key, Runner: d.q.runner.ID.String()},
		Context: permit.Context{
			Process: d.q.run.Process, Workflow: d.q.run.Workflow, WorkflowDigest: d.q.run.Digest, Task: t.Task, Iteration: t.Iteration, Visit: t.Visit,
			Attempt: d.q.intent.Attempt, Epoch: epoch, Action: d.q.digest, Connections: connections, Tier: d.q.tier, Effect: d.q.claim.Effect,
			IdempotencyKey: d.instance.key, Deadline: now.Add(attemptLife).Unix(), Verdict: v.Leaf, Approval: approval,
		},
	}, nil
}

func (d *decision) storePermit(attempt int64, p permit.Permit) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode permit %s: %w", p.ID, err)
	}
	_, err = d.tx.Exec(`INSERT INTO permits (id, instance, attempt, run, runner, key, claims, state, generation, expires_at, deadline)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 'minted', $8, $9, $10)`, p.ID, d.instance.id, attempt, p.Run, p.Confirmation.Runner, p.Confirmation.Key,
		string(text), d.s.generation, store.Micros(time.Unix(p.Expires, 0)), store.Micros(time.Unix(p.Context.Deadline, 0)))
	if err != nil {
		return fmt.Errorf("store permit %s: %w", p.ID, err)
	}
	_, err = d.tx.Exec(`INSERT INTO instances (id, run, task, epoch, idempotency_key, permit) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, permit = excluded.permit`,
		d.instance.id, p.Run, p.Context.Task, int64(p.Context.Epoch), d.instance.key, p.ID)
	if err != nil {
		return fmt.Errorf("advance task %s of run %s to epoch %d: %w", p.Context.Task, p.Run, p.Context.Epoch, err)
	}
	return nil
}

func loadVerdict(tx store.Tx, attempt int64) (Verdict, error) {
	var text string
	var v Verdict
	if err := tx.QueryRow(`SELECT verdict FROM attempts WHERE id = $1`, attempt).Scan(&text); err != nil {
		return v, fmt.Errorf("read the verdict of an attempt: %w", err)
	}
	return v, json.Unmarshal([]byte(text), &v)
}

// jsonText encodes a slice for a TEXT column; slices of strings and numbers cannot fail to encode.
func jsonText[T any](values []T) string {
	if values == nil {
		return "[]"
	}
	text, _ := json.Marshal(values)
	return string(text)
}
