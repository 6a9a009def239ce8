package authority

import (
	"cardea/internal/policy"
	"cardea/internal/registry"
)

// The entities that policy is asked about are built here alone, from desired state and from nothing that a caller says.

// nobody owns what is not registered: no person is in that group.
const nobody = "nobody:"

// criticalityUnknown is what an unregistered process counts as.
const criticalityUnknown = "critical"

// person describes somebody as the registry knows them. Whom it does not know is in no group.
func (s *snapshot) person(name string) policy.Entity {
	var groups []string
	if p, ok := s.Person(name); ok {
		groups = p.Groups
	}
	return policy.PersonEntity(name, groups)
}

func (s *snapshot) ownerOf(process string) (owner, criticality string) {
	if p, ok := s.Process(process); ok {
		return p.Owner, p.Criticality
	}
	return nobody, criticalityUnknown
}

func (s *snapshot) process(name string) policy.Entity {
	owner, criticality := s.ownerOf(name)
	return policy.ProcessEntity(name, owner, criticality)
}

func (s *snapshot) workflow(process, workflow string) []policy.Entity {
	owner, criticality := s.ownerOf(process)
	return []policy.Entity{policy.WorkflowEntity(process+"/"+workflow, owner, criticality), s.process(process)}
}

// lone reports whether the hub has exactly one person: then nobody else could sign.
func (s *snapshot) lone() bool { return len(s.List(registry.KindPerson)) == 1 }

func provenanceRecord(p Provenance) map[string]any {
	return map[string]any{"kind": p.Kind, "origin": p.Origin, "external": p.Kind == ProvenanceExternal || p.Kind == "event"}
}
