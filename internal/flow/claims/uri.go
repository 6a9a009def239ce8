package claims

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// URITemplate is RFC 6570, level 1, for a path or a query: literal text and {variables}.
type URITemplate struct {
	Source string
	Parts  []URIPart
}

// URIPart is literal text, or a variable's name.
type URIPart struct {
	Literal  string
	Variable string
}

// Endpoint is an endpoint taken apart.
type Endpoint struct {
	Origin string // scheme://host[:port]
	Path   *URITemplate
	Query  *URITemplate // nil: none
}

// ParseEndpoint reads an endpoint. Nothing in it may be computed but
// path and query; what servers, proxies and libraries read differently (dot segments, encoded slashes and dots, backslashes,
// userinfo, odd spellings of addresses) is refused rather than normalised.
func ParseEndpoint(s string) (Endpoint, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "https" && scheme != "http" {
		return Endpoint{}, fmt.Errorf("it must begin with https://")
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\\\"<>^`|#", r) }); i >= 0 {
		return Endpoint{}, fmt.Errorf("the character %q has no place in it", s[i:i+1])
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	host, err := authority(scheme, rest[:end])
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Origin: scheme + "://" + host}
	path, query, hasQuery := strings.Cut(rest[end:], "?")
	if e.Path, err = pathTemplate(path); err != nil {
		return e, err
	}
	if hasQuery {
		if e.Query, err = parseTemplate(query, "/?"); err != nil {
			return e, fmt.Errorf("in the query: %w", err)
		}
	}
	return e, nil
}

// authority checks host and port and gives them in lower case, without the scheme's default port.
func authority(scheme, s string) (string, error) {
	if s == "" {
		return "", fmt.Errorf("there is no host")
	}
	if strings.ContainsAny(s, "{}") {
		return "", fmt.Errorf("host and port must be literal")
	}
	if strings.Contains(s, "@") {
		return "", fmt.Errorf("credentials have no place before the host")
	}
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
			return "", fmt.Errorf("%q is not a port", port)
		}
	}
	host = strings.ToLower(host)
	if err := checkHost(host); err != nil {
		return "", err
	}
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return host, nil
	}
	return host + ":" + port, nil
}

func checkHost(h string) error {
	if inner, ok := strings.CutPrefix(h, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		a, err := netip.ParseAddr(inner)
		if !ok || err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" || a.String() != inner {
			return fmt.Errorf("%q is not an IPv6 address in its canonical form", h)
		}
		return nil
	}
	labels := strings.Split(h, ".")
	last := labels[len(labels)-1]
	if last != "" && (last[0] >= '0' && last[0] <= '9') {
		// Whatever ends in a number is an address to somebody: 2130706433 and 0x7f.1 reach 127.0.0.1 in some resolvers.
		if a, err := netip.ParseAddr(h); err != nil || !a.Is4() {
			return fmt.Errorf("%q is neither a name nor an IPv4 address in its canonical form", h)
		}
		return nil
	}
	if len(h) > 253 {
		return fmt.Errorf("the host is longer than 253 characters")
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return fmt.Errorf("%q is not a host name", h)
		}
	}
	return nil
}

func pathTemplate(p string) (*URITemplate, error) {
	if p == "" {
		p = "/"
	}
	t, err := parseTemplate(p, "/")
	if err != nil {
		return nil, fmt.Errorf("in the path: %w", err)
	}
	segments := strings.Split(p, "/")
	for i, s := range segments {
		if s == "." || s == ".." {
			return nil, fmt.Errorf("the path has the dot segment %q", s)
		}
		if s == "" && i > 0 && i < len(segments)-1 {
			return nil, fmt.Errorf("the path has an empty segment")
		}
	}
	return t, nil
}

// parseTemplate reads literals and {variables}. extra are the delimiters that the component may have besides RFC 3986's pchar.
func parseTemplate(s, extra string) (*URITemplate, error) {
	t := &URITemplate{Source: s}
	for rest := s; rest != ""; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			i = len(rest)
		}
		if i > 0 {
			if err := checkLiteral(rest[:i], extra); err != nil {
				return nil, err
			}
			t.Parts = append(t.Parts, URIPart{Literal: rest[:i]})
		}
		if rest = rest[i:]; rest == "" {
			break
		}
		end := strings.IndexByte(rest, '}')
		if rest[0] == '}' || end < 0 {
			return nil, fmt.Errorf("a brace has no partner")
		}
		name := rest[1:end]
		if !isVariable(name) {
			return nil, fmt.Errorf("{%s} is not a variable: only the simple form {name} of a top-level key is possible", name)
		}
		t.Parts = append(t.Parts, URIPart{Variable: name})
		rest = rest[end+1:]
	}
	return t, nil
}

const (
	letters    = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	digits     = "0123456789"
	unreserved = letters + digits + "-._~"
	pchar      = unreserved + "!$&'()*+,;=:@"
	upperHex   = digits + "ABCDEF"
)

func isVariable(name string) bool {
	return name != "" && len(name) <= 128 && strings.Trim(name, letters+digits+"_") == "" && !strings.ContainsAny(name[:1], digits)
}

func checkLiteral(s, extra string) error {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if err := checkEscape(s[i:]); err != nil {
				return err
			}
			i += 2
			continue
		}
		if strings.IndexByte(pchar, s[i]) < 0 && strings.IndexByte(extra, s[i]) < 0 {
			return fmt.Errorf("the character %q must be percent-encoded", s[i:i+1])
		}
	}
	return nil
}

// checkEscape admits percent-encodings that no reader takes for structure: not of slashes, dots, percent signs or controls,
// nor of what needs none.
func checkEscape(s string) error {
	if len(s) < 3 || strings.IndexByte(upperHex, s[1]) < 0 || strings.IndexByte(upperHex, s[2]) < 0 {
		return fmt.Errorf("a %% must be followed by two upper-case hexadecimal digits")
	}
	n, _ := strconv.ParseUint(s[1:3], 16, 8) // both digits were checked
	c := byte(n)
	if c < ' ' || c == 0x7f || c == '/' || c == '\\' || c == '%' || c < 0x80 && strings.IndexByte(unreserved, c) >= 0 {
		return fmt.Errorf("%s is not possible: it could be read as something else", s[:3])
	}
	return nil
}
