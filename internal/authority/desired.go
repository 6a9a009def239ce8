package authority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gowebpki/jcs"

	"cardea/internal/approval"
	"cardea/internal/ledger"
	"cardea/internal/policy"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// reload reads desired state and makes it current, unless a newer one already is.
func (a *Authority) reload(ctx context.Context) error {
	var stored []registry.Stored
	var generation int64
	err := a.DB.View(ctx, func(tx store.Tx) (err error) {
		if generation, err = metaValue(tx, metaGeneration); err != nil {
			return err
		}
		stored, err = loadResources(tx)
		return err
	})
	if err != nil {
		return err
	}
	if now := a.current.Load(); now != nil && now.generation >= generation {
		return nil
	}
	state, err := registry.Build(stored)
	if err != nil {
		return fmt.Errorf("desired state as stored: %w", err)
	}
	a.swap(&snapshot{State: state, generation: generation})
	return nil
}

// swap makes a snapshot current, never an older one.
func (a *Authority) swap(next *snapshot) {
	for {
		now := a.current.Load()
		if now != nil && now.generation >= next.generation {
			return
		}
		if a.current.CompareAndSwap(now, next) {
			a.watchers.generation(uint64(next.generation))
			return
		}
	}
}

func loadResources(tx store.Tx) ([]registry.Stored, error) {
	rows, err := tx.Query(`SELECT kind, name, body, digest, applied_at, applied_by FROM resources ORDER BY kind, name`)
	if err != nil {
		return nil, fmt.Errorf("read desired state: %w", err)
	}
	defer rows.Close()
	var stored []registry.Stored
	for rows.Next() {
		var r registry.Stored
		var at int64
		if err := rows.Scan(&r.Kind, &r.Name, &r.Body, &r.Digest, &at, &r.AppliedBy); err != nil {
			return nil, fmt.Errorf("read desired state: %w", err)
		}
		r.AppliedAt = store.Time(at)
		stored = append(stored, r)
	}
	return stored, rows.Err()
}

// requireApplier lets only those plan who may apply something: a plan tells of tasks, paths and policies, and costs time.
func (a *Authority) requireApplier(s *snapshot, person string) error {
	who := s.person(person)
	context := map[string]any{"addsPrivilege": false, "now": a.Now(), "dev": a.Dev, "lone": s.lone()}
	targets := []policy.Entity{{Ref: policy.HubRef()}}
	for _, p := range s.List(registry.KindProcess) {
		targets = append(targets, s.process(p.Name))
	}
	var v policy.Verdict
	for _, target := range targets {
		v = s.Policies().Decide(policy.Request{Principal: who.Ref, Action: "apply", Resource: target.Ref, Entities: []policy.Entity{who, target}, Context: context})
		if v.Outcome == policy.Allow {
			return nil
		}
	}
	return denial(v)
}

// plan computes one plan at a time, outside any transaction, for people who may apply something.
func (a *Authority) plan(ctx context.Context, s *snapshot, who Speaker, change registry.Change) (registry.Plan, *registry.State, error) {
	if err := a.requireApplier(s, who.Person); err != nil {
		return registry.Plan{}, nil, a.refusedTo(who, "plan", err)
	}
	select {
	case a.planning <- struct{}{}:
		defer func() { <-a.planning }()
	case <-ctx.Done():
		return registry.Plan{}, nil, ctx.Err()
	}
	change.By, change.At = who.Person, a.Now()
	return s.Plan(change)
}

// Plan says what a change would do. It changes nothing.
func (a *Authority) Plan(ctx context.Context, who Speaker, change registry.Change) (registry.Plan, error) {
	s := a.current.Load()
	plan, _, err := a.plan(ctx, s, who, change)
	var stopped *registry.PlanError
	if err != nil && !errors.As(err, &stopped) {
		return plan, err
	}
	if err == nil && a.Dev && plan.AddsPrivilege() && s.lone() {
		plan.Warnings = append(plan.Warnings, "dev: you are alone on this hub; elsewhere somebody else would have to sign this change")
	}
	return plan, nil
}

// Applied is the outcome of Apply.
type Applied struct {
	Done     bool
	Verdict  Verdict
	Approval string
	Warnings []string
}

