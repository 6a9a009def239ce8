package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"cardea/internal/action"
)

// adder collects why a change adds privilege. It errs to one side: what cannot be shown to narrow counts as adding. Taking away must
// stay easy, so that nobody waits for a signature to revoke.
type adder struct {
	now, after *State
	reasons    []string
	held       map[string]string // what holdingBack found
}

func (a *adder) say(format string, args ...any) {
	a.reasons = append(a.reasons, fmt.Sprintf(format, args...))
}

func (p *planner) adds(after *State, before, grants []grant) []string {
	a := &adder{now: p.now, after: after}
	for _, id := range slices.SortedFunc(maps.Keys(p.verbs), CompareIDs) {
		if verb := p.verbs[id]; verb == VerbNew || verb == VerbChanged {
			a.resource(p.now.objects[id], after.objects[id])
		}
	}
	a.policies()
	a.unshared()
	a.grants(before, grants)
	a.lastPerson()
	return a.reasons
}

// lastPerson keeps one of several people from removing the others and then acting as the lone evaluator of a dev hub.
func (a *adder) lastPerson() {
	if was, now := len(a.now.List(KindPerson)), len(a.after.List(KindPerson)); was > 1 && now == 1 {
		a.say("leaves one person on the hub, whom nobody could hold back in dev")
	}
}

// resource compares one object with what it was; old is nil for a new one. A new one always adds: were it otherwise, whoever may take
// away alone could take a connection away and create it again with an address of their own, and open runs would go there. What a
// Policy adds is seen statement by statement, and what a Workflow adds grant by grant; a Group by itself gives nobody anything.
func (a *adder) resource(old, now Object) {
	switch n := now.(type) {
	case *Person:
		o, _ := old.(*Person)
		a.person(o, n)
	case *Runner:
		o, _ := old.(*Runner)
		a.runner(o, n)
	case *Process:
		o, _ := old.(*Process)
		a.process(o, n)
	case *Connection:
		o, _ := old.(*Connection)
		a.connection(o, n)
	case *ApprovalRule:
		o, _ := old.(*ApprovalRule)
		a.rule(o, n)
	}
}

func (a *adder) person(o, n *Person) {
	if o == nil {
		a.say("%s is new", n.ID())
		o = &Person{}
	}
	for _, g := range missing(n.Groups, o.Groups) {
		a.say("%s joins group %s", n.ID(), g)
	}
	had := map[string]bool{}
	for _, k := range o.keys {
		had[string(k.Marshal())] = true
	}
	for _, k := range n.keys {
		if !had[string(k.Marshal())] {
			a.say("%s gains SSH key %s", n.ID(), ssh.FingerprintSHA256(k))
		}
	}
	for _, g := range missing(o.Groups, n.Groups) {
		if id := a.holdingBack()[g]; id != "" {
			a.say("%s leaves group %s, which policy %s holds back", n.ID(), g, id)
		}
	}
}

// holdingBack gives the groups that a forbid names, each with the first that does: leaving such a group can set somebody free.
func (a *adder) holdingBack() map[string]string {
	if a.held != nil {
		return a.held
	}
	a.held = map[string]string{}
	for _, id := range a.after.policies.IDs() {
		for _, g := range a.after.statements[id].groups {
			a.held[g] = cmp.Or(a.held[g], id)
		}
	}
	return a.held
}

func (a *adder) runner(o, n *Runner) {
	if o == nil {
		a.say("%s is new (%s tier)", n.ID(), n.Tier)
		return
	}
	if o.Tier != n.Tier {
		a.say("%s moves from tier %s to %s", n.ID(), o.Tier, n.Tier)
	}
	if !slices.Contains(o.Processes, "*") {
		for _, p := range missing(n.Processes, o.Processes) {
			a.say("%s may work for process %s", n.ID(), p)
		}
	}
	if !slices.Contains(o.Zones, "*") {
		for _, z := range missing(n.Zones, o.Zones) {
			a.say("%s may reach zone %s", n.ID(), z)
		}
	}
}

func (a *adder) process(o, n *Process) {
	if o == nil {
		a.say("%s is new: %s may start and read it", n.ID(), n.Owner)
		return
	}
	if o.Owner != n.Owner {
		a.say("%s passes from %s to %s", n.ID(), o.Owner, n.Owner)
	}
	if slices.Index(criticalities, n.Criticality) < slices.Index(criticalities, o.Criticality) {
		a.say("%s falls from criticality %s to %s", n.ID(), o.Criticality, n.Criticality)
	}
}

