package claims

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxFindings bounds what one bad document makes us say.
const maxFindings = 100

// Parse reads a canonical definition. The Definition is nil if and only if a finding is an error.
func Parse(canonical []byte, profile bool) (*Definition, []Finding) {
	root, err := ParseCanonical(canonical)
	if err != nil {
		return nil, []Finding{{Severity: Error, Rule: "dsl/canonical", Message: "the document is not canonical JSON: " + err.Error()}}
	}
	p := &reader{profile: profile, def: &Definition{Canonical: canonical, Digest: Digest(canonical), Auth: map[string]string{}}}
	p.root(root)
	if p.failed {
		return nil, p.findings
	}
	p.claims()
	return p.def, p.findings
}

// reader makes a Definition of a tree, and says everything that is wrong with it rather than the first thing.
type reader struct {
	profile  bool
	def      *Definition
	findings []Finding
	failed   bool
	used     map[string]bool // connections that a task presents
}

func (p *reader) fail(n *Node, rule, mend, format string, args ...any) {
	p.failed = true
	p.add(Finding{Severity: Error, Rule: rule, Pointer: n.Pointer(), Message: fmt.Sprintf(format, args...), Mend: mend})
}

func (p *reader) warn(n *Node, rule, mend, format string, args ...any) {
	p.add(Finding{Severity: Warning, Rule: rule, Pointer: n.Pointer(), Message: fmt.Sprintf(format, args...), Mend: mend})
}

func (p *reader) add(f Finding) {
	if len(p.findings) < maxFindings {
		p.findings = append(p.findings, f)
	}
}

// later lists keys of the language that this version does not run, by where they stand.
type later map[string]string

// object demands an object whose keys are all known. It answers false, having said why, when n is something else.
func (p *reader) object(n *Node, what string, known []string, notYet later) bool {
	if n.Kind != Object {
		p.fail(n, "dsl/type", "", "%s must be an object, not %s", what, article(n.Kind))
		return false
	}
	for i, k := range n.Keys {
		if slices.Contains(known, k) {
			continue
		}
		if name, ok := notYet[k]; ok {
			p.fail(n.Items[i], "dsl/later", "", "%s comes with a later version", name)
			continue
		}
		p.fail(n.Items[i], "dsl/unknown-key", nearest(k, append(slices.Sorted(maps.Keys(notYet)), known...)), "%s has no key %q", what, clip(k))
	}
	return true
}

// str is the text of an optional string.
func (p *reader) str(n *Node, what string) string {
	if n == nil {
		return ""
	}
	if n.Kind != String {
		p.fail(n, "dsl/type", quoteMend(n), "%s must be a string, not %s", what, article(n.Kind))
	}
	return n.Text
}

// need is a member that must be there.
func (p *reader) need(n *Node, key, what string) *Node {
	v := n.Get(key)
	if v == nil {
		p.fail(n, "dsl/missing", "", "%s needs %q", what, key)
	}
	return v
}

func (p *reader) root(n *Node) {
	if !p.object(n, "the definition", []string{"document", "do", "input", "output", "use"},
		later{"schedule": "schedule", "timeout": "timeout"}) {
		return
	}
	if d := p.need(n, "document", "the definition"); d != nil {
		p.document(d)
	}
	p.used = map[string]bool{}
	if u := n.Get("use"); u != nil {
		p.use(u)
	}
	p.def.Input = p.data(n.Get("input"), "input", "from")
	p.def.Output = p.data(n.Get("output"), "output", "as")
	if do := p.need(n, "do", "the definition"); do != nil {
		p.def.Do = p.tasks(do, nil)
	}
	p.unused(n)
}

func (p *reader) document(n *Node) {
	if !p.object(n, "document", []string{"dsl", "namespace", "name", "version", "title", "summary", "tags", "metadata"}, nil) {
		return
	}
	d := &p.def.Document
	for _, f := range []struct {
		key   string
		to    *string
		check func(string) string
	}{
		{"dsl", &d.DSL, checkDSL}, {"namespace", &d.Namespace, checkLabel}, {"name", &d.Name, checkLabel}, {"version", &d.Version, checkSemver},
	} {
		v := p.need(n, f.key, "document")
		if v == nil {
			continue
		}
		*f.to = p.str(v, "document."+f.key)
		if wrong := f.check(*f.to); v.Kind == String && wrong != "" {
			p.fail(v, "dsl/"+f.key, "", "document.%s %s", f.key, wrong)
		}
	}
	d.Title = p.str(n.Get("title"), "document.title")
	d.Summary = p.str(n.Get("summary"), "document.summary")
	if d.Tags = n.Get("tags"); d.Tags != nil && d.Tags.Kind != Object {
		p.fail(d.Tags, "dsl/type", "", "document.tags must be an object")
	}
	if d.Metadata = n.Get("metadata"); d.Metadata != nil {
		d.Tier = p.metadata(d.Metadata, "document.metadata", []string{"tier", "labels"},
			later{"timezone": "a schedule's time zone", "overlap": "overlapping schedules"}).Tier
	}
}

