package authority

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cardea/internal/evidence"
	"cardea/internal/policy"
	"cardea/internal/store"
)

// Speaker is the person behind a request, as proven by their session key.
type Speaker struct {
	Person string
	Groups []string
	// proof is what a change consumes.
	proof evidence.Proof
}

// Identify verifies a proof over the exact bytes of a request and says whose it is. The console that forwards it is trusted with
// nothing: it can neither make nor change nor, for a change, repeat one.
func (a *Authority) Identify(ctx context.Context, proof, procedure string, body []byte) (Speaker, error) {
	p, thumbprint, err := evidence.VerifyProof(proof, procedure, body, a.Now())
	if err != nil {
		return Speaker{}, fmt.Errorf("%w: %w", ErrUnknownUser, err)
	}
	who := Speaker{proof: p}
	err = a.DB.View(ctx, func(tx store.Tx) error {
		var expires, dev int64
		err := tx.QueryRow(`SELECT person, expires_at, dev FROM sessions WHERE thumbprint = $1`, thumbprint).Scan(&who.Person, &expires, &dev)
		// What a supervisor introduced in dev counts in dev alone.
		if errors.Is(err, store.ErrNoRows) || err == nil && (!a.Now().Before(store.Time(expires)) || dev != 0 && !a.Dev) {
			return ErrUnknownUser
		}
		return err
	})
	if err != nil {
		return Speaker{}, err
	}
	known, ok := a.current.Load().Person(who.Person)
	if !ok {
		return Speaker{}, fmt.Errorf("%s is no longer a person of this hub: %w", who.Person, ErrUnknownUser)
	}
	// Only proofs of known sessions are remembered: strangers cannot fill the memory.
	if !a.seen.add(thumbprint, p.ID, a.Now()) {
		return Speaker{}, fmt.Errorf("proof %s has been used, or too many were made: %w", p.ID, ErrUnknownUser)
	}
	who.Groups = known.Groups
	return who, nil
}

// consumeProof makes a change's proof one-use across restarts. It belongs to the transaction of the change.
func (a *Authority) consumeProof(tx store.Tx, who Speaker) error {
	until := time.Unix(who.proof.IssuedAt, 0).Add(2 * evidence.ProofLife)
	n, err := tx.Exec(`INSERT INTO proofs (id, until) VALUES ($1, $2) ON CONFLICT DO NOTHING`, who.proof.ID, store.Micros(until))
	if err != nil {
		return fmt.Errorf("consume a proof: %w", err)
	}
	if n != 1 {
		return fmt.Errorf("proof %s has been used: %w", who.proof.ID, ErrUnknownUser)
	}
	return nil
}

func (a *Authority) forgetProofs(ctx context.Context) error {
	a.seen.forget(a.Now())
	var old int64
	err := a.DB.View(ctx, func(tx store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM proofs WHERE until < $1`, store.Micros(a.Now())).Scan(&old)
	})
	if err != nil || old == 0 {
		return err
	}
	return a.DB.Commit(ctx, func(tx store.Tx) error {
		_, err := tx.Exec(`DELETE FROM proofs WHERE until < $1`, store.Micros(a.Now()))
		return err
	})
}

// proofMemory refuses repeated proofs of one process's life, reads included.
type proofMemory struct {
	mu       sync.Mutex
	sessions map[string]map[string]time.Time
}

// maxProofs bounds the memory of one session: past it, that session's calls are refused rather than replays admitted.
const maxProofs = 20_000

func (m *proofMemory) add(session, id string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := m.sessions[session]
	if ids == nil {
		ids = map[string]time.Time{}
		if m.sessions == nil {
			m.sessions = map[string]map[string]time.Time{}
		}
		m.sessions[session] = ids
	}
	if _, used := ids[id]; used || len(ids) >= maxProofs {
		return false
	}
	ids[id] = now.Add(2 * evidence.ProofLife)
	return true
}

func (m *proofMemory) forget(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for session, ids := range m.sessions {
		for id, until := range ids {
			if now.After(until) {
				delete(ids, id)
			}
		}
		if len(ids) == 0 {
			delete(m.sessions, session)
		}
	}
}

// requireHub decides an action of a person on the hub itself.
func (a *Authority) requireHub(s *snapshot, person, action string) error {
	who := s.person(person)
	return denial(s.Policies().Decide(policy.Request{Principal: who.Ref, Action: action, Resource: policy.HubRef(),
		Entities: []policy.Entity{who, {Ref: policy.HubRef()}}, Context: map[string]any{"now": a.Now(), "dev": a.Dev}}))
}

// requireRead decides whether a person may see what a process does.
func (a *Authority) requireRead(s *snapshot, person, process string) error {
	who, target := s.person(person), s.process(process)
	return denial(s.Policies().Decide(policy.Request{Principal: who.Ref, Action: "read", Resource: target.Ref,
		Entities: []policy.Entity{who, target}, Context: map[string]any{"now": a.Now(), "dev": a.Dev}}))
}

// DeniedError is a denial by policy, with its explanation.
type DeniedError struct{ Verdict Verdict }

func (e *DeniedError) Error() string { return e.Verdict.Reason }

// Unwrap makes a DeniedError an ErrDenied.
func (e *DeniedError) Unwrap() error { return ErrDenied }

func denial(v policy.Verdict) error {
	if v.Outcome == policy.Allow {
		return nil
	}
	return &DeniedError{Verdict: verdictOf(v, "")}
}
