// Package verify makes and checks the signatures of approvals: people's, which are OpenSSH's own (SSHSIG, PROTOCOL.sshsig),
// and the authority's over the statement that it asks them to sign.
//
// It promises that what it accepts, `ssh-keygen -Y verify` accepts for the same namespace and the raw SHA-256 of the
// statement, and the other way round for the keys below. It refuses keys and signatures that are weak (DSA, RSA under 3072
// bits or with SHA-1, certificates), a hardware key's signature made without a touch, armour with anything around it, and
// blobs that are not in their one canonical form. It knows no persons: whose key it is and whether that person's
// signature counts is for package approval.
package verify

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"cardea/internal/approval"
)

// Namespaces keep a signature from meaning anything else: a refusal cannot be shown as an approval, nor either as a signed
// file or git commit.
const (
	NamespaceApproval = "cardea-approval"
	NamespaceRefusal  = "cardea-refusal"
)

// Bounds of what is parsed. A signer, or whoever speaks to the console as one, controls it.
const (
	MaxArmored = 16 << 10
	maxKey     = 4 << 10
	minRSABits = 3072
	maxRSABits = 8192
)

// Signed is a genuine signature.
type Signed struct {
	Key ssh.PublicKey
	// Fingerprint is SHA256:…, as ssh-keygen prints it and resources name keys by.
	Fingerprint string
	Namespace   string
	// Hardware says that the key lives in a security key. Present says that it was touched, Verified that it knew its
	// owner by PIN or biometrics; both are false for keys in files and agents, which cannot tell.
	Hardware, Present, Verified bool
}

// Person checks a person's armoured signature over a statement's canonical bytes, in exactly the given namespace.
func Person(statement, armored []byte, namespace string) (Signed, error) {
	if namespace != NamespaceApproval && namespace != NamespaceRefusal {
		return Signed{}, fmt.Errorf("verify signature: namespace %.40q is not one of approvals", namespace)
	}
	sig, err := parse(armored)
	if err != nil {
		return Signed{}, fmt.Errorf("verify signature: %w", err)
	}
	s := Signed{Key: sig.PublicKey, Fingerprint: ssh.FingerprintSHA256(sig.PublicKey), Namespace: namespace}
	if err := CheckKey(sig.PublicKey); err != nil {
		return Signed{}, fmt.Errorf("verify signature by %s: %w", s.Fingerprint, err)
	}
	message := bytes.NewReader(approval.Message(statement))
	if err := sshsig.Verify(message, sig, sig.PublicKey, sig.HashAlgorithm, namespace); err != nil {
		return Signed{}, fmt.Errorf("verify signature by %s: %w", s.Fingerprint, err)
	}
	if err := s.flags(sig.Signature); err != nil {
		return Signed{}, fmt.Errorf("verify signature by %s: %w", s.Fingerprint, err)
	}
	return s, nil
}

// parse reads armour that holds one signature and nothing else. The PEM reader would skip whatever stands before and
// after, and two stores of one signature would then differ.
func parse(armored []byte) (*sshsig.Signature, error) {
	if len(armored) > MaxArmored {
		return nil, fmt.Errorf("it has %d bytes; at most %d are allowed", len(armored), MaxArmored)
	}
	armored = bytes.TrimSpace(armored)
	if !bytes.HasPrefix(armored, []byte("-----BEGIN "+sshsig.PEMType+"-----")) {
		return nil, errors.New("it is not an armoured SSH signature")
	}
	block, rest := pem.Decode(armored)
	if block == nil || block.Type != sshsig.PEMType || len(block.Headers) > 0 || len(rest) > 0 {
		return nil, errors.New("it is not one armoured SSH signature")
	}
	sig, err := sshsig.ParseSignature(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(sig.Marshal(), block.Bytes) {
		return nil, errors.New("it is not in its canonical form")
	}
	return sig, nil
}

// CheckKey refuses keys that are too weak, or not a person's. The registry asks it before it takes a key.
func CheckKey(key ssh.PublicKey) error {
	if key == nil || len(key.Marshal()) > maxKey {
		return errors.New("the key is too large")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		return checkRSA(key)
	}
	return fmt.Errorf("keys of type %s are not accepted; use ed25519, ecdsa, a security key, or RSA of %d bits", key.Type(), minRSABits)
}

func checkRSA(key ssh.PublicKey) error {
	c, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return errors.New("the RSA key cannot be read")
	}
	var public crypto.PublicKey = c.CryptoPublicKey()
	r, ok := public.(*rsa.PublicKey)
	if !ok {
		return errors.New("the RSA key cannot be read")
	}
	if bits := r.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits; it must have %d to %d", bits, minRSABits, maxRSABits)
	}
	return nil
}

// flags reads what a security key says about its owner (PROTOCOL.u2f). The signature covers them.
func (s *Signed) flags(sig *ssh.Signature) error {
	if t := s.Key.Type(); t != ssh.KeyAlgoSKED25519 && t != ssh.KeyAlgoSKECDSA256 {
		if len(sig.Rest) > 0 {
			return errors.New("something follows the signature")
		}
		return nil
	}
	if len(sig.Rest) != 5 {
		return errors.New("the security key's flags are missing")
	}
	s.Hardware = true
	s.Present = sig.Rest[0]&0x01 != 0
	s.Verified = sig.Rest[0]&0x04 != 0
	if !s.Present {
		return errors.New("the security key was not touched")
	}
	return nil
}

// Fingerprint reads one line as authorized_keys writes it, without options, and returns the key and its SHA256:… name.
func Fingerprint(authorized string) (ssh.PublicKey, string, error) {
	if len(authorized) > maxKey {
		return nil, "", errors.New("ssh key: too long")
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(authorized))
	if err != nil {
		return nil, "", fmt.Errorf("ssh key: %w", err)
	}
	if len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", errors.New("ssh key: give exactly one key, without options")
	}
	if err := CheckKey(key); err != nil {
		return nil, "", fmt.Errorf("ssh key: %w", err)
	}
	return key, ssh.FingerprintSHA256(key), nil
}
