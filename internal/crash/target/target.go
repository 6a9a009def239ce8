// Package target is a strict service for tests of a whole hub.
//
// It promises that every request was verified as a careful relying party does it (OIDC discovery, ES256, issuer, audience, expiry),
// and that it forgets nothing: each arrival is kept with the lease and permit that its token names, the raw token too, so that a test
// can count deliveries and hunt for leaks. It also echoes credentials in many encodings, as careless services do. It is no part of
// the product.
package target

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Host is the name in the service's certificate; Audience is what its tokens must be for.
const (
	Host     = "example.com"
	Audience = "https://" + Host
	// Scope is what a charge needs.
	Scope = "charges:write"
)

// Arrival is one request with a token that held.
type Arrival struct {
	At                          time.Time
	Method, Path, Key           string
	Subject, Run, Permit, Lease string
	Token                       string
	Body                        []byte
}

// Service is a running target.
type Service struct {
	server *httptest.Server
	issuer string
	ctx    context.Context

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	arrivals []Arrival
	refused  []string
}

// Start serves until Close. The issuer is discovered at the first request.
func Start(ctx context.Context, issuer string) *Service {
	s := &Service{issuer: issuer, ctx: context.WithoutCancel(ctx)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/items/{id}", s.guarded("", item))
	mux.HandleFunc("PUT /v1/items/{id}", s.guarded("", item))
	mux.HandleFunc("POST /v1/charges", s.guarded(Scope, charge))
	mux.HandleFunc("GET /v1/echo/{form}", s.guarded("", echo))
	s.server = httptest.NewUnstartedServer(mux)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // callers die here by intent
	s.server.StartTLS()
	return s
}

// Close stops the service.
func (s *Service) Close() { s.server.Close() }

// Addr is ip:port.
func (s *Service) Addr() string { return s.server.Listener.Addr().String() }

// RootsPEM is what a connection must trust.
func (s *Service) RootsPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw}))
}

// Arrivals are all requests so far whose tokens held, in their order.
func (s *Service) Arrivals() []Arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.arrivals)
}

// Refused says why requests were turned away.
func (s *Service) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.refused)
}

func (s *Service) discovered() (*oidc.IDTokenVerifier, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verifier == nil {
		provider, err := oidc.NewProvider(s.ctx, s.issuer)
		if err != nil {
			return nil, fmt.Errorf("discover the issuer: %w", err)
		}
		s.verifier = provider.Verifier(&oidc.Config{ClientID: Audience, SupportedSigningAlgs: []string{oidc.ES256}})
	}
	return s.verifier, nil
}

// verify reads a request's token.
func (s *Service) verify(r *http.Request, scope string) (Arrival, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Arrival{}, fmt.Errorf("no bearer token")
	}
	verifier, err := s.discovered()
	if err != nil {
		return Arrival{}, err
	}
	id, err := verifier.Verify(r.Context(), token)
	if err != nil {
		return Arrival{}, err
	}
	var claims struct {
		Scope  string `json:"scope"`
		Run    string `json:"cardea/run"`
		Permit string `json:"cardea/permit"`
		Lease  string `json:"jti"`
	}
	if err := id.Claims(&claims); err != nil {
		return Arrival{}, err
	}
	if scope != "" && !slices.Contains(strings.Fields(claims.Scope), scope) {
		return Arrival{}, fmt.Errorf("scope %q is not %q", claims.Scope, scope)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	return Arrival{At: time.Now(), Method: r.Method, Path: r.URL.Path, Key: r.Header.Get("Idempotency-Key"), Subject: id.Subject,
		Run: claims.Run, Permit: claims.Permit, Lease: claims.Lease, Token: token, Body: body}, err
}

// guarded records a request before it is answered: what has arrived has happened, whoever dies meanwhile.
func (s *Service) guarded(scope string, h func(http.ResponseWriter, *http.Request, Arrival)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := s.verify(r, scope)
		s.mu.Lock()
		if err != nil {
			s.refused = append(s.refused, fmt.Sprintf("%s %s: %v", r.Method, r.URL.Path, err))
		} else {
			s.arrivals = append(s.arrivals, a)
		}
		s.mu.Unlock()
		if err != nil {
			http.Error(w, "the token is not accepted", http.StatusUnauthorized)
			return
		}
		h(w, r, a)
	}
}

func item(w http.ResponseWriter, r *http.Request, _ Arrival) {
	answer(w, map[string]string{"id": r.PathValue("id")})
}

func charge(w http.ResponseWriter, _ *http.Request, a Arrival) {
	answer(w, map[string]string{"charged": a.Run})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// Forms are the ways in which echo gives the Authorization header back.
func Forms() []string {
	return []string{"plain", "json", "base64", "base64-1", "base64-2", "base64url", "hex", "url", "header", "gzip", "gzip-inside", "error", "escaped"}
}

// echo is what careless services do: it gives back what it was sent.
func echo(w http.ResponseWriter, r *http.Request, a Arrival) {
	given := r.Header.Get("Authorization")
	form := r.PathValue("form")
	switch form {
	case "header":
		w.Header().Set("X-Echo", given)
		w.Header().Set("Set-Cookie", "session="+a.Token)
		answer(w, map[string]string{"form": form})
	case "json":
		answer(w, map[string]any{"form": form, "headers": map[string]string{"Authorization": given}, "token": a.Token})
	case "gzip":
		w.Header().Set("Content-Type", "application/gzip")
		_, _ = w.Write(zipped(given))
	case "error":
		http.Error(w, "cannot do this for "+given, http.StatusBadRequest)
	default:
		answer(w, map[string]string{"form": form, "echo": encode(form, given)})
	}
}

func encode(form, text string) string {
	switch form {
	case "base64":
		return base64.StdEncoding.EncodeToString([]byte(text))
	case "base64-1":
		return base64.StdEncoding.EncodeToString([]byte("x" + text))
	case "base64-2":
		return base64.StdEncoding.EncodeToString([]byte("xy" + text))
	case "base64url":
		return base64.RawURLEncoding.EncodeToString([]byte(text))
	case "hex":
		return hex.EncodeToString([]byte(text))
	case "url":
		return url.QueryEscape(text)
	case "gzip-inside":
		return base64.StdEncoding.EncodeToString(zipped(text))
	case "escaped":
		var b strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
		return b.String()
	}
	return text
}

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.Bytes()
}
