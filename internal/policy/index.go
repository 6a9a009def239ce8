package policy

import (
	"slices"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// actionIndex finds the policies whose scope can match a question, by what they say of the principal. A policy that it
// leaves out cannot match and cannot err: Cedar does not evaluate the conditions of a policy whose scope does not match,
// and a scope itself never errs.
type actionIndex struct {
	all      []int
	equal    map[types.EntityUID][]int
	within   map[types.EntityUID][]int
	ofAType  map[types.EntityType][]int
	everyone []int
}

func buildIndex(s *Set) map[types.EntityUID]*actionIndex {
	index := make(map[types.EntityUID]*actionIndex, len(s.vocabulary.actions))
	for _, action := range s.vocabulary.actions {
		a := &actionIndex{equal: map[types.EntityUID][]int{}, within: map[types.EntityUID][]int{}, ofAType: map[types.EntityType][]int{}}
		for i, p := range s.policies {
			if actionMatches(p.ast.Action, action) {
				a.add(i, p.ast.Principal)
			}
		}
		index[action] = a
	}
	return index
}

func (a *actionIndex) add(i int, scope ast.IsPrincipalScopeNode) {
	a.all = append(a.all, i)
	switch sc := scope.(type) {
	case ast.ScopeTypeEq:
		a.equal[sc.Entity] = append(a.equal[sc.Entity], i)
	case ast.ScopeTypeIn:
		a.within[sc.Entity] = append(a.within[sc.Entity], i)
	case ast.ScopeTypeIsIn:
		a.within[sc.Entity] = append(a.within[sc.Entity], i)
	case ast.ScopeTypeIs:
		a.ofAType[sc.Type] = append(a.ofAType[sc.Type], i)
	default: // everything, and whatever a newer Cedar may bring: evaluated rather than missed
		a.everyone = append(a.everyone, i)
	}
}

// candidates returns the policies whose scope matches the question, in the order of their ids.
func (s *Set) candidates(q *question) []int {
	a := s.index[q.req.Action]
	found := make([]int, 0, 16)
	keep := func(list []int) {
		for _, i := range list {
			p := s.policies[i].ast
			if scopeMatches(p.Principal, q.principalUp) && scopeMatches(p.Resource, q.resourceUp) {
				found = append(found, i)
			}
		}
	}
	keep(a.everyone)
	keep(a.ofAType[q.req.Principal.Type])
	keep(a.equal[q.req.Principal])
	for _, u := range q.principalUp {
		keep(a.within[u])
	}
	slices.Sort(found)
	return found
}

// scopeMatches says whether a principal or resource scope covers up[0], whose ancestors the rest are. A kind of scope
// that it does not know matches: the policy is then evaluated by Cedar, which knows.
func scopeMatches(scope ast.IsScopeNode, up []types.EntityUID) bool {
	switch sc := scope.(type) {
	case ast.ScopeTypeEq:
		return up[0] == sc.Entity
	case ast.ScopeTypeIn:
		return slices.Contains(up, sc.Entity)
	case ast.ScopeTypeIs:
		return up[0].Type == sc.Type
	case ast.ScopeTypeIsIn:
		return up[0].Type == sc.Type && slices.Contains(up, sc.Entity)
	}
	return true
}

// actionMatches relies on the schema having no groups of actions; a test keeps it so.
func actionMatches(scope ast.IsActionScopeNode, action types.EntityUID) bool {
	switch sc := scope.(type) {
	case ast.ScopeTypeEq:
		return sc.Entity == action
	case ast.ScopeTypeIn:
		return sc.Entity == action
	case ast.ScopeTypeInSet:
		return slices.Contains(sc.Entities, action)
	}
	return true
}

// ScopeMatch lists policies whose scope covers a question, whatever their conditions say. Ids are sorted.
type ScopeMatch struct {
	Permits []string
	// Forbids are those that nothing lifts.
	Forbids []string
	// Approvals are the forbids that an approval lifts.
	Approvals []Lift
}

// Lift is a forbid and the approval rule that lifts it.
type Lift struct{ ID, Rule string }

// Scope tells which policies could bear on a principal, action and resource by their scope alone. Plans show it before
// anything runs, so the request's context is not read and may be nil.
func (s *Set) Scope(r Request) (ScopeMatch, error) {
	q, err := s.vocabulary.askScope(r)
	if err != nil {
		return ScopeMatch{}, err
	}
	var m ScopeMatch
	for _, i := range s.candidates(q) {
		switch p := s.policies[i]; {
		case p.liftable():
			m.Approvals = append(m.Approvals, Lift{p.id, p.rule})
		case p.forbids():
			m.Forbids = append(m.Forbids, p.id)
		default:
			m.Permits = append(m.Permits, p.id)
		}
	}
	return m, nil
}
