package claims

import (
	"slices"
	"strings"

	"cardea/internal/action"
)

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func (p *reader) http(t *Task, n *Node) {
	if !p.object(n, "with", []string{"method", "endpoint", "headers", "body", "query", "output", "redirect"}, nil) {
		return
	}
	h := &HTTP{Output: "content", Body: n.Get("body")}
	t.HTTP = h
	p.method(h, n)
	if e := p.need(n, "endpoint", "with"); e != nil {
		p.endpoint(h, e)
	}
	if v := n.Get("headers"); v != nil {
		p.headers(h, v)
	}
	if v := n.Get("query"); v != nil {
		p.query(h, v)
	}
	if v := n.Get("output"); v != nil {
		if h.Output = p.str(v, "output"); v.Kind == String && !slices.Contains([]string{"content", "raw", "response"}, h.Output) {
			p.fail(v, "dsl/value", "", "output must be content, raw or response")
		}
	}
	if v := n.Get("redirect"); v != nil {
		if v.Kind != Bool {
			p.fail(v, "dsl/type", "", "redirect must be true or false, not %s", article(v.Kind))
		}
		h.Redirect = v.True
	}
	if h.Body != nil && (h.Method == "GET" || h.Method == "HEAD") {
		p.warn(h.Body, "http/body", "", "a %s request with a body is refused or misread by many servers", h.Method)
	}
}

func (p *reader) method(h *HTTP, n *Node) {
	v := p.need(n, "method", "with")
	if v == nil {
		return
	}
	h.Method = strings.ToUpper(p.str(v, "method"))
	if v.Kind == String && !slices.Contains(methods, h.Method) {
		p.fail(v, "profile/method", "", "method must be one of %s, as a literal", strings.Join(methods, ", "))
	}
	h.Effect = EffectOnce
	if slices.Contains([]string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}, h.Method) {
		h.Effect = EffectIdempotent
	}
}

func (p *reader) endpoint(h *HTTP, n *Node) {
	uri := n
	if n.Kind == Object {
		p.object(n, "endpoint", []string{"uri", "authentication"}, nil)
		if uri = p.need(n, "uri", "endpoint"); uri == nil {
			return
		}
		if a := n.Get("authentication"); a != nil {
			p.present(h, a)
		}
	}
	s := p.str(uri, "endpoint")
	switch {
	case uri.Kind != String:
	case IsExpression(s) && !p.profile:
		h.Endpoint = uri
	case IsExpression(s):
		p.fail(uri, "profile/literal-host", "write https://host/path/{name}; {name} takes a top-level property of the task's input",
			"the endpoint is computed, so nobody could say what this task may reach")
	default:
		p.literal(h, uri)
	}
}

func (p *reader) literal(h *HTTP, n *Node) {
	s := n.Text
	if len(s) > 4096 {
		p.fail(n, "profile/path", "", "the endpoint is longer than 4096 bytes")
		return
	}
	e, err := ParseEndpoint(s)
	if err != nil {
		rule := "profile/path"
		if e.Origin == "" {
			rule = "profile/literal-host"
		}
		p.fail(n, rule, "", "the endpoint %s cannot be used: %s", clip(s), err)
		return
	}
	h.Origin, h.Path, h.Query = e.Origin, e.Path, e.Query
	if strings.HasPrefix(h.Origin, "http://") {
		p.warn(n, "profile/plaintext", "use https://", "the request and its answer travel unencrypted; the connection must say `plaintext`")
	}
}

// present reads what the task authenticates as.
func (p *reader) present(h *HTTP, n *Node) {
	if n.Kind != Object || len(n.Keys) != 1 || n.Keys[0] != "use" {
		p.fail(n, "profile/authentication", "write authentication: {use: <name>}, define the name in use.authentications as {bearer: {use: <connection>}} and list the connection in use.secrets",
			"a task may only name an entry of use.authentications")
		return
	}
	use := n.Items[0]
	name := p.str(use, "use")
	if use.Kind != String {
		return
	}
	connection, ok := p.def.Auth[name]
	if !ok {
		p.fail(use, "profile/authentication", "define it as {bearer: {use: <connection>}}", "there is no %q in use.authentications", clip(name))
		return
	}
	h.Connection = connection
	p.used[connection] = true
}

func (p *reader) headers(h *HTTP, n *Node) {
	if n.Kind == String && IsExpression(n.Text) {
		if !p.profile {
			h.HeaderMap = n
			return
		}
		p.fail(n, "profile/literal-headers", "write the header names out; values may be expressions", "the headers are computed as a whole, so nobody could say which are sent")
		return
	}
	if n.Kind != Object {
		p.fail(n, "dsl/type", "", "headers must be an object, not %s", article(n.Kind))
		return
	}
	if len(n.Keys) > action.MaxHeaders {
		p.fail(n, "profile/header", "", "%d headers; at most %d are sent", len(n.Keys), action.MaxHeaders)
		return
	}
	for i, k := range n.Keys {
		p.header(h, strings.ToLower(k), n.Items[i])
	}
	slices.SortFunc(h.Headers, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
}

func (p *reader) header(h *HTTP, name string, v *Node) {
	value := p.str(v, "a header's value")
	switch {
	case v.Kind != String:
		return
	case CheckHeaderName(name) != "":
		p.fail(v, "profile/header", "", "the header %s %s", clip(name), CheckHeaderName(name))
		return
	case !IsExpression(value) && CheckHeaderValue(value) != "":
		p.fail(v, "profile/header", "", "the value of the header %s %s", name, CheckHeaderValue(value))
	case slices.ContainsFunc(h.Headers, func(o Header) bool { return o.Name == name }):
		p.fail(v, "profile/header", "remove one of them", "the header %s is set twice", name)
	}
	h.Headers = append(h.Headers, Header{name, v})
}

// CheckHeaderName says why a definition may not set a header, or "". The name is in lower case.
func CheckHeaderName(name string) string {
	switch {
	case name == "" || len(name) > 128 || strings.Trim(name, letters+digits+"!#$%&'*+-.^`|~") != "":
		return "is not the name of a header"
	case action.Transport(name):
		return "is not the definition's to set"
	case action.Reserved(name):
		return "carries a credential, which only a connection can present"
	}
	return ""
}

// CheckHeaderValue says what is wrong with a header's value, or "".
func CheckHeaderValue(value string) string {
	if len(value) > 8192 {
		return "is longer than 8192 bytes"
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		return "has a character that is not printable ASCII"
	}
	if strings.TrimSpace(value) != value {
		return "begins or ends with a space"
	}
	return ""
}

func (p *reader) query(h *HTTP, n *Node) {
	switch {
	case n.Kind == String && IsExpression(n.Text):
	case n.Kind != Object:
		p.fail(n, "dsl/type", "", "query must be an object or an expression, not %s", article(n.Kind))
	default:
		for i, k := range n.Keys {
			p.str(n.Items[i], "the query parameter "+clip(k))
		}
	}
	h.QueryMap = n
}
