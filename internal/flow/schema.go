package flow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"cardea/internal/flow/problem"
)

// Schema is a compiled JSON Schema (2020-12 unless it says otherwise). It loads nothing from anywhere, and it is bounded: a
// schema that refers to itself, or that is large once its references are written out, is refused, since a few lines of
// either can make a validator work for years.
type Schema struct{ compiled *jsonschema.Schema }

// maxSchema bounds a schema's subschemas with every reference written out.
const maxSchema = 2000

const schemaURL = "cardea:///schema"

// noLoader refuses what is not in the document. The library's default would read files.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %s, and a schema is loaded from nowhere", url)
}

func compileSchema(raw []byte) (*Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if err := (&unfolder{root: doc}).bound(); err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, err
	}
	s, err := c.Compile(schemaURL)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), schemaURL, ""))
	}
	return &Schema{s}, nil
}

// unfolder counts the subschemas of a document with its references written out.
type unfolder struct {
	root    any
	count   int
	pending []string // references being followed
}

func (u *unfolder) bound() error { return u.visit(u.root, false) }

// visit counts v. names says that v's keys are names that the schema's author chose, not keywords.
func (u *unfolder) visit(v any, names bool) error {
	if u.count++; u.count > maxSchema {
		return fmt.Errorf("written out it has more than %d parts", maxSchema)
	}
	switch v := v.(type) {
	case []any:
		for _, w := range v {
			if err := u.visit(w, false); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, w := range v {
			if err := u.member(k, w, names); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *unfolder) member(k string, w any, names bool) error {
	if names {
		return u.visit(w, false)
	}
	switch k {
	case "const", "enum", "examples", "default", "$defs", "definitions":
		return nil // data, or reached by reference only
	case "properties", "patternProperties", "dependentSchemas", "dependencies":
		return u.visit(w, true)
	case "$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor":
		if _, text := w.(string); text {
			return fmt.Errorf("%s is not possible: references are JSON pointers into the schema itself", k)
		}
	case "$ref":
		if ref, text := w.(string); text {
			return u.follow(ref)
		}
	}
	return u.visit(w, false)
}

func (u *unfolder) follow(ref string) error {
	if ref != "#" && !strings.HasPrefix(ref, "#/") || strings.Contains(ref, "%") {
		return fmt.Errorf("the reference %.80q is not a JSON pointer into the schema itself", ref)
	}
	if slices.Contains(u.pending, ref) {
		return fmt.Errorf("the reference %.80q leads back to itself; recursive schemas come with a later version", ref)
	}
	v := u.root
	for _, token := range strings.Split(ref, "/")[1:] {
		token = strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")
		switch parent := v.(type) {
		case map[string]any:
			v = parent[token]
		case []any:
			var i int
			if _, err := fmt.Sscanf(token, "%d", &i); err != nil || i < 0 || i >= len(parent) {
				return fmt.Errorf("the reference %.80q leads nowhere", ref)
			}
			v = parent[i]
		default:
			return fmt.Errorf("the reference %.80q leads nowhere", ref)
		}
	}
	u.pending = append(u.pending, ref)
	defer func() { u.pending = u.pending[:len(u.pending)-1] }()
	return u.visit(v, false)
}

// Validate says whether a value fits. The error is a *Problem of the standard validation type, and names places and rules, not values.
func (s *Schema) Validate(v any) error {
	err := s.compiled.Validate(numbers(v))
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return problem.New(problem.Validation, "the value cannot be validated")
	}
	var places []string
	leaves(invalid, func(e *jsonschema.ValidationError) {
		at := "/" + strings.Join(e.InstanceLocation, "/")
		places = append(places, fmt.Sprintf("%s: %s", at, sentence(e.ErrorKind)))
	})
	slices.Sort(places)
	places = slices.Compact(places)
	if n := len(places); n > 5 {
		places = append(places[:5], fmt.Sprintf("%d more", n-5))
	}
	return problem.New(problem.Validation, strings.Join(places, "; "))
}

// sentence says what a value breaks without quoting it: it may be nobody's business.
func sentence(k jsonschema.ErrorKind) string {
	if r, ok := k.(*kind.Required); ok {
		return strings.Join(r.Missing, ", ") + " is missing"
	}
	return "breaks " + strings.Join(k.KeywordPath(), "/")
}

func leaves(e *jsonschema.ValidationError, visit func(*jsonschema.ValidationError)) {
	if len(e.Causes) == 0 {
		visit(e)
	}
	for _, c := range e.Causes {
		leaves(c, visit)
	}
}

// numbers makes large integers what the validator knows. It copies only what holds one.
func numbers(v any) any {
	switch v := v.(type) {
	case *big.Int:
		return json.Number(v.String())
	case []any:
		if slices.ContainsFunc(v, holdsBig) {
			out := make([]any, len(v))
			for i, w := range v {
				out[i] = numbers(w)
			}
			return out
		}
	case map[string]any:
		if holdsBig(v) {
			out := make(map[string]any, len(v))
			for k, w := range v {
				out[k] = numbers(w)
			}
			return out
		}
	}
	return v
}

func holdsBig(v any) bool {
	switch v := v.(type) {
	case *big.Int:
		return true
	case []any:
		return slices.ContainsFunc(v, holdsBig)
	case map[string]any:
		for _, w := range v {
			if holdsBig(w) {
				return true
			}
		}
	}
	return false
}
