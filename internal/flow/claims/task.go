package claims

import (
	"slices"
	"strconv"
	"strings"
)

// kinds are the keys that say what a task does, with what a refusal calls them. Empty: this version runs them.
var kinds = later{
	"call": "", "do": "", "set": "", "emit": "emit", "for": "for", "fork": "fork", "listen": "listen", "raise": "raise",
	"run": "run", "switch": "switch", "try": "try", "wait": "wait",
}

// calls are the built-in functions of `call`.
var calls = []string{"http", "a2a", "asyncapi", "grpc", "mcp", "openapi"}

// maxTasks bounds a list: what a list's tasks can lead to is worked out in quadratic time.
const maxTasks = 1000

// tasks reads a task list. Names are unique in it, so that a `then` has one meaning.
func (p *reader) tasks(n *Node, parent *Task) []*Task {
	if n.Kind != Array {
		p.fail(n, "dsl/type", "write each task as - name: {…}", "a task list must be a list, not %s", article(n.Kind))
		return nil
	}
	if len(n.Items) == 0 || len(n.Items) > maxTasks {
		p.fail(n, "dsl/size", "", "a task list has 1 to %d tasks, this one %d", maxTasks, len(n.Items))
		return nil
	}
	var list []*Task
	byName := map[string]int{}
	for i, item := range n.Items {
		if item.Kind != Object || len(item.Keys) != 1 {
			p.fail(item, "dsl/task-item", "write each task as - name: {…}", "an entry of a task list is an object with one key, the task's name")
			continue
		}
		t := &Task{Name: item.Keys[0], Index: i, Parent: parent, Then: "continue", Target: -1, node: item.Items[0]}
		if wrong := checkTaskName(t.Name); wrong != "" {
			p.fail(t.node, "dsl/name", "", "the task's name %s", wrong)
		} else if _, twice := byName[t.Name]; twice {
			p.fail(t.node, "dsl/duplicate-task", "rename one of them", "the task list has two tasks with the name %s", t.Name)
		}
		byName[t.Name] = i
		t.Pointer = t.node.Pointer()
		p.task(t)
		list = append(list, t)
	}
	if len(list) == len(n.Items) {
		p.flow(list, byName)
	}
	return list
}

func (p *reader) task(t *Task) {
	n := t.node
	known := []string{"if", "input", "output", "export", "then", "metadata"}
	if n.Kind != Object {
		p.fail(n, "dsl/type", "", "a task must be an object, not %s", article(n.Kind))
		return
	}
	kind := p.kind(n)
	if kind == "" {
		return
	}
	if name := kinds[kind]; name != "" {
		p.fail(n.Get(kind), "dsl/later", "", "tasks of kind %s come with a later version", name)
		return
	}
	if known = append(known, kind); kind == "call" {
		known = append(known, "with")
	}
	p.object(n, "a task of kind "+kind, known, later{"timeout": "a task's timeout"})
	if t.If = n.Get("if"); t.If != nil {
		p.str(t.If, "if")
	}
	t.Input = p.data(n.Get("input"), "input", "from")
	t.Output = p.data(n.Get("output"), "output", "as")
	t.Export = p.data(n.Get("export"), "export", "as")
	if n.Get("then") != nil {
		t.Then = p.str(n.Get("then"), "then")
	}
	if m := n.Get("metadata"); m != nil {
		t.Meta = p.metadata(m, "metadata", []string{"tier", "effect", "uses", "scopes", "labels"}, nil)
	}
	switch kind {
	case "do":
		t.Kind, t.Do = "do", p.tasks(n.Get("do"), t)
	case "set":
		t.Kind = "set"
		p.set(t, n.Get("set"))
	case "call":
		p.call(t, n.Get("call"), n.Get("with"))
	}
	p.restrictions(t)
}

// kind finds the one key that says what the task does. `for` has a `do` beside it.
func (p *reader) kind(n *Node) string {
	var found []string
	for _, k := range n.Keys {
		if _, ok := kinds[k]; ok {
			found = append(found, k)
		}
	}
	if slices.Equal(found, []string{"do", "for"}) {
		return "for"
	}
	switch len(found) {
	case 1:
		return found[0]
	case 0:
		p.fail(n, "dsl/task-kind", "", "the task says not what it does: it needs one of call, do, set")
	default:
		p.fail(n, "dsl/task-kind", "make them two tasks", "the task is of two kinds: %s", strings.Join(found, " and "))
	}
	return ""
}

