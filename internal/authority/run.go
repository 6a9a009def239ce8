package authority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"cardea/internal/broker"
	"cardea/internal/evidence"
	"cardea/internal/fault"
	"cardea/internal/ledger"
	"cardea/internal/policy"
	"cardea/internal/store"
)

// Provenance is where a run comes from: the least trusted of all that it has consumed. It never rises.
type Provenance struct {
	Kind   string `json:"kind"`
	Origin string `json:"origin"`
}

// The kinds of provenance in use. Strangers are whoever is not known by name.
const (
	ProvenancePerson   = "person"
	ProvenanceExternal = "external"
)

// Run is what the authority accepted as started.
type Run struct {
	ID, Process, Workflow, Version, Digest string
	Evidence, StartedBy, InputDigest       string
	Provenance                             Provenance
	Verdict                                Verdict
	State                                  string
	OpenedAt, EndedAt                      time.Time
	Closure                                *Closure
	ClosureLeaf, Leaf                      string
}

// Open reports whether attempts of the run can still be decided.
func (r Run) Open() bool { return r.State == runOpen }

const (
	runOpen    = "open"
	runRefused = "refused"
	runEnded   = "ended"
)

// OpenRun verifies a ticket, consumes it for this workflow digest, decides start and fixes provenance. Asked again for the same
// run it answers the same; for another run it refuses the ticket.
func (a *Authority) OpenRun(ctx context.Context, runID, digest, ticket, inputDigest string) (Run, error) {
	if !runIDs.MatchString(runID) {
		return Run{}, fmt.Errorf("run id %q is not run_ and a ULID: %w", runID, ErrInvalid)
	}
	// A ticket that the engine had made durable in time may reach us late, when we were away: consuming it once is the guard.
	t, err := evidence.ParseTicketOfAnyAge(ticket, a.permitKeys(), a.TrustDomain.Name())
	if err != nil {
		return Run{}, fmt.Errorf("%w: %w", ErrDenied, err)
	}
	switch {
	case t.Procedure != procedureStart || t.WorkflowDigest == "":
		return Run{}, fmt.Errorf("ticket %s is not for a start: %w", t.ID, ErrDenied)
	case a.Now().Sub(time.Unix(t.Expires, 0)) > lateTicket:
		return Run{}, fmt.Errorf("ticket %s was held back for more than %s: %w", t.ID, lateTicket, ErrDenied)
	case t.WorkflowDigest != digest:
		return Run{}, fmt.Errorf("ticket %s is for another definition: %w", t.ID, ErrDenied)
	case t.InputDigest != inputDigest:
		return Run{}, fmt.Errorf("ticket %s is for another input: %w", t.ID, ErrDenied)
	}
	run := Run{
		ID: runID, Process: t.Process, Workflow: t.Workflow, Version: t.Version, Digest: digest, Evidence: "ticket:" + t.ID,
		StartedBy: "person:" + t.Person, InputDigest: inputDigest, Provenance: Provenance{Kind: ProvenancePerson, Origin: t.Person},
	}
	return a.commitRun(ctx, run, func(s *snapshot) policy.Verdict {
		return a.mayStart(s, t.Person, t.Process, t.Workflow, run.Provenance)
	})
}

// lateTicket is how much later than its own life a ticket may open its run: an authority that is away longer leaves starts to be asked again.
const lateTicket = 24 * time.Hour

// runIDs are ULIDs, so that no id can carry anything into a log, a token or a terminal.
var runIDs = regexp.MustCompile(`^run_[0-7][0-9a-hjkmnp-tv-z]{25}$`)

func (a *Authority) commitRun(ctx context.Context, run Run, decide func(*snapshot) policy.Verdict) (Run, error) {
	var out Run
	err := a.underPolicy(ctx, func(tx store.Tx, s *snapshot) error {
		known, err := loadRun(tx, run.ID)
		if err == nil {
			out = known
			return sameRun(known, run)
		}
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		if _, ok := s.WorkflowByDigest(run.Digest); !ok {
			return fmt.Errorf("the definition %s is not in force: %w", run.Digest, ErrDenied)
		}
		if err := consumeEvidence(tx, run); err != nil {
			return err
		}
		out, err = a.insertRun(tx, run, decide(s))
		return err
	})
	if err == nil {
		fault.Point("authority.run.committed")
	}
	return out, err
}

