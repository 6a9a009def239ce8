package registry

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

const (
	maxPath     = 4 << 10
	maxSegments = 64
)

// segment is one part of a path template: a literal in its canonical escaped form, or a variable that stands for exactly one segment.
type segment struct {
	literal  string
	variable string // "" for a literal
}

// parseTemplate reads /v1/timesheets/{month}. A variable is a whole segment: a half one would make the policy's reading of a path
// depend on where a server splits it.
func parseTemplate(template string) ([]segment, error) {
	if strings.ContainsAny(template, "?#") {
		return nil, fmt.Errorf("%q holds a query or fragment: list query parameters under query", template)
	}
	parts, err := splitPath(template)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	segments := make([]segment, 0, len(parts))
	for _, part := range parts {
		if name, ok := wholeVariable(part); ok {
			if !factPattern.MatchString(name) || seen[name] {
				return nil, fmt.Errorf("variable {%s} in %q is no name or stands twice", name, template)
			}
			seen[name] = true
			segments = append(segments, segment{variable: name})
			continue
		}
		if strings.ContainsAny(part, "{}*") {
			return nil, fmt.Errorf("segment %q of %q: a variable is a whole segment, such as {month}, and there are no wildcards", part, template)
		}
		if err := checkSegment(part); err != nil {
			return nil, fmt.Errorf("segment %q of %q %w", part, template, err)
		}
		segments = append(segments, segment{literal: part})
	}
	return segments, nil
}

func wholeVariable(part string) (string, bool) {
	if strings.HasPrefix(part, "{") && strings.HasSuffix(part, "}") {
		return part[1 : len(part)-1], true
	}
	return "", false
}

// splitPath gives the segments of an absolute path. Only the last may be empty: "/a/" differs from "/a", while "//" is one slash
// to some servers and two to others.
func splitPath(path string) ([]string, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("path %q must begin with /", path)
	}
	if len(path) > maxPath {
		return nil, fmt.Errorf("path has %d bytes; at most %d are allowed", len(path), maxPath)
	}
	parts := strings.Split(path[1:], "/")
	if len(parts) > maxSegments {
		return nil, fmt.Errorf("path has %d segments; at most %d are allowed", len(parts), maxSegments)
	}
	for i, part := range parts {
		if part == "" && i < len(parts)-1 {
			return nil, fmt.Errorf("path %q has an empty segment", path)
		}
	}
	return parts, nil
}

// matchPath gives the variables of an escaped path under a template.
func matchPath(template []segment, path string) (map[string]string, error) {
	parts, err := splitPath(path)
	if err != nil {
		return nil, err
	}
	if len(parts) != len(template) {
		return nil, errNoMatch
	}
	for i, part := range parts {
		if template[i].variable == "" && template[i].literal != part || template[i].variable != "" && part == "" {
			return nil, errNoMatch
		}
	}
	variables := map[string]string{}
	for i, part := range parts {
		if err := checkSegment(part); err != nil {
			return nil, fmt.Errorf("path segment %q %w", part, err)
		}
		if name := template[i].variable; name != "" {
			variables[name], _ = url.PathUnescape(part)
		}
	}
	return variables, nil
}

var errNoMatch = errors.New("no match")

// lookalikes become a dot, a slash or a backslash under the compatibility mappings that some servers apply to paths.
const lookalikes = "．․‥…／∕⁄＼⧵﹨"

// checkSegment refuses every segment that a server might resolve to more or other than itself: dot segments however they are
// written, encoded separators, a percent sign within (it would decode a second time), path parameters (";", which Java servers cut
// off before they look for dots), control characters, bytes that are no UTF-8, and escapes of what needs none.
func checkSegment(escaped string) error {
	if err := checkEscapes(escaped); err != nil {
		return err
	}
	plain, err := url.PathUnescape(escaped)
	switch {
	case err != nil:
		return err
	case !utf8.ValidString(plain):
		return errors.New("is not UTF-8")
	case plain == "." || plain == "..":
		return errors.New("is a dot segment")
	case strings.ContainsAny(plain, `/\%;`):
		return errors.New(`holds an encoded one of / \ % or a ;`)
	case strings.ContainsFunc(plain, isControl):
		return errors.New("holds a control character")
	case strings.ContainsAny(plain, lookalikes):
		return errors.New("holds a character that some servers read as a dot or slash")
	}
	return nil
}

// checkEscapes accepts pchar (RFC 3986 §3.3) with upper-case escapes, and only of bytes that need them: one spelling per path.
func checkEscapes(s string) error {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '%' {
			if !isPchar(c) {
				return fmt.Errorf("holds %q unescaped", c)
			}
			continue
		}
		if i+2 >= len(s) || !isUpperHex(s[i+1]) || !isUpperHex(s[i+2]) {
			return errors.New("has an escape that is not % and two upper-case hex digits")
		}
		if b := unhex(s[i+1])<<4 | unhex(s[i+2]); isUnreserved(b) {
			return fmt.Errorf("escapes %q, which needs no escape", b)
		}
		i += 2
	}
	return nil
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func isPchar(c byte) bool { return isUnreserved(c) || strings.IndexByte("!$&'()*+,;=:@", c) >= 0 }

func isUpperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'A' + 10
}

// overlaps reports whether a definition's URI template (RFC 6570 simple form: variables anywhere) can give a path under an allow
// template. It may say yes too often, never no wrongly: plans warn on its no.
func overlaps(claim string, template []segment) bool {
	claim, _, _ = strings.Cut(claim, "?")
	parts := strings.Split(strings.TrimPrefix(claim, "/"), "/")
	if len(parts) != len(template) {
		return false
	}
	for i, part := range parts {
		before, rest, open := strings.Cut(part, "{")
		switch {
		case template[i].variable != "":
			continue
		case !open && part != template[i].literal:
			return false
		case open:
			after := rest[strings.LastIndex(rest, "}")+1:]
			if !strings.HasPrefix(template[i].literal, before) || !strings.HasSuffix(template[i].literal, after) {
				return false
			}
		}
	}
	return true
}
