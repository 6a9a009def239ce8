package approval

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// State is where an approval stands. The zero State is none of them.
type State string

const (
	Pending  State = "pending"
	Approved State = "approved"
	// The rest are ends: nothing leads out of them.
	Refused State = "refused"
	Expired State = "expired"
	Voided  State = "voided"
	Used    State = "used"
)

// Ended says whether nothing can happen to an approval in this state any more.
func (s State) Ended() bool {
	return s == Refused || s == Expired || s == Voided || s == Used
}

// Person is what is known of a signer at the moment of judging.
type Person struct {
	Name   string
	Active bool
	Groups []string
	// Keys are the SHA256:… fingerprints of the SSH keys that are this person's now.
	Keys []string
}

// Signature is a stored one. Package verify has found it genuine over this statement; whether it counts is judged anew at
// every use, because persons, groups and keys change while an approval waits.
type Signature struct {
	Person string
	// Key is the fingerprint of the key that signed.
	Key    string
	At     time.Time
	Refuse bool
	// Reason is what a refusing person said.
	Reason string
}

// World is what else counts at the moment of judging.
type World struct {
	// Person looks up who a person is now; false for one who is unknown.
	Person func(name string) (Person, bool)
	// Forbidden gives the reason for which policy forbids a person to approve this; empty when it does not. The authority
	// asks `approve` of package policy here. A nil Forbidden is refused: nobody's signature counts.
	Forbidden func(name string) string
	// Lone says that the hub has exactly one active person. Only together with the statement's dev does it lift the
	// exclusion of requester and appliers, with a warning.
	Lone bool
	Now  time.Time
}

// Record is what the authority has stored of an approval.
type Record struct {
	// Settled is the last state stored. Once it has ended it stays.
	Settled    State
	Signatures []Signature
	// Uses counts the permits minted under each action's idempotency key, or under the plan's digest.
	Uses map[string]int
}

// Judged is one signature with what it is worth.
type Judged struct {
	Signature
	Counts bool
	// Because says why it does not count; empty when it does.
	Because string
}

// Judgement is an approval as it stands now.
type Judgement struct {
	State State
	// Reason is one sentence for people.
	Reason string
	// Approvers are the distinct persons whose signatures count, sorted.
	Approvers []string
	// Missing is how many more must sign.
	Missing    int
	Signatures []Judged
	Warnings   []string
}

// Judge says how the approval of this statement stands: it is the one place where signatures become consent (invariants 10
// and 11). It reads nothing but its arguments; the authority calls it within the transaction that uses the approval.
func (s *Statement) Judge(r Record, w World) Judgement {
	j := Judgement{}
	refusals := s.count(&j, r, w)
	j.Missing = max(0, s.Rule.Quorum-len(j.Approvers))
	switch {
	case r.Settled.Ended():
		j.State, j.Reason = r.Settled, "it is "+string(r.Settled)
	case s.exhausted(r.Uses):
		j.State, j.Reason = Used, fmt.Sprintf("all its attempts have been made (%d for each action)", s.Attempts)
	case len(refusals) > 0:
		j.State, j.Reason = Refused, refusals[0]
	case !w.Now.Before(s.ExpiresAt.Time):
		j.State, j.Reason = Expired, "it expired at "+s.ExpiresAt.UTC().Format(time.RFC3339)
	case j.Missing > 0:
		j.State, j.Reason = Pending, fmt.Sprintf("%d of %d have signed", len(j.Approvers), s.Rule.Quorum)
	default:
		j.State, j.Reason = Approved, "approved by "+strings.Join(j.Approvers, ", ")
	}
	return j
}

// count judges every signature and collects the distinct persons who approve, and the refusals.
func (s *Statement) count(j *Judgement, r Record, w World) (refusals []string) {
	for _, sig := range r.Signatures {
		because, warning := s.worthless(sig, w)
		j.Signatures = append(j.Signatures, Judged{Signature: sig, Counts: because == "", Because: because})
		switch {
		case because != "":
		case sig.Refuse:
			refusals = append(refusals, strings.TrimSuffix("refused by "+sig.Person+": "+sig.Reason, ": "))
		case !slices.Contains(j.Approvers, sig.Person): // persons count, not keys
			j.Approvers = append(j.Approvers, sig.Person)
		}
		if because == "" && warning != "" {
			j.Warnings = append(j.Warnings, warning)
		}
	}
	slices.Sort(j.Approvers)
	return refusals
}