func sameRun(known, asked Run) error {
	if known.Digest != asked.Digest || known.Evidence != asked.Evidence || known.InputDigest != asked.InputDigest {
		return fmt.Errorf("run %s is already open for something else: %w", asked.ID, ErrConflict)
	}
	return nil
}

func consumeEvidence(tx store.Tx, run Run) error {
	n, err := tx.Exec(`INSERT INTO evidence (id, digest, run) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, run.Evidence, run.Digest, run.ID)
	if err != nil {
		return fmt.Errorf("consume %s: %w", run.Evidence, err)
	}
	if n != 1 {
		return fmt.Errorf("%s has already started a run: %w", run.Evidence, ErrDenied)
	}
	return nil
}

func (a *Authority) insertRun(tx store.Tx, run Run, v policy.Verdict) (Run, error) {
	run.OpenedAt, run.State = a.Now(), runOpen
	if v.Outcome != policy.Allow {
		run.State, run.EndedAt = runRefused, run.OpenedAt
	}
	leaf, err := a.record(tx, ledger.KindStart, ledger.Refs{Run: run.ID}, map[string]any{
		"process": run.Process, "workflow": run.Workflow, "version": run.Version, "digest": run.Digest, "evidence": run.Evidence,
		"started_by": run.StartedBy, "provenance": run.Provenance, "input": run.InputDigest, "verdict": verdictOf(v, ""),
	})
	if err != nil {
		return Run{}, err
	}
	run.Leaf, run.Verdict = leaf, verdictOf(v, leaf)
	verdict, err := json.Marshal(run.Verdict)
	if err != nil {
		return Run{}, fmt.Errorf("encode the verdict of run %s: %w", run.ID, err)
	}
	_, err = tx.Exec(`INSERT INTO runs (id, process, workflow, version, digest, evidence, started_by, provenance_kind, provenance_origin,
		input_digest, verdict, state, opened_at, ended_at, leaf) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)`,
		run.ID, run.Process, run.Workflow, run.Version, run.Digest, run.Evidence, run.StartedBy, run.Provenance.Kind, run.Provenance.Origin,
		run.InputDigest, string(verdict), run.State, store.Micros(run.OpenedAt), store.Micros(run.EndedAt), leaf)
	if err != nil {
		return Run{}, fmt.Errorf("open run %s: %w", run.ID, err)
	}
	return run, nil
}

func loadRun(tx store.Tx, id string) (Run, error) {
	var r Run
	var verdict, closure string
	var opened, ended int64
	err := tx.QueryRow(`SELECT id, process, workflow, version, digest, evidence, started_by, provenance_kind, provenance_origin, input_digest,
		verdict, state, opened_at, ended_at, closure, closure_leaf, leaf FROM runs WHERE id = $1`, id).Scan(
		&r.ID, &r.Process, &r.Workflow, &r.Version, &r.Digest, &r.Evidence, &r.StartedBy, &r.Provenance.Kind, &r.Provenance.Origin, &r.InputDigest,
		&verdict, &r.State, &opened, &ended, &closure, &r.ClosureLeaf, &r.Leaf)
	if errors.Is(err, store.ErrNoRows) {
		return Run{}, fmt.Errorf("run %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Run{}, fmt.Errorf("read run %s: %w", id, err)
	}
	r.OpenedAt, r.EndedAt = store.Time(opened), store.Time(ended)
	if err := json.Unmarshal([]byte(verdict), &r.Verdict); err != nil {
		return Run{}, fmt.Errorf("read the verdict of run %s: %w", id, err)
	}
	if closure != "" {
		r.Closure = new(Closure)
		if err := json.Unmarshal([]byte(closure), r.Closure); err != nil {
			return Run{}, fmt.Errorf("read the closure of run %s: %w", id, err)
		}
	}
	return r, nil
}

// Closure says what a run was given and what has ended of it.
type Closure struct {
	Issued int         `json:"issued"`
	Ended  int         `json:"ended"`
	Live   []LiveLease `json:"live,omitempty"`
}

// LiveLease is a lease that the target may still accept, and why.
type LiveLease struct {
	Lease      string    `json:"lease"`
	Connection string    `json:"connection"`
	Until      time.Time `json:"until"`
	Why        string    `json:"why"`
}

// EndRun voids what is open, starts the ending of every lease and writes the closure. Asked again it answers with the first one.
func (a *Authority) EndRun(ctx context.Context, runID, status string) (Closure, string, error) {
	switch status {
	case "completed", "faulted", "cancelled":
	default:
		return Closure{}, "", fmt.Errorf("run status %q: %w", status, ErrInvalid)
	}
	var run Run
	var revocable int
	err := a.DB.Commit(ctx, func(tx store.Tx) (err error) {
		if run, err = loadRun(tx, runID); err != nil || run.State == runEnded {
			return err
		}
		if err := a.voidPermits(tx, "run", runID, "the run has ended"); err != nil {
			return err
		}
		if err := a.voidApprovalsOf(tx, runID, "the run has ended"); err != nil {
			return err
		}
		if revocable, err = broker.EndOfRun(tx, runID, a.Now()); err != nil {
			return err
		}
		return a.closeRun(tx, &run, status)
	})
	if err != nil {
		return Closure{}, "", err
	}
	if revocable > 0 {
		a.ender.Wake()
	}
	fault.Point("authority.run.ended")
	a.announce()
	if run.Closure == nil {
		return Closure{}, run.ClosureLeaf, nil
	}
	return *run.Closure, run.ClosureLeaf, nil
}

func (a *Authority) closeRun(tx store.Tx, run *Run, status string) error {
	closure, err := closureOf(tx, run.ID)
	if err != nil {
		return err
	}
	text, err := json.Marshal(closure)
	if err != nil {
		return fmt.Errorf("encode the closure of run %s: %w", run.ID, err)
	}
	leaf, err := a.record(tx, ledger.KindClosure, ledger.Refs{Run: run.ID}, map[string]any{"status": status, "closure": closure})
	if err != nil {
		return err
	}
	state := runEnded
	_, err = tx.Exec(`UPDATE runs SET state = $2, ended_at = $3, closure = $4, closure_leaf = $5 WHERE id = $1`,
		run.ID, state, store.Micros(a.Now()), string(text), leaf)
	if err != nil {
		return fmt.Errorf("close run %s: %w", run.ID, err)
	}
	run.State, run.Closure, run.ClosureLeaf = state, &closure, leaf
	return nil
}

func closureOf(tx store.Tx, runID string) (Closure, error) {
	leases, err := broker.OfRun(tx, runID)
	if err != nil {
		return Closure{}, err
	}
	c := Closure{Issued: len(leases)}
	for _, l := range leases {
		if !l.Live() {
			c.Ended++
			continue
		}
		c.Live = append(c.Live, liveLease(l))
	}
	return c, nil
}

func liveLease(l broker.Lease) LiveLease {
	why := "its revocation is under way"
	if l.Promise == broker.Expiring {
		why = "it cannot be revoked and ends by itself"
	}
	return LiveLease{Lease: l.ID, Connection: l.Connection, Until: l.ExpiresAt, Why: why}
}

// mayStart decides whether a person may start a workflow.
func (a *Authority) mayStart(s *snapshot, person, process, workflow string, from Provenance) policy.Verdict {
	who, target := s.person(person), s.workflow(process, workflow)
	_, criticality := s.ownerOf(process)
	return s.Policies().Decide(policy.Request{
		Principal: who.Ref, Action: "start", Resource: target[0].Ref, Entities: append(target, who),
		Context: map[string]any{"provenance": provenanceRecord(from), "criticality": criticality, "now": a.Now(), "dev": a.Dev},
	})
}
