package authority

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/action"
	"cardea/internal/flow/claims"
	"cardea/internal/identity"
	"cardea/internal/policy"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// TaskRef names one visit of one task of one run.
type TaskRef struct {
	Run       string
	Task      string // JSON pointer
	Iteration []uint32
	Visit     uint32
}

// key is the instance's row. Pointers hold no space, so no two refs share a key.
func (t TaskRef) key() string {
	return fmt.Sprintf("%s %s %v %d", t.Run, t.Task, t.Iteration, t.Visit)
}

// Intent is one attempt that the engine wants made. The engine controls every field.
type Intent struct {
	Task        TaskRef
	Attempt     uint32
	Action      []byte
	Connections []string
	Runner      string
	Claimed     []byte
}

// question is an intent after everything that needs no store has been checked.
type question struct {
	intent Intent
	run    Run
	digest string
	action action.Action
	// facts are what policy may read of the body: each connection's own.
	facts       map[string]map[string]any
	claim       claims.TaskClaim
	connections []*registry.Connection
	tier        string
	// reroute is set when the named runner is of another tier than the attempt needs.
	reroute  bool
	runner   identity.Peer
	appliers []string
	// refusal, if set, denies before policy is asked: the definition or the connection does not allow the attempt.
	refusal string
	mend    string
}

// lostRunners is how many more credentials than the definition's tries a visit may take because runners were lost after redeeming;
// lostPermits is how much further the engine's own count of attempts may run because permits were lost before.
const (
	lostRunners = 20
	lostPermits = 200
)

// ask checks an intent against the definition's claims and the connections' allow. What it finds wrong becomes a recorded denial,
// not an error: an error is for what cannot be decided.
func (a *Authority) ask(tx store.Tx, s *snapshot, run Run, in Intent) (question, error) {
	q := question{intent: in, run: run, digest: action.Digest(in.Action)}
	parsed, err := action.Parse(in.Action)
	if err != nil {
		return q, fmt.Errorf("intent for %s: %w: %w", in.Task.Task, ErrInvalid, err)
	}
	q.action = parsed
	definition, err := a.definition(tx, run.Digest)
	if err != nil {
		return q, fmt.Errorf("run %s: %w", run.ID, err)
	}
	q.appliers = definition.appliers
	for _, check := range []func(*snapshot, claims.Claims) error{q.checkClaim, q.checkTier, q.checkConnections, q.checkRunner} {
		if err := check(s, definition.Claims); err != nil {
			var r refusal
			if !errors.As(err, &r) {
				return q, err
			}
			q.refusal, q.mend = r.reason, r.mend
			return q, nil
		}
	}
	return q, nil
}

// refusal is a denial that needs no policy.
type refusal struct{ reason, mend string }

func (r refusal) Error() string { return r.reason }

func refuse(mend, format string, args ...any) error {
	return refusal{reason: fmt.Sprintf(format, args...), mend: mend}
}

// checkClaim holds the intent against what the definition says of this very task.
func (q *question) checkClaim(_ *snapshot, definition claims.Claims) error {
	t, h := q.intent.Task, q.action.HTTP
	i := slices.IndexFunc(definition.Tasks, func(c claims.TaskClaim) bool { return c.Pointer == t.Task })
	if i < 0 {
		return refuse("", "the definition has no task %s that acts", t.Task)
	}
	q.claim = definition.Tasks[i]
	switch {
	case q.claim.Kind != q.action.Kind:
		return refuse("", "task %s is a %s call, not %s", t.Task, q.claim.Kind, q.action.Kind)
	case len(t.Iteration) != q.claim.LoopDepth:
		return refuse("", "task %s stands in %d loops, not %d", t.Task, q.claim.LoopDepth, len(t.Iteration))
	case t.Visit > 0 && !q.claim.Repeats:
		return refuse("", "no path of the definition leads to task %s twice", t.Task)
	case q.intent.Attempt == 0 || q.intent.Attempt > uint32(q.claim.MaxAttempts+lostPermits):
		return refuse("", "the definition cannot produce attempt %d of task %s", q.intent.Attempt, t.Task)
	case h.Method != q.claim.Method:
		return refuse("", "task %s is defined to %s, not to %s", t.Task, q.claim.Method, h.Method)
	case originOf(h.URL) != q.claim.Origin:
		return refuse("", "task %s is defined to call %s, not %s", t.Task, q.claim.Origin, originOf(h.URL))
	case !slices.Equal(q.intent.Connections, q.claim.Connections):
		return refuse("", "task %s is defined to use %s, not %s", t.Task, list(q.claim.Connections), list(q.intent.Connections))
	case strangeHeader(h, q.claim.Headers) != "":
		return refuse("", "task %s is not defined to send the header %s", t.Task, strangeHeader(h, q.claim.Headers))
	case len(q.claim.Gates) > 0:
		return refuse("", "the gate %s before task %s has not been passed", q.claim.Gates[0], t.Task)
	}
	return nil
}

