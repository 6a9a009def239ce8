package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"cardea/internal/action"
	"cardea/internal/policy"
)

// maxBodyNodes bounds the work of reading and validating one body.
const maxBodyNodes = 64 << 10

// AllowMatch is the entry of a connection's allow that a request fell under.
type AllowMatch struct {
	Index  int
	Params map[string]string // the path's variables, unescaped
	// Facts are what policy may read: string, bool or policy.Decimal.
	Facts map[string]any
	// JSON says that the body was read as JSON. The request's content-type must then say so too (CheckContentType), or the target
	// may read another meaning in the same bytes.
	JSON bool
}

// NoMatchError tells why a request is not among those that a connection may be asked, and what would be.
type NoMatchError struct {
	Connection string
	Reason     string
	Allowed    []string // such as GET /v1/timesheets/{month}
}

func (e *NoMatchError) Error() string {
	s := "connection " + e.Connection + " may not be asked this: " + e.Reason
	if len(e.Allowed) > 0 {
		s += " (it allows " + strings.Join(e.Allowed, ", ") + ")"
	}
	return s
}

// Match finds the first entry of allow that one exact request falls under: method, host, escaped path, query names, body and facts
// together. Any other request gives a *NoMatchError. It is pure and safe for concurrent use.
func (c *Connection) Match(method, rawURL string, body []byte) (AllowMatch, error) {
	path, query, err := c.splitURL(rawURL)
	if err != nil {
		return AllowMatch{}, c.noMatch("%v", err)
	}
	var nearest error
	for i := range c.Allow {
		a := &c.Allow[i]
		params, err := matchPath(a.path, path)
		if errors.Is(err, errNoMatch) || err == nil && !slices.Contains(a.Methods, method) {
			continue
		}
		var facts map[string]any
		if err == nil {
			facts, err = a.accepts(method, query, body)
		}
		if err == nil {
			return AllowMatch{Index: i, Params: params, Facts: facts, JSON: a.readsBody()}, nil
		}
		if nearest == nil {
			nearest = err
		}
	}
	if nearest != nil {
		return AllowMatch{}, c.noMatch("%v", nearest)
	}
	return AllowMatch{}, c.noMatch("%s %s is not among what it allows", method, path)
}

func (c *Connection) noMatch(format string, args ...any) error {
	e := &NoMatchError{Connection: c.Name, Reason: fmt.Sprintf(format, args...)}
	for _, a := range c.Allow {
		e.Allowed = append(e.Allowed, a.String())
	}
	return e
}

// String gives an entry for people: GET /v1/timesheets/{month}.
func (a Allow) String() string { return strings.Join(a.Methods, "|") + " " + a.Path }

// splitURL gives the escaped path and the query of a URL on one of the connection's hosts, byte for byte as they will be sent.
func (c *Connection) splitURL(raw string) (path, query string, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", "", errors.New("the url does not parse")
	}
	if u.User != nil || u.Opaque != "" || strings.Contains(raw, "#") || u.ForceQuery {
		return "", "", errors.New("the url holds user information, a fragment or an empty query")
	}
	origin := u.Scheme + "://" + u.Host
	rest, ok := strings.CutPrefix(raw, origin)
	if !ok || !slices.Contains(c.Hosts, origin) || !strings.HasPrefix(rest, "/") {
		return "", "", fmt.Errorf("host %s is not one of its hosts (%s)", origin, strings.Join(c.Hosts, ", "))
	}
	path, query, _ = strings.Cut(rest, "?")
	return path, query, nil
}

func (a *Allow) readsBody() bool { return a.schema != nil || len(a.Facts) > 0 }

func (a *Allow) accepts(method, query string, body []byte) (map[string]any, error) {
	if err := a.checkQuery(query); err != nil {
		return nil, err
	}
	if !a.readsBody() {
		if len(body) > 0 && (method == "GET" || method == "HEAD") {
			return nil, fmt.Errorf("a %s has no body", method)
		}
		return map[string]any{}, nil
	}
	tree, err := parseJSON(body, limits{action.MaxBody, MaxDepth, maxBodyNodes})
	if err != nil {
		return nil, fmt.Errorf("the body cannot be read: %w", err)
	}
	if a.schema != nil {
		if err := validateBody(a.schema, tree); err != nil {
			return nil, err
		}
	}
	return readFactsOf(tree, a.Facts)
}

