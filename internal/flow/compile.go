package flow

import (
	"errors"
	"fmt"

	"cardea/internal/expr"
	"cardea/internal/flow/claims"
)

// Options of Compile.
type Options struct {
	// Profile demands that privileges can be decided statically. Without it nothing may be governed: only the conformance kit
	// runs so.
	Profile bool
}

// DecodeClaims is claims.Decode. The authority imports package claims itself, which needs no jq.
func DecodeClaims(canonical []byte) (Claims, error) { return claims.Decode(canonical) }

// Digest is claims.Digest.
func Digest(canonical []byte) string { return claims.Digest(canonical) }

// Compile makes the Plan of a canonical definition. The Plan is nil if and only if one of the findings is an error.
func Compile(canonical []byte, o Options) (*Plan, []Finding) {
	d, findings := claims.Parse(canonical, o.Profile)
	if d == nil {
		return nil, findings
	}
	c := &compiler{findings: findings, tasks: map[string]*Task{}}
	p := &Plan{
		Document: c.document(d), Digest: d.Digest, Canonical: d.Canonical,
		Input: c.input(d.Input), Output: c.output(d.Output), Do: c.tasksOf(d.Do, nil), tasks: c.tasks,
	}
	if o.Profile {
		p.Claims = d.Claims
	}
	if c.failed {
		return nil, c.findings
	}
	return p, c.findings
}

// compiler adds to a definition whose structure is right what its expressions and schemas mean.
type compiler struct {
	tasks    map[string]*Task
	findings []Finding
	failed   bool
}

// maxFindings bounds what one bad document makes us say.
const maxFindings = 100

func (c *compiler) fail(f Finding) {
	c.failed = true
	if len(c.findings) < maxFindings {
		f.Severity = claims.Error
		c.findings = append(c.findings, f)
	}
}

// refuse turns an error of package expr into a finding at the leaf that it is about.
func (c *compiler) refuse(n *claims.Node, err error) {
	f := Finding{Rule: "expr/syntax", Pointer: n.Pointer(), Message: err.Error()}
	var leaf *expr.LeafError
	if errors.As(err, &leaf) {
		f.Pointer += leaf.Pointer
	}
	var refused *expr.Error
	if errors.As(err, &refused) {
		f.Rule, f.Message, f.Mend = refused.Rule, refused.Message, refused.Mend
	}
	c.fail(f)
}

// value is the JSON value of a node. Canonical bytes always decode: claims read them.
func (c *compiler) value(n *claims.Node) any {
	v, err := expr.Decode(n.Raw)
	if err != nil {
		c.fail(Finding{Rule: "dsl/value", Pointer: n.Pointer(), Message: err.Error()})
	}
	return v
}

func (c *compiler) template(n *claims.Node) *expr.Template {
	if n == nil {
		return nil
	}
	t, err := expr.CompileTemplate(c.value(n))
	if err != nil {
		c.refuse(n, err)
	}
	return t
}

// field compiles a node that is an expression when it is a string, with or without ${ }.
func (c *compiler) field(n *claims.Node) *expr.Template {
	if n == nil {
		return nil
	}
	t, err := expr.CompileFieldTemplate(c.value(n))
	if err != nil {
		c.refuse(n, err)
	}
	return t
}

func (c *compiler) expr(n *claims.Node) *expr.Expr {
	if n == nil {
		return nil
	}
	e, err := expr.CompileField(n.Text)
	if err != nil {
		c.refuse(n, err)
	}
	return e
}

func (c *compiler) schema(n *claims.Node) *Schema {
	if n == nil {
		return nil
	}
	s, err := compileSchema(n.Raw)
	if err != nil {
		c.fail(Finding{Rule: "dsl/schema", Pointer: n.Pointer(), Message: fmt.Sprintf("the schema cannot be used: %s", err)})
	}
	return s
}

func (c *compiler) object(n *claims.Node) map[string]any {
	if n == nil {
		return nil
	}
	m, _ := c.value(n).(map[string]any)
	return m
}

func (c *compiler) document(d *claims.Definition) Document {
	return Document{
		DSL: d.Document.DSL, Namespace: d.Document.Namespace, Name: d.Document.Name, Version: d.Document.Version,
		Title: d.Document.Title, Summary: d.Document.Summary, Tags: c.object(d.Document.Tags), Metadata: c.object(d.Document.Metadata),
	}
}

func (c *compiler) input(d claims.Data) Input {
	return Input{Schema: c.schema(d.Schema), From: c.field(d.Value)}
}

func (c *compiler) output(d claims.Data) Output {
	return Output{As: c.field(d.Value), Schema: c.schema(d.Schema)}
}

func (c *compiler) tasksOf(list []*claims.Task, parent *Task) []*Task {
	out := make([]*Task, 0, len(list))
	for _, d := range list {
		out = append(out, c.task(d, parent))
	}
	for _, t := range out {
		t.siblings = out
	}
	return out
}

func (c *compiler) task(d *claims.Task, parent *Task) *Task {
	t := &Task{
		Pointer: d.Pointer, Name: d.Name, Kind: Kind(d.Kind), Index: d.Index, Parent: parent,
		If: c.expr(d.If), Input: c.input(d.Input), Output: c.output(d.Output),
		Export: Export{As: c.field(d.Export.Value), Schema: c.schema(d.Export.Schema)},
		Then:   then(d), Meta: Meta(d.Meta),
	}
	c.tasks[t.Pointer] = t
	switch t.Kind {
	case KindDo:
		t.Do = c.tasksOf(d.Do, t)
	case KindSet:
		t.Set = c.template(d.Set)
	case KindHTTP:
		t.HTTP = c.http(d.HTTP)
	default:
		// claims knows kinds that this compiler does not: fail closed.
		c.fail(Finding{Rule: "dsl/later", Pointer: d.Pointer, Message: fmt.Sprintf("tasks of kind %s come with a later version", d.Kind)})
	}
	return t
}

func then(d *claims.Task) Then {
	if d.Target >= 0 {
		return Then{Kind: ThenTask, Task: d.Then, Index: d.Target}
	}
	return Then{Kind: ThenKind(d.Then)}
}

func (c *compiler) http(d *claims.HTTP) *HTTPCall {
	h := &HTTPCall{
		Method: d.Method, Origin: d.Origin, Path: d.Path, StaticQuery: d.Query, Endpoint: c.expr(d.Endpoint), Query: c.template(d.QueryMap),
		HeaderMap: c.template(d.HeaderMap), Body: c.template(d.Body), Output: d.Output, Redirect: d.Redirect, Connection: d.Connection, Effect: d.Effect,
	}
	for _, header := range d.Headers {
		h.Headers = append(h.Headers, HeaderTemplate{Name: header.Name, Value: c.template(header.Value)})
	}
	return h
}
