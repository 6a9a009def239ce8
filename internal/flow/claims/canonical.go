package claims

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gowebpki/jcs"
)

// Canonical is the RFC 8785 form of nil, bool, float64, string, []any and map[string]any. Strings must be UTF-8.
func Canonical(v any) ([]byte, error) { return appendCanonical(nil, v, 0) }

func appendCanonical(b []byte, v any, depth int) ([]byte, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("nested deeper than %d", MaxDepth)
	}
	var err error
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return fmt.Append(b, v), nil
	case float64:
		s, err := jcs.NumberToJSON(v)
		return append(b, s...), err
	case string:
		return append(b, quote(v)...), nil
	case []any:
		b = append(b, '[')
		for i, w := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendCanonical(b, w, depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		return appendObject(b, v, depth)
	}
	return nil, fmt.Errorf("a %T has no canonical form", v)
}

func appendObject(b []byte, object map[string]any, depth int) ([]byte, error) {
	keys := slices.SortedFunc(maps.Keys(object), compareKeys)
	b = append(b, '{')
	var err error
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, quote(k)...), ':')
		if b, err = appendCanonical(b, object[k], depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}
