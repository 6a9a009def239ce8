package registry

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"cardea/internal/flow/claims"
)

// checker collects what contradicts (problems: the state is refused) and what will fail later (findings).
type checker struct {
	*State
	problems []string
}

// check verifies every reference between resources.
func (s *State) check() []string {
	c := &checker{State: s}
	audiences := map[string]*Connection{}
	for _, id := range s.ids {
		switch o := s.objects[id].(type) {
		case *Process:
			c.owner(id, o.Owner)
		case *Connection:
			c.connection(o, audiences)
		case *ApprovalRule:
			c.rule(o)
		case *Person:
			c.person(o)
		case *Runner:
			c.runner(o)
		case *Workflow:
			c.workflow(o)
		case *Policy:
			c.home(id, strings.TrimSuffix(o.Name, "/"+lastPart(o.Name)), strings.Contains(o.Name, "/"))
		}
	}
	if s.policies != nil {
		c.policyRules()
	}
	return c.problems
}

func lastPart(name string) string { return name[strings.LastIndex(name, "/")+1:] }

func (c *checker) problem(id ID, format string, args ...any) {
	c.problems = append(c.problems, id.String()+": "+fmt.Sprintf(format, args...))
}

func (c *checker) warn(id ID, format string, args ...any) {
	c.findings = append(c.findings, finding{id, id.String() + ": " + fmt.Sprintf(format, args...)})
}

// home checks that the process a resource belongs to exists.
func (c *checker) home(id ID, process string, has bool) {
	if _, ok := c.Process(process); has && !ok {
		c.problem(id, "there is no Process %s: apply it together with this", process)
	}
}

func (c *checker) owner(id ID, owner string) {
	if !c.exists(owner) {
		c.warn(id, "its owner %s does not exist yet: nobody can answer for it", owner)
	}
}

func (c *checker) exists(principal string) bool {
	kind, name, _ := strings.Cut(principal, ":")
	if kind == "group" {
		return c.objects[ID{KindGroup, name}] != nil
	}
	return c.objects[ID{KindPerson, name}] != nil
}

// connection also keeps a token of one target from being taken by another: no audience is shared across different hosts.
func (c *checker) connection(n *Connection, audiences map[string]*Connection) {
	c.home(n.ID(), n.Process, n.Process != "")
	c.owner(n.ID(), n.Owner)
	if n.Provider.JWT == nil {
		return
	}
	audience := n.Provider.JWT.Audience
	other, taken := audiences[audience]
	if !taken {
		audiences[audience] = n
		return
	}
	if !sameSet(n.Hosts, other.Hosts) {
		c.problem(n.ID(), "audience %s is that of Connection %s, which has other hosts: either could use the other's tokens; give each its own", audience, other.Name)
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

func (c *checker) rule(r *ApprovalRule) {
	c.home(r.ID(), r.Process, r.Process != "")
	if _, builtin := builtinRule(r.Name); builtin {
		c.problem(r.ID(), "is built in and stays as it is: choose another name")
		return
	}
	for _, a := range r.Approvers {
		if !c.exists(a) {
			c.warn(r.ID(), "approver %s does not exist yet", a)
		}
	}
	if n := len(c.Eligible(r)); n < r.Quorum {
		c.warn(r.ID(), "asks for %d signatures, and %d people could sign: nothing it guards can be approved", r.Quorum, n)
	}
}

// person refuses a key that two persons hold: one human with two names could approve as the second what the first asked for.
func (c *checker) person(p *Person) {
	for _, g := range p.Groups {
		if c.objects[ID{KindGroup, g}] == nil {
			c.problem(p.ID(), "there is no Group %s: apply it together with this, or mend the name", g)
		}
	}
	for _, k := range p.keys {
		if holder := c.byKey[string(k.Marshal())]; holder != p {
			c.problem(p.ID(), "SSH key %s is also Person %s's: a key belongs to one person", ssh.FingerprintSHA256(k), holder.Name)
		}
	}
}

func (c *checker) runner(r *Runner) {
	for _, p := range r.Processes {
		if _, ok := c.Process(p); p != "*" && !ok {
			c.warn(r.ID(), "there is no Process %s", p)
		}
	}
}

func (c *checker) workflow(w *Workflow) {
	c.home(w.ID(), w.Process, true)
	if same := c.byDigest[w.Digest]; same != w {
		c.problem(w.ID(), "has the same bytes as %s", same.ID())
	}
	for _, name := range w.Connections {
		if _, ok := c.Connection(name); !ok {
			c.problem(w.ID(), "there is no Connection %s: apply it together with this, or mend use.secrets", name)
		}
	}
	for _, t := range w.Tasks {
		for _, name := range t.Connections {
			if n, ok := c.Connection(name); ok {
				c.task(w, t, n)
			} else if !slices.Contains(w.Connections, name) {
				c.problem(w.ID(), "task %s names connection %s, which use.secrets does not list", t.Pointer, name)
			}
		}
	}
}

// task says what the connection will refuse however the run goes.
func (c *checker) task(w *Workflow, t claims.TaskClaim, n *Connection) {
	if !slices.Contains(n.Hosts, t.Origin) {
		c.warn(w.ID(), "task %s calls %s, which is not a host of connection %s (%s): it would always be denied", t.Name, t.Origin, n.Name, strings.Join(n.Hosts, ", "))
		return
	}
	if len(n.matching(t)) == 0 {
		c.warn(w.ID(), "task %s asks %s %s, which connection %s does not allow: it would always be denied", t.Name, t.Method, t.PathTemplate, n.Name)
	}
	for _, scope := range t.Scopes {
		if !slices.Contains(n.Grants.Scopes, scope) {
			c.warn(w.ID(), "task %s wants scope %s, which connection %s does not grant: it would always be denied", t.Name, scope, n.Name)
		}
	}
}

// matching gives the entries of allow that a task could fall under.
func (n *Connection) matching(t claims.TaskClaim) []Allow {
	var out []Allow
	for _, a := range n.Allow {
		if slices.Contains(a.Methods, t.Method) && overlaps(t.PathTemplate, a.path) {
			out = append(out, a)
		}
	}
	return out
}

// policyRules wants every approval that a policy may ask for to be a rule that exists: otherwise it could never be given.
func (c *checker) policyRules() {
	for _, id := range c.policies.IDs() {
		rule, ok := c.policies.Rule(id)
		if !ok || rule == "" {
			continue
		}
		if _, known := c.Rule(rule, ""); !known {
			c.problems = append(c.problems, fmt.Sprintf("policy %s: there is no ApprovalRule %s: apply it together with this, or mend @approval", id, rule))
		}
	}
}
