package flow

import (
	"slices"
	"strings"

	"cardea/internal/expr"
	"cardea/internal/flow/claims"
	"cardea/internal/flow/problem"
)

// What an HTTP call gives as its output.
const (
	OutputContent  = "content"  // the body, parsed when it is JSON
	OutputRaw      = "raw"      // the body, base64
	OutputResponse = "response" // {request, statusCode, headers, content}
)

// The bounds of a request that expressions make.
const (
	maxBody = 1 << 20 // an action carries its body by value
	maxURL  = 8 << 10
)

// HTTPCall is a `call: http`.
type HTTPCall struct {
	Method      string              // upper-case
	Origin      string              // https://host[:port], lower-case; "" when Endpoint is set
	Path        *claims.URITemplate // nil when Endpoint is set
	StaticQuery *claims.URITemplate // what follows the endpoint's `?`; nil: nothing
	Endpoint    *expr.Expr          // without the profile only: the whole URL is computed
	Query       *expr.Template      // gives an object of scalars and lists of scalars; nil: none
	Headers     []HeaderTemplate    // sorted by name
	HeaderMap   *expr.Template      // without the profile only: gives an object of scalars
	Body        *expr.Template      // nil: no body
	Output      string
	Redirect    bool   // 3xx is an answer, not an error. Redirects are never followed
	Connection  string // name of the connection whose credential is presented; "" for none
	Effect      string // claims.EffectIdempotent or claims.EffectOnce
}

// HeaderTemplate is one header: a static name and a value that gives a scalar.
type HeaderTemplate struct {
	Name  string // lower-case
	Value *expr.Template
}

// Request is a call with every expression evaluated: what will be sent, but for the credential.
type Request struct {
	Method  string
	URL     string
	Headers []Header // sorted by name; names lower-case
	Body    []byte   // nil: none
}

// Header is one header field.
type Header struct{ Name, Value string }

// Request evaluates the call's expressions. s.Data is the task's transformed input. Errors are *Problem.
//
// Whatever the data is, scheme, host, port, method, header names and the number and order of path segments are those of the
// definition: data reaches a request as one path segment, a query value, a header's value, or the body.
func (c *HTTPCall) Request(s expr.Scope) (Request, error) {
	r := Request{Method: c.Method}
	var err error
	if r.URL, err = c.url(s); err != nil {
		return Request{}, err
	}
	if len(r.URL) > maxURL {
		return Request{}, problem.Newf(problem.Expression, "the URL is longer than %d bytes", maxURL)
	}
	if r.Headers, err = c.headers(s); err != nil {
		return Request{}, err
	}
	if c.Body == nil {
		return r, nil
	}
	v, err := c.Body.Eval(s)
	if err != nil {
		return Request{}, err
	}
	if err := r.setBody(v); err != nil {
		return Request{}, err
	}
	if len(r.Body) > maxBody {
		return Request{}, problem.Newf(problem.Expression, "the body is larger than %d bytes", maxBody)
	}
	return r, nil
}

func (c *HTTPCall) url(s expr.Scope) (string, error) {
	if c.Endpoint != nil {
		return c.computed(s)
	}
	path, err := expandPath(c.Path, s.Data)
	if err != nil {
		return "", err
	}
	var query []string
	if c.StaticQuery != nil {
		q, err := expand(c.StaticQuery, s.Data)
		if err != nil {
			return "", err
		}
		query = append(query, q)
	}
	pairs, err := c.query(s)
	if err != nil {
		return "", err
	}
	if query = append(query, pairs...); len(query) == 0 {
		return c.Origin + path, nil
	}
	return c.Origin + path + "?" + strings.Join(query, "&"), nil
}

