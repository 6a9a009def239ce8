package registry

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cardea/internal/action"
	"cardea/internal/flow/claims"
	"cardea/internal/policy"
)

// grant is one thing that a task may do: what its definition asks, where the connection allows it and the scope of some policy
// permits it. Conditions of policies are not evaluated: a grant is the most that could be.
type grant struct {
	process, workflow, task    string
	connection                 string
	method, origin, path       string
	credential, tier           string
	ttl                        time.Duration
	scopes, permits, approvals []string
	approvalText               string
	loopDepth, maxAttempts     int
	repeats                    bool
	gates                      []string

	key, line string // name everything that limits the grant, and what people are shown of it
}

// versionGrants are what one version of a workflow may do. States share them by pointer as long as nothing changes that they hang on.
type versionGrants struct {
	title string
	list  []grant
}

// allGrants gives what every version of every workflow may do. The first call decides, and takes from before, which may be nil, what
// hangs on nothing that has changed since; so a plan pays for what it changes and not for what there is.
func (s *State) allGrants(before *State) map[ID]*versionGrants {
	s.granting.Do(func() {
		var known map[ID]*versionGrants
		if before != nil && s.policies == before.policies && slices.Equal(all[*ApprovalRule](s, KindApprovalRule), all[*ApprovalRule](before, KindApprovalRule)) {
			known = before.allGrants(nil)
		}
		s.granted = map[ID]*versionGrants{}
		for _, w := range all[*Workflow](s, KindWorkflow) {
			v := known[w.ID()]
			if v == nil || !s.sameGround(before, w) {
				v = s.versionGrants(w)
			}
			s.granted[w.ID()] = v
		}
	})
	return s.granted
}

// sameGround reports whether a version, its process and its connections are what they were. Objects that do not change are shared.
func (s *State) sameGround(before *State, w *Workflow) bool {
	same := func(kind, name string) bool { return s.objects[ID{kind, name}] == before.objects[ID{kind, name}] }
	if !same(KindWorkflow, w.ID().Name) || !same(KindProcess, w.Process) {
		return false
	}
	for _, t := range w.Tasks {
		for _, name := range t.Connections {
			if !same(KindConnection, name) {
				return false
			}
		}
	}
	return true
}

func (s *State) versionGrants(w *Workflow) *versionGrants {
	s.evaluated += s.comparisons(w)
	v := &versionGrants{title: w.Title()}
	for _, t := range w.Tasks {
		for _, g := range s.taskGrants(w, t) {
			v.list = append(v.list, g.sealed())
		}
	}
	return v
}

// grants gives what those workflows may do of which some version's grants change, before and after: in a fixed order, each once.
func (p *planner) grants(after *State) (before, next []grant) {
	was := p.now.allGrants(nil)
	is := after.allGrants(p.now)
	moved := map[string]bool{}
	for id, v := range was {
		moved[v.title] = moved[v.title] || is[id] != v
	}
	for id, v := range is {
		moved[v.title] = moved[v.title] || was[id] != v
	}
	return collect(was, moved), collect(is, moved)
}

func collect(versions map[ID]*versionGrants, moved map[string]bool) []grant {
	var out []grant
	for _, v := range versions {
		if moved[v.title] {
			out = append(out, v.list...)
		}
	}
	slices.SortFunc(out, func(a, b grant) int {
		if c := cmp.Or(cmp.Compare(a.process, b.process), cmp.Compare(a.workflow, b.workflow)); c != 0 {
			return c
		}
		if c := comparePointers(a.task, b.task); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(a.connection, b.connection), cmp.Compare(a.key, b.key))
	})
	return slices.CompactFunc(out, func(a, b grant) bool { return a.key == b.key })
}

func (s *State) taskGrants(w *Workflow, t claims.TaskClaim) []grant {
	if len(t.Connections) == 0 {
		host := policy.Ref{Type: "Host", ID: t.Origin}
		if g, ok := s.scoped(w, t, "reach", policy.Entity{Ref: host}); ok {
			g.credential, g.tier = "no credential", cmp.Or(t.Tier, TierStandard)
			return []grant{g}
		}
		return nil
	}
	tier, err := s.TaskTier(t)
	if err != nil {
		return nil // no runner can take it
	}
	var out []grant
	for _, name := range t.Connections {
		n, ok := s.Connection(name)
		if !ok || !slices.Contains(n.Hosts, t.Origin) || len(n.matching(t)) == 0 {
			continue
		}
		if g, ok := s.scoped(w, t, "use", s.ConnectionEntity(n)); ok {
			g.connection, g.ttl, g.tier = n.Name, n.TTL, tier
			g.credential = "identity token" // of jwt, the one provider
			out = append(out, g)
		}
	}
	return out
}

// scoped asks policy which permits and approvals could bear on a task and a resource.
func (s *State) scoped(w *Workflow, t claims.TaskClaim, verb string, resource policy.Entity) (grant, bool) {
	task := policy.TaskRef(w.Title(), t.Pointer)
	m, err := s.policies.Scope(policy.Request{
		Principal: task, Action: verb, Resource: resource.Ref, Entities: []policy.Entity{resource},
	})
	if err != nil || len(m.Permits) == 0 {
		return grant{}, false // an error is a denial
	}
	g := grant{
		process: w.Process, workflow: w.Title(), task: t.Pointer, method: t.Method, origin: t.Origin, path: t.PathTemplate,
		scopes: t.Scopes, permits: m.Permits, loopDepth: t.LoopDepth, maxAttempts: t.MaxAttempts, repeats: t.Repeats, gates: t.Gates,
	}
	var texts []string
	for _, l := range m.Approvals {
		g.approvals = append(g.approvals, l.ID)
		if text := s.approvalText(l, w.Process); text != "" {
			texts = append(texts, text)
		}
	}
	g.approvalText = strings.Join(texts, "; ")
	return g, true
}

