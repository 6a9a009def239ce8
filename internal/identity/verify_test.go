package identity

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"
)

// forged signs any template with the CA's own key: what a careless or malicious signer could have made.
func forged(t *testing.T, ca *CA, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	now := ca.clock()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		URIs: []*url.URL{engineID(t).URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.root, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func parsed(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// badSVIDs are all that must be refused on either side of a connection, with the reason that is recorded.
func badSVIDs(t *testing.T, ca *CA) map[string]struct {
	cert   *tls.Certificate
	reason Reason
} {
	type bad = struct {
		cert   *tls.Certificate
		reason Reason
	}
	other, err := NewCA(testTD, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]bad{
		"missing":        {nil, Missing},
		"expired":        {forged(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), Expired},
		"not yet":        {forged(t, ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), Expired},
		"foreign signer": {forged(t, other, nil), Foreign},
		"foreign domain": {forged(t, ca, func(c *x509.Certificate) {
			c.URIs = []*url.URL{parsed(t, "spiffe://evil.example/role/engine/engine")}
		}), Foreign},
		"two URIs": {forged(t, ca, func(c *x509.Certificate) {
			c.URIs = append(c.URIs, parsed(t, "spiffe://cardea.local/role/console/console"))
		}), Malformed},
		"no URI":        {forged(t, ca, func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"engine"} }), Malformed},
		"not SPIFFE":    {forged(t, ca, func(c *x509.Certificate) { c.URIs = []*url.URL{parsed(t, "https://cardea.local/role/engine/engine")} }), Malformed},
		"task":          {forged(t, ca, func(c *x509.Certificate) { c.URIs = []*url.URL{parsed(t, "spiffe://cardea.local/wf/p/w/task/do/0/x")} }), Malformed},
		"no name":       {forged(t, ca, func(c *x509.Certificate) { c.URIs = []*url.URL{parsed(t, "spiffe://cardea.local/role/engine")} }), Malformed},
		"runner role":   {forged(t, ca, func(c *x509.Certificate) { c.URIs = []*url.URL{parsed(t, "spiffe://cardea.local/role/runner/x")} }), Malformed},
		"no usage":      {forged(t, ca, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), Usage},
		"wrong usage":   {forged(t, ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), Usage},
		"is a CA":       {forged(t, ca, func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }), Foreign},
		"banned engine": {forged(t, ca, func(c *x509.Certificate) { c.URIs = []*url.URL{parsed(t, "spiffe://cardea.local/role/engine/banned")} }), Banned},
	}
}

// withBan gives a Source whose bundle bans role/engine/banned.
func withBan(t *testing.T, ca *CA, role string) *Source {
	t.Helper()
	id, err := RoleID(testTD, role, role)
	if err != nil {
		t.Fatal(err)
	}
	s := newTestSource(t, ca, id, time.Now)
	b := s.Bundle()
	b.Banned = map[string]bool{"spiffe://cardea.local/role/engine/banned": true}
	b.Generation++
	if err := s.SetBundle(b); err != nil {
		t.Fatal(err)
	}
	return s
}

// shake makes one TLS connection and returns what each side's handshake says. A client that is refused learns it only when it reads.
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err == nil {
			err = tls.Server(raw, server).HandshakeContext(ctx)
			defer raw.Close()
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	clientErr = tls.Client(raw, client).HandshakeContext(ctx)
	return <-done, clientErr
}

func TestServerRefusesBadSVIDs(t *testing.T) {
	ca := newTestCA(t, time.Now)
	authority := withBan(t, ca, "authority")
	for name, bad := range badSVIDs(t, ca) {
		t.Run(name, func(t *testing.T) {
			var reasons []string
			client := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
			if bad.cert != nil {
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return bad.cert, nil }
			}
			err, _ := shake(t, authority.ServerTLS(func(reason, _ string) { reasons = append(reasons, reason) }), client)
			var refused *Refused
			if !errors.As(err, &refused) || refused.Reason != bad.reason {
				t.Errorf("the handshake ends with %v, want a refusal for %q", err, bad.reason)
			}
			if len(reasons) != 1 || reasons[0] != string(bad.reason) {
				t.Errorf("recorded %v, want one %q", reasons, bad.reason)
			}
		})
	}
}

