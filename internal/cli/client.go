package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/evidence"
	"cardea/internal/identity"
	"cardea/internal/profile"
	"cardea/internal/role"
)

// maxRequest is what a console takes; a larger change must be applied in parts.
const maxRequest = 4 << 20

// Client speaks to one hub as one person.
type Client struct {
	Control cardeav1connect.ControlClient
	Ledger  cardeav1connect.LedgerClient
	Runs    cardeav1connect.RunsClient

	// skew is written by every answer's Date.
	skew *atomic.Value
}

// NewClient makes a client from a profile. Nothing is dialled before the first call.
func NewClient(p profile.Profile) (*Client, error) {
	session, ok := p.SessionKey.Key.(*ecdsa.PrivateKey)
	if !ok || session.Curve != elliptic.P256() {
		return nil, Fail(Identity, "", "profile: the session key is not a P-256 private key")
	}
	bundle, err := p.Bundle()
	if err != nil {
		return nil, Fail(Identity, "", "%s", err.Error())
	}
	// One kind of peer is accepted: a console under the profile's own roots. The system's roots are never asked.
	pinned := identity.ClientTLSWithoutSVID(bundle, identity.WantRole(role.Console), time.Now)
	return newClient(role.Dial(p.Console, pinned).Transport, session), nil
}

func newClient(base http.RoundTripper, session *ecdsa.PrivateKey) *Client {
	options := connect.WithClientOptions(role.ClientOptions()...) // no compression: what is signed is what is sent
	skew := new(atomic.Value)
	base = &dated{base, skew}
	proving := &http.Client{Transport: &prover{base: base, session: session}, CheckRedirect: noRedirect}
	control := cardeav1connect.NewControlClient(proving, role.BaseURL, options)
	ticketed := &http.Client{Transport: &ticketer{base: base, control: control}, CheckRedirect: noRedirect}
	return &Client{
		Control: control,
		Ledger:  cardeav1connect.NewLedgerClient(proving, role.BaseURL, options),
		Runs:    cardeav1connect.NewRunsClient(ticketed, role.BaseURL, options),
		skew:    skew,
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// dated notes how far the clocks are apart. The hub's Date is a hint for a person who wonders, and decides nothing.
type dated struct {
	base http.RoundTripper
	skew *atomic.Value
}

func (d *dated) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, err := d.base.RoundTrip(req)
	if err == nil {
		if at, dateErr := http.ParseTime(answer.Header.Get("Date")); dateErr == nil {
			d.skew.Store(time.Since(at).Truncate(time.Second))
		}
	}
	return answer, err
}

// prover puts a proof over the exact body on every request.
type prover struct {
	base    http.RoundTripper
	session *ecdsa.PrivateKey
}

func (p *prover) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := wholeBody(req)
	if err != nil {
		return nil, err
	}
	proof, err := evidence.NewProof(p.session, req.URL.Path, body, time.Now())
	if err != nil {
		return nil, fmt.Errorf("prove %s: %w", req.URL.Path, err)
	}
	return p.base.RoundTrip(withEvidence(req, body, evidence.ProofHeader, proof))
}

// ticketer asks the authority for a ticket over the exact body first, and sends the request to the engine with it.
type ticketer struct {
	base    http.RoundTripper
	control cardeav1connect.ControlClient
}

func (t *ticketer) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := wholeBody(req)
	if err != nil {
		return nil, err
	}
	answer, err := t.control.Ticket(req.Context(), &cardeav1.TicketRequest{Procedure: req.URL.Path, Request: body})
	if err != nil {
		return nil, err
	}
	return t.base.RoundTrip(withEvidence(req, body, evidence.TicketHeader, answer.GetTicket()))
}

// wholeBody reads and closes the request's body, as a RoundTripper must.
func wholeBody(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	defer req.Body.Close()
	body, err := io.ReadAll(io.LimitReader(req.Body, maxRequest+1))
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if len(body) > maxRequest {
		return nil, Fail(Usage, "apply fewer files at a time", "this request is larger than the %d MiB that a hub takes", maxRequest>>20)
	}
	return body, nil
}

// withEvidence is the request with its bytes fixed. It has no GetBody: evidence is for one use, so the transport must not send
// it again by itself.
func withEvidence(req *http.Request, body []byte, header, value string) *http.Request {
	out := req.Clone(req.Context())
	out.Body, out.GetBody, out.ContentLength = io.NopCloser(bytes.NewReader(body)), nil, int64(len(body))
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	out.Header.Set(header, value)
	out.Header.Del("Accept-Encoding")
	return out
}
