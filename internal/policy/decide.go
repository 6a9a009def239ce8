package policy

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
)

// Decide answers one request. approved are ids of @approval forbids that a valid approval lifts: exactly those are left
// out of the evaluation, and ids of anything else lift nothing. Decide never fails: whatever is wrong with the request
// or with a policy is a denial that says so.
func (s *Set) Decide(r Request, approved ...string) Verdict {
	v := s.decide(r, approved)
	if r.Principal.Type == "Agent" && v.Outcome != Deny {
		v = s.decidePerson(r, v, approved)
	}
	if v.Outcome != Deny {
		v.Warnings = s.escaped(r, approved)
	}
	return v
}

func (s *Set) decide(r Request, approved []string) Verdict {
	q, err := s.vocabulary.ask(r)
	if err != nil {
		return s.unfit(r, err)
	}
	m := s.evaluate(q, s.candidates(q), approved)
	v := Verdict{Outcome: m.outcome()}
	switch {
	case len(m.errors) > 0:
		v.Policies = s.ids(m.erring)
		v.Errors = m.errors
	case v.Outcome == Allow:
		v.Policies = s.ids(m.permits)
	case v.Outcome == Pending:
		v.Policies = s.ids(append(slices.Clone(m.permits), m.lifts...))
		v.Lifts = s.ids(m.lifts)
		v.Rules = s.rules(m.lifts)
	default:
		v.Policies = s.ids(append(slices.Clone(m.forbids), m.lifts...))
	}
	s.explain(&v, r, q, m)
	return v
}

// match is what evaluation found, as indices into the set.
type match struct {
	permits []int
	// forbids matched and nothing lifts them; lifts matched and an approval would.
	forbids, lifts []int
	erring         []int
	errors         []string
}

// outcome is the definition of a verdict (see the package comment), in the order in which it is binding.
func (m *match) outcome() Outcome {
	switch {
	case len(m.errors) > 0 || len(m.forbids) > 0 || len(m.permits) == 0:
		return Deny
	case len(m.lifts) > 0:
		return Pending
	}
	return Allow
}

// evaluate asks Cedar about each candidate. Permits and forbids are put to it apart, because it reports matching permits
// only where no forbid matched, and pending is defined by both.
func (s *Set) evaluate(q *question, candidates []int, approved []string) *match {
	m := &match{}
	permits := pick{s, nil}
	forbids := pick{s, nil}
	for _, i := range candidates {
		switch p := s.policies[i]; {
		case !p.forbids():
			permits.members = append(permits.members, i)
		case p.liftable() && slices.Contains(approved, p.id):
		default:
			forbids.members = append(forbids.members, i)
		}
	}
	m.permits = s.put(q, permits, m)
	for _, i := range s.put(q, forbids, m) {
		if s.policies[i].liftable() {
			m.lifts = append(m.lifts, i)
		} else {
			m.forbids = append(m.forbids, i)
		}
	}
	return m
}

// put evaluates a pick of policies of one effect: it returns those that matched and notes in m those that erred.
func (s *Set) put(q *question, p pick, m *match) []int {
	if len(p.members) == 0 {
		return nil
	}
	_, d := cedar.Authorize(p, q.entities, q.req)
	for _, e := range d.Errors {
		i := s.byID[string(e.PolicyID)]
		m.erring = append(m.erring, i)
		m.errors = append(m.errors, s.policies[i].id+": "+plain(e.Message))
	}
	matched := make([]int, len(d.Reasons))
	for i, r := range d.Reasons {
		matched[i] = s.byID[string(r.PolicyID)]
	}
	return matched
}

// pick is some of a set's policies, in the order of their ids.
type pick struct {
	set     *Set
	members []int
}

func (p pick) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, i := range p.members {
			if !yield(cedar.PolicyID(p.set.policies[i].id), p.set.policies[i].policy) {
				return
			}
		}
	}
}

func (s *Set) ids(members []int) []string {
	out := make([]string, 0, len(members))
	for _, i := range members {
		out = append(out, s.policies[i].id)
	}
	slices.Sort(out)
	return out
}

func (s *Set) rules(members []int) []string {
	var out []string
	for _, i := range members {
		out = append(out, s.policies[i].rule)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// decidePerson asks the same of the person an agent acts for. An agent may do what both may do: a person's authority does
// not grow by being exercised through an agent, nor an agent's by whom it serves.
func (s *Set) decidePerson(r Request, agent Verdict, approved []string) Verdict {
	var person Ref
	for _, e := range r.Entities {
		if e.Ref == r.Principal {
			person, _ = e.Attrs["actsFor"].(Ref)
		}
	}
	name := r.Principal.ID
	r.Principal = person
	v := s.decide(r, approved)
	if v.Outcome == Deny {
		v.Reason += ", for whom agent " + plain(name) + " acts"
		return v
	}
	union := func(a, b []string) []string {
		both := append(slices.Clone(a), b...)
		slices.Sort(both)
		return slices.Compact(both)
	}
	if agent.Outcome == Pending {
		agent, v = v, agent // explain the one that waits
	}
	v.Policies = union(agent.Policies, v.Policies)
	v.Lifts, v.Rules = union(agent.Lifts, v.Lifts), union(agent.Rules, v.Rules)
	return v
}

// escaped names the forbids that would have matched, were the dev hub's lone person not alone.
func (s *Set) escaped(r Request, approved []string) []string {
	dev, _ := r.Context["dev"].(bool)
	lone, _ := r.Context["lone"].(bool)
	if !dev || !lone {
		return nil
	}
	r.Context = maps.Clone(r.Context)
	r.Context["lone"] = false
	q, err := s.vocabulary.ask(r)
	if err != nil {
		return nil
	}
	m := s.evaluate(q, s.candidates(q), approved)
	var out []string
	for _, i := range append(m.forbids, m.lifts...) {
		p := s.policies[i]
		out = append(out, strings.TrimSuffix(p.id+": "+p.reason, ": "))
	}
	slices.Sort(out)
	return out
}
