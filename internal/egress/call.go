package egress

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"cardea/internal/action"
	"cardea/internal/secret"
)

// call is one request, checked and ready to leave.
type call struct {
	method     string
	url        *url.URL
	target     target
	connection string
	header     http.Header
	body       []byte
	once       bool
	deadline   time.Time
	maxBody    int64
	redactor   *secret.Redactor
	// credential says that the answer must be searched.
	credential bool
	use        usage
}

// prepare checks everything that can be checked before a connection exists.
func (e *Egress) prepare(r Request) (*call, error) {
	if r.Deadline.IsZero() {
		return nil, fail(Refused, "the request has no deadline")
	}
	u, t, err := parseTarget(r.Action)
	if err != nil {
		return nil, err
	}
	if err := t.bind(r.Grants); err != nil {
		return nil, err
	}
	c := &call{
		method: r.Action.Method, url: u, target: t, connection: t.connection, body: r.Action.Body, once: r.Once,
		deadline: r.Deadline, maxBody: r.MaxBody, credential: len(r.Grants) > 0,
	}
	if c.maxBody <= 0 {
		c.maxBody = DefaultMaxBody
	}
	if c.header, err = e.headers(r); err != nil {
		return nil, err
	}
	secrets, err := c.present(r.Grants)
	if err != nil {
		return nil, err
	}
	c.redactor = secret.NewRedactor(secrets...)
	return c, nil
}

// headers copies the action's headers, checked again although action.Parse has checked them: what stands between a workflow and the
// wire must not depend on who called.
func (e *Egress) headers(r Request) (http.Header, error) {
	h := http.Header{}
	for _, field := range r.Action.Headers {
		name := textproto.CanonicalMIMEHeaderKey(field.Name)
		if !isToken(field.Name) || !isFieldValue(field.Value) {
			return nil, fail(Refused, "header %q is not a header", field.Name)
		}
		if action.Reserved(strings.ToLower(field.Name)) {
			return nil, fail(Refused, "header %q is not an action's to set", field.Name)
		}
		if _, repeated := h[name]; repeated {
			return nil, fail(Refused, "header %q is repeated", field.Name)
		}
		h[name] = []string{field.Value}
	}
	add := func(name, value string) {
		if _, set := h[name]; !set {
			h[name] = []string{value}
		}
	}
	add("User-Agent", e.userAgent)
	add("Accept-Encoding", "identity")
	if r.IdempotencyKey != "" {
		if !isFieldValue(r.IdempotencyKey) {
			return nil, fail(Refused, "the idempotency key is not a header value")
		}
		h["Idempotency-Key"] = []string{r.IdempotencyKey}
	}
	return h, nil
}

// present adds each grant's credential, and returns all that must not come back: the credential, and what of it is on the wire.
func (c *call) present(grants []Grant) ([]secret.Value, error) {
	var hide []secret.Value
	for _, g := range grants {
		name, value, parts, err := presentation(g)
		if err != nil {
			return nil, err
		}
		if _, set := c.header[name]; set {
			return nil, fail(Refused, "connection %s would overwrite header %s", g.Connection, name)
		}
		if !g.Expires.IsZero() && g.Expires.Before(c.deadline) {
			c.deadline = g.Expires // after that the target refuses it anyway, and the lease has ended
		}
		c.header[name] = []string{value}
		hide = append(hide, g.Credential)
		for _, part := range parts {
			hide = append(hide, secret.Take([]byte(part)))
		}
	}
	return hide, nil
}

// presentation returns the header that presents g's credential and the parts of it that are secret beside the credential itself.
// Errors must not quote the credential.
func presentation(g Grant) (name, value string, parts []string, err error) {
	g.Credential.ExposeForEgress(func(b []byte) { value = string(b) })
	if value == "" || !isFieldValue(value) {
		return "", "", nil, fail(Refused, "the credential of connection %s is empty or cannot stand in a header", g.Connection)
	}
	switch {
	case g.Presentation == "bearer":
		return "Authorization", "Bearer " + value, nil, nil
	case g.Presentation == "basic":
		_, password, ok := strings.Cut(value, ":")
		if !ok || password == "" {
			return "", "", nil, fail(Refused, "the credential of connection %s is not user:password", g.Connection)
		}
		encoded := base64.StdEncoding.EncodeToString([]byte(value))
		return "Authorization", "Basic " + encoded, []string{password, encoded}, nil
	case strings.HasPrefix(g.Presentation, "header:"):
		field := strings.TrimPrefix(g.Presentation, "header:")
		if !isToken(field) || action.Transport(strings.ToLower(field)) {
			return "", "", nil, fail(Refused, "connection %s presents its credential in a header that it cannot have", g.Connection)
		}
		return textproto.CanonicalMIMEHeaderKey(field), value, nil, nil
	}
	return "", "", nil, fail(Refused, "presentation %q of connection %s is not known to this build", g.Presentation, g.Connection)
}

// request builds what the transport writes. A once request has no GetBody and asks for its connection to be closed.
func (c *call) request(ctx context.Context) *http.Request {
	req := &http.Request{
		Method: c.method, URL: c.url, Host: c.url.Host, Header: c.header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Close: c.once,
	}
	if len(c.body) > 0 {
		req.ContentLength = int64(len(c.body))
		req.Body = io.NopCloser(bytes.NewReader(c.body))
		if !c.once {
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.body)), nil }
		}
	}
	return req.WithContext(ctx)
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// isFieldValue refuses what could end a header line or be trimmed from it (RFC 9110 §5.5).
func isFieldValue(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return s == strings.Trim(s, " \t")
}
