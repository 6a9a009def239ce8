package registry

import (
	"slices"
	"strings"

	"cardea/internal/policy"
)

// builtinOwner stands in a built-in rule's approvers for the owner of the process concerned.
const builtinOwner = "owner"

// Rule gives an approval rule as it binds one process: the baseline's own rules name the process's owner among the approvers. Whether
// a rule exists does not depend on the process.
func (s *State) Rule(name, process string) (*ApprovalRule, bool) {
	if r, ok := find[*ApprovalRule](s, KindApprovalRule, name); ok {
		return r, true
	}
	b, ok := builtinRule(name)
	if !ok {
		return nil, false
	}
	r := &ApprovalRule{Name: b.Name, Quorum: b.Quorum, Expires: b.Expires, Attempts: b.Attempts}
	for _, a := range b.Approvers {
		if a != builtinOwner {
			r.Approvers = append(r.Approvers, a)
		} else if p, ok := s.Process(process); ok {
			r.Approvers = append(r.Approvers, p.Owner)
		}
	}
	return r, true
}

func builtinRule(name string) (policy.Rule, bool) {
	rules := policy.BuiltinRules()
	i := slices.IndexFunc(rules, func(r policy.Rule) bool { return r.Name == name })
	if i < 0 {
		return policy.Rule{}, false
	}
	return rules[i], true
}

// Eligible names the persons, sorted, whom a rule lets sign. Who of them may not in one case, such as the requester, is for policy
// to say.
func (s *State) Eligible(r *ApprovalRule) []string {
	var out []string
	for _, a := range r.Approvers {
		kind, name, _ := strings.Cut(a, ":")
		switch {
		case kind == "group":
			out = append(out, s.members[name]...)
		case s.objects[ID{KindPerson, name}] != nil:
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ConnectionEntity describes a connection to policy.
func (s *State) ConnectionEntity(c *Connection) policy.Entity {
	return policy.ConnectionEntity(policy.Connection{
		Name: c.Name, Owner: c.Owner, Zone: c.Zone, Tier: c.Tier, Provider: c.Provider.Name(), Shared: s.Shared(c.Name), Hosts: c.Hosts,
	})
}

// WorkflowEntities describe a workflow and the process that it stands in.
func (s *State) WorkflowEntities(w *Workflow) []policy.Entity {
	p, ok := s.Process(w.Process)
	if !ok {
		return nil // Build refuses a workflow without its process
	}
	return []policy.Entity{policy.WorkflowEntity(w.Title(), p.Owner, p.Criticality), policy.ProcessEntity(p.Name, p.Owner, p.Criticality)}
}
