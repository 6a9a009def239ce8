package source

import (
	"fmt"
	"math"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v4"

	"cardea/internal/flow"
	"cardea/internal/flow/claims"
)

// maxFindings bounds what one bad document makes us say.
const maxFindings = 100

// convert makes a node canonical JSON. It counts what it makes, not what was written: an alias costs as much as its anchor.
func convert(name string, n *yaml.Node) ([]byte, Positions, []flow.Finding) {
	c := &converter{name: name}
	v, at := c.value(n, 0)
	if len(c.findings) > 0 {
		return nil, Positions{}, c.findings
	}
	b, err := claims.Canonical(v)
	if err == nil && len(b) > claims.MaxBytes {
		err = fmt.Errorf("its canonical form is larger than %d bytes", claims.MaxBytes)
	}
	if err != nil {
		c.fail(n, "yaml/size", "", "the document is refused: %s", err)
		return nil, Positions{}, c.findings
	}
	return b, Positions{at}, nil
}

type converter struct {
	name         string
	nodes, bytes int
	stopped      bool
	findings     []flow.Finding
}

func (c *converter) fail(n *yaml.Node, rule, mend, format string, args ...any) {
	if len(c.findings) < maxFindings {
		c.findings = append(c.findings, flow.Finding{
			Severity: claims.Error, Rule: rule, Message: fmt.Sprintf(format, args...), Mend: mend, File: c.name, Line: n.Line, Column: n.Column,
		})
	}
}

// stop ends the conversion: whatever follows would be refused for the same reason, at the same cost.
func (c *converter) stop(n *yaml.Node, format string, args ...any) {
	if !c.stopped {
		c.fail(n, "yaml/size", "", format, args...)
	}
	c.stopped = true
}

func (c *converter) count(n *yaml.Node, depth int) bool {
	c.nodes++
	c.bytes += len(n.Value) + 1
	switch {
	case depth > claims.MaxDepth:
		c.stop(n, "the document is nested deeper than %d", claims.MaxDepth)
	case c.nodes > claims.MaxNodes:
		c.stop(n, "the document has more than %d values", claims.MaxNodes)
	case c.bytes > claims.MaxBytes:
		c.stop(n, "the document is larger than %d bytes", claims.MaxBytes)
	}
	return !c.stopped
}

func (c *converter) value(n *yaml.Node, depth int) (any, *place) {
	at := &place{value: Position{n.Line, n.Column}}
	if n.Kind == yaml.AliasNode {
		if n.Alias == nil {
			c.fail(n, "yaml/syntax", "", "the alias leads nowhere")
			return nil, at
		}
		n = n.Alias // a cycle ends at the bound on depth
	}
	if !c.count(n, depth) {
		return nil, at
	}
	if tagged(n) {
		c.fail(n, "yaml/tag", "remove it; quotes make a string", "tags such as %s are not possible", n.Tag)
		return nil, at
	}
	switch n.Kind {
	case yaml.MappingNode:
		return c.mapping(n, at, depth), at
	case yaml.SequenceNode:
		return c.sequence(n, at, depth), at
	case yaml.ScalarNode:
		return c.scalar(n), at
	case 0:
		return nil, at // an empty document
	}
	c.fail(n, "yaml/syntax", "", "the document has a part that is not JSON")
	return nil, at
}

func (c *converter) sequence(n *yaml.Node, at *place, depth int) any {
	at.container, at.children = true, make(map[string]*place, len(n.Content))
	list := make([]any, 0, len(n.Content))
	for i, item := range n.Content {
		v, child := c.value(item, depth+1)
		if c.stopped {
			return nil
		}
		list = append(list, v)
		at.children[strconv.Itoa(i)] = child
	}
	return list
}

func (c *converter) mapping(n *yaml.Node, at *place, depth int) any {
	at.container, at.children = true, make(map[string]*place, len(n.Content)/2)
	object := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		key, ok := c.key(k)
		if !ok {
			continue
		}
		v, child := c.value(n.Content[i+1], depth+1)
		if c.stopped {
			return nil
		}
		if _, twice := object[key]; twice {
			c.fail(k, "yaml/duplicate-key", "", "the key %.80q is there twice", key)
		}
		child.key = Position{k.Line, k.Column}
		object[key] = v
		at.children[key] = child
	}
	return object
}

func (c *converter) key(n *yaml.Node) (string, bool) {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if !c.count(n, 0) {
		return "", false
	}
	if n.Kind != yaml.ScalarNode || tagged(n) {
		c.fail(n, "yaml/key", "", "a key must be a plain string")
		return "", false
	}
	if n.Value == "<<" && plain(n) {
		c.fail(n, "yaml/merge-key", "write the keys out", "merge keys are not possible")
		return "", false
	}
	if s, ok := c.scalar(n).(string); ok {
		return s, true
	}
	c.fail(n, "yaml/key", "put it in quotes", "the key %.80s is not a string", n.Value)
	return "", false
}

func tagged(n *yaml.Node) bool { return n.Style&yaml.TaggedStyle != 0 || n.Tag == "!" }

func plain(n *yaml.Node) bool {
	return n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

var (
	integer = regexp.MustCompile(`^[-+]?(0|[1-9][0-9]*)$`)
	float   = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	special = regexp.MustCompile(`^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
	// ambiguous are numbers to some readers and strings or other numbers to others.
	ambiguous = regexp.MustCompile(`^[-+]?(0[0-9_]+|0[oO][0-7_]+|0[xX][0-9a-fA-F_]+|0[bB][01_]+)$`)
)

// scalar resolves by YAML 1.2's core schema: what is not null, a boolean or a number there is a string.
func (c *converter) scalar(n *yaml.Node) any {
	s := n.Value
	if !plain(n) {
		return s
	}
	switch s {
	case "", "~", "null", "Null", "NULL":
		return nil
	case "true", "True", "TRUE":
		return true
	case "false", "False", "FALSE":
		return false
	}
	switch {
	case special.MatchString(s):
		c.fail(n, "yaml/number", "put it in quotes if it is text", "%s is not a JSON number", s)
	case ambiguous.MatchString(s):
		c.fail(n, "yaml/number", "put it in quotes, or write it in decimal without leading zeros", "%.80s is a different number to different readers", s)
	case integer.MatchString(s):
		return c.integer(n)
	case float.MatchString(s):
		return c.float(n)
	default:
		return s
	}
	return nil
}

func (c *converter) integer(n *yaml.Node) any {
	i, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || i > 1<<53 || i < -(1<<53) {
		c.fail(n, "yaml/number", "put it in quotes", "%.80s is beyond 2^53, where JSON readers round", n.Value)
		return nil
	}
	return float64(i)
}

func (c *converter) float(n *yaml.Node) any {
	f, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		c.fail(n, "yaml/number", "put it in quotes if it is text", "%.80s does not fit a double", n.Value)
		return nil
	}
	return f
}