func (a *adder) rule(o, n *ApprovalRule) {
	if o == nil {
		a.say("%s is new: whatever asks for it is approved by %d of %s (lives %s, attempts: %d)",
			n.ID(), n.Quorum, strings.Join(n.Approvers, ", "), FormatDuration(n.Expires), n.Attempts)
		return
	}
	if n.Quorum < o.Quorum {
		a.say("%s asks for %d signatures instead of %d", n.ID(), n.Quorum, o.Quorum)
	}
	for _, who := range missing(n.Approvers, o.Approvers) {
		a.say("%s lets %s sign", n.ID(), who)
	}
	if n.Expires > o.Expires {
		a.say("%s: approvals live %s instead of %s", n.ID(), FormatDuration(n.Expires), FormatDuration(o.Expires))
	}
	if n.Attempts > o.Attempts {
		a.say("%s: an approval covers %d attempts instead of %d", n.ID(), n.Attempts, o.Attempts)
	}
	if n.Process != o.Process {
		a.say("%s passes from process %q to %q", n.ID(), o.Process, n.Process)
	}
}

func (a *adder) connection(o, n *Connection) {
	id := n.ID()
	if o == nil {
		a.say("%s is new: whatever names it reaches %s", id, n.reach())
		o = &Connection{Hosts: n.Hosts, Owner: n.Owner, Process: n.Process, Zone: n.Zone, Tier: n.Tier, Address: n.Address, Roots: n.Roots,
			Provider: n.Provider, TTL: n.TTL, Allow: n.Allow} // the sentences tell all of these; what follows tells the rest
		for _, asked := range n.Allow {
			a.say("%s may be asked %s", id, asked)
		}
	}
	for _, h := range missing(n.Hosts, o.Hosts) {
		a.say("%s gains host %s", id, h)
	}
	for _, f := range []struct{ field, before, after string }{
		{"owner", o.Owner, n.Owner}, {"process", o.Process, n.Process}, {"zone", o.Zone, n.Zone}, {"address", o.Address, n.Address},
		{"roots", o.rootsDigest(), n.rootsDigest()}, {"provider", o.Provider.text(), n.Provider.text()},
	} {
		if f.before != f.after {
			a.say("%s: its %s changes from %s to %s, and with it who is trusted", id, f.field, cmp.Or(f.before, "none"), cmp.Or(f.after, "none"))
		}
	}
	if n.Tier != o.Tier && (o.Tier != TierStandard || n.Tier != TierPrivileged) {
		a.say("%s moves from tier %s to %s", id, o.Tier, n.Tier)
	}
	if n.Plaintext && !o.Plaintext {
		a.say("%s may send its credential in the clear", id)
	}
	for _, scope := range missing(n.Grants.Scopes, o.Grants.Scopes) {
		a.say("%s grants scope %s", id, scope)
	}
	if n.TTL > o.TTL {
		a.say("%s: credentials live %s instead of %s", id, FormatDuration(n.TTL), FormatDuration(o.TTL))
	}
	if !narrows(o.Allow, n.Allow) {
		a.say("%s: what it may be asked (allow) is not only narrowed", id)
	}
}

// reach says by value where a connection leads and what it takes there.
func (c *Connection) reach() string {
	where := strings.Join(c.Hosts, ", ")
	if c.Address != "" {
		where += " at " + c.Address
	}
	if c.Roots != "" {
		where += " under roots " + c.rootsDigest()
	}
	s := fmt.Sprintf("%s (zone %s, owner %s", where, c.Zone, c.Owner)
	if c.Process != "" {
		s += ", process " + c.Process
	}
	return s + fmt.Sprintf("), with %s for %s in the %s tier", c.Provider.text(), FormatDuration(c.TTL), c.Tier)
}

// rootsDigest names roots in one line; empty for the system's.
func (c *Connection) rootsDigest() string {
	if c.Roots == "" {
		return ""
	}
	return action.Digest([]byte(c.Roots))
}

func (p Provider) text() string {
	if p.JWT != nil {
		return "jwt " + p.JWT.Audience
	}
	return ""
}