func TestClientRefusesBadSVIDs(t *testing.T) {
	ca := newTestCA(t, time.Now)
	console := withBan(t, ca, "console")
	for name, bad := range badSVIDs(t, ca) {
		if bad.cert == nil {
			continue // a TLS server always presents something
		}
		t.Run(name, func(t *testing.T) {
			server := &tls.Config{Certificates: []tls.Certificate{*bad.cert}, NextProtos: []string{"h2"}}
			_, err := shake(t, server, console.ClientTLS(WantRole("engine")))
			var refused *Refused
			if !errors.As(err, &refused) || refused.Reason != bad.reason {
				t.Errorf("the handshake ends with %v, want a refusal for %q", err, bad.reason)
			}
		})
	}
}

func TestGoodSVIDsMeet(t *testing.T) {
	ca := newTestCA(t, time.Now)
	authority, engine := withBan(t, ca, "authority"), newTestSource(t, ca, engineID(t), time.Now)
	server, client := shake(t, authority.ServerTLS(nil), engine.ClientTLS(WantRole("authority")))
	if server != nil || client != nil {
		t.Errorf("server: %v, client: %v", server, client)
	}
}

func TestClientWantsOneRole(t *testing.T) {
	ca := newTestCA(t, time.Now)
	impostor, engine := newTestSource(t, ca, engineID(t), time.Now), newTestSource(t, ca, engineID(t), time.Now)
	for name, want := range map[string]func(Peer) error{"another role": WantRole("authority"), "nothing wanted": nil} {
		_, err := shake(t, impostor.ServerTLS(nil), engine.ClientTLS(want))
		var refused *Refused
		if !errors.As(err, &refused) || refused.Reason != WrongRole {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	runner, err := RunnerID(testTD, "authority", "authority")
	if err != nil {
		t.Fatal(err)
	}
	if err := WantRole("authority")(Peer{ID: runner, Kind: KindRunner, Role: KindRunner, Tier: "authority", Name: "authority"}); err == nil {
		t.Error("a runner passes for the authority")
	}
}

// TestPeerIsCheckedPerRequest: what the handshake accepted is refused later, by the very same connection state.
func TestPeerIsCheckedPerRequest(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	ca := newTestCA(t, clock)
	for name, test := range map[string]struct {
		change func(*Source)
		reason Reason
	}{
		"expired": {func(*Source) { now = now.Add(SVIDTTL) }, Expired},
		"banned": {func(s *Source) {
			b := s.Bundle()
			b.Banned = map[string]bool{engineID(t).String(): true}
			b.Generation++
			if err := s.SetBundle(b); err != nil {
				t.Fatal(err)
			}
		}, Banned},
		"root withdrawn": {func(s *Source) {
			b := s.Bundle()
			b.RoleRoots = []*x509.Certificate{newTestCA(t, clock).Root()}
			b.Generation++
			if err := s.SetBundle(b); err != nil {
				t.Fatal(err)
			}
		}, Foreign},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestSource(t, ca, engineID(t), clock)
			state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{forged(t, ca, nil).Leaf}}
			peer, err := s.CheckPeer(state)
			if err != nil || peer.Role != "engine" || peer.KeyThumbprint == "" {
				t.Fatalf("before: %+v, %v", peer, err)
			}
			test.change(s)
			_, err = s.CheckPeer(state)
			var refused *Refused
			if !errors.As(err, &refused) || refused.Reason != test.reason {
				t.Errorf("after: %v, want a refusal for %q", err, test.reason)
			}
		})
	}
	s := newTestSource(t, ca, engineID(t), clock)
	for _, none := range []*tls.ConnectionState{nil, {}} {
		if _, err := s.CheckPeer(none); err == nil {
			t.Error("a connection without an SVID has a peer")
		}
	}
}

