// Package egress is the one way out: it performs exactly the permitted request and adds the credential at the last hop.
//
// It promises: the method, URL, header values and body that the action names and nothing else, but for Host, Content-Length,
// Accept-Encoding: identity, User-Agent, Idempotency-Key, Connection and the credential; only to hosts of the connection, at an
// address that was checked after one resolution; no proxy, no redirect, no cookie; a `once` request at most one time (design
// §10, invariant 7); every answer bounded in size and time and searched for the credential (invariant 16).
//
// It refuses what it cannot be sure of: addresses inside the network unless the connection names one, credentials over
// plaintext unless the connection says so, answers that cannot be searched, requests without a deadline.
//
// It speaks HTTP/1.1 alone. Over HTTP/2 one connection carries many requests and Go's transport re-sends on its own (GOAWAY,
// REFUSED_STREAM), so that neither "at most once" nor "not sent" could be said from what this package sees.
package egress

import (
	"context"
	"net/http"
	"time"

	"cardea/internal/action"
	"cardea/internal/secret"
)

// Bounds of one request where nothing tighter is asked.
const (
	DefaultMaxBody = 4 << 20
	maxHeaderBytes = 64 << 10
)

// Request is one permitted request and what was issued for it.
type Request struct {
	Action action.HTTP
	// Grants is empty for a request without a credential.
	Grants []Grant
	// Once says that the request must never leave a second time, whatever happens.
	Once bool
	// IdempotencyKey is sent as the header of that name. Empty sends none.
	IdempotencyKey string
	// Deadline is when the answer must have been read. The zero time is refused.
	Deadline time.Time
	// MaxBody bounds the answer's body in bytes; 0 means DefaultMaxBody. A larger body is an error, never cut off.
	MaxBody int64
}

// Grant is one credential and where it may go: what the authority answered to a redeem.
type Grant struct {
	Connection string
	// Presentation is bearer, basic (the credential is user:password) or header:<Name>.
	Presentation string
	Credential   secret.Value
	// Expires is when the target stops to accept the credential; zero when it does not say.
	Expires time.Time
	// Hosts are the origins that the credential may be sent to, such as https://hr.example.com.
	Hosts []string
	// Address is ip:port to dial instead of what the host resolves to. It is the only way to an address inside the network.
	Address string
	// Roots is PEM; empty for the system's roots.
	Roots string
	// Plaintext lets the credential travel over http. The connection's owner said so in the registry.
	Plaintext bool
}

// Response is the target's answer, whatever its status: a 3xx is returned, never followed.
type Response struct {
	Status int
	// Headers in order of name, values as they came, without the credential.
	Headers []Header
	Body    []byte
}

// Header is one field of an answer.
type Header struct{ Name, Value string }

// Delivery says how far a request came. It errs towards Sent.
type Delivery int

const (
	// NotSent means that no byte of the request can have left.
	NotSent Delivery = iota
	// Sent means that the target may have it.
	Sent
	// Answered means that a status and headers came back.
	Answered
)

// Report is what was done, for the ledger. It never holds the credential.
type Report struct {
	Delivery       Delivery
	Connection     string
	Method, URL    string
	Address        string
	Status         int
	Started, Ended time.Time
	// Sent and Received count bytes of HTTP, before encryption.
	Sent, Received uint64
	// Redactions is in how many places the answer held the credential.
	Redactions int
	Error      string
}

// Options are what an Egress needs from outside. The zero value is right for production.
type Options struct {
	// Resolver looks names up; nil for the system's.
	Resolver Resolver
	// UserAgent is sent when the action sets none; empty means "cardea".
	UserAgent string
}

// Egress performs requests. It is safe for concurrent use.
type Egress struct {
	dial      dialer
	pool      pool
	userAgent string
}

// New returns an Egress. Close it to drop its idle connections.
func New(o Options) *Egress {
	e := &Egress{dial: newDialer(o.Resolver), userAgent: o.UserAgent}
	if e.userAgent == "" {
		e.userAgent = "cardea"
	}
	return e
}

// Close drops idle connections. Requests under way go on.
func (e *Egress) Close() { e.pool.close() }

// Do performs r and reports how far it came. With an error, Report.Delivery says whether the target may have the request; the error
// is always an *Error. Do never tries again by itself: for an idempotent request the transport may, over a pooled
// connection that the target had closed.
func (e *Egress) Do(ctx context.Context, r Request) (Response, Report, error) {
	report := Report{Method: r.Action.Method, URL: r.Action.URL, Started: time.Now().UTC()}
	c, err := e.prepare(r)
	if err != nil {
		return e.finish(report, c, err)
	}
	defer c.redactor.Wipe()
	report.Connection = c.connection
	ctx, cancel := context.WithDeadline(ctx, c.deadline)
	defer cancel()
	resp, err := e.perform(ctx, c)
	c.use.fill(&report)
	if err != nil {
		return e.finish(report, c, classify(ctx, err))
	}
	report.Delivery, report.Status = Answered, resp.StatusCode
	answer, places, err := c.read(resp)
	c.use.fill(&report)
	report.Redactions = places
	if err != nil {
		return e.finish(report, c, classify(ctx, err))
	}
	report.Ended = time.Now().UTC()
	return answer, report, nil
}

func (e *Egress) finish(report Report, c *call, err error) (Response, Report, error) {
	failed := asError(err)
	if c != nil {
		failed.text = c.redactor.Text(failed.text)
	}
	report.Error = failed.Error()
	report.Ended = time.Now().UTC()
	return Response{}, report, failed
}

// perform sends the request and returns when the answer's headers are there.
func (e *Egress) perform(ctx context.Context, c *call) (*http.Response, error) {
	line := e.pool.line(c.target, &e.dial)
	req := c.request(c.use.trace(ctx))
	if !c.once {
		return line.transport.RoundTrip(req)
	}
	conn, err := line.connect(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := singleUse(conn).RoundTrip(req)
	if err != nil {
		_ = conn.Close() // the transport may not have come to taking it
	}
	return resp, err
}
