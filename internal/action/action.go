// Package action gives what an attempt will do one byte form and one name.
//
// The engine builds an action, the authority decides over its bytes, people sign its digest, and the runner performs it: all
// four handle the same canonical bytes, and Parse refuses any others, so that two readers cannot see two actions.
package action

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
)

// Limits of one action.
const (
	MaxBody      = 1 << 20
	MaxCanonical = 2 << 20
	MaxHeaders   = 64
	maxHeader    = 8 << 10
	maxURL       = 8 << 10
)

// Action is what one attempt will do. Exactly the field that Kind names is set.
type Action struct {
	Kind string
	HTTP *HTTP
}

// HTTP is one request, as it will leave, without the credential.
type HTTP struct {
	// Method is upper-case.
	Method string
	// URL is absolute and canonical: scheme, host, escaped path and query; no userinfo, no fragment.
	URL string
	// Headers have lower-case names, sorted, each once.
	Headers []Header
	// Body is sent byte for byte.
	Body []byte
}

// Header is one request header.
type Header struct {
	Name, Value string
}

type wire struct {
	V    int       `json:"v"`
	Kind string    `json:"kind"`
	HTTP *wireHTTP `json:"http"`
}

type wireHTTP struct {
	Method   string      `json:"method"`
	URL      string      `json:"url"`
	Headers  [][2]string `json:"headers"`
	Body     string      `json:"body"`
	Encoding string      `json:"encoding"`
}

// Digest names canonical bytes: "sha256:" and 64 lower-case hex digits.
func Digest(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Canonical returns the action's one byte form: RFC 8785 JSON in which the body stands as text when it is valid UTF-8 and as
// base64 otherwise. It fails for an action that Parse would refuse.
func (a Action) Canonical() ([]byte, error) {
	if err := a.validate(); err != nil {
		return nil, err
	}
	w := wire{V: 1, Kind: a.Kind, HTTP: &wireHTTP{Method: a.HTTP.Method, URL: a.HTTP.URL, Headers: [][2]string{}}}
	for _, h := range a.HTTP.Headers {
		w.HTTP.Headers = append(w.HTTP.Headers, [2]string{h.Name, h.Value})
	}
	w.HTTP.Body, w.HTTP.Encoding = encodeBody(a.HTTP.Body)
	raw, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode action: %w", err)
	}
	return jcs.Transform(raw)
}

// Parse reads canonical bytes and refuses whatever is not exactly what Canonical would write.
func Parse(canonical []byte) (Action, error) {
	if len(canonical) > MaxCanonical {
		return Action{}, fmt.Errorf("action has %d bytes; at most %d are allowed", len(canonical), MaxCanonical)
	}
	var w wire
	dec := json.NewDecoder(bytes.NewReader(canonical))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return Action{}, fmt.Errorf("decode action: %w", err)
	}
	if w.V != 1 || w.Kind != "http" || w.HTTP == nil {
		return Action{}, fmt.Errorf("action version %d kind %q is not known to this build", w.V, w.Kind)
	}
	a, err := w.action()
	if err != nil {
		return Action{}, err
	}
	again, err := a.Canonical()
	if err != nil {
		return Action{}, err
	}
	if !bytes.Equal(again, canonical) {
		return Action{}, errors.New("action is not in its canonical form")
	}
	return a, nil
}

func (w wire) action() (Action, error) {
	h := &HTTP{Method: w.HTTP.Method, URL: w.HTTP.URL}
	for _, f := range w.HTTP.Headers {
		h.Headers = append(h.Headers, Header{Name: f[0], Value: f[1]})
	}
	switch w.HTTP.Encoding {
	case "text":
		h.Body = []byte(w.HTTP.Body)
	case "base64":
		body, err := base64.StdEncoding.Strict().DecodeString(w.HTTP.Body)
		if err != nil {
			return Action{}, fmt.Errorf("decode action body: %w", err)
		}
		h.Body = body
	default:
		return Action{}, fmt.Errorf("action body encoding %q is not known", w.HTTP.Encoding)
	}
	return Action{Kind: w.Kind, HTTP: h}, nil
}

func encodeBody(body []byte) (text, encoding string) {
	if utf8.Valid(body) {
		return string(body), "text"
	}
	return base64.StdEncoding.EncodeToString(body), "base64"
}