// TestOwnExpiryFailsClosed: a role whose SVID is over, or which is banned itself, neither serves nor calls.
func TestOwnExpiryFailsClosed(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	ca := newTestCA(t, clock)
	s := newTestSource(t, ca, engineID(t), clock)
	if err := s.Valid(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(SVIDTTL)
	if err := s.Valid(); err == nil {
		t.Error("an expired SVID counts as valid")
	}
	if _, err := s.ServerTLS(nil).GetCertificate(nil); err == nil {
		t.Error("an expired SVID is presented to clients")
	}
	if _, err := s.ClientTLS(WantRole("authority")).GetClientCertificate(nil); err == nil {
		t.Error("an expired SVID is presented to servers")
	}
}

func TestTLSIsNewAndUnresumed(t *testing.T) {
	ca := newTestCA(t, time.Now)
	s := newTestSource(t, ca, engineID(t), time.Now)
	for name, conf := range map[string]*tls.Config{
		"server": s.ServerTLS(nil), "people": s.ServerTLSWithoutClientSVID(), "client": s.ClientTLS(WantRole("authority")),
	} {
		if conf.MinVersion != tls.VersionTLS13 || !conf.SessionTicketsDisabled || conf.ClientSessionCache != nil {
			t.Errorf("%s: TLS from %x, tickets disabled %v", name, conf.MinVersion, conf.SessionTicketsDisabled)
		}
	}
}

func TestBundleOnlyGoesForward(t *testing.T) {
	ca := newTestCA(t, time.Now)
	s := newTestSource(t, ca, engineID(t), time.Now)
	base := s.Bundle()
	at := func(generation uint64, issued time.Time) Bundle {
		b := base
		b.Generation, b.IssuedAt = generation, issued
		return b
	}
	t0 := time.Now()
	for i, step := range []struct {
		b  Bundle
		ok bool
	}{
		{at(5, t0), true}, {at(5, t0), true}, {at(4, t0.Add(time.Hour)), false}, {at(5, t0.Add(-time.Second)), false},
		{at(5, t0.Add(time.Second)), true}, {at(6, t0), true},
	} {
		err := s.SetBundle(step.b)
		if step.ok != (err == nil) || !step.ok && !errors.Is(err, ErrStale) {
			t.Errorf("step %d: %v", i, err)
		}
	}
	foreign := at(9, t0)
	foreign.TrustDomain = "evil.example"
	if err := s.SetBundle(foreign); err == nil {
		t.Error("a bundle of another trust domain was taken")
	}
	empty := at(9, t0)
	empty.RoleRoots = nil
	if err := s.SetBundle(empty); err == nil {
		t.Error("a bundle without roots was taken")
	}
}

func TestWatchHoldsTheNewest(t *testing.T) {
	s := newTestSource(t, newTestCA(t, time.Now), engineID(t), time.Now)
	w := s.Watch()
	if b := <-w; b.Generation != 0 {
		t.Fatalf("first: generation %d", b.Generation)
	}
	for g := uint64(1); g <= 3; g++ {
		b := s.Bundle()
		b.Generation = g
		if err := s.SetBundle(b); err != nil {
			t.Fatal(err)
		}
	}
	if b := <-w; b.Generation != 3 {
		t.Errorf("a slow reader gets generation %d, want the newest", b.Generation)
	}
}

func TestRenewalKeepsIDAndKey(t *testing.T) {
	ca := newTestCA(t, time.Now)
	s := newTestSource(t, ca, engineID(t), time.Now)
	csr, err := NewCSR(s.SVID().Key)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ca.Issue(csr, engineID(t), SVIDTTL, SANs{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetSVID(again); err != nil {
		t.Errorf("renewal: %v", err)
	}
	console, err := RoleID(testTD, "console", "console")
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.Issue(csr, console, SVIDTTL, SANs{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetSVID(other); err == nil {
		t.Error("an SVID of another id was taken")
	}
	if err := s.SetSVID(forged(t, ca, nil).Certificate); err == nil {
		t.Error("an SVID for another key was taken")
	}
}