func (p *reader) set(t *Task, n *Node) {
	switch {
	case n.Kind == Object && len(n.Items) > 0, n.Kind == String && IsExpression(n.Text):
		t.Set = n
	case n.Kind == Object:
		p.fail(n, "dsl/missing", "", "set needs at least one property")
	default:
		p.fail(n, "dsl/type", "write set: ${ … }", "set must be an object or an expression, not %s", article(n.Kind))
	}
}

// IsExpression says whether a string is one expression as a whole.
func IsExpression(s string) bool {
	s = strings.TrimSpace(s)
	return strings.HasPrefix(s, "${") && strings.HasSuffix(s, "}")
}

func (p *reader) call(t *Task, call, with *Node) {
	switch name := p.str(call, "call"); {
	case call.Kind != String:
	case name == "http":
		t.Kind = "http"
		if with == nil {
			p.fail(t.node, "dsl/missing", "", "call: http needs \"with\"")
			return
		}
		p.http(t, with)
	case slices.Contains(calls, name):
		p.fail(call, "dsl/later", "", "call: %s comes with a later version", name)
	default:
		p.fail(call, "dsl/later", "", "calling functions (%s) comes with a later version", clip(name))
	}
}

// restrictions refuses metadata that restricts nothing: its author believes that it does.
func (p *reader) restrictions(t *Task) {
	m := t.node.Get("metadata").Get("cardea/v1")
	for _, key := range []string{"effect", "tier"} {
		if v := m.Get(key); v != nil && t.Kind != "http" {
			p.fail(v, "meta/pointless", "remove it", "%s means nothing on a task that does not reach outside", key)
		}
	}
	if len(t.Meta.Uses) > 0 {
		p.fail(m.Get("uses"), "meta/pointless", "remove it; a call names its connection by endpoint.authentication", "uses is for sandboxed tasks, which come with a later version")
	}
	if len(t.Meta.Scopes) > 0 && (t.HTTP == nil || t.HTTP.Connection == "") {
		p.fail(m.Get("scopes"), "meta/pointless", "remove it", "scopes mean nothing on a task without a connection")
	}
	if t.HTTP != nil && t.Meta.Effect != "" {
		t.HTTP.Effect = t.Meta.Effect
	}
}

// metadata reads the key cardea/v1 and leaves all others to their owners.
func (p *reader) metadata(n *Node, what string, known []string, notYet later) Meta {
	var m Meta
	if n.Kind != Object {
		p.fail(n, "dsl/type", "", "%s must be an object, not %s", what, article(n.Kind))
		return m
	}
	own := n.Get("cardea/v1")
	if own == nil || !p.object(own, "cardea/v1", known, notYet) {
		return m
	}
	if v := own.Get("tier"); v != nil {
		m.Tier = p.str(v, "tier")
		if wrong := checkConnection(m.Tier); v.Kind == String && wrong != "" {
			p.fail(v, "meta/tier", "", "tier %s", wrong)
		}
	}
	if v := own.Get("effect"); v != nil {
		m.Effect = p.str(v, "effect")
		if m.Effect != EffectIdempotent && m.Effect != EffectOnce {
			p.fail(v, "meta/effect", "", "effect must be %s or %s", EffectIdempotent, EffectOnce)
		}
	}
	m.Uses, m.Scopes = p.words(own.Get("uses"), "uses"), p.words(own.Get("scopes"), "scopes")
	m.Labels = p.labels(own.Get("labels"))
	return m
}

// words reads a list of unique words and sorts it.
func (p *reader) words(n *Node, what string) []string {
	if n == nil {
		return nil
	}
	if n.Kind != Array || len(n.Items) == 0 {
		p.fail(n, "dsl/type", "", "%s must be a list of at least one string", what)
		return nil
	}
	var list []string
	for _, v := range n.Items {
		w := p.str(v, "an entry of "+what)
		if v.Kind != String {
			continue
		}
		if w == "" || len(w) > 256 || strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			p.fail(v, "meta/word", "", "an entry of %s must be 1 to 256 printable characters without spaces", what)
		}
		if slices.Contains(list, w) {
			p.fail(v, "dsl/duplicate", "", "%s lists %s twice", what, clip(w))
		}
		if len(list) == 64 {
			p.fail(v, "meta/word", "", "%s has more than 64 entries", what)
			break
		}
		list = append(list, w)
	}
	slices.Sort(list)
	return list
}

func (p *reader) labels(n *Node) map[string]string {
	if n == nil {
		return nil
	}
	if n.Kind != Object {
		p.fail(n, "dsl/type", "", "labels must be an object of strings")
		return nil
	}
	m := map[string]string{}
	for i, k := range n.Keys {
		m[k] = p.str(n.Items[i], "the label "+strconv.Quote(clip(k)))
	}
	return m
}