// Apply makes a change that was planned, if the state it was planned from still stands, the person may, and whoever must sign has.
func (a *Authority) Apply(ctx context.Context, who Speaker, change registry.Change, planDigest string) (Applied, error) {
	a.applying.Lock()
	defer a.applying.Unlock()
	s := a.current.Load()
	plan, after, err := a.plan(ctx, s, who, change)
	switch {
	case errors.Is(err, ErrDenied) || ctx.Err() != nil:
		return Applied{}, err
	case err != nil:
		return Applied{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	case plan.Digest != planDigest:
		return Applied{}, fmt.Errorf("the change or what it starts from is not what was planned; plan again: %w", ErrConflict)
	}
	var out Applied
	var next *snapshot
	err = a.DB.Commit(ctx, func(tx store.Tx) error {
		out, next = Applied{Warnings: plan.Warnings}, nil
		if err := requireGeneration(tx, s); err != nil {
			return fmt.Errorf("somebody else changed the hub meanwhile; plan again: %w: %w", ErrConflict, err)
		}
		if err := a.consumeProof(tx, who); err != nil {
			return err
		}
		next, err = a.applyIn(tx, s, after, who, plan, &out)
		return err
	})
	if err != nil {
		return Applied{}, a.refusedTo(who, "apply", err)
	}
	if next != nil {
		a.swap(next)
	}
	a.announce()
	return out, nil
}

// applyIn decides and makes a change, or asks others to sign it.
func (a *Authority) applyIn(tx store.Tx, s *snapshot, after *registry.State, who Speaker, plan registry.Plan, out *Applied) (*snapshot, error) {
	lifts, lifted, err := a.planApproval(tx, s, plan.Digest)
	if err != nil {
		return nil, err
	}
	v := a.mayApply(s, who.Person, plan, lifts)
	out.Verdict, out.Warnings = verdictOf(v, ""), append(out.Warnings, v.Warnings...)
	switch v.Outcome {
	case policy.Pending:
		out.Approval, err = a.askForPlan(tx, s, after, who, plan, v)
		return nil, err
	case policy.Allow:
	default:
		return nil, &DeniedError{Verdict: out.Verdict}
	}
	if lifted != nil {
		out.Approval = lifted.id
		if err := useApproval(tx, lifted, plan.Digest, plan.Digest); err != nil {
			return nil, err
		}
		if err := a.settleApproval(tx, lifted, approval.Used, "applied"); err != nil {
			return nil, err
		}
	}
	return a.putInForce(tx, s, after, plan, who.Person, out)
}

// mayApply decides over everything that the change touches: every process, and the hub for what belongs to none.
func (a *Authority) mayApply(s *snapshot, person string, plan registry.Plan, lifts []string) policy.Verdict {
	who := s.person(person)
	context := map[string]any{"addsPrivilege": plan.AddsPrivilege(), "now": a.Now(), "dev": a.Dev, "lone": s.lone()}
	verdict := policy.Verdict{Outcome: policy.Allow}
	targets := []policy.Entity{}
	for _, p := range plan.Touches.Processes {
		targets = append(targets, s.process(p))
	}
	if plan.Touches.Hub {
		targets = append(targets, policy.Entity{Ref: policy.HubRef()})
	}
	for _, target := range targets {
		verdict = both(verdict, s.Policies().Decide(policy.Request{Principal: who.Ref, Action: "apply", Resource: target.Ref,
			Entities: []policy.Entity{who, target}, Context: context}, lifts...))
	}
	return verdict
}

// putInForce writes the new state, its leaf and the next generation.
func (a *Authority) putInForce(tx store.Tx, before *snapshot, after *registry.State, plan registry.Plan, by string, out *Applied) (*snapshot, error) {
	if err := a.writeResources(tx, after, plan); err != nil {
		return nil, err
	}
	next := &snapshot{State: after, generation: before.generation + 1}
	if err := a.voidDrifted(tx, next); err != nil {
		return nil, err
	}
	if err := setMeta(tx, metaGeneration, next.generation); err != nil {
		return nil, err
	}
	changes := []map[string]string{}
	for _, l := range plan.Changes {
		if l.Verb == registry.VerbUnchanged {
			continue
		}
		r, _ := after.Get(l.ID)
		changes = append(changes, map[string]string{"verb": l.Verb, "kind": l.ID.Kind, "name": l.ID.Name, "digest": r.Digest})
	}
	leaf, err := a.record(tx, ledger.KindChange, ledger.Refs{Approval: out.Approval}, map[string]any{
		"by": by, "plan": plan.Digest, "changes": changes, "adds": plan.Adds, "generation": next.generation, "verdict": out.Verdict,
	})
	if err != nil {
		return nil, err
	}
	out.Done, out.Verdict.Leaf = true, leaf
	return next, nil
}

func (a *Authority) writeResources(tx store.Tx, after *registry.State, plan registry.Plan) error {
	for _, l := range plan.Changes {
		var err error
		switch l.Verb {
		case registry.VerbUnchanged:
			continue
		case registry.VerbRemoved:
			_, err = tx.Exec(`DELETE FROM resources WHERE kind = $1 AND name = $2`, l.ID.Kind, l.ID.Name)
		default:
			err = writeResource(tx, after, l.ID)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", l.ID, err)
		}
	}
	return nil
}

func writeResource(tx store.Tx, after *registry.State, id registry.ID) error {
	r, ok := after.Get(id)
	if !ok {
		return fmt.Errorf("%s is not in the state that it was planned into", id)
	}
	_, err := tx.Exec(`INSERT INTO resources (kind, name, body, digest, applied_at, applied_by) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body, digest = excluded.digest, applied_at = excluded.applied_at, applied_by = excluded.applied_by`,
		r.Kind, r.Name, r.Body, r.Digest, store.Micros(r.AppliedAt), r.AppliedBy)
	if err != nil || id.Kind != registry.KindWorkflow {
		return err
	}
	return addApplier(tx, r)
}

// addApplier keeps a definition and remembers everybody who ever applied it: whoever did does not approve what it does.
func addApplier(tx store.Tx, r registry.Stored) error {
	var appliers string
	err := tx.QueryRow(`SELECT applied_by FROM definitions WHERE digest = $1`, r.Digest).Scan(&appliers)
	if err != nil && !errors.Is(err, store.ErrNoRows) {
		return fmt.Errorf("read who applied %s: %w", r.ID(), err)
	}
	names := strings.FieldsFunc(appliers, func(c rune) bool { return c == ',' })
	if slices.Contains(names, r.AppliedBy) {
		return nil
	}
	_, err = tx.Exec(`INSERT INTO definitions (digest, canonical, applied_by) VALUES ($1, $2, $3)
		ON CONFLICT (digest) DO UPDATE SET applied_by = excluded.applied_by`, r.Digest, r.Body, strings.Join(append(names, r.AppliedBy), ","))
	if err != nil {
		return fmt.Errorf("keep %s: %w", r.ID(), err)
	}
	return nil
}

// applyAs puts a change in force for the hub itself: what `cardea dev` brings in before anybody could ask.
func (a *Authority) applyAs(ctx context.Context, by string, change registry.Change) error {
	a.applying.Lock()
	defer a.applying.Unlock()
	var next *snapshot
	err := a.underPolicy(ctx, func(tx store.Tx, s *snapshot) error {
		next = nil
		change.By, change.At = by, a.Now()
		plan, after, err := s.Plan(change)
		if err != nil {
			return err
		}
		if after.Digest() == s.Digest() {
			return nil
		}
		var out Applied
		next, err = a.putInForce(tx, s, after, plan, by, &out)
		return err
	})
	if err == nil && next != nil {
		a.swap(next)
		a.announce()
	}
	return err
}

// devResources are a person and the groups that they are in.
func devResources(p DevPerson) (registry.Change, error) {
	var change registry.Change
	add := func(kind, name string, body map[string]any) error {
		r, err := canonicalResource(kind, name, body)
		change.Apply = append(change.Apply, r)
		return err
	}
	for _, group := range p.Groups {
		if err := add(registry.KindGroup, group, map[string]any{"kind": registry.KindGroup, "name": group}); err != nil {
			return change, err
		}
	}
	err := add(registry.KindPerson, p.Name, map[string]any{"kind": registry.KindPerson, "name": p.Name, "groups": p.Groups, "sshKeys": p.SSHKeys})
	return change, err
}

func canonicalResource(kind, name string, body map[string]any) (registry.Resource, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return registry.Resource{}, fmt.Errorf("encode %s %s: %w", kind, name, err)
	}
	canonical, err := jcs.Transform(raw)
	if err != nil {
		return registry.Resource{}, fmt.Errorf("encode %s %s: %w", kind, name, err)
	}
	r, _, err := registry.NewResource(kind, name, canonical)
	return r, err
}

// Workflow returns the bytes of a definition that was ever applied.
func (a *Authority) Workflow(ctx context.Context, digest string) ([]byte, error) {
	var canonical []byte
	err := a.DB.View(ctx, func(tx store.Tx) error {
		return tx.QueryRow(`SELECT canonical FROM definitions WHERE digest = $1`, digest).Scan(&canonical)
	})
	if errors.Is(err, store.ErrNoRows) {
		return nil, fmt.Errorf("definition %s: %w", digest, ErrNotFound)
	}
	return canonical, err
}