// strangeHeader names a header that the definition does not set. The content type may follow from the body.
func strangeHeader(h *action.HTTP, defined []string) string {
	for _, header := range h.Headers {
		if header.Name != "content-type" && !slices.Contains(defined, header.Name) {
			return header.Name
		}
	}
	return ""
}

func list(names []string) string {
	if len(names) == 0 {
		return "no connection"
	}
	return strings.Join(names, ", ")
}

func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// checkTier settles which class of runners the attempt needs: a definition may ask for more than a connection does, never for less.
func (q *question) checkTier(s *snapshot, _ claims.Claims) error {
	tier, err := s.TaskTier(q.claim)
	if err != nil {
		return refuse("", "%v", err)
	}
	q.tier = tier
	return nil
}

// checkConnections holds the request against each connection: hosts, allow, schema, and the scopes that it may grant.
func (q *question) checkConnections(s *snapshot, _ claims.Claims) error {
	q.facts = map[string]map[string]any{}
	for _, name := range q.claim.Connections {
		c, ok := s.Connection(name)
		if !ok {
			return refuse("apply a Connection of that name", "there is no connection %s", name)
		}
		match, err := c.Match(q.action.HTTP.Method, q.action.HTTP.URL, q.action.HTTP.Body)
		if err != nil {
			return refuse("an owner of "+name+" ("+c.Owner+") can widen what it allows", "%v", err)
		}
		if match.JSON {
			if err := registry.CheckContentType(contentType(q.action.HTTP)); err != nil {
				return refuse("set the content-type to application/json", "connection %s: %v", name, err)
			}
		}
		for _, scope := range q.claim.Scopes {
			if !slices.Contains(c.Grants.Scopes, scope) {
				return refuse("an owner of "+name+" ("+c.Owner+") can widen its grants", "connection %s does not grant scope %s", name, scope)
			}
		}
		q.facts[name] = match.Facts
		q.connections = append(q.connections, c)
	}
	return nil
}

// zoneProduction is the zone that the baseline protects.
const zoneProduction = "production"

func contentType(h *action.HTTP) string {
	for _, header := range h.Headers {
		if header.Name == "content-type" {
			return header.Value
		}
	}
	return ""
}

// checkRunner holds the named runner against its Runner resource.
func (q *question) checkRunner(s *snapshot, _ claims.Claims) error {
	if q.intent.Runner == "" {
		return nil
	}
	id, err := spiffeid.FromString(q.intent.Runner)
	if err != nil {
		return fmt.Errorf("runner %q: %w: %w", q.intent.Runner, ErrInvalid, err)
	}
	peer, err := identity.ParsePeer(id)
	if err != nil || peer.Kind != identity.KindRunner {
		return fmt.Errorf("%q is no runner: %w", q.intent.Runner, ErrInvalid)
	}
	q.runner = peer
	q.reroute = peer.Tier != q.tier || !runnerMay(s, peer, q.run.Process, q.connections)
	return nil
}

// runnerMay reports whether a runner's own resource lets it be given this.
func runnerMay(s *snapshot, peer identity.Peer, process string, connections []*registry.Connection) bool {
	r, ok := s.Runner(peer.Name)
	if !ok || r.Tier != peer.Tier || !allows(r.Processes, process) {
		return false
	}
	for _, c := range connections {
		if !allows(r.Zones, c.Zone) {
			return false
		}
	}
	return true
}

func allows(list []string, name string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, name)
}

