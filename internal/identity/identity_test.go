package identity

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var testTD = spiffeid.RequireTrustDomainFromString("cardea.local")

func newTestCA(t testing.TB, clock func() time.Time) *CA {
	t.Helper()
	ca, err := NewCA(testTD, clock)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// newTestSource gives a Source for id, issued by ca, that trusts ca.
func newTestSource(t testing.TB, ca *CA, id spiffeid.ID, clock func() time.Time) *Source {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.Issue(csr, id, SVIDTTL, SANs{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := PinnedBundle(ca.TrustDomain(), []*x509.Certificate{ca.Root()})
	if err != nil {
		t.Fatal(err)
	}
	b.Banned = map[string]bool{}
	s, err := NewSource(key, chain, b, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func engineID(t testing.TB) spiffeid.ID {
	t.Helper()
	id, err := RoleID(testTD, "engine", "engine")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSourceKnowsItself(t *testing.T) {
	s := newTestSource(t, newTestCA(t, time.Now), engineID(t), time.Now)
	p := s.SVID().Peer
	if p.Kind != KindRole || p.Role != "engine" || p.Name != "engine" || p.KeyThumbprint == "" {
		t.Fatalf("own peer is %+v", p)
	}
	if err := s.Valid(); err != nil {
		t.Fatal(err)
	}
}
