package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	cardeav1 "cardea/api/cardea/v1"
)

func TestIssuedSVID(t *testing.T) {
	ca := newTestCA(t, time.Now)
	leaf := newTestSource(t, ca, engineID(t), time.Now).SVID().Leaf
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.URIs) != 1 || leaf.Subject.String() != "" {
		t.Errorf("leaf: CA %v, usage %b, URIs %v, subject %q", leaf.IsCA, leaf.KeyUsage, leaf.URIs, leaf.Subject)
	}
	if life := time.Until(leaf.NotAfter); life > SVIDTTL || life < SVIDTTL-time.Minute {
		t.Errorf("lives for %s", life)
	}
	if leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 159+1 {
		t.Errorf("serial %v", leaf.SerialNumber)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newTestCA(t, time.Now)
	key, _ := NewKey()
	good, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	request := func(k any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	stolen := append([]byte(nil), good...)
	stolen[len(stolen)-1] ^= 1 // another signature
	foreign := spiffeid.RequireFromString("spiffe://evil.example/role/engine/engine")
	task := spiffeid.RequireFromString("spiffe://cardea.local/wf/p/w/task/do/0/x")
	for name, test := range map[string]struct {
		csr []byte
		id  spiffeid.ID
		ttl time.Duration
	}{
		"no CSR":         {nil, engineID(t), time.Hour},
		"Ed25519":        {request(ed), engineID(t), time.Hour},
		"P-384":          {request(p384), engineID(t), time.Hour},
		"no possession":  {stolen, engineID(t), time.Hour},
		"huge CSR":       {make([]byte, maxCSR+1), engineID(t), time.Hour},
		"foreign domain": {good, foreign, time.Hour},
		"task":           {good, task, time.Hour},
		"domain itself":  {good, testTD.ID(), time.Hour},
		"no life":        {good, engineID(t), 0},
		"long life":      {good, engineID(t), MaxSVIDTTL + 1},
	} {
		if _, err := ca.Issue(test.csr, test.id, test.ttl, SANs{}); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

func TestCAIsKept(t *testing.T) {
	ca := newTestCA(t, time.Now)
	text, err := ca.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCA(testTD, text, time.Now)
	if err != nil || !again.Root().Equal(ca.Root()) {
		t.Fatalf("%v", err)
	}
	other, _ := newTestCA(t, time.Now).MarshalPEM()
	cut := strings.Index(string(other), "-----BEGIN PRIVATE")
	own := strings.Index(string(text), "-----BEGIN PRIVATE")
	for name, bad := range map[string]struct {
		text  []byte
		td    string
		clock func() time.Time
	}{
		"empty":         {nil, "cardea.local", time.Now},
		"other key":     {append(append([]byte{}, text[:own]...), other[cut:]...), "cardea.local", time.Now},
		"other domain":  {text, "evil.example", time.Now},
		"expired":       {text, "cardea.local", func() time.Time { return time.Now().Add(rootTTL + time.Hour) }},
		"no key":        {text[:own], "cardea.local", time.Now},
		"key before it": {append(append([]byte{}, text[own:]...), text[:own]...), "cardea.local", time.Now},
	} {
		if _, err := ParseCA(spiffeid.RequireTrustDomainFromString(bad.td), bad.text, bad.clock); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	first, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if second, err := LoadOrCreateKey(path); err != nil || !second.Equal(first) {
		t.Errorf("read back: %v", err)
	}
	if _, err := LoadOrCreateEd25519(path); err == nil {
		t.Error("an ECDSA key was taken for an Ed25519 key")
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(link); err == nil {
		t.Error("a symbolic link was followed to a key")
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); !errors.Is(err, ErrReadable) {
		t.Errorf("a key that the group can read: %v", err)
	}
	ed := filepath.Join(t.TempDir(), "ed.pem")
	a, err := LoadOrCreateEd25519(ed)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := LoadOrCreateEd25519(ed); err != nil || !a.Equal(b) {
		t.Errorf("read back: %v", err)
	}
}

func TestTaskIDsAreDistinctAndReversible(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.StringN(1, 12, 40)
		process, workflow := name.Draw(r, "process"), name.Draw(r, "workflow")
		if strings.Contains(process, "/") || strings.Contains(workflow, "/") {
			r.Skip("names have no slash")
		}
		pointer := "/do/0/" + strings.ReplaceAll(name.Draw(r, "task"), "/", "~1")
		id, err := TaskID(testTD, process, workflow, pointer)
		if err != nil {
			r.Fatalf("%q %q %q: %v", process, workflow, pointer, err)
		}
		p, w, task, err := ParseTask(id)
		if err != nil || p != process || w != workflow || task != pointer {
			r.Fatalf("%s reads as %q %q %q, %v; was %q %q %q", id, p, w, task, err, process, workflow, pointer)
		}
	})
}

func TestTaskIDRefuses(t *testing.T) {
	for _, pointer := range []string{"", "do/0", "/", "/do//x", "/" + strings.Repeat("x", maxID)} {
		if id, err := TaskID(testTD, "p", "w", pointer); err == nil {
			t.Errorf("%.20q gives %.60s", pointer, id)
		}
	}
}

func TestBundleOverTheWire(t *testing.T) {
	ca := newTestCA(t, time.Now)
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	b := Bundle{TrustDomain: testTD.Name(), RoleRoots: []*x509.Certificate{ca.Root()}, PermitKeys: []ed25519.PublicKey{pub}, CheckpointKey: "k",
		Banned: map[string]bool{engineID(t).String(): true}, Generation: 7, Dev: true, IssuedAt: time.Now().UTC()}
	got, err := BundleFromProto(b.Proto())
	if err != nil {
		t.Fatal(err)
	}
	if !got.RoleRoots[0].Equal(ca.Root()) || !got.PermitKeys[0].Equal(pub) || got.CheckpointKey != "k" || !got.Banned[engineID(t).String()] ||
		got.Generation != 7 || !got.Dev || !got.IssuedAt.Equal(b.IssuedAt) {
		t.Errorf("%+v came back as %+v", b, got)
	}
	leaf := forged(t, ca, nil).Leaf.Raw
	for name, change := range map[string]func(*cardeav1.Bundle){
		"no roots":       func(p *cardeav1.Bundle) { p.RoleRoots = nil },
		"leaf as root":   func(p *cardeav1.Bundle) { p.RoleRoots = [][]byte{leaf} },
		"broken root":    func(p *cardeav1.Bundle) { p.RoleRoots = [][]byte{{1}} },
		"other domain":   func(p *cardeav1.Bundle) { p.TrustDomain = "evil.example" },
		"no domain":      func(p *cardeav1.Bundle) { p.TrustDomain = "" },
		"short key":      func(p *cardeav1.Bundle) { p.PermitKeys = [][]byte{{1, 2}} },
		"ban of nothing": func(p *cardeav1.Bundle) { p.Banned = []string{"engine"} },
	} {
		p := b.Proto()
		change(p)
		if _, err := BundleFromProto(p); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzParseTask(f *testing.F) {
	f.Add("spiffe://cardea.local/wf/p/w/task/do/0/x")
	f.Add("spiffe://cardea.local/wf/p/w/task/do/0/x.20y.2e")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := spiffeid.FromString(s)
		if err != nil {
			return
		}
		process, workflow, pointer, err := ParseTask(id)
		if err != nil {
			return
		}
		again, err := TaskID(id.TrustDomain(), process, workflow, pointer)
		if err == nil && again != id {
			t.Errorf("%s and %s are the same task", id, again)
		}
	})
}

func FuzzCheckCSR(f *testing.F) {
	key, _ := NewKey()
	csr, _ := NewCSR(key)
	f.Add(csr)
	f.Fuzz(func(t *testing.T, der []byte) {
		if k, err := CheckCSR(der); err == nil && k.Curve != elliptic.P256() {
			t.Error("a key that is not P-256")
		}
	})
}
