package profile

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/identity"
)

func sample(t testing.TB) Profile {
	t.Helper()
	ca, err := identity.NewCA(spiffeid.RequireTrustDomainFromString("cardea.local"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return Profile{
		Hub: "dev", Console: "unix:/x/console.sock", TrustDomain: "cardea.local", RoleRoots: identity.RootsPEM([]*x509.Certificate{ca.Root()}),
		Person: "ada", SessionKey: jose.JSONWebKey{Key: key}, PermitKeys: [][]byte{make([]byte, 32)}, CheckpointKey: "k", Origin: "http://127.0.0.1:1",
	}
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "profile.json")
	p := sample(t)
	if err := p.Save(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(p)
	b, _ := json.Marshal(got)
	if string(a) != string(b) || got.SessionKey.IsPublic() {
		t.Errorf("saved %s, loaded %s", a, b)
	}
	bundle, err := got.Bundle()
	if err != nil || len(bundle.RoleRoots) != 1 || len(bundle.PermitKeys) != 1 {
		t.Errorf("%+v, %v", bundle, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil {
		t.Error("a session key that everybody can read was used")
	}
}

func TestBadProfilesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Profile){
		"no hub":       func(p *Profile) { p.Hub = "" },
		"no console":   func(p *Profile) { p.Console = "" },
		"no person":    func(p *Profile) { p.Person = "" },
		"public key":   func(p *Profile) { p.SessionKey = p.SessionKey.Public() },
		"no key":       func(p *Profile) { p.SessionKey = jose.JSONWebKey{} },
		"short permit": func(p *Profile) { p.PermitKeys = [][]byte{{1}} },
		"no roots":     func(p *Profile) { p.RoleRoots = "" },
		"other domain": func(p *Profile) { p.TrustDomain = "evil.example" },
	} {
		p := sample(t)
		change(&p)
		if err := p.Save(filepath.Join(t.TempDir(), "p.json")); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	text, err := json.Marshal(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"unknown": strings.Replace(string(text), `{`, `{"colour":1,`, 1),
		"two":     string(text) + "{}",
		"none":    "",
	} {
		path := filepath.Join(t.TempDir(), "p.json")
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

func TestFindOrder(t *testing.T) {
	home, here := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv(Env, "")
	t.Chdir(here)
	expect := func(flag, want string) {
		t.Helper()
		if got, err := Find(flag); err != nil || got != want {
			t.Errorf("found %q, %v; want %q", got, err, want)
		}
	}
	if _, err := Find(""); err != ErrNone {
		t.Errorf("without any: %v", err)
	}
	put := func(path string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	expect("", put(filepath.Join(home, ".config", "cardea", "profile.json")))
	put(filepath.Join(here, ".cardea", "profile.json"))
	expect("", filepath.Join(".cardea", "profile.json"))
	t.Setenv(Env, "/env.json")
	expect("", "/env.json")
	expect("/flag.json", "/flag.json")
}

func FuzzLoad(f *testing.F) {
	text, err := json.Marshal(sample(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "p.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := Load(path); err == nil && p.check() != nil {
			t.Error("an incomplete profile was loaded")
		}
	})
}
