package claims

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// The bounds of a definition. They are checked while it is read, before anything is made of it.
const (
	MaxBytes = 1 << 20
	MaxNodes = 100_000
	MaxDepth = 64
)

// NodeKind is the JSON type of a node.
type NodeKind string

// The JSON types.
const (
	Null   NodeKind = "null"
	Bool   NodeKind = "boolean"
	Number NodeKind = "number"
	String NodeKind = "string"
	Array  NodeKind = "array"
	Object NodeKind = "object"
)

// Node is a value of the canonical document.
type Node struct {
	Kind  NodeKind
	Raw   []byte   // its canonical bytes, shared with the document. Do not change them
	Text  string   // String: decoded
	True  bool     // Bool
	Items []*Node  // Array, and Object in the order of Keys
	Keys  []string // Object: sorted as RFC 8785 demands, so unique

	parent *Node
	key    string // what the parent calls it
}

// Get is the member of an object, or nil.
func (n *Node) Get(key string) *Node {
	if n == nil || n.Kind != Object {
		return nil
	}
	for i, k := range n.Keys {
		if k == key {
			return n.Items[i]
		}
	}
	return nil
}

// Pointer is the RFC 6901 pointer of n.
func (n *Node) Pointer() string {
	if n == nil || n.parent == nil {
		return ""
	}
	return n.parent.Pointer() + "/" + EscapePointer(n.key)
}

// EscapePointer makes a key a reference token of a JSON pointer.
func EscapePointer(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}

// ParseCanonical reads a JSON document that must be its own RFC 8785 form, to the byte. Refusing every other spelling is
// what makes the digest name one meaning: no second parser can read these bytes differently.
func ParseCanonical(data []byte) (*Node, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("larger than %d bytes", MaxBytes)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	p := &parser{data: data}
	n, err := p.value(nil, "", 0)
	if err != nil {
		return nil, fmt.Errorf("at byte %d: %w", p.at, err)
	}
	if p.at != len(data) {
		return nil, fmt.Errorf("at byte %d: something follows the document", p.at)
	}
	return n, nil
}

type parser struct {
	data  []byte
	at    int
	nodes int
}

func (p *parser) peek() byte {
	if p.at < len(p.data) {
		return p.data[p.at]
	}
	return 0
}

func (p *parser) expect(c byte) error {
	if p.peek() != c {
		return fmt.Errorf("expected %q", c)
	}
	p.at++
	return nil
}

func (p *parser) value(parent *Node, key string, depth int) (*Node, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	if p.nodes++; p.nodes > MaxNodes {
		return nil, fmt.Errorf("more than %d values", MaxNodes)
	}
	n := &Node{parent: parent, key: key}
	start := p.at
	var err error
	switch c := p.peek(); {
	case c == '{':
		n.Kind, err = Object, p.object(n, depth)
	case c == '[':
		n.Kind, err = Array, p.array(n, depth)
	case c == '"':
		n.Kind = String
		n.Text, err = p.text()
	case c == '-' || c >= '0' && c <= '9':
		n.Kind, err = Number, p.number()
	default:
		err = p.literal(n)
	}
	if err != nil {
		return nil, err
	}
	n.Raw = p.data[start:p.at:p.at]
	return n, nil
}

func (p *parser) object(n *Node, depth int) error {
	p.at++
	if p.peek() == '}' {
		p.at++
		return nil
	}
	for {
		key, err := p.text()
		if err != nil {
			return err
		}
		if i := len(n.Keys); i > 0 && compareKeys(n.Keys[i-1], key) >= 0 {
			return fmt.Errorf("the key %q is twice or out of order", key)
		}
		if err := p.expect(':'); err != nil {
			return err
		}
		v, err := p.value(n, key, depth+1)
		if err != nil {
			return err
		}
		n.Keys, n.Items = append(n.Keys, key), append(n.Items, v)
		if p.peek() != ',' {
			return p.expect('}')
		}
		p.at++
	}
}

// compareKeys orders keys by UTF-16 code units (RFC 8785, section 3.2.3).
func compareKeys(a, b string) int {
	return slices.CompareFunc(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)), cmp.Compare[uint16])
}

func (p *parser) array(n *Node, depth int) error {
	p.at++
	if p.peek() == ']' {
		p.at++
		return nil
	}
	for {
		v, err := p.value(n, strconv.Itoa(len(n.Items)), depth+1)
		if err != nil {
			return err
		}
		n.Items = append(n.Items, v)
		if p.peek() != ',' {
			return p.expect(']')
		}
		p.at++
	}
}

func (p *parser) text() (string, error) {
	start := p.at
	if err := p.expect('"'); err != nil {
		return "", err
	}
	for p.at < len(p.data) && p.data[p.at] != '"' {
		if p.data[p.at] == '\\' {
			p.at++
		}
		p.at++
	}
	if p.at >= len(p.data) {
		return "", errors.New("a string does not end")
	}
	p.at++
	raw := p.data[start:p.at]
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", errors.New("not a string")
	}
	if canonical := quote(s); canonical != string(raw) {
		return "", errors.New("a string is not in its canonical form")
	}
	return s, nil
}

// quote is RFC 8785, section 3.2.2.2.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= 0x20:
			b.WriteRune(r)
		default:
			if i := strings.IndexRune("\b\t\n\f\r", r); i >= 0 {
				b.WriteString(`\` + "btnfr"[i:i+1])
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (p *parser) number() error {
	start := p.at
	for p.at < len(p.data) && strings.IndexByte("+-.eE0123456789", p.data[p.at]) >= 0 {
		p.at++
	}
	raw := string(p.data[start:p.at])
	f, err := strconv.ParseFloat(raw, 64)
	if err != nil {
		return errors.New("not a number that fits a double")
	}
	if canonical, err := jcs.NumberToJSON(f); err != nil || canonical != raw {
		return errors.New("a number is not in its canonical form")
	}
	return nil
}

func (p *parser) literal(n *Node) error {
	for word, v := range map[string]Node{"null": {Kind: Null}, "true": {Kind: Bool, True: true}, "false": {Kind: Bool}} {
		if strings.HasPrefix(string(p.data[p.at:min(p.at+5, len(p.data))]), word) {
			n.Kind, n.True = v.Kind, v.True
			p.at += len(word)
			return nil
		}
	}
	return errors.New("expected a value")
}
