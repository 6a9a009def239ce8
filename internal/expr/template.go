package expr

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Template is a JSON value whose string leaves that are expressions as a whole, `${ … }`, are evaluated. A string that only
// contains one is text. It is immutable and safe for concurrent use.
type Template struct{ root node }

// node is one of: *Expr, list, object, or a constant.
type node interface {
	eval(x *evaluation) (any, error)
}

type (
	constant struct{ v any }
	list     []node
	object   struct {
		keys  []string // sorted: the order of evaluation decides which of two errors is reported
		nodes []node
	}
	field struct{ e *Expr }
)

// LeafError is a refusal to compile one leaf of a template.
type LeafError struct {
	Pointer string // RFC 6901, into the template
	Err     *Error
}

func (e *LeafError) Error() string { return e.Err.Error() }

// Unwrap gives the refusal of the expression itself.
func (e *LeafError) Unwrap() error { return e.Err }

// CompileTemplate compiles the expressions in a JSON value. The error is a *LeafError.
func CompileTemplate(v any, vars ...string) (*Template, error) {
	root, err := compileNode(v, vars, 0)
	if err != nil {
		return nil, err
	}
	return &Template{root}, nil
}

// CompileFieldTemplate is CompileTemplate for a field that is an expression when it is a string: `${ }` around it is optional.
func CompileFieldTemplate(v any, vars ...string) (*Template, error) {
	s, ok := v.(string)
	if !ok {
		return CompileTemplate(v, vars...)
	}
	e, err := CompileField(s, vars...)
	if err != nil {
		return nil, leafError("", err)
	}
	return &Template{field{e}}, nil
}

// Expr is the expression that the template as a whole is, if it is one.
func (t *Template) Expr() (*Expr, bool) {
	f, ok := t.root.(field)
	return f.e, ok
}

// Eval evaluates the expressions, once each: what they give is data, never evaluated again. Errors are *problem.Problem.
func (t *Template) Eval(s Scope) (any, error) { return t.root.eval(newEvaluation(s)) }

func compileNode(v any, vars []string, depth int) (node, error) {
	if depth > maxDepth {
		return nil, leafError("", &Error{Rule: "expr/size", Message: fmt.Sprintf("nested deeper than %d", maxDepth)})
	}
	switch v := v.(type) {
	case string:
		inner, offset, ok := Unwrap(v)
		if !ok {
			return constant{v}, nil
		}
		e, err := Compile(inner, vars...)
		if err != nil {
			return nil, leafError("", shift(err, offset))
		}
		return field{e}, nil
	case []any:
		return compileList(v, vars, depth)
	case map[string]any:
		return compileObject(v, vars, depth)
	default:
		return constant{v}, nil
	}
}

func compileList(v []any, vars []string, depth int) (node, error) {
	nodes := make(list, len(v))
	fixed := true
	for i, w := range v {
		n, err := compileNode(w, vars, depth+1)
		if err != nil {
			return nil, leafError("/"+strconv.Itoa(i), err)
		}
		nodes[i] = n
		_, isConst := n.(constant)
		fixed = fixed && isConst
	}
	if fixed {
		return constant{v}, nil
	}
	return nodes, nil
}

func compileObject(v map[string]any, vars []string, depth int) (node, error) {
	o := object{keys: slices.Sorted(maps.Keys(v))}
	fixed := true
	for _, k := range o.keys {
		n, err := compileNode(v[k], vars, depth+1)
		if err != nil {
			return nil, leafError("/"+pointerEscaper.Replace(k), err)
		}
		o.nodes = append(o.nodes, n)
		_, isConst := n.(constant)
		fixed = fixed && isConst
	}
	if fixed {
		return constant{v}, nil
	}
	return o, nil
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

func leafError(prefix string, err error) error {
	var leaf *LeafError
	if errors.As(err, &leaf) {
		return &LeafError{Pointer: prefix + leaf.Pointer, Err: leaf.Err}
	}
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Rule: "expr/unknown", Message: err.Error()}
	}
	return &LeafError{Pointer: prefix, Err: e}
}

func (c constant) eval(*evaluation) (any, error) { return c.v, nil }

func (f field) eval(x *evaluation) (any, error) { return x.run(f.e) }

func (l list) eval(x *evaluation) (any, error) {
	out := make([]any, len(l))
	for i, n := range l {
		v, err := n.eval(x)
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

func (o object) eval(x *evaluation) (any, error) {
	out := make(map[string]any, len(o.keys))
	for i, n := range o.nodes {
		v, err := n.eval(x)
		if err != nil {
			return nil, err
		}
		out[o.keys[i]] = v
	}
	return out, nil
}
