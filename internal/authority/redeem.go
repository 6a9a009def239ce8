package authority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cardea/internal/broker"
	"cardea/internal/fault"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/permit"
	"cardea/internal/policy"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// Grant is one credential and where it may go.
type Grant struct {
	Lease      string
	Connection *registry.Connection
	Credential []byte
	Expires    time.Time
}

// Redemption is what a permit turns into.
type Redemption struct {
	Grants   []Grant
	Deadline time.Time
}

// order is one lease to be.
type order struct {
	lease      broker.Lease
	connection *registry.Connection
	provider   broker.Provider
	audience   string
	subject    string
}

// Redeem turns a permit into credentials, once, for the runner that it is bound to. Everything that was true at the verdict is
// checked again in the transaction that records the leases; nothing is released before that is durable (invariants 2 and 3).
func (a *Authority) Redeem(ctx context.Context, caller identity.Peer, token, actionDigest string) (Redemption, error) {
	out, err := a.redeem(ctx, caller, token, actionDigest)
	if errors.Is(err, ErrDenied) || errors.Is(err, ErrStale) {
		a.Refused("lease", "redeem: a permit that is stolen, stale, replayed or voided", caller.ID.String())
	}
	return out, err
}

func (a *Authority) redeem(ctx context.Context, caller identity.Peer, token, actionDigest string) (Redemption, error) {
	started := a.Now()
	p, err := permit.Verify(token, a.permitKeys(), permit.Expect{
		TrustDomain: a.TrustDomain.Name(), Runner: caller.ID.String(), Key: caller.KeyThumbprint, Now: started,
	})
	if err != nil {
		return Redemption{}, fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if p.Context.Action != actionDigest {
		return Redemption{}, fmt.Errorf("permit %s is for another action than the runner was given: %w", p.ID, ErrDenied)
	}
	var orders []order
	err = a.underPolicy(ctx, func(tx store.Tx, s *snapshot) (err error) {
		orders, err = a.redeemIn(tx, s, caller, p)
		return err
	})
	if err != nil {
		return Redemption{}, err
	}
	fault.Point("authority.lease.intended")
	out, err := a.mintAll(ctx, orders)
	if err != nil {
		a.ender.Wake()
		return Redemption{}, err
	}
	fault.Point("authority.lease.issued")
	out.Deadline = time.Unix(p.Context.Deadline, 0).UTC()
	a.metrics.redeemed(a.Now().Sub(started), len(out.Grants))
	return out, nil
}

// redeemIn is the transaction of Redeem.
func (a *Authority) redeemIn(tx store.Tx, s *snapshot, caller identity.Peer, p permit.Permit) ([]order, error) {
	row, err := loadPermit(tx, p.ID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if err := a.requireRedeemable(tx, row, caller); err != nil {
		return nil, err
	}
	if err := a.stillAllowed(tx, s, row); err != nil {
		return nil, err
	}
	n, err := tx.Exec(`UPDATE permits SET state = 'redeemed', redeemed_at = $2 WHERE id = $1 AND state = 'minted'`, p.ID, store.Micros(a.Now()))
	if err != nil {
		return nil, fmt.Errorf("redeem permit %s: %w", p.ID, err)
	}
	if n != 1 {
		return nil, fmt.Errorf("permit %s is %s: %w", p.ID, row.state, ErrStale)
	}
	_, err = tx.Exec(`UPDATE instances SET redeemed = redeemed + 1, action_digest = $2 WHERE id = (SELECT instance FROM permits WHERE id = $1) AND permit = $1`,
		p.ID, p.Context.Action)
	if err != nil {
		return nil, fmt.Errorf("count the permit %s: %w", p.ID, err)
	}
	if err := a.exhaustApprovals(tx, row); err != nil {
		return nil, err
	}
	return a.intendAll(tx, s, row)
}

// requireRedeemable checks state, binding, epoch, run and quarantine, as this transaction sees them.
func (a *Authority) requireRedeemable(tx store.Tx, row permitRow, caller identity.Peer) error {
	if row.state != permitMinted {
		return fmt.Errorf("permit %s is %s: %w", row.id, row.state, ErrStale)
	}
	if row.runner != caller.ID.String() || row.claims.Confirmation.Key != caller.KeyThumbprint {
		return fmt.Errorf("permit %s is bound to another runner: %w", row.id, ErrDenied)
	}
	var epoch int64
	var current string
	err := tx.QueryRow(`SELECT i.epoch, i.permit FROM instances i JOIN permits p ON p.instance = i.id WHERE p.id = $1`, row.id).Scan(&epoch, &current)
	if err != nil {
		return fmt.Errorf("read the task of permit %s: %w", row.id, err)
	}
	if current != row.id || uint64(epoch) != row.claims.Context.Epoch {
		return fmt.Errorf("permit %s is of epoch %d, the task is at %d: %w", row.id, row.claims.Context.Epoch, epoch, ErrStale)
	}
	run, err := loadRun(tx, row.claims.Run)
	if err != nil {
		return err
	}
	if !run.Open() {
		return fmt.Errorf("run %s is %s: %w", run.ID, run.State, ErrStale)
	}
	if err := refuseBanned(tx, caller.ID); err != nil {
		return err
	}
	return a.requireCurrentKey(tx, caller)
}

// stillAllowed decides again when desired state has changed since the verdict, over the same bytes and with the approvals weighed anew.
func (a *Authority) stillAllowed(tx store.Tx, s *snapshot, row permitRow) error {
	if row.generation == s.generation {
		return nil
	}
	in, err := storedIntent(tx, row)
	if err != nil {
		return err
	}
	run, err := loadRun(tx, row.claims.Run)
	if err != nil {
		return err
	}
	q, err := a.ask(tx, s, run, in)
	if err != nil {
		return err
	}
	d := decision{a: a, tx: tx, s: s, q: q, instance: instance{id: in.Task.key(), key: row.claims.Context.IdempotencyKey}}
	v := a.verdict(s, q, nil)
	if v.Outcome == policy.Pending {
		rows, err := approvalsBehind(tx, row)
		if err != nil {
			return err
		}
		c, err := d.weigh(v, rows, true)
		if err != nil {
			return err
		}
		v = c.verdict
	}
	if v.Outcome != policy.Allow || q.reroute {
		return fmt.Errorf("permit %s: what was decided is not what would be decided now: %s: %w", row.id, v.Reason, ErrDenied)
	}
	return nil
}

// approvalsBehind are the approvals that a permit has counted.
func approvalsBehind(tx store.Tx, row permitRow) ([]*approvalRow, error) {
	var all []*approvalRow
	for _, id := range approvalIDs(row) {
		rows, err := loadApprovals(tx, `WHERE id = $1`, id)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

func storedIntent(tx store.Tx, row permitRow) (Intent, error) {
	c := row.claims.Context
	in := Intent{Task: TaskRef{Run: row.claims.Run, Task: c.Task, Iteration: c.Iteration, Visit: c.Visit}, Attempt: c.Attempt, Runner: row.runner}
	var body, connections string
	if err := tx.QueryRow(`SELECT x.canonical, a.connections FROM attempts a JOIN actions x ON x.digest = a.action_digest WHERE a.id = $1`, row.attempt).Scan(&body, &connections); err != nil {
		return in, fmt.Errorf("read the action of permit %s: %w", row.id, err)
	}
	in.Action = []byte(body)
	if err := json.Unmarshal([]byte(connections), &in.Connections); err != nil {
		return in, fmt.Errorf("read the connections of permit %s: %w", row.id, err)
	}
	return in, nil
}

// intendAll records every lease of a permit before any is minted.
func (a *Authority) intendAll(tx store.Tx, s *snapshot, row permitRow) ([]order, error) {
	var orders []order
	for _, c := range row.claims.Context.Connections {
		o, err := a.orderFor(s, row, c)
		if err != nil {
			return nil, err
		}
		intend, event := broker.Intend, "intended"
		if o.provider.Local() {
			intend, event = broker.IntendAndIssue, "issued"
		}
		if o.lease.Leaf, err = a.recordIssuance(tx, event, o, row); err != nil {
			return nil, err
		}
		if err := intend(tx, o.lease); err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, nil
}

func (a *Authority) orderFor(s *snapshot, row permitRow, wanted permit.Connection) (order, error) {
	c, ok := s.Connection(wanted.Name)
	if !ok {
		return order{}, fmt.Errorf("connection %s is gone: %w", wanted.Name, ErrDenied)
	}
	provider, ok := a.providers[c.Provider.Name()]
	if !ok {
		return order{}, fmt.Errorf("connection %s: this build has no provider %q: %w", c.Name, c.Provider.Name(), ErrUnavailable)
	}
	now := a.Now()
	// The credential is dead by the attempt's deadline at the latest (invariant 5).
	expires := now.Add(c.TTL)
	if row.deadline.Before(expires) {
		expires = row.deadline
	}
	expires = expires.Truncate(time.Second)
	if expires.Sub(now) < provider.ShortestLife()-time.Second {
		return order{}, fmt.Errorf("the attempt has %s left, a credential of %s lives at least %s: %w", expires.Sub(now), c.Name, provider.ShortestLife(), ErrStale)
	}
	t := row.claims.Context
	return order{
		connection: c, provider: provider, audience: audienceOf(c), subject: row.claims.Subject,
		lease: broker.Lease{
			ID: a.ids.next("lse_", now), Permit: row.id, Run: row.claims.Run, Task: t.Task, Workflow: t.Process + "/" + t.Workflow, Runner: row.runner,
			Connection: c.Name, Provider: provider.Name(), Promise: provider.Promise(), Scopes: slices.Clone(wanted.Scopes), IntendedAt: now, ExpiresAt: expires,
		},
	}, nil
}

func audienceOf(c *registry.Connection) string {
	if c.Provider.JWT != nil {
		return c.Provider.JWT.Audience
	}
	return ""
}

func (a *Authority) recordIssuance(tx store.Tx, event string, o order, row permitRow) (string, error) {
	t := row.claims.Context
	return a.recordEvent(tx, ledger.KindIssuance, event, ledger.Refs{
		Run: row.claims.Run, Task: t.Task, Attempt: strconv.FormatUint(t.Epoch, 10), Subject: o.subject, Target: o.connection.Name,
		Lease: o.lease.ID, Permit: row.id, Verdict: t.Verdict, Approval: t.Approval,
	}, map[string]any{
		"provider": o.lease.Provider, "promise": o.lease.Promise, "audience": o.audience, "scopes": o.lease.Scopes, "runner": row.runner,
		"expires": stamp(o.lease.ExpiresAt), "hosts": o.connection.Hosts, "action": t.Action,
	})
}

// mintAll mints what has been recorded. A credential whose issue cannot be recorded is not released.
func (a *Authority) mintAll(ctx context.Context, orders []order) (Redemption, error) {
	ctx, cancel := context.WithTimeout(ctx, broker.MintTimeout)
	defer cancel()
	var out Redemption
	for _, o := range orders {
		minted, err := o.provider.Mint(ctx, broker.Order{
			Lease: o.lease.ID, Permit: o.lease.Permit, Run: o.lease.Run, Subject: o.subject, Audience: o.audience, Scopes: o.lease.Scopes,
			NotAfter: o.lease.ExpiresAt, Connection: o.connection.Name,
		})
		if err != nil {
			return Redemption{}, fmt.Errorf("mint a credential for %s: %w: %w", o.connection.Name, err, ErrUnavailable)
		}
		fault.Point("authority.lease.minted")
		if !o.provider.Local() {
			if err := a.issue(ctx, o, minted); err != nil {
				return Redemption{}, err
			}
		}
		out.Grants = append(out.Grants, Grant{Lease: o.lease.ID, Connection: o.connection, Credential: minted.Credential, Expires: minted.Expires})
	}
	return out, nil
}

// issue records that a credential exists, unless its permit was voided while it was being minted: then it is ended and not released.
func (a *Authority) issue(ctx context.Context, o order, m broker.Minted) error {
	voided := false
	err := a.DB.Commit(ctx, func(tx store.Tx) error {
		row, err := loadPermit(tx, o.lease.Permit)
		if err != nil {
			return err
		}
		leaf, err := a.recordIssuance(tx, "issued", o, row)
		if err != nil {
			return err
		}
		if err := broker.Issue(tx, o.lease.ID, m, leaf, a.Now()); err != nil {
			return err
		}
		if voided = row.state != permitRedeemed; voided {
			_, err = broker.EndOfPermit(tx, row.id, a.Now())
		}
		return err
	})
	if err == nil && voided {
		a.ender.Wake()
		err = fmt.Errorf("permit %s was voided while a credential for %s was minted: %w", o.lease.Permit, o.connection.Name, ErrStale)
	}
	return err
}

// ActionReport is what a runner says that it did.
type ActionReport struct {
	Connection string    `json:"connection"`
	Method     string    `json:"method"`
	URL        string    `json:"url"`
	Address    string    `json:"address,omitempty"`
	Status     int       `json:"status,omitempty"`
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended"`
	Error      string    `json:"error,omitempty"`
	Sent       uint64    `json:"sent_bytes"`
	Received   uint64    `json:"received_bytes"`
}

// maxActions bounds what one attempt may report.
const maxActions = 64

// Return records what was done and starts the ending of the permit's leases. Asked again it changes nothing.
func (a *Authority) Return(ctx context.Context, caller identity.Peer, permitID string, actions []ActionReport, delivery Delivery) ([]LiveLease, error) {
	if len(actions) > maxActions || delivery < DeliveryNotSent || delivery > DeliveryAnswered {
		return nil, fmt.Errorf("return of permit %s: %w", permitID, ErrInvalid)
	}
	revocable := 0
	var live []LiveLease
	err := a.DB.Commit(ctx, func(tx store.Tx) error {
		row, err := loadPermit(tx, permitID)
		if err != nil {
			return err
		}
		if row.runner != caller.ID.String() {
			return fmt.Errorf("permit %s belongs to another runner: %w", permitID, ErrDenied)
		}
		if err := a.recordReturn(tx, row, actions, delivery); err != nil {
			return err
		}
		if revocable, err = broker.EndOfPermit(tx, permitID, a.Now()); err != nil {
			return err
		}
		live, err = liveOf(tx, permitID)
		return err
	})
	if err != nil {
		return nil, err
	}
	if revocable > 0 {
		a.ender.Wake()
	}
	fault.Point("authority.return.committed")
	return live, nil
}

// recordReturn writes the runner's word once. A permit that was never redeemed is voided: nothing can have been sent with it.
func (a *Authority) recordReturn(tx store.Tx, row permitRow, actions []ActionReport, delivery Delivery) error {
	switch row.state {
	case permitReturned:
		return nil
	case permitMinted:
		return a.voidPermit(tx, &row, "returned without being redeemed")
	case permitVoided:
		if !row.returnedAt.IsZero() {
			return nil
		}
	}
	text, err := json.Marshal(actions)
	if err != nil {
		return fmt.Errorf("encode the actions of permit %s: %w", row.id, err)
	}
	// A permit that was voided after its redemption stays voided, but what its runner did is recorded all the same.
	_, err = tx.Exec(`UPDATE permits SET state = CASE state WHEN 'redeemed' THEN 'returned' ELSE state END, returned_at = $2, delivery = $3, actions = $4
		WHERE id = $1`, row.id, store.Micros(a.Now()), int64(delivery), string(text))
	if err != nil {
		return fmt.Errorf("return permit %s: %w", row.id, err)
	}
	t := row.claims.Context
	_, err = a.recordEvent(tx, ledger.KindAction, "attempted", ledger.Refs{
		Run: row.claims.Run, Task: t.Task, Attempt: strconv.FormatUint(t.Epoch, 10), Subject: row.claims.Subject, Permit: row.id, Verdict: t.Verdict,
	}, map[string]any{"runner": row.runner, "delivery": int(delivery), "actions": actions})
	return err
}

func liveOf(tx store.Tx, permitID string) ([]LiveLease, error) {
	return liveLeases(tx, broker.Filter{Permit: permitID, Live: true, Limit: maxActions})
}

func liveLeases(tx store.Tx, f broker.Filter) ([]LiveLease, error) {
	leases, err := broker.List(tx, f)
	if err != nil {
		return nil, err
	}
	var live []LiveLease
	for _, l := range leases {
		live = append(live, liveLease(l))
	}
	return live, nil
}

// recordLeaseEnd is the broker's leaf.
func (a *Authority) recordLeaseEnd(tx store.Tx, l broker.Lease, state broker.State, now time.Time) (string, error) {
	return a.recordEvent(tx, ledger.KindLeaseEnd, string(state), ledger.Refs{Run: l.Run, Task: l.Task, Lease: l.ID, Permit: l.Permit, Target: l.Connection},
		map[string]any{"at": stamp(now), "tries": l.Tries, "issued": l.Leaf})
}

// RevokeLease ends one lease before its time.
func (a *Authority) RevokeLease(ctx context.Context, who Speaker, leaseID, reason string) (broker.Lease, error) {
	var lease broker.Lease
	err := a.underPolicy(ctx, func(tx store.Tx, s *snapshot) error {
		if err := a.consumeProof(tx, who); err != nil {
			return err
		}
		if err := a.requireHub(s, who.Person, "revoke"); err != nil {
			return err
		}
		found, err := broker.List(tx, broker.Filter{ID: leaseID, Limit: 1})
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("lease %s: %w", leaseID, ErrNotFound)
		}
		if found[0].Live() && found[0].Promise == broker.Expiring {
			return fmt.Errorf("lease %s cannot be revoked: its target accepts it until %s: %w", leaseID, stamp(found[0].ExpiresAt), ErrConflict)
		}
		if _, err := broker.EndOfPermit(tx, found[0].Permit, a.Now()); err != nil {
			return err
		}
		lease = found[0]
		_, err = a.recordEvent(tx, ledger.KindLeaseEnd, "asked", ledger.Refs{Run: lease.Run, Lease: lease.ID}, map[string]any{"by": who.Person, "reason": reason})
		return err
	})
	if err == nil {
		a.ender.Wake()
	}
	return lease, err
}
