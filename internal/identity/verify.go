package identity

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Reason is why a peer was refused, in one word for records and metrics.
type Reason string

// Reasons of refusal.
const (
	Missing   Reason = "missing"   // no SVID at all
	Malformed Reason = "malformed" // not an SVID of a role or runner
	Foreign   Reason = "foreign"   // another trust domain, or signed by no role root
	Expired   Reason = "expired"   // or not valid yet
	Usage     Reason = "usage"     // not meant for this side of a connection
	Banned    Reason = "banned"    // named in the bundle's ban list
	WrongRole Reason = "wrong-role"
)

// Refused is the error for a peer that was not accepted.
type Refused struct {
	Reason Reason
	// Peer is the SPIFFE id as presented, proven or not; empty if there was none.
	Peer string
	Err  error
}

func (r *Refused) Error() string {
	return fmt.Sprintf("identity: peer %q refused (%s): %v", r.Peer, r.Reason, r.Err)
}

func (r *Refused) Unwrap() error { return r.Err }

// verifyChain accepts certs, leaf first, as the SVID of a role or runner of b's trust domain that
// may stand on the side usage names. These lines keep invariant 18: a name that anybody could
// assume would receive the permits bound to it.
func verifyChain(b Bundle, certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (Peer, error) {
	if len(certs) == 0 {
		return Peer{}, &Refused{Reason: Missing, Err: errors.New("it presented no SVID")}
	}
	leaf := certs[0]
	// x509svid checks X509-SVID §5: exactly one URI SAN, no CA, no signing usage, chain to a root of
	// its own domain. It accepts any extended usage, so that is checked below.
	id, _, err := x509svid.Verify(certs, b, x509svid.WithTime(now))
	if err != nil {
		return Peer{}, &Refused{Reason: reasonOf(err, id.IsZero()), Peer: presented(leaf), Err: err}
	}
	if !slices.Contains(leaf.ExtKeyUsage, usage) {
		return Peer{}, &Refused{Reason: Usage, Peer: id.String(), Err: errors.New("its SVID is not meant for this side of a connection")}
	}
	return checkLeaf(b, leaf, now)
}

// checkLeaf repeats, for each request on a connection whose handshake verified leaf, all that can have changed since:
// time, bans and roots.
func checkLeaf(b Bundle, leaf *x509.Certificate, now time.Time) (Peer, error) {
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return Peer{}, &Refused{Reason: Malformed, Peer: presented(leaf), Err: err}
	}
	refuse := func(r Reason, err error) (Peer, error) {
		return Peer{}, &Refused{Reason: r, Peer: id.String(), Err: err}
	}
	if !now.Before(leaf.NotAfter) {
		return refuse(Expired, fmt.Errorf("its SVID has expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	if id.TrustDomain().Name() != b.TrustDomain || !issuedByAny(b.RoleRoots, leaf) {
		return refuse(Foreign, errors.New("its SVID is from no root of the bundle"))
	}
	if b.Banned[id.String()] {
		return refuse(Banned, errors.New("it is banned"))
	}
	peer, err := ParsePeer(id)
	if err != nil {
		return refuse(Malformed, err)
	}
	peer.KeyThumbprint = thumbprintSPKI(leaf.RawSubjectPublicKeyInfo)
	return peer, nil
}

// issuedByAny only compares key ids: the handshake verified the signature. It ends what a root
// that has been taken out of the bundle had admitted.
func issuedByAny(roots []*x509.Certificate, leaf *x509.Certificate) bool {
	return slices.ContainsFunc(roots, func(r *x509.Certificate) bool {
		return bytes.Equal(r.SubjectKeyId, leaf.AuthorityKeyId)
	})
}

func reasonOf(err error, noID bool) Reason {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case noID:
		return Malformed
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return Expired
	case errors.As(err, &invalid):
		return Malformed
	case errors.As(err, &unknown):
		return Foreign
	}
	// A bundle lookup of another trust domain, or a leaf that is a CA.
	return Foreign
}

// presented is the first URI of a certificate, unproven: for records only.
func presented(leaf *x509.Certificate) string {
	if len(leaf.URIs) == 0 {
		return ""
	}
	s := leaf.URIs[0].String()
	return s[:min(len(s), maxID)]
}

type peerKey struct{}

// ContextWithPeer marks a request as made by p. Only the listener's middleware may call
// it, after CheckPeer; and tests.
func ContextWithPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerOf is who makes the request of ctx; false if nobody has been proven.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}
