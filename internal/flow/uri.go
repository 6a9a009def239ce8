package flow

import (
	"maps"
	"math/big"
	"slices"
	"strings"

	"cardea/internal/expr"
	"cardea/internal/flow/claims"
	"cardea/internal/flow/problem"
)

// expandPath expands a path template with the data's top-level scalars. The path keeps the template's segments whatever the
// data is: a value that is a dot segment, that holds a slash or backslash in any guise, or that leaves an inner segment
// empty is an error, since a percent-encoded one is decoded too early by some server on the way.
func expandPath(t *claims.URITemplate, data any) (string, error) {
	for _, part := range t.Parts {
		if text, err := lookup(part.Variable, data); err != nil {
			return "", err
		} else if strings.ContainsFunc(text, func(r rune) bool { return r == '/' || r == '\\' || r < ' ' || r == 0x7f }) {
			return "", problem.Newf(problem.Expression, "the value of {%s} has a slash, a backslash or a control character, which a path cannot carry", part.Variable)
		}
	}
	path, err := expand(t, data)
	if err != nil {
		return "", err
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i > 0 && i < len(segments)-1 {
			return "", problem.Newf(problem.Expression, "with these values the path has the segment %q, which would make it another path", s)
		}
	}
	return path, nil
}

// expand is RFC 6570, level 1: a missing value is empty, everything but unreserved characters is percent-encoded.
func expand(t *claims.URITemplate, data any) (string, error) {
	var b strings.Builder
	for _, part := range t.Parts {
		b.WriteString(part.Literal)
		text, err := lookup(part.Variable, data)
		if err != nil {
			return "", err
		}
		b.WriteString(escape(text))
	}
	return b.String(), nil
}

func lookup(name string, data any) (string, error) {
	object, _ := data.(map[string]any)
	v := object[name]
	if name == "" || v == nil {
		return "", nil
	}
	text, ok := scalar(v)
	if !ok {
		return "", problem.Newf(problem.Expression, "the value of {%s} is not a scalar", name)
	}
	return text, nil
}

// scalar is the text of a string, number or boolean.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool, int, float64, *big.Int:
		b, err := expr.Encode(v)
		return string(b), err == nil
	}
	return "", false
}

// escape percent-encodes all but RFC 3986's unreserved characters.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
