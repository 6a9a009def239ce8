package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Paths under the issuer, where the origin serves what the authority wrote.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	JWKSPath      = "/.well-known/jwks.json"
)

// MaxJWTTTL is the longest life of a JWT-SVID. Nobody can revoke one, so it is short.
const MaxJWTTTL = time.Hour

// JWTSigner mints JWT-SVIDs. Its key is in the JWKS and signs nothing else. It is safe for concurrent use.
type JWTSigner struct {
	td     spiffeid.TrustDomain
	issuer string
	key    *ecdsa.PrivateKey
	kid    string
	signer jose.Signer
	clock  func() time.Time
}

// NewJWTSigner signs with key (P-256) as issuer, the origin's URL without a trailing slash.
func NewJWTSigner(td spiffeid.TrustDomain, issuer string, key *ecdsa.PrivateKey, clock func() time.Time) (*JWTSigner, error) {
	if td.IsZero() || clock == nil || key == nil || key.Curve != elliptic.P256() {
		return nil, errors.New("identity: a JWT signer needs a trust domain, an ECDSA P-256 key and a clock")
	}
	if err := CheckIssuer(issuer); err != nil {
		return nil, err
	}
	kid, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("identity: JWT signer: %w", err)
	}
	return &JWTSigner{td: td, issuer: issuer, key: key, kid: kid, signer: signer, clock: clock}, nil
}

// CheckIssuer refuses a URL that OpenID Discovery could not use as an issuer: it must be https
// (or http on a loopback address, for dev) without user, query, fragment or trailing slash.
func CheckIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil {
		return fmt.Errorf("identity: issuer: %w", err)
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return fmt.Errorf("identity: issuer %q: https is needed, or http on a loopback address", u.Redacted())
	}
	if u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(issuer, "#") || strings.HasSuffix(issuer, "/") {
		return fmt.Errorf("identity: issuer %q: only scheme, host and path, without a trailing slash", u.Redacted())
	}
	return nil
}

// Issuer is the iss of every token.
func (s *JWTSigner) Issuer() string { return s.issuer }

// KeyID is the RFC 7638 thumbprint of the key.
func (s *JWTSigner) KeyID() string { return s.kid }

// PublicKey is the key that verifies the tokens.
func (s *JWTSigner) PublicKey() *ecdsa.PublicKey { return &s.key.PublicKey }

// MintJWTSVID signs a token for one subject and one audience. It lives for ttl (at least
// a second, at most MaxJWTTTL); expires is its exact end. extra adds claims, such
// as jti or run, and must not name one that this function sets.
func (s *JWTSigner) MintJWTSVID(subject spiffeid.ID, audience string, ttl time.Duration, extra map[string]any) (token string, expires time.Time, err error) {
	fail := func(err error) (string, time.Time, error) {
		return "", time.Time{}, fmt.Errorf("identity: JWT-SVID of %s: %w", subject, err)
	}
	if !subject.MemberOf(s.td) {
		return fail(errors.New("the subject is of another trust domain"))
	}
	if audience == "" {
		return fail(errors.New("no audience"))
	}
	if ttl < time.Second || ttl > MaxJWTTTL {
		return fail(fmt.Errorf("a life of %s is not between a second and %s", ttl, MaxJWTTTL))
	}
	now := s.clock()
	end := now.Add(ttl).Truncate(time.Second) // NumericDate: never later than asked
	claims := make(map[string]any, len(extra)+6)
	for k, v := range extra {
		if slices.Contains([]string{"iss", "sub", "aud", "exp", "iat", "nbf"}, k) {
			return fail(fmt.Errorf("the claim %q is not the caller's to set", k))
		}
		claims[k] = v
	}
	claims["iss"], claims["sub"], claims["aud"] = s.issuer, subject.String(), audience
	claims["iat"], claims["nbf"], claims["exp"] = now.Unix(), now.Unix(), end.Unix()
	payload, err := json.Marshal(claims)
	if err != nil {
		return fail(err)
	}
	jws, err := s.signer.Sign(payload)
	if err != nil {
		return fail(err)
	}
	if token, err = jws.CompactSerialize(); err != nil {
		return fail(err)
	}
	return token, end, nil
}

// JWKSDocument is the JSON Web Key Set of the given keys, newest first.
func JWKSDocument(keys ...*ecdsa.PublicKey) ([]byte, error) {
	var set jose.JSONWebKeySet
	for _, k := range keys {
		kid, err := keyID(k)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k, KeyID: kid, Algorithm: string(jose.ES256), Use: "sig"})
	}
	return json.Marshal(set)
}

// DiscoveryDocument is the OpenID Provider metadata of issuer, as much as a verifier of JWT-SVIDs needs.
func DiscoveryDocument(issuer string) ([]byte, error) {
	if err := CheckIssuer(issuer); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"issuer":                                issuer,
		"jwks_uri":                              issuer + JWKSPath,
		"authorization_endpoint":                "",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	})
}

func keyID(key *ecdsa.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("identity: JWK thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
