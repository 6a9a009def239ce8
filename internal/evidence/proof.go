package evidence

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// ProofType is the JWS typ of proofs. It is RFC 9449's proof of possession, with the body's digest added, so that whoever
// forwards the request can change nothing in it.
const ProofType = "cardea-proof+jwt"

// ProofLife is how far a proof's time may lie from the verifier's clock, in either direction.
const ProofLife = 60 * time.Second

const maxProof = 4 << 10

// Proof is what a session key signed.
type Proof struct {
	ID        string `json:"jti"`
	Method    string `json:"htm"`
	Procedure string `json:"htu"`
	IssuedAt  int64  `json:"iat"`
	Body      string `json:"bd"`
}

// NewProof signs one POST of body to procedure with a P-256 session key.
func NewProof(key *ecdsa.PrivateKey, procedure string, body []byte, now time.Time) (string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", fmt.Errorf("proof id: %w", err)
	}
	claims, err := json.Marshal(Proof{
		ID: base64.RawURLEncoding.EncodeToString(id), Method: "POST", Procedure: procedure, IssuedAt: now.Unix(), Body: BodyDigest(body),
	})
	if err != nil {
		return "", fmt.Errorf("encode proof: %w", err)
	}
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType(ProofType)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		return "", fmt.Errorf("proof signer: %w", err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return "", fmt.Errorf("sign proof: %w", err)
	}
	return signed.CompactSerialize()
}

// VerifyProof checks that token is a fresh proof over exactly this procedure and these bytes, and returns it with the
// thumbprint (RFC 7638) of the key that made it. Whose key that is, and that the proof's ID is new, is the authority's to say.
func VerifyProof(token, procedure string, body []byte, now time.Time) (Proof, string, error) {
	if len(token) > maxProof {
		return Proof{}, "", fmt.Errorf("proof has %d bytes; at most %d are allowed", len(token), maxProof)
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return Proof{}, "", fmt.Errorf("proof: %w", err)
	}
	key, err := embeddedKey(signed)
	if err != nil {
		return Proof{}, "", err
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return Proof{}, "", fmt.Errorf("proof: %w", err)
	}
	p, err := decodeProof(payload)
	if err != nil {
		return Proof{}, "", err
	}
	if err := p.check(procedure, body, now); err != nil {
		return Proof{}, "", err
	}
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return Proof{}, "", fmt.Errorf("proof key: %w", err)
	}
	return p, base64.RawURLEncoding.EncodeToString(thumbprint), nil
}

func embeddedKey(signed *jose.JSONWebSignature) (*jose.JSONWebKey, error) {
	protected := signed.Signatures[0].Protected
	if typ, _ := protected.ExtraHeaders[jose.HeaderType].(string); typ != ProofType {
		return nil, fmt.Errorf("proof is typ %q, not %s", typ, ProofType)
	}
	if protected.JSONWebKey == nil || !protected.JSONWebKey.IsPublic() || !protected.JSONWebKey.Valid() {
		return nil, errors.New("proof carries no public key")
	}
	return protected.JSONWebKey, nil
}

func decodeProof(payload []byte) (Proof, error) {
	var p Proof
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return Proof{}, fmt.Errorf("proof claims: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Proof{}, errors.New("proof claims: trailing data")
	}
	return p, nil
}

func (p Proof) check(procedure string, body []byte, now time.Time) error {
	age := now.Sub(time.Unix(p.IssuedAt, 0))
	switch {
	case p.ID == "" || len(p.ID) > 64:
		return errors.New("proof has no usable id")
	case age > ProofLife || age < -ProofLife:
		return fmt.Errorf("proof %s: %w: made %s from this hub's time; check the clock", p.ID, ErrExpired, age.Round(time.Second))
	case p.Method != "POST" || p.Procedure != procedure || subtle.ConstantTimeCompare([]byte(p.Body), []byte(BodyDigest(body))) != 1:
		return fmt.Errorf("proof %s: %w", p.ID, ErrBody)
	}
	return nil
}
