package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/evidence"
)

const (
	// maxRequest is what a console takes; a larger change must be applied in parts.
	maxRequest = 4 << 20
	// maxAnswer bounds what a lying hub can make this process hold.
	maxAnswer = 64 << 20

	dialTimeout = 5 * time.Second
)

// Hub is what a profile pins: where the console listens, who it must be, and the key that speaks for the person.
type Hub struct {
	// Address is unix:/path or tcp:host:port.
	Address     string
	TrustDomain string
	// Roots are the hub's role CAs. The system's roots are never asked.
	Roots []*x509.Certificate
	// Session is the person's own key. It never leaves this process: each request carries a proof made with it.
	Session *ecdsa.PrivateKey
}

// Client speaks to one hub as one person.
type Client struct {
	Control cardeav1connect.ControlClient
	Ledger  cardeav1connect.LedgerClient
	Runs    cardeav1connect.RunsClient
}

// NewClient makes a client. Nothing is dialled before the first call.
func NewClient(h Hub) (*Client, error) {
	pinned, err := pinnedTLS(h)
	if err != nil {
		return nil, err
	}
	network, address, ok := strings.Cut(h.Address, ":")
	if !ok || network != "unix" && network != "tcp" || address == "" {
		return nil, fmt.Errorf("console address %q is neither unix:/path nor tcp:host:port", h.Address)
	}
	if h.Session == nil {
		return nil, errors.New("no session key")
	}
	base := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: dialTimeout}
			conn, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, Fail(Unavailable, "cardea dev starts a hub on this machine; cardea doctor says what is missing",
					"no hub answers at %s", h.Address).Because(err)
			}
			return conn, nil
		},
		TLSClientConfig:     pinned,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
		Proxy:               nil,
	}
	return newClient(base, h.Session), nil
}

func newClient(base http.RoundTripper, session *ecdsa.PrivateKey) *Client {
	const origin = "https://cardea"
	options := connect.WithClientOptions(
		connect.WithReadMaxBytes(maxAnswer),
		connect.WithAcceptCompression("gzip", nil, nil), // what is signed is what is sent: no compressor in between
	)
	proving := &http.Client{Transport: &prover{base: base, session: session}, CheckRedirect: noRedirect}
	control := cardeav1connect.NewControlClient(proving, origin, options)
	ticketed := &http.Client{Transport: &ticketer{base: base, control: control}, CheckRedirect: noRedirect}
	return &Client{
		Control: control,
		Ledger:  cardeav1connect.NewLedgerClient(proving, origin, options),
		Runs:    cardeav1connect.NewRunsClient(ticketed, origin, options),
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// notThisHub mends a failed pin: either the hub was made anew, or somebody else answers in its place.
const notThisHub = "if the hub was set up anew, use its new profile; if not, somebody else is answering"

// pinnedTLS accepts one kind of peer: a console of this trust domain, under the profile's own roots.
func pinnedTLS(h Hub) (*tls.Config, error) {
	td, err := spiffeid.TrustDomainFromString(h.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("profile: trust domain %q: %w", h.TrustDomain, err)
	}
	if len(h.Roots) == 0 {
		return nil, errors.New("profile pins no roots of the hub")
	}
	bundle := x509bundle.FromX509Authorities(td, h.Roots)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// The standard verifier wants a host name, and a SPIFFE certificate has none; VerifyPeerCertificate below replaces it
		// and is called on every handshake, for session tickets are off.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			id, _, err := x509svid.ParseAndVerify(raw, bundle)
			if err != nil {
				return Fail(Identity, notThisHub, "the console's certificate is not of the hub in this profile: %s", err.Error()).Because(err)
			}
			if id.TrustDomain() != td || !strings.HasPrefix(id.Path(), "/role/console/") {
				return Fail(Identity, notThisHub, "expected a console of %s, found %s", td.String(), id.String())
			}
			return nil
		},
	}, nil
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
