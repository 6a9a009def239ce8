package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Limits of a body schema. An unfolded schema without recursion looks at each place of a body at most once per node, so that its
// work is bounded by nodes × values and not by what a chain of references multiplies to.
const (
	maxSchema      = 64 << 10
	maxSchemaNodes = 2000
	draft2020      = "https://json-schema.org/draft/2020-12/schema"
)

// refuseLoader keeps schemas from naming files and addresses: the library's own loader reads file URLs.
type refuseLoader struct{}

func (refuseLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is not in the schema; nothing is loaded from elsewhere", url)
}

// compileSchema reads the text of a JSON Schema (2020-12), in the part of the language whose meaning and cost are certain: known
// keywords only, references to its own $defs, no recursion. Formats are asserted.
func compileSchema(text string) (*jsonschema.Schema, error) {
	tree, err := parseJSON([]byte(text), limits{maxSchema, MaxDepth, MaxNodes})
	if err != nil {
		if strings.HasSuffix(text, ".json") {
			return nil, fmt.Errorf("is not a JSON Schema; %q looks like a file's name, which the client replaces by its content", text)
		}
		return nil, fmt.Errorf("is not a JSON Schema: %w", err)
	}
	w := &schemaWeight{root: tree, nodes: maxSchemaNodes}
	if err := w.walk(tree, "#"); err != nil {
		return nil, fmt.Errorf("is not an accepted JSON Schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(refuseLoader{})
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("cardea:body", tree); err != nil {
		return nil, fmt.Errorf("is not a JSON Schema: %w", err)
	}
	s, err := c.Compile("cardea:body")
	if err != nil {
		return nil, fmt.Errorf("is not a JSON Schema: %w", err)
	}
	return s, nil
}

// schemaWeight walks a schema as it unfolds, references followed, and stops when it grows past its bound.
type schemaWeight struct {
	root  any
	nodes int
	refs  []string // being followed
}

func (w *schemaWeight) walk(v any, at string) error {
	if w.nodes--; w.nodes < 0 {
		return fmt.Errorf("unfolds to more than %d parts", maxSchemaNodes)
	}
	if _, ok := v.(bool); ok {
		return nil
	}
	s, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s must be an object or a boolean", at)
	}
	for _, key := range sortedKeys(s) {
		if err := w.keyword(key, s[key], at+"/"+key); err != nil {
			return err
		}
	}
	return nil
}

func (w *schemaWeight) keyword(key string, v any, at string) error {
	switch key {
	case "title", "description", "$comment", "examples", "default", "deprecated", "readOnly", "writeOnly",
		"type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum",
		"maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "minContains", "maxContains",
		"maxProperties", "minProperties", "required", "dependentRequired":
		return nil // the compiler checks their values
	case "$schema":
		if v != draft2020 {
			return fmt.Errorf("%s must be %s", at, draft2020)
		}
		return nil
	case "format":
		if f, ok := v.(string); !ok || !slices.Contains(formats(), f) {
			return fmt.Errorf("%s: %v is not checked by this build; these are: %s", at, v, strings.Join(formats(), ", "))
		}
		return nil
	case "$ref":
		return w.follow(v, at)
	case "not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames":
		return w.walk(v, at)
	case "allOf", "anyOf", "oneOf", "prefixItems":
		return w.walkList(v, at)
	case "properties", "patternProperties", "dependentSchemas", "$defs":
		return w.walkMap(v, at)
	}
	return fmt.Errorf("%s is not a keyword that is accepted here", at)
}

func (w *schemaWeight) walkList(v any, at string) error {
	items, ok := v.([]any)
	if !ok {
		return fmt.Errorf("%s must be a list of schemas", at)
	}
	for i, item := range items {
		if err := w.walk(item, fmt.Sprintf("%s/%d", at, i)); err != nil {
			return err
		}
	}
	return nil
}

func (w *schemaWeight) walkMap(v any, at string) error {
	members, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s must be an object of schemas", at)
	}
	for _, key := range sortedKeys(members) {
		if err := w.walk(members[key], at+"/"+key); err != nil {
			return err
		}
	}
	return nil
}

func (w *schemaWeight) follow(v any, at string) error {
	ref, _ := v.(string)
	name, ok := strings.CutPrefix(ref, "#/$defs/")
	if !ok || strings.ContainsAny(name, "/~%") {
		return fmt.Errorf("%s: %q must be #/$defs/<name>", at, ref)
	}
	if slices.Contains(w.refs, ref) {
		return fmt.Errorf("%s: %s contains itself; a schema may not be recursive", at, ref)
	}
	root, _ := w.root.(map[string]any)
	defs, _ := root["$defs"].(map[string]any)
	target, ok := defs[name]
	if !ok {
		return fmt.Errorf("%s: there is no %s", at, ref)
	}
	w.refs = append(w.refs, ref)
	err := w.walk(target, ref)
	w.refs = w.refs[:len(w.refs)-1]
	return err
}

func formats() []string {
	return []string{"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "json-pointer", "time", "uri", "uuid"}
}

// validateBody says where a body fails and by which keyword, and repeats none of its values.
func validateBody(s *jsonschema.Schema, tree any) error {
	err := s.Validate(tree)
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return errors.New("the body does not satisfy its schema")
	}
	for len(invalid.Causes) > 0 {
		invalid = invalid.Causes[0]
	}
	where := "its root"
	if len(invalid.InstanceLocation) > 0 {
		where = "/" + strings.Join(invalid.InstanceLocation, "/")
	}
	return fmt.Errorf("the body does not satisfy its schema at %s (%s)", where, strings.Join(invalid.ErrorKind.KeywordPath(), "/"))
}
