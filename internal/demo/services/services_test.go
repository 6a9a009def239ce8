package services

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// issuer is an OpenID provider in a few lines: discovery, keys, and tokens with any claims.
type issuer struct {
	*httptest.Server
	key    *ecdsa.PrivateKey
	signer jose.Signer
	// fetched counts reads of the key set.
	mu      sync.Mutex
	fetched int
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is := &issuer{key: key, signer: signerFor(t, key)}
	mux := http.NewServeMux()
	is.Server = httptest.NewServer(mux)
	t.Cleanup(is.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": is.URL, "jwks_uri": is.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		is.mu.Lock()
		is.fetched++
		is.mu.Unlock()
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	return is
}

func signerFor(t testing.TB, key *ecdsa.PrivateKey) jose.Signer {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sign(t testing.TB, s jose.Signer, claims map[string]any) string {
	t.Helper()
	body, _ := json.Marshal(claims)
	jws, err := s.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

var clock = time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)

func (is *issuer) claims(audience string) map[string]any {
	return map[string]any{
		"iss": is.URL, "sub": "spiffe://cardea.local/wf/payroll/pay-run/task/do/0/x", "aud": audience, "iat": clock.Unix(),
		"exp": clock.Add(time.Minute).Unix(), "scope": "transfers:read transfers:write", "cardea/run": "run_1", "cardea/permit": "prm_1", "jti": "lse_1",
	}
}

func start(t testing.TB, is *issuer, kind Kind, log *slog.Logger) (*Service, *http.Client) {
	t.Helper()
	s, err := Start(t.Context(), Options{Kind: kind, Issuer: is.URL, Log: log, Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(s.RootsPEM())) {
		t.Fatal("no roots")
	}
	return s, &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr())
		},
	}}
}

type reply struct {
	status int
	header http.Header
	body   string
}

func call(t testing.TB, client *http.Client, method, url, token, key, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func TestTokensAreVerified(t *testing.T) {
	is := newIssuer(t)
	var log bytes.Buffer
	s, client := start(t, is, Bank, slog.New(slog.NewTextHandler(&log, nil)))
	foreign, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	hmac, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte("0123456789abcdef0123456789abcdef")}, nil)
	with := func(change func(map[string]any)) string {
		c := is.claims(s.Audience())
		change(c)
		return sign(t, is.signer, c)
	}
	good := with(func(map[string]any) {})
	cases := []struct {
		name, token, challenge string
		status                 int
	}{
		{"good", good, "", 201},
		{"none", "", `Bearer realm="bank"`, 401},
		{"garbage", "not-a-token", `error="invalid_token"`, 401},
		{"foreign key", sign(t, signerFor(t, foreign), is.claims(s.Audience())), `error="invalid_token"`, 401},
		{"hmac", sign(t, hmac, is.claims(s.Audience())), `error="invalid_token"`, 401},
		{"other audience", with(func(c map[string]any) { c["aud"] = "https://else" }), "another audience", 401},
		{"other issuer", with(func(c map[string]any) { c["iss"] = "https://else" }), "another issuer", 401},
		{"expired this instant", with(func(c map[string]any) { c["exp"] = clock.Unix() }), "expired at 2026-05-01T06:00:00Z", 401},
		{"one second left", with(func(c map[string]any) { c["exp"] = clock.Unix() + 1 }), "", 201},
		{"no expiry", with(func(c map[string]any) { delete(c, "exp") }), `error="invalid_token"`, 401},
		{"no scope", with(func(c map[string]any) { delete(c, "scope") }), `error="insufficient_scope", scope="transfers:write"`, 403},
		{"other scope", with(func(c map[string]any) { c["scope"] = "transfers:read transfers:writes" }), `error="insufficient_scope"`, 403},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := call(t, client, "POST", "https://"+s.Host()+"/v1/transfers", c.token, fmt.Sprint("key", i), `{"currency":"EUR","total":1.5,"payments":[{"amount":1.5,"currency":"EUR","iban":"DE1"}]}`)
			if got.status != c.status || !strings.Contains(got.header.Get("WWW-Authenticate"), c.challenge) {
				t.Fatalf("status %d, challenge %q, body %s", got.status, got.header.Get("WWW-Authenticate"), got.body)
			}
			if c.status >= 400 && got.header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("not a problem: %s", got.header.Get("Content-Type"))
			}
			if c.token != "" && (strings.Contains(log.String(), c.token) || strings.Contains(got.body+fmt.Sprint(got.header), c.token)) {
				t.Fatal("the token is in the log or the answer")
			}
		})
	}
	stats := s.Stats()
	if stats.Requests != len(cases) || stats.Accepted != 2 || stats.Transfers != 2 || stats.Unauthorized != 8 || stats.Forbidden != 2 {
		t.Fatalf("stats %+v", stats)
	}
	if first := s.Requests()[0]; first.Run != "run_1" || first.Permit != "prm_1" || first.Lease != "lse_1" || !strings.HasPrefix(first.Subject, "spiffe://") {
		t.Fatalf("seen %+v", first)
	}
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.fetched > len(cases) {
		t.Fatalf("keys fetched %d times", is.fetched)
	}
}

