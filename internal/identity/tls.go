package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ServerTLS serves peers that present an SVID. The handshake refuses all others and
// tells onRefusal (which may be nil) the Reason and the SPIFFE id as presented. Whether the peer may
// call this service is decided per request.
func (s *Source) ServerTLS(onRefusal func(reason, peer string)) *tls.Config {
	conf := s.ServerTLSWithoutClientSVID()
	// Not RequireAnyClientCert: that one fails before VerifyConnection, and a peer
	// without an SVID would be refused unrecorded.
	conf.ClientAuth = tls.RequestClientCert
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := verifyChain(s.Bundle(), cs.PeerCertificates, x509.ExtKeyUsageClientAuth, s.clock())
		var refused *Refused
		if errors.As(err, &refused) && onRefusal != nil {
			onRefusal(string(refused.Reason), refused.Peer)
		}
		return err
	}
	return conf
}

// ServerTLSWithoutClientSVID serves anybody who can connect: for the two listeners
// whose callers prove themselves in each request instead, Enroll's (join token)
// and the console's (a person's proof).
func (s *Source) ServerTLSWithoutClientSVID() *tls.Config {
	conf := baseTLS(s.clock)
	conf.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate() }
	return conf
}

// ClientTLS presents the own SVID and accepts only a server for which want returns nil.
func (s *Source) ClientTLS(want func(Peer) error) *tls.Config {
	conf := clientTLS(s.clock, s.Bundle, want)
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.certificate() }
	return conf
}

// ClientTLSWithoutSVID is for clients that have no SVID: a role that joins, and a person's
// CLI. roots are pinned; want says which peer it must be.
func ClientTLSWithoutSVID(b Bundle, want func(Peer) error, clock func() time.Time) *tls.Config {
	return clientTLS(clock, func() Bundle { return b }, want)
}

// PinnedBundle is the bundle of somebody who knows only the roots.
func PinnedBundle(td spiffeid.TrustDomain, roots []*x509.Certificate) (Bundle, error) {
	b := Bundle{TrustDomain: td.Name(), RoleRoots: roots}
	return b, b.check()
}

// WantRole accepts a server that is the given role, under any name.
func WantRole(role string) func(Peer) error {
	return func(p Peer) error {
		if p.Kind != KindRole || p.Role != role {
			return &Refused{Reason: WrongRole, Peer: p.ID.String(), Err: fmt.Errorf("it is not the %s", role)}
		}
		return nil
	}
}

func clientTLS(clock func() time.Time, bundle func() Bundle, want func(Peer) error) *tls.Config {
	conf := baseTLS(clock)
	// Host names mean nothing here: the peer is known by its SPIFFE id, which
	// VerifyConnection checks in place of the standard verification.
	conf.InsecureSkipVerify = true
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		peer, err := verifyChain(bundle(), cs.PeerCertificates, x509.ExtKeyUsageServerAuth, clock())
		if err != nil {
			return err
		}
		if want == nil {
			return &Refused{Reason: WrongRole, Peer: peer.ID.String(), Err: errors.New("nobody said which peer is wanted")}
		}
		return want(peer)
	}
	return conf
}

// baseTLS has TLS 1.3 only and no session tickets: VerifyConnection also runs on a resumed
// session, but the key exchange would then rest on an SVID that may be gone.
func baseTLS(clock func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2"},
		Time:                   clock,
	}
}

// certificate is the own SVID, unless it can no longer be presented: then the role fails closed.
func (s *Source) certificate() (*tls.Certificate, error) {
	if err := s.Valid(); err != nil {
		return nil, fmt.Errorf("own SVID: %w", err)
	}
	svid := s.SVID()
	return &tls.Certificate{Certificate: svid.Chain, PrivateKey: svid.Key, Leaf: svid.Leaf}, nil
}
