// Package evidence verifies what a run's start and a person's request rest on.
//
// A proof shows that the holder of a session key made one request, byte for byte. A ticket is the authority's one-use statement
// that a person made one request to the engine. Envelopes, schedule slots and parents join them with their own issues. Every
// verification is over the exact bytes that the receiver then parses.
package evidence

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"cardea/internal/permit"
)

// HTTP headers that carry evidence beside a request.
const (
	ProofHeader  = "Cardea-Proof"
	TicketHeader = "Cardea-Ticket"
)

// TicketType is the JWS typ of tickets; TicketLife is how long one lives.
const (
	TicketType = "cardea-ticket+jwt"
	TicketLife = 60 * time.Second
)

// Ticket says that a person asked for one request.
type Ticket struct {
	ID       string `json:"jti"`
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	Person   string `json:"sub"`
	// Procedure such as /cardea.v1.Runs/Start.
	Procedure string `json:"procedure"`
	// Request is BodyDigest of the exact bytes.
	Request string `json:"request"`
	// The rest is set for Start alone: what the authority resolved, so that the engine cannot choose another.
	Process        string `json:"process,omitempty"`
	Workflow       string `json:"workflow,omitempty"`
	Version        string `json:"version,omitempty"`
	WorkflowDigest string `json:"workflow_digest,omitempty"`
	InputDigest    string `json:"input_digest,omitempty"`
}

// BodyDigest is the base64url SHA-256 of a request's exact body bytes.
func BodyDigest(body []byte) string {
	sum := sha256.Sum256(body)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// SignTicket encodes a ticket with the authority's key.
func SignTicket(t Ticket, key ed25519.PrivateKey) (string, error) {
	return permit.SignJWS(TicketType, t, key)
}

// Errors that a caller branches on.
var (
	ErrExpired = errors.New("expired")
	ErrBody    = errors.New("made for another request")
)

// VerifyTicket checks that the authority made token for exactly this procedure and these bytes, not long ago. One use is the
// caller's to keep: by the ticket's ID.
func VerifyTicket(token string, keys []ed25519.PublicKey, trustDomain, procedure string, body []byte, now time.Time) (Ticket, error) {
	t, err := ParseTicket(token, keys, trustDomain, now)
	if err != nil {
		return Ticket{}, err
	}
	if t.Procedure != procedure || subtle.ConstantTimeCompare([]byte(t.Request), []byte(BodyDigest(body))) != 1 {
		return Ticket{}, fmt.Errorf("ticket %s: %w", t.ID, ErrBody)
	}
	return t, nil
}

// ParseTicket verifies a ticket apart from its request; the authority uses it when the engine presents one as a run's evidence.
func ParseTicket(token string, keys []ed25519.PublicKey, trustDomain string, now time.Time) (Ticket, error) {
	t, err := ParseTicketOfAnyAge(token, keys, trustDomain)
	if err != nil {
		return Ticket{}, err
	}
	if now.Unix() >= t.Expires {
		return Ticket{}, fmt.Errorf("ticket %s: %w", t.ID, ErrExpired)
	}
	return t, nil
}

// ParseTicketOfAnyAge verifies all but the time. A ticket that the engine made durable in time is presented to the authority
// later, when the authority was away; the authority consumes it once, so its age then adds nothing.
func ParseTicketOfAnyAge(token string, keys []ed25519.PublicKey, trustDomain string) (Ticket, error) {
	var t Ticket
	if err := permit.VerifyJWS(TicketType, token, keys, &t); err != nil {
		return Ticket{}, fmt.Errorf("ticket: %w", err)
	}
	switch {
	case trustDomain == "" || t.Audience != permit.Audience(trustDomain) || t.Issuer != t.Audience:
		return Ticket{}, fmt.Errorf("ticket %s: audience %q is not this hub", t.ID, t.Audience)
	case t.Expires <= t.IssuedAt || t.Expires-t.IssuedAt > int64(TicketLife/time.Second):
		return Ticket{}, fmt.Errorf("ticket %s: lives longer than a ticket may", t.ID)
	case t.ID == "" || t.Person == "" || t.Procedure == "" || t.Request == "":
		return Ticket{}, fmt.Errorf("ticket %q is incomplete", t.ID)
	}
	return t, nil
}