// worthless says why a signature does not count, or "". A refusal by the requester or an applier does count: withdrawing is
// always safe.
func (s *Statement) worthless(sig Signature, w World) (because, warning string) {
	if w.Person == nil || w.Forbidden == nil {
		return "nothing is known of the signers", ""
	}
	p, ok := w.Person(sig.Person)
	switch {
	case !ok || p.Name != sig.Person:
		return "no such person", ""
	case !p.Active:
		return sig.Person + " is not active", ""
	case sig.Key == "" || !slices.Contains(p.Keys, sig.Key):
		return "the key " + sig.Key + " is not " + sig.Person + "'s", ""
	case !s.Rule.names(p):
		return sig.Person + " is not among the approvers of " + s.Rule.Name, ""
	case sig.At.After(w.Now):
		return "it was signed in the future", ""
	case sig.Refuse:
		return "", ""
	case !sig.At.Before(s.ExpiresAt.Time):
		return "it was signed after the approval had expired", ""
	}
	return s.excluded(p, w)
}

// excluded keeps people from approving what they asked for or set up themselves.
func (s *Statement) excluded(p Person, w World) (because, warning string) {
	switch {
	case personName(s.Requester) == p.Name:
		because = p.Name + " asked for it"
	case slices.ContainsFunc(s.Appliers, func(a string) bool { return personName(a) == p.Name }):
		because = p.Name + " applied the definition"
		if s.Kind == KindPlan {
			because = p.Name + " applies the change"
		}
	}
	if because != "" && s.Dev && w.Lone {
		warning, because = "dev: counted although "+because, ""
	}
	if why := w.Forbidden(p.Name); why != "" {
		return why, ""
	}
	return because, warning
}

// names says whether a person is an approver of the rule, as the statement holds it.
func (r *Rule) names(p Person) bool {
	return slices.ContainsFunc(r.Approvers, func(a string) bool {
		kind, name, _ := strings.Cut(a, ":")
		return kind == "person" && name == p.Name || kind == "group" && slices.Contains(p.Groups, name)
	})
}

// exhausted says whether every action, or the plan, has been tried as often as it may be.
func (s *Statement) exhausted(uses map[string]int) bool {
	if s.Kind == KindPlan {
		return s.Plan != nil && uses[s.Plan.Digest] >= s.Attempts
	}
	for _, a := range s.Actions {
		if uses[a.IdempotencyKey] < s.Attempts {
			return false
		}
	}
	return true
}

// CanSign says why a person's signature would not count if it were made now with the given key, or "". What has ended cannot
// be signed.
func (s *Statement) CanSign(name, key string, r Record, w World) string {
	if j := s.Judge(r, w); j.State != Pending {
		return j.Reason
	}
	for _, sig := range r.Signatures {
		if sig.Person == name && !sig.Refuse {
			if because, _ := s.worthless(sig, w); because == "" {
				return name + " has signed already"
			}
		}
	}
	because, _ := s.worthless(Signature{Person: name, Key: key, At: w.Now}, w)
	return because
}

// Use says why one more attempt of an action may not be made under this approval, or nil. The caller counts the use in
// the transaction that mints the permit: an approval whose count is kept anywhere else could be used twice.
func (s *Statement) Use(digest, idempotencyKey string, r Record, w World) error {
	if !s.Covers(digest, idempotencyKey) {
		return &UseError{s.ID, "it is for another action"}
	}
	return s.use(idempotencyKey, r, w)
}

// UsePlan is Use for a change of desired state.
func (s *Statement) UsePlan(digest string, r Record, w World) error {
	if !s.CoversPlan(digest) {
		return &UseError{s.ID, "it is for another change"}
	}
	return s.use(digest, r, w)
}

func (s *Statement) use(key string, r Record, w World) error {
	if j := s.Judge(r, w); j.State != Approved {
		return &UseError{s.ID, j.Reason}
	}
	if r.Uses[key] >= s.Attempts {
		return &UseError{s.ID, fmt.Sprintf("its %d attempts have been made", s.Attempts)}
	}
	return nil
}

// UseError says why an approval does not permit what it was used for.
type UseError struct{ Approval, Because string }

func (e *UseError) Error() string { return "approval " + e.Approval + ": " + e.Because }

// Next says whether an approval may pass from one state to another. Storage asks before it writes.
func Next(from, to State) error {
	ok := false
	switch from {
	case Pending:
		ok = to == Approved || to == Refused || to == Expired || to == Voided
	case Approved:
		// Back to pending when a signer has lost what made the signature count.
		ok = to == Used || to == Refused || to == Expired || to == Voided || to == Pending
	}
	if !ok {
		return fmt.Errorf("an approval cannot go from %q to %q", from, to)
	}
	return nil
}