func (a Action) validate() error {
	if a.Kind != "http" || a.HTTP == nil {
		return fmt.Errorf("action kind %q is not known to this build", a.Kind)
	}
	h := a.HTTP
	if !methods[h.Method] {
		return fmt.Errorf("method %q is not one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", h.Method)
	}
	if len(h.Body) > MaxBody {
		return fmt.Errorf("body has %d bytes; at most %d are allowed", len(h.Body), MaxBody)
	}
	if err := checkURL(h.URL); err != nil {
		return err
	}
	return checkHeaders(h.Headers)
}

var methods = map[string]bool{"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true, "DELETE": true, "OPTIONS": true}

// checkURL refuses every spelling that two parsers might read as two places.
func checkURL(raw string) error {
	if len(raw) > maxURL {
		return fmt.Errorf("url has %d bytes; at most %d are allowed", len(raw), maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("url scheme %q is neither https nor http", u.Scheme)
	case u.Host == "" || u.Opaque != "" || u.User != nil || u.Fragment != "" || strings.Contains(raw, "#"):
		return errors.New("url must have a host and neither user information nor a fragment")
	case u.Host != strings.ToLower(u.Host) || u.String() != raw:
		return errors.New("url is not in its canonical form")
	case !strings.HasPrefix(u.EscapedPath(), "/"):
		return errors.New("url path must begin with /")
	}
	return CheckPath(u.EscapedPath())
}

// CheckPath refuses an escaped path with a dot segment, an encoded separator or a backslash: a server may resolve those to
// another resource than the one that policy read.
func CheckPath(escaped string) error {
	lower := strings.ToLower(escaped)
	for _, bad := range []string{"%2f", "%5c", "\\", "%00", "%2e"} {
		if strings.Contains(lower, bad) {
			return fmt.Errorf("url path holds %q", bad)
		}
	}
	for _, segment := range strings.Split(escaped, "/") {
		if segment == "." || segment == ".." {
			return errors.New("url path holds a dot segment")
		}
	}
	return nil
}

func checkHeaders(headers []Header) error {
	if len(headers) > MaxHeaders {
		return fmt.Errorf("%d headers; at most %d are allowed", len(headers), MaxHeaders)
	}
	previous := ""
	for _, h := range headers {
		if !isToken(h.Name) || h.Name != strings.ToLower(h.Name) {
			return fmt.Errorf("header name %q is not a lower-case token", h.Name)
		}
		if h.Name <= previous {
			return fmt.Errorf("header %q is repeated or out of order", h.Name)
		}
		if Reserved(h.Name) {
			return fmt.Errorf("header %q is not an action's to set", h.Name)
		}
		if len(h.Value) > maxHeader || !isFieldValue(h.Value) {
			return fmt.Errorf("value of header %q is too long or holds a control character", h.Name)
		}
		previous = h.Name
	}
	return nil
}

// Reserved reports whether a header is never an action's to set: Transport's, and those that carry credentials.
func Reserved(lowerName string) bool { return Transport(lowerName) || credential[lowerName] }

// Transport reports whether a header is set by what sends the request. Whoever else could set one could smuggle a second request,
// another origin, or a method that the verdict was not about (RFC 9110 §7.6.1, and the forwarding and method-override families).
func Transport(lowerName string) bool {
	return transport[lowerName] || strings.HasPrefix(lowerName, "x-forwarded-") || strings.HasPrefix(lowerName, "proxy-") || strings.HasPrefix(lowerName, "sec-")
}

// Both sets are never written to.
var (
	transport = set("connection", "content-encoding", "content-length", "expect", "host", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "via",
		"forwarded", "x-real-ip", "idempotency-key", "txn-token", "x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url")
	credential = set("authorization", "cookie", "cookie2", "set-cookie", "x-api-key", "api-key", "apikey", "x-auth-token", "x-auth-key", "x-access-token",
		"private-token", "x-vault-token", "x-amz-security-token", "x-csrf-token", "dpop", "x-goog-api-key", "ocp-apim-subscription-key", "job-token")
)

func set(names ...string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[n] = true
	}
	return out
}

// isToken takes no underscore: gateways that speak CGI fold it onto the hyphen, and with it onto a header that is refused here.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

func isFieldValue(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s) && s == strings.TrimSpace(s)
}