func (p *reader) use(n *Node) {
	if !p.object(n, "use", []string{"authentications", "secrets"}, later{
		"errors": "use.errors", "extensions": "use.extensions", "functions": "use.functions", "retries": "use.retries",
		"timeouts": "use.timeouts", "catalogs": "use.catalogs",
	}) {
		return
	}
	if s := n.Get("secrets"); s != nil {
		p.secrets(s)
	}
	if a := n.Get("authentications"); a != nil {
		if a.Kind != Object {
			p.fail(a, "dsl/type", "", "use.authentications must be an object, not %s", article(a.Kind))
			return
		}
		for i, name := range a.Keys {
			if wrong := checkConnection(name); wrong != "" {
				p.fail(a.Items[i], "dsl/name", "", "the authentication's name %s", wrong)
			}
			p.authentication(name, a.Items[i])
		}
	}
}

func (p *reader) secrets(n *Node) {
	if n.Kind != Array {
		p.fail(n, "dsl/type", "", "use.secrets must be a list, not %s", article(n.Kind))
		return
	}
	for _, v := range n.Items {
		name := p.str(v, "a secret's name")
		if v.Kind != String {
			continue
		}
		if wrong := checkConnection(name); wrong != "" {
			p.fail(v, "dsl/name", "", "the connection's name %s", wrong)
		}
		if slices.Contains(p.def.secrets, name) {
			p.fail(v, "dsl/duplicate", "", "the connection %s is listed twice", name)
		}
		p.def.secrets = append(p.def.secrets, name)
	}
}

var schemes = []string{"basic", "bearer", "certificate", "digest", "oauth2", "oidc"}

// authentication reads one entry of use.authentications. Whatever it holds besides the name of a connection would be a
// credential, or the way to one, in a document that many people read.
func (p *reader) authentication(name string, n *Node) {
	p.def.Auth[name] = "" // known, even if it is refused: a task that uses it adds nothing to that
	if !p.object(n, "an authentication", schemes, nil) {
		return
	}
	if len(n.Keys) != 1 {
		p.fail(n, "dsl/authentication", "", "an authentication has exactly one scheme: %s", strings.Join(schemes, ", "))
		return
	}
	scheme := n.Items[0]
	if scheme.Kind != Object || len(scheme.Keys) != 1 || scheme.Keys[0] != "use" {
		p.fail(scheme, "profile/inline-credential", "write "+n.Keys[0]+": {use: <connection>} and list the connection in use.secrets",
			"a definition holds no credentials and no way to get them: the scheme may only name a connection")
		return
	}
	connection := p.str(scheme.Items[0], "use")
	if scheme.Items[0].Kind == String && !slices.Contains(p.def.secrets, connection) {
		p.fail(scheme.Items[0], "profile/secret", "add it to use.secrets", "the connection %q is not listed in use.secrets", clip(connection))
	}
	p.def.Auth[name] = connection
}

// unused warns of what is declared and asked for by no task: a reviewer would believe that it is needed.
func (p *reader) unused(n *Node) {
	s := n.Get("use").Get("secrets")
	if s == nil || s.Kind != Array {
		return
	}
	for _, v := range s.Items {
		if v.Kind == String && !p.used[v.Text] {
			p.warn(v, "profile/unused-connection", "remove it from use.secrets", "no task uses the connection %s", clip(v.Text))
		}
	}
}

// data reads input, output or export.
func (p *reader) data(n *Node, what, transform string) Data {
	if n == nil || !p.object(n, what, []string{"schema", transform}, nil) {
		return Data{}
	}
	d := Data{Value: n.Get(transform)}
	if d.Value != nil && d.Value.Kind != String && d.Value.Kind != Object {
		p.fail(d.Value, "dsl/type", "", "%s.%s must be an expression or an object, not %s", what, transform, article(d.Value.Kind))
	}
	if s := n.Get("schema"); s != nil && p.object(s, what+".schema", []string{"format", "document"}, later{"resource": "a schema from elsewhere"}) {
		format := p.str(s.Get("format"), "format")
		if format != "" && format != "json" && !strings.HasPrefix(format, "json:") {
			p.fail(s.Get("format"), "dsl/schema-format", "", "the schema's format %q comes with a later version; json is known", clip(format))
		}
		if d.Schema = s.Get("document"); d.Schema == nil && s.Get("resource") == nil {
			p.fail(s, "dsl/missing", "", "%s.schema needs \"document\"", what)
		}
		if d.Schema != nil && d.Schema.Kind != Object && d.Schema.Kind != Bool {
			p.fail(d.Schema, "dsl/type", "", "a JSON Schema is an object or a boolean, not %s", article(d.Schema.Kind))
		}
	}
	return d
}

func article(k NodeKind) string {
	switch k {
	case Null:
		return "null"
	case Array, Object:
		return "an " + string(k)
	}
	return "a " + string(k)
}

func quoteMend(n *Node) string {
	if n.Kind == Number || n.Kind == Bool {
		return "put it in quotes: '" + clip(string(n.Raw)) + "'"
	}
	return ""
}

// clip bounds what a message repeats of the document.
func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}
