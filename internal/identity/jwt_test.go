package identity

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func newSigner(t testing.TB, issuer string, clock func() time.Time) *JWTSigner {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewJWTSigner(testTD, issuer, key, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func taskID(t testing.TB) spiffeid.ID {
	t.Helper()
	id, err := TaskID(testTD, "payroll", "pay-run", "/do/0/timesheets")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestAnotherImplementationVerifies: go-oidc finds the keys through the documents and accepts exactly what was minted.
func TestAnotherImplementationVerifies(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	s := newSigner(t, server.URL, time.Now)
	serve := func(path string, doc []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(doc)
		})
	}
	doc, err := DiscoveryDocument(s.Issuer())
	serve(DiscoveryPath, doc, err)
	jwks, err := JWKSDocument(s.PublicKey())
	serve(JWKSPath, jwks, err)
	provider, err := oidc.NewProvider(context.Background(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: "https://hr.example.com"})
	token, expires, err := s.MintJWTSVID(taskID(t), "https://hr.example.com", 5*time.Minute, map[string]any{"jti": "lse_1", "run": "run_1"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := verifier.Verify(context.Background(), token)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Run, Jti string }
	if err := got.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if got.Subject != taskID(t).String() || claims.Run != "run_1" || claims.Jti != "lse_1" || !got.Expiry.Equal(expires) {
		t.Errorf("verified %+v %+v, expires %s", got, claims, expires)
	}
	other, _, err := s.MintJWTSVID(taskID(t), "https://bank.example.com", 5*time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(context.Background(), other); err == nil {
		t.Error("a token for another audience passes")
	}
	stranger, _, err := newSigner(t, server.URL, time.Now).MintJWTSVID(taskID(t), "https://hr.example.com", time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Verify(context.Background(), stranger); err == nil {
		t.Error("a token of another key passes")
	}
}

func TestMintRefuses(t *testing.T) {
	s := newSigner(t, "https://origin.example.com", time.Now)
	foreign := spiffeid.RequireFromString("spiffe://evil.example/wf/p/w/task/do/0/x")
	for name, test := range map[string]struct {
		id    spiffeid.ID
		aud   string
		ttl   time.Duration
		extra map[string]any
	}{
		"foreign subject": {foreign, "a", time.Minute, nil},
		"no audience":     {taskID(t), "", time.Minute, nil},
		"no life":         {taskID(t), "a", 0, nil},
		"long life":       {taskID(t), "a", MaxJWTTTL + 1, nil},
		"own subject":     {taskID(t), "a", time.Minute, map[string]any{"sub": "spiffe://cardea.local/role/authority/authority"}},
		"own audience":    {taskID(t), "a", time.Minute, map[string]any{"aud": "b"}},
		"own expiry":      {taskID(t), "a", time.Minute, map[string]any{"exp": 1 << 40}},
		"own issuer":      {taskID(t), "a", time.Minute, map[string]any{"iss": "https://evil.example"}},
		"unwritable":      {taskID(t), "a", time.Minute, map[string]any{"run": func() {}}},
	} {
		if _, _, err := s.MintJWTSVID(test.id, test.aud, test.ttl, test.extra); err == nil {
			t.Errorf("%s: minted", name)
		}
	}
}

// TestExpiryIsNeverLater: rounding to whole seconds goes down.
func TestExpiryIsNeverLater(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 999_000_000, time.UTC)
	s := newSigner(t, "https://origin.example.com", func() time.Time { return now })
	_, end, err := s.MintJWTSVID(taskID(t), "a", 1500*time.Millisecond, nil)
	if err != nil || end.After(now.Add(1500*time.Millisecond)) {
		t.Errorf("ends %s after %s: %v", end, now, err)
	}
}

func TestIssuers(t *testing.T) {
	for _, good := range []string{"https://origin.example.com", "https://o.example/hub", "http://127.0.0.1:8080", "http://[::1]:1", "http://localhost:1"} {
		if err := CheckIssuer(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "http://origin.example.com", "https://", "https://o.example/", "https://u:p@o.example", "https://o.example?x", "https://o.example?", "https://o.example#", "ftp://o.example", "http://127.0.0.1.evil.example"} {
		if err := CheckIssuer(bad); err == nil {
			t.Errorf("%s: taken", bad)
		}
	}
}

func TestJWKSHoldsNoPrivateKey(t *testing.T) {
	doc, err := JWKSDocument(newSigner(t, "https://o.example", time.Now).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(doc, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%s: %v", doc, err)
	}
	if _, private := set.Keys[0]["d"]; private || set.Keys[0]["use"] != "sig" || set.Keys[0]["kid"] == "" {
		t.Errorf("%s", doc)
	}
}

func BenchmarkMintJWTSVID(b *testing.B) {
	s, id := newSigner(b, "https://origin.example.com", time.Now), taskID(b)
	for b.Loop() {
		if _, _, err := s.MintJWTSVID(id, "https://hr.example.com", time.Minute, map[string]any{"jti": "lse_1", "run": "run_1", "permit": "prm_1"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	ca := newTestCA(b, time.Now)
	id := engineID(b)
	key, _ := NewKey()
	csr, _ := NewCSR(key)
	for b.Loop() {
		if _, err := ca.Issue(csr, id, SVIDTTL, SANs{}); err != nil {
			b.Fatal(err)
		}
	}
}
