package expr

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxDepth     = 512 // of a value that is read or given
	maxDigits    = 400 // of a number: longer ones cost quadratic time to convert
	maxExactInt  = 1 << 53
	maxResult    = 4 << 20 // bytes of a result, as JSON, nearly
	nodeOverhead = 2
)

// Decode reads one JSON value as nil, bool, int, *big.Int, float64, string, []any or map[string]any. Integers stay exact.
// A duplicate key, a number beyond float64 and a depth above 512 are errors; the caller bounds the size.
func Decode(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: more than one value")
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return decodeNumber(string(t))
	case json.Delim:
		if t == '[' {
			return decodeArray(d, depth)
		}
		return decodeObject(d, depth)
	default:
		return t, nil
	}
}

func decodeArray(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}

func decodeObject(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		key := t.(string) // the decoder gives nothing else here
		if _, twice := object[key]; twice {
			return nil, fmt.Errorf("key %q twice", key)
		}
		if object[key], err = decodeValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return object, err
}

func decodeNumber(s string) (any, error) {
	if len(s) > maxDigits {
		return nil, fmt.Errorf("a number of more than %d digits", maxDigits)
	}
	if !strings.ContainsAny(s, ".eE") {
		if i, err := strconv.Atoi(s); err == nil {
			return i, nil
		}
		i, ok := new(big.Int).SetString(s, 10)
		if !ok {
			return nil, fmt.Errorf("number %s", s)
		}
		return i, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, fmt.Errorf("number %s does not fit a double", s)
	}
	return normalFloat(f), nil
}

// normalFloat makes small integral floats integers. A result is journalled as JSON and read again on replay: both must be
// the same value, or arithmetic on large numbers would differ between a run and its replay.
func normalFloat(f float64) any {
	if f == math.Trunc(f) && math.Abs(f) <= maxExactInt {
		return int(f)
	}
	return f
}

// Encode writes a value deterministically: sorted keys, exact integers, no HTML escapes. A value that is not JSON (NaN, an
// infinity, a foreign Go type) is an error.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	if err := encode(&b, v, 0); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func encode(b *bytes.Buffer, v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("deeper than %d", maxDepth)
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int:
		b.WriteString(strconv.Itoa(v))
	case *big.Int:
		b.WriteString(v.String())
	case float64:
		return encodeFloat(b, v)
	case string:
		encodeString(b, v)
	case []any:
		return encodeArray(b, v, depth)
	case map[string]any:
		return encodeObject(b, v, depth)
	default:
		return fmt.Errorf("a %T is not a JSON value", v)
	}
	return nil
}

func encodeArray(b *bytes.Buffer, list []any, depth int) error {
	b.WriteByte('[')
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := encode(b, v, depth+1); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	return nil
}

func encodeObject(b *bytes.Buffer, object map[string]any, depth int) error {
	b.WriteByte('{')
	for i, k := range sortedKeys(object) {
		if i > 0 {
			b.WriteByte(',')
		}
		encodeString(b, k)
		b.WriteByte(':')
		if err := encode(b, object[k], depth+1); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func encodeFloat(b *bytes.Buffer, f float64) error {
	switch v := normalFloat(f).(type) {
	case int:
		b.WriteString(strconv.Itoa(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return errors.New("NaN and infinities are not JSON values")
		}
		s := strconv.FormatFloat(v, 'g', -1, 64)
		b.WriteString(s)
		if !strings.ContainsAny(s, ".e") {
			b.WriteString("e0") // it must be read as a float again
		}
	}
	return nil
}

// encodeString differs from encoding/json in leaving <, >, & and the line separators as they are.
func encodeString(b *bytes.Buffer, s string) {
	const hex = "0123456789abcdef"
	b.WriteByte('"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if r, n := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		b.WriteString(s[start:i])
		switch {
		case c == '"' || c == '\\':
			b.Write([]byte{'\\', c})
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c >= utf8.RuneSelf:
			b.WriteString("\uFFFD")
		default:
			b.Write([]byte{'\\', 'u', '0', '0', hex[c>>4], hex[c&15]})
		}
		i++
		start = i
	}
	b.WriteString(s[start:])
	b.WriteByte('"')
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// finish makes what gojq gave a value as Decode makes them, and bounds it. It copies nothing that needs no change.
type finish struct{ left int }

func (f *finish) value(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the result is nested deeper than %d", maxDepth)
	}
	if f.left -= nodeOverhead; f.left < 0 {
		return nil, fmt.Errorf("the result is larger than %d MiB", maxResult>>20)
	}
	switch v := v.(type) {
	case nil, bool, int:
		return v, nil
	case *big.Int:
		if v.BitLen() > 4*maxDigits {
			return nil, fmt.Errorf("the result has a number of more than %d digits", maxDigits)
		}
		if v.IsInt64() {
			return int(v.Int64()), nil
		}
		return v, nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, errors.New("the result is not a JSON number")
		}
		return normalFloat(v), nil
	case json.Number:
		return decodeNumber(string(v))
	case string:
		return f.text(v)
	case []any:
		return f.array(v, depth)
	case map[string]any:
		return f.object(v, depth)
	}
	return nil, fmt.Errorf("a %T is not a JSON value", v)
}

// text keeps strings UTF-8: @base64d can give anything, and the journal holds JSON.
func (f *finish) text(s string) (any, error) {
	if f.left -= len(s); f.left < 0 {
		return nil, fmt.Errorf("the result is larger than %d MiB", maxResult>>20)
	}
	return strings.ToValidUTF8(s, "\uFFFD"), nil
}

func (f *finish) array(list []any, depth int) (any, error) {
	out := list
	for i, v := range list {
		w, err := f.value(v, depth+1)
		if err != nil {
			return nil, err
		}
		if same(v, w) {
			continue
		}
		if &out[0] == &list[0] {
			out = slices.Clone(list)
		}
		out[i] = w
	}
	if out == nil {
		return []any{}, nil
	}
	return out, nil
}

func (f *finish) object(object map[string]any, depth int) (any, error) {
	var changed map[string]any
	for k, v := range object {
		if f.left -= len(k); f.left < 0 {
			return nil, fmt.Errorf("the result is larger than %d MiB", maxResult>>20)
		}
		w, err := f.value(v, depth+1)
		if err != nil {
			return nil, err
		}
		if !same(v, w) {
			if changed == nil {
				changed = make(map[string]any, len(object))
			}
			changed[k] = w
		}
	}
	if changed == nil {
		return object, nil
	}
	for k, v := range object {
		if _, done := changed[k]; !done {
			changed[k] = v
		}
	}
	return changed, nil
}

// same says whether finish gave back what it was given. Containers compare by identity.
func same(v, w any) bool {
	switch v := v.(type) {
	case []any:
		w := w.([]any)
		return len(v) == len(w) && v != nil && (len(v) == 0 || &v[0] == &w[0])
	case map[string]any:
		return sameMap(v, w.(map[string]any))
	default:
		return v == w
	}
}
