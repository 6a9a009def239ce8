package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// limits bound one JSON text by bytes and by values, so that no text is dearer than its size.
type limits struct {
	bytes, depth, nodes int
}

// parseJSON reads one JSON value that has exactly one reading: valid UTF-8, no duplicate keys, no lone surrogates, bounded.
// Numbers stay text (json.Number).
func parseJSON(data []byte, l limits) (any, error) {
	switch {
	case len(data) > l.bytes:
		return nil, fmt.Errorf("%d bytes; at most %d are allowed", len(data), l.bytes)
	case !utf8.Valid(data):
		return nil, errors.New("not valid UTF-8")
	}
	if err := checkDepth(data, l.depth); err != nil {
		return nil, err
	}
	if !json.Valid(data) {
		return nil, syntaxError(data)
	}
	p := &parser{dec: json.NewDecoder(bytes.NewReader(data)), nodes: l.nodes}
	p.dec.UseNumber()
	return p.value()
}

// checkDepth runs before anything recursive sees the text.
func checkDepth(data []byte, most int) error {
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == '{' || c == '['):
			if depth++; depth > most {
				return fmt.Errorf("nested deeper than %d", most)
			}
		case !inString && (c == '}' || c == ']'):
			depth--
		}
	}
	return nil
}

func syntaxError(data []byte) error {
	var v json.RawMessage
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return errors.New("not JSON")
}

type parser struct {
	dec   *json.Decoder
	nodes int
}

func (p *parser) value() (any, error) {
	if p.nodes--; p.nodes < 0 {
		return nil, errors.New("too many values")
	}
	t, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return p.object()
		}
		return p.array()
	case string:
		return t, checkText(t)
	case json.Number:
		return t, checkNumber(t.String())
	}
	return t, nil
}

// checkNumber bounds what exact arithmetic on a number costs: 1e999999999 is eleven bytes.
func checkNumber(n string) error {
	mantissa, exponent, ok := strings.Cut(strings.ToLower(n), "e")
	if len(mantissa) > 64 {
		return errors.New("a number has more than 64 digits")
	}
	if e, err := strconv.Atoi(exponent); ok && (err != nil || e < -64 || e > 64) {
		return errors.New("a number's exponent is beyond 64")
	}
	return nil
}

func (p *parser) object() (any, error) {
	members, folds := map[string]any{}, map[string]bool{}
	for p.dec.More() {
		t, err := p.dec.Token()
		if err != nil {
			return nil, err
		}
		key := t.(string) // a syntactically valid object has only string keys
		if err := checkText(key); err != nil {
			return nil, err
		}
		folded := foldKey(key)
		if folds[folded] {
			return nil, fmt.Errorf("key %q stands twice in one object (some readers do not tell cases apart)", key)
		}
		folds[folded] = true
		if members[key], err = p.value(); err != nil {
			return nil, err
		}
	}
	_, err := p.dec.Token()
	return members, err
}

func (p *parser) array() (any, error) {
	items := []any{}
	for p.dec.More() {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
	_, err := p.dec.Token()
	return items, err
}

// checkText refuses U+FFFD, which the standard decoder also makes of a lone surrogate: two texts would become one. And it refuses
// U+0000, at which readers written in C end a text: "amount\u0000x" would be a second "amount" to them.
func checkText(s string) error {
	if strings.ContainsRune(s, utf8.RuneError) {
		return errors.New("a string holds U+FFFD or half a surrogate pair")
	}
	if strings.ContainsRune(s, 0) {
		return errors.New("a string holds U+0000")
	}
	return nil
}

// foldKey gives keys that a reader may take for one the same form. Go's own decoder takes AMOUNT for amount, and so would a target
// read another amount than policy did.
func foldKey(key string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, key)
}

// object reads the members of one JSON object. What is wrong is collected, each with its place, and done reports the members that
// nobody asked for: a misspelt key must not pass as an absent one.
type object struct {
	at       string
	members  map[string]any
	read     map[string]bool
	problems *[]string
}

func newObject(v any, at string, problems *[]string) *object {
	o := &object{at: at, read: map[string]bool{}, problems: problems}
	members, ok := v.(map[string]any)
	if !ok {
		o.bad("", "must be an object, not %s", typeName(v))
	}
	o.members = members
	return o
}

// maxProblems is how many are told of one body: enough to mend it by, and no answer is dearer than what it answers.
const maxProblems = 50

func (o *object) bad(field, format string, args ...any) {
	if len(*o.problems) >= maxProblems {
		return
	}
	at := o.at
	if field != "" {
		at += "/" + field
	}
	text := fmt.Sprintf(format, args...)
	if at != "" {
		text = at + ": " + text
	}
	*o.problems = append(*o.problems, text)
}

func (o *object) get(field string, required bool) (any, bool) {
	o.read[field] = true
	v, ok := o.members[field]
	if !ok && required && o.members != nil {
		o.bad(field, "is missing")
	}
	return v, ok
}

func (o *object) text(field string, required bool) string {
	v, ok := o.get(field, required)
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		o.bad(field, "must be a string, not %s", typeName(v))
	}
	if ok && s == "" {
		o.bad(field, "must not be empty; leave it out instead")
	}
	return s
}

func (o *object) boolean(field string) bool {
	v, ok := o.get(field, false)
	if !ok {
		return false
	}
	b, ok := v.(bool)
	if !ok {
		o.bad(field, "must be true or false, not %s", typeName(v))
	}
	return b
}

func (o *object) integer(field string, absent, least, most int) int {
	v, ok := o.get(field, false)
	if !ok {
		return absent
	}
	n, ok := v.(json.Number)
	i, err := n.Int64()
	if !ok || err != nil || i < int64(least) || i > int64(most) {
		o.bad(field, "must be a whole number from %d to %d", least, most)
		return absent
	}
	return int(i)
}

func (o *object) list(field string, required bool) []any {
	v, ok := o.get(field, required)
	if !ok {
		return nil
	}
	items, ok := v.([]any)
	if !ok {
		o.bad(field, "must be a list, not %s", typeName(v))
	}
	return items
}

// texts reads a list of distinct strings that each satisfy check.
func (o *object) texts(field string, required bool, check func(string) error) []string {
	var out []string
	seen := map[string]bool{}
	for i, v := range o.list(field, required) {
		at := fmt.Sprintf("%s/%d", field, i)
		s, ok := v.(string)
		if !ok {
			o.bad(at, "must be a string, not %s", typeName(v))
			continue
		}
		if err := check(s); err != nil {
			o.bad(at, "%v", err)
			continue
		}
		if seen[s] {
			o.bad(at, "%q stands twice", s)
			continue
		}
		seen[s] = true
		out = append(out, s)
	}
	return out
}

func (o *object) child(field string, required bool) (*object, bool) {
	v, ok := o.get(field, required)
	if !ok {
		return nil, false
	}
	return newObject(v, o.at+"/"+field, o.problems), true
}

func (o *object) done() {
	var unknown []string
	for key := range o.members {
		if !o.read[key] {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	known := sortedKeys(o.read)
	for _, key := range unknown {
		o.bad(key, "is not a field here; these are: %s", strings.Join(known, ", "))
	}
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