// computed is the endpoint of a call outside the profile. What it gives must still be a URL that means one thing.
func (c *HTTPCall) computed(s expr.Scope) (string, error) {
	v, err := c.Endpoint.Eval(s)
	if err != nil {
		return "", err
	}
	text, ok := v.(string)
	if !ok {
		return "", problem.New(problem.Expression, "the endpoint is not a string")
	}
	e, err := claims.ParseEndpoint(text)
	if err != nil {
		return "", problem.Newf(problem.Expression, "the endpoint cannot be used: %s", err)
	}
	literal := HTTPCall{Origin: e.Origin, Path: e.Path, StaticQuery: e.Query, Query: c.Query}
	return literal.url(s)
}

func (c *HTTPCall) query(s expr.Scope) ([]string, error) {
	if c.Query == nil {
		return nil, nil
	}
	v, err := c.Query.Eval(s)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok && v != nil {
		return nil, problem.New(problem.Expression, "the query is not an object")
	}
	return pairs(object)
}

// pairs encodes an object as name=value, by name; a list repeats its name, null leaves it out.
func pairs(object map[string]any) ([]string, error) {
	var out []string
	for _, k := range sortedKeys(object) {
		list, isList := object[k].([]any)
		if !isList {
			list = []any{object[k]}
		}
		for _, v := range list {
			if v == nil {
				continue
			}
			text, ok := scalar(v)
			if !ok {
				return nil, problem.Newf(problem.Expression, "the parameter %.80q is not a scalar", k)
			}
			out = append(out, escape(k)+"="+escape(text))
		}
	}
	return out, nil
}

func (c *HTTPCall) headers(s expr.Scope) ([]Header, error) {
	templates := c.Headers
	values := map[string]any{}
	if c.HeaderMap != nil {
		v, err := c.HeaderMap.Eval(s)
		if err != nil {
			return nil, err
		}
		object, ok := v.(map[string]any)
		if !ok && v != nil {
			return nil, problem.New(problem.Expression, "the headers are not an object")
		}
		for k, v := range object {
			values[strings.ToLower(k)] = v
		}
	}
	for _, t := range templates {
		v, err := t.Value.Eval(s)
		if err != nil {
			return nil, err
		}
		values[t.Name] = v
	}
	var out []Header
	for _, name := range sortedKeys(values) {
		if values[name] == nil {
			continue
		}
		h, err := header(name, values[name])
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

func header(name string, v any) (Header, error) {
	if wrong := claims.CheckHeaderName(name); wrong != "" {
		return Header{}, problem.Newf(problem.Expression, "the header %.80q %s", name, wrong)
	}
	text, ok := scalar(v)
	if !ok {
		return Header{}, problem.Newf(problem.Expression, "the header %s is not a scalar", name)
	}
	if wrong := claims.CheckHeaderValue(text); wrong != "" {
		return Header{}, problem.Newf(problem.Expression, "the value of the header %s %s", name, wrong)
	}
	return Header{name, text}, nil
}

// setBody encodes a value for the content type: JSON unless the headers say otherwise, a form for an object, and for any
// other type the text itself.
func (r *Request) setBody(v any) error {
	contentType := ""
	for _, h := range r.Headers {
		if h.Name == "content-type" {
			contentType = strings.ToLower(strings.TrimSpace(strings.Split(h.Value, ";")[0]))
		}
	}
	if contentType == "" {
		contentType = "application/json"
		r.Headers = append(r.Headers, Header{"content-type", contentType})
		slices.SortFunc(r.Headers, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
	}
	text, isText := v.(string)
	object, isObject := v.(map[string]any)
	switch {
	case contentType == "application/json" || strings.HasSuffix(contentType, "+json"):
		b, err := expr.Encode(v)
		if err != nil {
			return problem.Newf(problem.Expression, "the body is not JSON: %s", err)
		}
		r.Body = b
	case contentType == "application/x-www-form-urlencoded" && isObject:
		fields, err := pairs(object)
		if err != nil {
			return err
		}
		r.Body = []byte(strings.Join(fields, "&"))
	case isText:
		r.Body = []byte(text)
	default:
		return problem.Newf(problem.Expression, "a body of type %s must be a string", contentType)
	}
	return nil
}