func (q *question) production() bool {
	return slices.ContainsFunc(q.connections, func(c *registry.Connection) bool { return c.Zone == zoneProduction })
}

// requests are the questions for policy: one per connection, or one for the bare host.
func (a *Authority) requests(s *snapshot, q question) []policy.Request {
	task := policy.TaskRef(q.run.Process+"/"+q.run.Workflow, q.intent.Task.Task)
	entities := append(s.workflow(q.run.Process, q.run.Workflow), policy.Entity{Ref: task})
	if len(q.connections) == 0 {
		return []policy.Request{{Principal: task, Action: "reach", Resource: policy.Ref{Type: "Host", ID: q.claim.Origin},
			Entities: entities, Context: a.attemptContext(q, nil)}}
	}
	for _, c := range q.connections {
		entities = append(entities, s.ConnectionEntity(c))
	}
	var requests []policy.Request
	for _, c := range q.connections {
		requests = append(requests, policy.Request{Principal: task, Action: "use", Resource: policy.Ref{Type: "Connection", ID: c.Name},
			Entities: entities, Context: a.attemptContext(q, c)})
	}
	return requests
}

func (a *Authority) attemptContext(q question, c *registry.Connection) map[string]any {
	u, _ := url.Parse(q.action.HTTP.URL) // action.Parse has read it
	with, facts := []any{}, map[string]any{}
	for _, other := range q.connections {
		if c != nil && other.Name != c.Name {
			with = append(with, policy.Ref{Type: "Connection", ID: other.Name})
		}
	}
	if c != nil && q.facts[c.Name] != nil {
		facts = q.facts[c.Name]
	}
	scopes := []any{}
	for _, scope := range q.claim.Scopes {
		scopes = append(scopes, scope)
	}
	return map[string]any{
		"action": map[string]any{"kind": q.action.Kind, "method": q.action.HTTP.Method, "host": originOf(q.action.HTTP.URL),
			"path": u.EscapedPath(), "digest": q.digest, "facts": facts},
		"scopes": scopes, "tier": q.tier, "effect": q.claim.Effect, "provenance": provenanceRecord(q.run.Provenance),
		"startedBy": q.run.StartedBy, "appliedBy": strings.Join(q.appliers, ","), "with": with, "attempt": int64(q.intent.Attempt),
		"now": a.Now(), "dev": a.Dev, "production": q.production(), "claimed": claimed(q.intent.Claimed),
	}
}

// claimed is what the engine says, kept apart from what is known. What is not a small object of strings is dropped.
func claimed(raw []byte) map[string]any {
	const most = 4 << 10
	out := map[string]any{}
	var said map[string]string
	if len(raw) == 0 || len(raw) > most || json.Unmarshal(raw, &said) != nil {
		return out
	}
	for k, v := range said {
		out[k] = v
	}
	return out
}

// verdict asks policy about every connection of the attempt. All must allow; a denial wins over pending.
func (a *Authority) verdict(s *snapshot, q question, approved []string) policy.Verdict {
	if q.refusal != "" {
		return policy.Verdict{Outcome: policy.Deny, Reason: "denied: " + q.refusal, Mend: q.mend}
	}
	var merged policy.Verdict
	merged.Outcome = policy.Allow
	for _, request := range a.requests(s, q) {
		merged = both(merged, s.Policies().Decide(request, approved...))
	}
	return merged
}

// both joins two verdicts of which both must allow.
func both(x, y policy.Verdict) policy.Verdict {
	if x.Outcome == policy.Deny || y.Outcome == policy.Allow && x.Outcome == policy.Pending {
		return x
	}
	if y.Outcome == policy.Deny || x.Outcome == policy.Allow && y.Outcome == policy.Pending {
		return y
	}
	x.Policies = union(x.Policies, y.Policies)
	x.Lifts = union(x.Lifts, y.Lifts)
	x.Rules = union(x.Rules, y.Rules)
	x.Warnings = union(x.Warnings, y.Warnings)
	if x.Reason == "" {
		x.Reason = y.Reason
	}
	return x
}

func union(x, y []string) []string {
	joined := append(slices.Clone(x), y...)
	slices.Sort(joined)
	return slices.Compact(joined)
}
