package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ErrStale is returned for a bundle that is older than one already seen.
var ErrStale = errors.New("identity: the bundle is older than the one in use")

// SVID is a role's own X.509-SVID with its key.
type SVID struct {
	Peer  Peer
	Key   *ecdsa.PrivateKey
	Chain [][]byte // DER, leaf first
	Leaf  *x509.Certificate
}

// HalfLife is when the SVID should be renewed.
func (s SVID) HalfLife() time.Time {
	return s.Leaf.NotBefore.Add(s.Leaf.NotAfter.Sub(s.Leaf.NotBefore) / 2)
}

// Source holds a role's own SVID and the newest bundle, and makes its TLS configurations
// from them: each handshake and each request sees the newest. It is safe for concurrent use.
type Source struct {
	clock func() time.Time

	mu       sync.RWMutex
	svid     SVID
	bundle   Bundle
	watchers []chan Bundle
}

// NewSource verifies chain (DER, leaf first) for key against bundle.
func NewSource(key *ecdsa.PrivateKey, chain [][]byte, bundle Bundle, clock func() time.Time) (*Source, error) {
	if err := bundle.check(); err != nil {
		return nil, err
	}
	svid, err := newSVID(key, chain, bundle, clock())
	if err != nil {
		return nil, err
	}
	return &Source{clock: clock, svid: svid, bundle: bundle}, nil
}

func newSVID(key *ecdsa.PrivateKey, chain [][]byte, bundle Bundle, now time.Time) (SVID, error) {
	var certs []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return SVID{}, fmt.Errorf("identity: own SVID: %w", err)
		}
		certs = append(certs, c)
	}
	peer, err := verifyChain(bundle, certs, x509.ExtKeyUsageClientAuth, now)
	if err != nil {
		return SVID{}, fmt.Errorf("own SVID: %w", err)
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return SVID{}, fmt.Errorf("identity: own SVID of %s is for another key", peer.ID)
	}
	return SVID{Peer: peer, Key: key, Chain: chain, Leaf: certs[0]}, nil
}

// ID is the role's own SPIFFE id.
func (s *Source) ID() spiffeid.ID { return s.SVID().Peer.ID }

// SVID is the one in use.
func (s *Source) SVID() SVID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.svid
}

// SetSVID replaces the chain by a renewed one. It must be for the same id and key.
func (s *Source) SetSVID(chain [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := newSVID(s.svid.Key, chain, s.bundle, s.clock())
	if err != nil {
		return err
	}
	if next.Peer.ID != s.svid.Peer.ID {
		return fmt.Errorf("identity: renewal of %s answered with an SVID of %s", s.svid.Peer.ID, next.Peer.ID)
	}
	s.svid = next
	return nil
}

// Valid says whether the own SVID can still be presented; the error says why not.
func (s *Source) Valid() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, err := checkLeaf(s.bundle, s.svid.Leaf, s.clock())
	return err
}

// Bundle is the newest one. It is shared: do not change what it points to.
func (s *Source) Bundle() Bundle {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.bundle
}

// SetBundle replaces the bundle. One of an earlier generation, or of the same
// generation but issued earlier, is ErrStale: replaying it would lift a ban or bring back a
// root. A bundle of another trust domain is refused.
func (s *Source) SetBundle(b Bundle) error {
	if err := b.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.TrustDomain != s.bundle.TrustDomain {
		return fmt.Errorf("identity: a bundle of the trust domain %q, this one is %q", b.TrustDomain, s.bundle.TrustDomain)
	}
	if b.Generation < s.bundle.Generation || b.Generation == s.bundle.Generation && b.IssuedAt.Before(s.bundle.IssuedAt) {
		return fmt.Errorf("%w: generation %d after %d", ErrStale, b.Generation, s.bundle.Generation)
	}
	s.bundle = b
	for _, w := range s.watchers {
		offer(w, b)
	}
	return nil
}

// Watch returns a channel that holds the newest bundle at once and after each
// change; a slow reader misses those in between. It lives as long as the Source.
func (s *Source) Watch() <-chan Bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := make(chan Bundle, 1)
	w <- s.bundle
	s.watchers = append(s.watchers, w)
	return w
}

// offer replaces what w holds by b. The caller holds s.mu, so it is the only sender.
func offer(w chan Bundle, b Bundle) {
	select {
	case <-w:
	default:
	}
	w <- b
}

// CheckPeer says who made a request over a connection whose handshake used one of this
// Source's configurations. It repeats the checks that time or a new bundle can have
// changed, so that a long-lived connection ends with the SVID that opened it.
func (s *Source) CheckPeer(cs *tls.ConnectionState) (Peer, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return Peer{}, &Refused{Reason: Missing, Err: errors.New("it presented no SVID")}
	}
	return checkLeaf(s.Bundle(), cs.PeerCertificates[0], s.clock())
}