// narrows reports whether every request that matches after matched before with the same facts. The first matching entry gives the
// facts, so entries must keep their order, and where one goes or shrinks no entry that gives policy other facts may stand ready for
// its requests.
func narrows(before, after []Allow) bool {
	next := 0
	for _, b := range before {
		if next < len(after) && b.covers(after[next]) {
			next++
			if b.equal(after[next-1]) {
				continue
			}
		}
		if slices.ContainsFunc(after, func(a Allow) bool { return a.meets(b) && !maps.Equal(a.Facts, b.Facts) }) {
			return false
		}
	}
	return next == len(after)
}

// covers reports whether every request under n falls under a, read in the same way.
func (a Allow) covers(n Allow) bool {
	return a.sameReading(n) && len(missing(n.Methods, a.Methods)) == 0 &&
		(slices.Contains(a.Query, "*") || len(missing(n.Query, a.Query)) == 0)
}

func (a Allow) sameReading(n Allow) bool {
	return a.Path == n.Path && (a.Body == n.Body || a.Body == "") && maps.Equal(a.Facts, n.Facts)
}

func (a Allow) equal(n Allow) bool {
	return a.covers(n) && n.covers(a)
}

// meets reports whether one request could fall under both.
func (a Allow) meets(b Allow) bool {
	if len(a.path) != len(b.path) || !slices.ContainsFunc(a.Methods, func(m string) bool { return slices.Contains(b.Methods, m) }) {
		return false
	}
	for i := range a.path {
		if a.path[i].variable == "" && b.path[i].variable == "" && a.path[i].literal != b.path[i].literal {
			return false
		}
	}
	return true
}

// policies compares statements by id: any permit that is new or reads differently, any forbid that is gone or reads differently.
func (a *adder) policies() {
	for _, id := range a.after.policies.IDs() {
		_, digest, _ := a.after.policies.Text(id)
		_, before, existed := a.now.policies.Text(id)
		switch {
		case existed && before == digest:
		case existed:
			a.say("policy %s reads differently", id)
		case !a.after.statements[id].forbid:
			a.say("policy %s permits something new", id)
		}
	}
	for _, id := range a.now.policies.IDs() {
		if _, _, stays := a.after.policies.Text(id); !stays && a.now.statements[id].forbid {
			a.say("policy %s no longer forbids", id)
		}
	}
}

// unshared finds connections that strangers' runs may use because they are no longer shared.
func (a *adder) unshared() {
	reached := map[string]bool{} // by strangers
	for _, n := range all[*Connection](a.after, KindConnection) {
		if !a.now.Shared(n.Name) || a.after.Shared(n.Name) {
			continue
		}
		users := a.after.UsedBy(n.Name)
		for _, process := range users {
			if _, known := reached[process]; !known {
				reached[process] = a.after.strangersCanStart(process)
			}
		}
		if slices.ContainsFunc(users, func(process string) bool { return reached[process] }) {
			a.say("%s is no longer shared, so that runs which strangers start may use it", n.ID())
		}
	}
}

// grants finds what no earlier grant covers.
func (a *adder) grants(before, after []grant) {
	known := map[[5]string][]grant{}
	for _, b := range before {
		known[b.identity()] = append(known[b.identity()], b)
	}
	for _, g := range after {
		if !slices.ContainsFunc(known[g.identity()], g.within) {
			p := g.privilege(false)
			a.say("%s task %s may %s %s (%s)", g.workflow, p.TaskName, p.Access, p.What, p.Credential)
		}
	}
}

// within reports whether a grant allows nothing that b did not.
func (g grant) within(b grant) bool {
	tier := g.tier == b.tier || b.tier == TierStandard && g.tier == TierPrivileged
	return tier && g.ttl <= b.ttl && len(missing(g.scopes, b.scopes)) == 0 &&
		(slices.Equal(g.permits, b.permits) || len(missing(g.permits, b.permits)) == 0) &&
		(slices.Equal(g.approvals, b.approvals) || len(missing(b.approvals, g.approvals)) == 0) && len(missing(b.gates, g.gates)) == 0 &&
		g.loopDepth <= b.loopDepth && g.maxAttempts <= b.maxAttempts && (b.repeats || !g.repeats) && g.credential == b.credential
}

// missing gives what stands in a and not in b, in the order of a.
func missing(a, b []string) []string {
	if len(a) == 0 {
		return nil
	}
	known := make(map[string]bool, len(b))
	for _, x := range b {
		known[x] = true
	}
	var out []string
	for _, x := range a {
		if !known[x] {
			out = append(out, x)
		}
	}
	return out
}