// approvalText leaves the baseline's own approvals out: they concern what strangers start, which the exposure tells.
func (s *State) approvalText(l policy.Lift, process string) string {
	if strings.HasPrefix(l.ID, "baseline-") {
		return ""
	}
	r, ok := s.Rule(l.Rule, process)
	if !ok {
		return ""
	}
	text := fmt.Sprintf("%s of %s approve (%s)", numberWord(r.Quorum), strings.Join(r.Approvers, ", "), FormatDuration(r.Expires))
	if r.Quorum == 1 {
		text = fmt.Sprintf("one of %s approves (%s)", strings.Join(r.Approvers, ", "), FormatDuration(r.Expires))
	}
	if s.statements[l.ID].conditional {
		text = "when " + l.ID + " says so: " + text
	}
	return text
}

func numberWord(n int) string {
	words := []string{"no one", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
	if n < len(words) {
		return words[n]
	}
	return strconv.Itoa(n)
}

// sealed names what the grant holds, once, so that comparing two costs nothing however many policies bear on them.
func (g grant) sealed() grant {
	g.line = nameOf(g.privilege(false))
	g.key = nameOf(g.line, g.approvals, g.loopDepth, g.maxAttempts, g.repeats, g.gates)
	return g
}

func nameOf(parts ...any) string {
	return action.Digest(fmt.Appendf(nil, "%#v", parts))
}

func (g grant) identity() [5]string {
	return [5]string{g.workflow, g.task, g.connection, g.method, g.origin + g.path}
}

func (g grant) credentialText() string {
	parts := []string{strings.Join(append([]string{g.credential}, g.scopes...), " ")}
	if g.ttl > 0 {
		parts = append(parts, "≤ "+FormatDuration(g.ttl))
	}
	if g.tier != TierStandard {
		parts = append(parts, g.tier+" tier")
	}
	return strings.Join(parts, ", ")
}

func (g grant) privilege(lost bool) Privilege {
	access := "write"
	if g.method == "GET" || g.method == "HEAD" {
		access = "read"
	}
	return Privilege{
		Lost: lost, Process: g.process, Workflow: g.workflow, Task: g.task, TaskName: taskName(g.task), Connection: g.connection,
		Access: access, What: g.method + " " + g.origin + g.path, Credential: g.credentialText(), Approval: g.approvalText, Policies: g.permits,
	}
}

// taskName joins the names in a pointer: /do/2/transfer/do/0/one is transfer/one. A name follows an index.
func taskName(pointer string) string {
	var names []string
	tokens := strings.Split(pointer, "/")
	for i := 1; i < len(tokens); i++ {
		if _, err := strconv.Atoi(tokens[i-1]); err == nil {
			names = append(names, strings.ReplaceAll(strings.ReplaceAll(tokens[i], "~1", "/"), "~0", "~"))
			i++
		}
	}
	return strings.Join(names, "/")
}

// comparePointers orders tasks as they stand in the document: indices count as numbers.
func comparePointers(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "/"), strings.Split(b, "/"), func(x, y string) int {
		i, errX := strconv.Atoi(x)
		j, errY := strconv.Atoi(y)
		if errX == nil && errY == nil {
			return cmp.Compare(i, j)
		}
		return strings.Compare(x, y)
	})
}

// difference tells what was lost, then gained, task by task. Two grants that read alike are one line.
func difference(before, after []grant) []Privilege {
	lines := func(list []grant) map[string]bool {
		m := map[string]bool{}
		for _, g := range list {
			m[g.line] = true
		}
		return m
	}
	var changed []Privilege
	tell := func(list []grant, other map[string]bool, lost bool) {
		for _, g := range list {
			if !other[g.line] {
				other[g.line] = true // once
				changed = append(changed, g.privilege(lost))
			}
		}
	}
	had, has := lines(before), lines(after)
	tell(before, has, true)
	tell(after, had, false)
	slices.SortStableFunc(changed, func(a, b Privilege) int {
		if c := cmp.Compare(a.Workflow, b.Workflow); c != 0 {
			return c
		}
		return cmp.Or(comparePointers(a.Task, b.Task), cmp.Compare(a.Connection, b.Connection))
	})
	return changed
}

// The built-in tiers.
const (
	TierStandard   = "standard"
	TierPrivileged = "privileged"
)

// TaskTier gives the tier that a task must run in: what its definition says and what its connections say, of which standard yields
// to any other. Two different others contradict, and no runner can take the task.
func (s *State) TaskTier(t claims.TaskClaim) (string, error) {
	tier, because := cmp.Or(t.Tier, TierStandard), "the definition"
	for _, name := range t.Connections {
		n, ok := s.Connection(name)
		switch {
		case !ok:
			return "", fmt.Errorf("there is no connection %s", name)
		case n.Tier == TierStandard || n.Tier == tier:
		case tier == TierStandard:
			tier, because = n.Tier, "connection "+name
		default:
			return "", fmt.Errorf("connection %s needs the %s tier, but %s the %s tier: no runner has both", name, n.Tier, because, tier)
		}
	}
	return tier, nil
}
