package flow

import (
	"errors"

	"cardea/internal/expr"
)

// What an HTTP call gives as its output.
const (
	OutputContent  = "content"  // the body, parsed when it is JSON
	OutputRaw      = "raw"      // the body, base64
	OutputResponse = "response" // {request, statusCode, headers, content}
)

// HTTPCall is a `call: http`.
type HTTPCall struct {
	Method     string           // upper-case
	Origin     string           // https://host[:port], lower-case; "" when Endpoint is set
	Path       string           // URI template: literal path with {variables}, and the endpoint's static query after a `?`
	Endpoint   *expr.Expr       // without the profile only: the whole URL is computed
	Query      *expr.Template   // gives an object of scalars; nil: none
	Headers    []HeaderTemplate // in sorted order of name
	Body       *expr.Template   // nil: no body
	Output     string
	Redirect   bool   // treat 3xx as success
	Connection string // name of the connection whose credential is presented; "" for none
	Effect     string // claims.EffectIdempotent or claims.EffectOnce
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
func (c *HTTPCall) Request(s expr.Scope) (Request, error) {
	return Request{}, errors.New("flow: not built")
}