func TestIdempotencyKeys(t *testing.T) {
	is := newIssuer(t)
	s, client := start(t, is, Bank, nil)
	url, token := "https://"+s.Host()+"/v1/transfers", sign(t, is.signer, is.claims(s.Audience()))
	const body = `{"currency":"EUR","total":1204.00,"payments":[{"amount":1204.00,"currency":"EUR","iban":"DE89370400440532013000"}]}`
	first := call(t, client, "POST", url, token, "k1", body)
	again := call(t, client, "POST", url, token, "k1", body)
	if first.status != 201 || again.status != 201 || first.body != again.body || again.header.Get("Idempotent-Replayed") != "true" {
		t.Fatalf("%+v then %+v", first, again)
	}
	if other := call(t, client, "POST", url, token, "k1", strings.ReplaceAll(body, "1204", "9204")); other.status != 409 {
		t.Fatalf("another body under the same key: %d", other.status)
	}
	if none := call(t, client, "POST", url, token, "", body); none.status != 400 {
		t.Fatalf("no key: %d", none.status)
	}
	list := call(t, client, "GET", url, token, "", "")
	if list.body != "["+first.body+"]" {
		t.Fatalf("list %s", list.body)
	}
	var stats Stats
	if err := json.Unmarshal([]byte(call(t, client, "GET", "https://"+s.Host()+"/_stats", "", "", "").body), &stats); err != nil {
		t.Fatal(err)
	}
	if stats.Transfers != 1 || stats.Replays != 1 || stats.Conflicts != 1 || stats.Deliveries["k1"] != 2 {
		t.Fatalf("stats %+v", stats)
	}
}

func TestTransfersAreChecked(t *testing.T) {
	is := newIssuer(t)
	s, client := start(t, is, Bank, nil)
	token := sign(t, is.signer, is.claims(s.Audience()))
	for i, body := range []string{
		``, `[]`, `{}`,
		`{"currency":"EUR","total":0,"payments":[{"amount":0,"currency":"EUR","iban":"DE1"}]}`,
		`{"currency":"EUR","total":-1,"payments":[{"amount":-1,"currency":"EUR","iban":"DE1"}]}`,
		`{"currency":"EUR","total":1e3,"payments":[{"amount":1e3,"currency":"EUR","iban":"DE1"}]}`,
		`{"currency":"EUR","total":1.005,"payments":[{"amount":1.005,"currency":"EUR","iban":"DE1"}]}`,
		`{"currency":"","total":1,"payments":[{"amount":1,"currency":"","iban":"DE1"}]}`,
		`{"currency":"EUR","total":1,"payments":[{"amount":1,"currency":"EUR","iban":""}]}`,
		`{"currency":"EUR","total":"x","payments":[{"amount":"x","currency":"EUR","iban":"DE1"}]}`,
		`{"currency":"EUR","total":2,"payments":[{"amount":1,"currency":"EUR","iban":"DE1"}]}`,
		`{"currency":"EUR","total":1,"payments":[]}`,
	} {
		if got := call(t, client, "POST", "https://"+s.Host()+"/v1/transfers", token, fmt.Sprint(i), body); got.status != 422 {
			t.Errorf("%s: %d", body, got.status)
		}
	}
	if got := call(t, client, "POST", "https://"+s.Host()+"/v1/transfers", token, "big", strings.Repeat(" ", maxTransferBody+1)); got.status != 413 {
		t.Errorf("large body: %d", got.status)
	}
	if s.Stats().Transfers != 0 {
		t.Fatal("money moved")
	}
}