// checkQuery wants each parameter's name listed. A repeated one is refused: which value counts is the server's whim.
func (a *Allow) checkQuery(query string) error {
	if query == "" {
		return nil
	}
	if len(a.Query) == 0 {
		return errors.New("it has a query, and none is allowed")
	}
	if strings.ContainsAny(query, ";#") {
		return errors.New("its query holds a ; or #")
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		raw, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(raw)
		if _, bad := url.QueryUnescape(value); err != nil || bad != nil || name == "" {
			return errors.New("its query does not parse")
		}
		if seen[name] {
			return fmt.Errorf("query parameter %q stands twice", name)
		}
		seen[name] = true
		if !slices.Contains(a.Query, name) && !slices.Contains(a.Query, "*") {
			return fmt.Errorf("query parameter %q is not allowed", name)
		}
	}
	return nil
}

func readFactsOf(tree any, facts map[string]string) (map[string]any, error) {
	out := make(map[string]any, len(facts))
	for _, name := range sortedKeys(facts) {
		v, err := at(tree, facts[name])
		if err != nil {
			return nil, fmt.Errorf("fact %s: %w", name, err)
		}
		if out[name], err = fact(v); err != nil {
			return nil, fmt.Errorf("fact %s at %s: %w", name, facts[name], err)
		}
	}
	return out, nil
}

func fact(v any) (any, error) {
	switch v := v.(type) {
	case string, bool:
		return v, nil
	case json.Number:
		return exactDecimal(v.String())
	}
	return nil, fmt.Errorf("is %s; policy reads strings, booleans and numbers", typeName(v))
}

// exactDecimal turns a JSON number into a Cedar decimal without rounding: at most four digits after the point, within 64 bits.
func exactDecimal(n string) (policy.Decimal, error) {
	if err := checkNumber(n); err != nil {
		return "", err
	}
	r, ok := new(big.Rat).SetString(n)
	if !ok {
		return "", errors.New("the number does not parse")
	}
	scaled := new(big.Rat).Mul(r, big.NewRat(10_000, 1))
	if !scaled.IsInt() {
		return "", errors.New("the number has more than four digits after the point, which policy cannot compare exactly")
	}
	if !scaled.Num().IsInt64() {
		return "", errors.New("the number is too large for policy to compare")
	}
	return policy.Decimal(r.FloatString(4)), nil
}

// splitPointer gives the reference tokens of an RFC 6901 JSON pointer.
func splitPointer(p string) ([]string, error) {
	if !strings.HasPrefix(p, "/") || len(p) > 1024 {
		return nil, fmt.Errorf("%q is not a JSON pointer, such as /amount", p)
	}
	tokens := strings.Split(p[1:], "/")
	for i, t := range tokens {
		for j := range len(t) {
			if t[j] == '~' && (j+1 == len(t) || t[j+1] != '0' && t[j+1] != '1') {
				return nil, fmt.Errorf("%q is not a JSON pointer: write ~0 for ~ and ~1 for /", p)
			}
		}
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~")
	}
	return tokens, nil
}

func at(tree any, pointer string) (any, error) {
	tokens, err := splitPointer(pointer)
	if err != nil {
		return nil, err
	}
	for _, t := range tokens {
		var ok bool
		switch v := tree.(type) {
		case map[string]any:
			tree, ok = v[t]
		case []any:
			i, err := strconv.Atoi(t)
			if ok = err == nil && i >= 0 && i < len(v) && strconv.Itoa(i) == t; ok {
				tree = v[i]
			}
		}
		if !ok {
			return nil, fmt.Errorf("the body has nothing at %s", pointer)
		}
	}
	return tree, nil
}

// CheckContentType refuses a body that was read as JSON under another name, or in another charset: form decoders, and decoders of
// UTF-7 or UTF-16, find different values in the same bytes. So there are two spellings, and no other parameter and no other type
// passes. value is the request's content-type, empty when it has none.
func CheckContentType(value string) error {
	switch strings.ToLower(value) {
	case "application/json", "application/json; charset=utf-8":
		return nil
	}
	return fmt.Errorf("content-type %q: the body is checked as JSON in UTF-8 and must be sent as application/json, which may say ; charset=utf-8 and nothing else", value)
}
