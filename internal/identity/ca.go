package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// SVIDTTL is how long a role's SVID lives.
	SVIDTTL = time.Hour
	// MaxSVIDTTL is the longest life that Issue grants: a stolen key is worth no more.
	MaxSVIDTTL = 24 * time.Hour
	// rootTTL is how long a new root lives.
	rootTTL = 10 * 365 * 24 * time.Hour
	// backdate lets a peer whose clock is a little behind accept a new SVID.
	backdate = time.Minute
	// maxCSR bounds a request, which comes from a peer that is not trusted yet.
	maxCSR = 8 << 10
)

// SANs are what a certificate names beside its SPIFFE id: for the console and the
// origin, which browsers reach by host name. Empty for all others.
type SANs struct {
	DNS []string
	IPs []net.IP
}

// CA signs the X.509-SVIDs of roles and runners. It is safe for concurrent use.
type CA struct {
	td    spiffeid.TrustDomain
	key   *ecdsa.PrivateKey
	root  *x509.Certificate
	clock func() time.Time
}

// NewCA makes a CA with a new key and a self-signed root. Keep MarshalPEM's text to have it again.
func NewCA(td spiffeid.TrustDomain, clock func() time.Time) (*CA, error) {
	if td.IsZero() || clock == nil {
		return nil, errors.New("identity: a CA needs a trust domain and a clock")
	}
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("identity: make the CA's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := clock()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "Cardea role CA " + td.Name()},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(rootTTL),
		URIs:         []*url.URL{td.ID().URL()},
		KeyUsage:     x509.KeyUsageCertSign,
		IsCA:         true,
		// No intermediates: whoever checks a leaf's issuer has checked its chain.
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("identity: sign the CA's root: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("identity: read the CA's root back: %w", err)
	}
	return &CA{td: td, key: key, root: root, clock: clock}, nil
}

// MarshalPEM returns root certificate and private key as one PEM text. It is the
// whole trust domain: keep it where only the authority reads (WriteSecretFile).
func (c *CA) MarshalPEM() ([]byte, error) {
	key, err := marshalKey(c.key)
	if err != nil {
		return nil, fmt.Errorf("identity: encode the CA's key: %w", err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.root.Raw}), key...), nil
}

// ParseCA is the inverse of MarshalPEM. It refuses a root that is not for td, has
// expired or does not belong to the key.
func ParseCA(td spiffeid.TrustDomain, text []byte, clock func() time.Time) (*CA, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("identity: the CA's file does not begin with a certificate")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("identity: read the CA's root: %w", err)
	}
	signer, err := parseKey("the CA's file", rest)
	if err != nil {
		return nil, err
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(root.PublicKey) {
		return nil, errors.New("identity: the CA's key is not its root's")
	}
	if err := checkRoot(root, td); err != nil {
		return nil, err
	}
	if now := clock(); now.After(root.NotAfter) {
		return nil, fmt.Errorf("identity: the CA's root has expired at %s", root.NotAfter.UTC().Format(time.RFC3339))
	}
	return &CA{td: td, key: key, root: root, clock: clock}, nil
}

// Root is the certificate that peers verify against.
func (c *CA) Root() *x509.Certificate { return c.root }

// TrustDomain is the domain that all issued ids belong to.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.td }

// CheckCSR verifies a PKCS #10 request (DER) and returns its key. Only the key is
// read, and that its holder signed; whatever name the request asks for is ignored.
func CheckCSR(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("identity: a certificate request of more than %d bytes", maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("identity: read the certificate request: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("identity: the certificate request is not for an ECDSA P-256 key")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("identity: the certificate request does not prove possession of its key: %w", err)
	}
	return key, nil
}

// NewCSR makes a PKCS #10 request (DER) that proves possession of key and names nothing.
func NewCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("identity: make a certificate request: %w", err)
	}
	return der, nil
}

// Issue signs an SVID for the key of csr (PKCS #10, DER) under id, which the caller
// has decided; it lives for ttl, at most MaxSVIDTTL and the root's own life. The
// chain (DER, leaf first) leaves the root out.
func (c *CA) Issue(csr []byte, id spiffeid.ID, ttl time.Duration, sans SANs) ([][]byte, error) {
	key, err := CheckCSR(csr)
	if err != nil {
		return nil, err
	}
	if !id.MemberOf(c.td) {
		return nil, fmt.Errorf("identity: %q is not of the trust domain %q", id, c.td.Name())
	}
	if _, err := ParsePeer(id); err != nil {
		return nil, err
	}
	if ttl <= 0 || ttl > MaxSVIDTTL {
		return nil, fmt.Errorf("identity: an SVID of %s cannot live for %s: at most %s", id, ttl, MaxSVIDTTL)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := c.clock()
	end := now.Add(ttl)
	if end.After(c.root.NotAfter) {
		end = c.root.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		URIs:                  []*url.URL{id.URL()},
		DNSNames:              sans.DNS,
		IPAddresses:           sans.IPs,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, c.root, key, c.key)
	if err != nil {
		return nil, fmt.Errorf("identity: sign the SVID of %s: %w", id, err)
	}
	return [][]byte{der}, nil
}

func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 159) // RFC 5280 §4.1.2.2: positive, at most 20 octets
	serial, err := rand.Int(rand.Reader, limit)
	if err != nil {
		return nil, fmt.Errorf("identity: draw a serial: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

// checkRoot refuses a certificate that must not be a root of td: one that names another
// domain, or that is not a CA, would let an attacker's chain end in it.
func checkRoot(root *x509.Certificate, td spiffeid.TrustDomain) error {
	if !root.IsCA || !root.BasicConstraintsValid || root.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("identity: root %q is not a CA", root.Subject.CommonName)
	}
	if len(root.URIs) != 1 || root.URIs[0].String() != td.IDString() {
		return fmt.Errorf("identity: root %q is not of the trust domain %q", root.Subject.CommonName, td.Name())
	}
	if len(root.SubjectKeyId) == 0 || !bytes.Equal(root.RawSubject, root.RawIssuer) {
		return fmt.Errorf("identity: root %q is not self-issued", root.Subject.CommonName)
	}
	return nil
}