func TestTimesheets(t *testing.T) {
	is := newIssuer(t)
	s, client := start(t, is, HR, nil)
	token := sign(t, is.signer, is.claims(s.Audience()))
	got := call(t, client, "GET", "https://"+s.Host()+"/v1/timesheets/2026-05", token, "", "")
	var all []timesheet
	if err := json.Unmarshal([]byte(got.body), &all); err != nil || got.status != 200 || len(all) != 37 {
		t.Fatalf("%d %v: %s", got.status, err, got.body)
	}
	sum := new(big.Rat)
	for _, one := range all {
		amount, ok := new(big.Rat).SetString(string(one.Amount))
		if !ok || amount.Sign() <= 0 || one.Month != "2026-05" || len(one.IBAN) != 22 {
			t.Fatalf("%+v", one)
		}
		sum.Add(sum, amount)
	}
	if sum.FloatString(2) != "61204.10" || all[0].IBAN != "DE89370400440532013000" {
		t.Fatalf("sum %s, first account %s", sum.FloatString(2), all[0].IBAN)
	}
	if got := call(t, client, "GET", "https://"+s.Host()+"/v1/timesheets/..%2f", token, "", ""); got.status != 404 {
		t.Fatalf("no month: %d", got.status)
	}
	if got := call(t, client, "GET", "https://"+s.Host()+"/v1/timesheets/2026-05", "", "", ""); got.status != 401 {
		t.Fatalf("no token: %d", got.status)
	}
}

func TestIssuerThatComesLate(t *testing.T) {
	is := newIssuer(t)
	s, client := start(t, is, HR, nil)
	s.verifier.issuer = "http://127.0.0.1:1"
	token := sign(t, is.signer, is.claims(s.Audience()))
	if got := call(t, client, "GET", "https://"+s.Host()+"/v1/timesheets/2026-05", token, "", ""); got.status != 503 {
		t.Fatalf("issuer down: %d", got.status)
	}
	s.verifier.issuer = is.URL
	if got := call(t, client, "GET", "https://"+s.Host()+"/v1/timesheets/2026-05", token, "", ""); got.status != 200 {
		t.Fatalf("issuer up: %d", got.status)
	}
}

func TestStartRefuses(t *testing.T) {
	for name, o := range map[string]Options{"kind": {Kind: "crm", Issuer: "x"}, "issuer": {Kind: HR}, "address": {Kind: HR, Issuer: "x", Listen: "256.0.0.1:0"}} {
		if s, err := Start(t.Context(), o); err == nil {
			s.Close()
			t.Errorf("%s: started", name)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	is := newIssuer(b)
	s, client := start(b, is, HR, nil)
	token := sign(b, is.signer, is.claims(s.Audience()))
	for b.Loop() {
		if got := call(b, client, "GET", "https://"+s.Host()+"/v1/timesheets/2026-05", token, "", ""); got.status != 200 {
			b.Fatal(got.status)
		}
	}
}
