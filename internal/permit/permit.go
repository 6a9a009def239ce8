// Package permit is the signed, minutes-long document that lets one runner make one attempt.
//
// A permit is an OAuth Transaction Token (draft-ietf-oauth-transaction-tokens) as a compact JWS with EdDSA. It says exactly which
// action, by digest, with which connections and scopes, and why; it is bound to the runner's key. Only the authority can
// sign one: this package encodes what is signed and verifies what was.
package permit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Type is the JWS header's typ, pinned by every verifier.
const Type = "txntoken+jwt"

// MaxToken bounds an encoded permit, in bytes.
const MaxToken = 16 << 10

// Audience of every permit of a trust domain.
func Audience(trustDomain string) string { return "spiffe://" + trustDomain }

// Permit is what a token says.
type Permit struct {
	ID       string `json:"jti"`
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	// Run is the transaction.
	Run string `json:"txn"`
	// Subject is the task's SPIFFE id.
	Subject string `json:"sub"`
	// Scope is every scope of every connection, sorted and joined by a space.
	Scope        string       `json:"scope,omitempty"`
	Purpose      string       `json:"purp"`
	Confirmation Confirmation `json:"cnf"`
	Context      Context      `json:"tctx"`
}

// Confirmation binds the permit to the runner (RFC 7800).
type Confirmation struct {
	// Key is the base64url SHA-256 of the runner's SubjectPublicKeyInfo.
	Key    string `json:"spki#S256"`
	Runner string `json:"runner"`
}

// Context is what the permit is for.
type Context struct {
	Process        string       `json:"process"`
	Workflow       string       `json:"workflow"`
	WorkflowDigest string       `json:"workflow_digest"`
	Task           string       `json:"task"`
	Iteration      []uint32     `json:"iteration,omitempty"`
	Visit          uint32       `json:"visit"`
	Attempt        uint32       `json:"attempt"`
	Epoch          uint64       `json:"epoch"`
	Action         string       `json:"action"`
	Connections    []Connection `json:"connections"`
	Tier           string       `json:"tier"`
	Effect         string       `json:"effect"`
	IdempotencyKey string       `json:"idempotency_key"`
	// Deadline is when the attempt must have ended, in seconds since the Unix epoch.
	Deadline int64  `json:"deadline"`
	Verdict  string `json:"verdict"`
	Approval string `json:"approval,omitempty"`
}

// Connection is one target of the attempt and what may be asked of it.
type Connection struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes,omitempty"`
}

type header struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KeyID     string `json:"kid,omitempty"`
}

// Sign encodes p as a compact JWS. The key is the authority's permit key; holding it is what makes a role the authority.
func Sign(p Permit, key ed25519.PrivateKey) (string, error) {
	return SignJWS(Type, p, key)
}

// SignJWS makes the one kind of JWS that the authority's Ed25519 key signs; typ keeps permits, tickets and other documents apart.
func SignJWS(typ string, claims any, key ed25519.PrivateKey) (string, error) {
	head, err := json.Marshal(header{Algorithm: "EdDSA", Type: typ})
	if err != nil {
		return "", fmt.Errorf("encode %s header: %w", typ, err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", typ, err)
	}
	signed := encode(head) + "." + encode(body)
	return signed + "." + encode(ed25519.Sign(key, []byte(signed))), nil
}

// Errors that a caller branches on.
var (
	ErrSignature = errors.New("signature is not by a known key")
	ErrExpired   = errors.New("expired")
	ErrNotYours  = errors.New("bound to another runner")
)

// Expect is what the verifier knows of itself. Every field is checked; an empty one never matches.
type Expect struct {
	TrustDomain string
	// Runner and Key are the verifier's own SPIFFE id and key thumbprint.
	Runner, Key string
	Now         time.Time
}

// Verify checks signature, type, audience, times and the binding to the verifier's own key, and returns what the token says.
func Verify(token string, keys []ed25519.PublicKey, want Expect) (Permit, error) {
	var p Permit
	if err := VerifyJWS(Type, token, keys, &p); err != nil {
		return Permit{}, fmt.Errorf("permit: %w", err)
	}
	switch {
	case want.TrustDomain == "" || p.Audience != Audience(want.TrustDomain) || p.Issuer != p.Audience:
		return Permit{}, fmt.Errorf("permit %s: audience %q is not this hub", p.ID, p.Audience)
	case want.Now.Unix() >= p.Expires || p.Expires <= p.IssuedAt:
		return Permit{}, fmt.Errorf("permit %s: %w", p.ID, ErrExpired)
	case want.Runner == "" || p.Confirmation.Runner != want.Runner || want.Key == "" || p.Confirmation.Key != want.Key:
		return Permit{}, fmt.Errorf("permit %s: %w", p.ID, ErrNotYours)
	case p.ID == "" || p.Run == "" || p.Context.Task == "" || p.Context.Action == "" || p.Context.Epoch == 0:
		return Permit{}, fmt.Errorf("permit %q is incomplete", p.ID)
	}
	return p, nil
}

// VerifyJWS checks a compact JWS of the authority and decodes its claims strictly: alg and typ are pinned, unknown and
// duplicate members are refused, and every part must be the one base64url spelling of its bytes.
func VerifyJWS(typ, token string, keys []ed25519.PublicKey, claims any) error {
	if len(token) > MaxToken {
		return fmt.Errorf("token has %d bytes; at most %d are allowed", len(token), MaxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("token is not a compact JWS")
	}
	var head header
	if err := decodePart(parts[0], &head); err != nil {
		return fmt.Errorf("token header: %w", err)
	}
	if head.Algorithm != "EdDSA" || head.Type != typ {
		return fmt.Errorf("token is alg %q typ %q, not EdDSA %s", head.Algorithm, head.Type, typ)
	}
	signature, err := decode(parts[2])
	if err != nil {
		return fmt.Errorf("token signature: %w", err)
	}
	if !signedByAny(keys, []byte(parts[0]+"."+parts[1]), signature) {
		return ErrSignature
	}
	if err := decodePart(parts[1], claims); err != nil {
		return fmt.Errorf("token claims: %w", err)
	}
	return nil
}

func signedByAny(keys []ed25519.PublicKey, message, signature []byte) bool {
	for _, key := range keys {
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature) {
			return true
		}
	}
	return false
}

// decodePart decodes one part and demands that it be exactly what this package writes, which also refuses duplicates.
func decodePart(part string, into any) error {
	raw, err := decode(part)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("trailing data")
	}
	again, err := json.Marshal(into)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, raw) {
		return errors.New("not in its canonical form")
	}
	return nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func decode(s string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(s) }
