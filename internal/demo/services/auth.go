package services

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// claims are what a task's JWT says beside the registered ones.
type claims struct {
	Scope  string `json:"scope"`
	Run    string `json:"cardea/run"`
	Permit string `json:"cardea/permit"`
	// Lease is the token's own id: it was issued under that name.
	Lease string `json:"jti"`
}

// verifier checks tokens against an issuer that it discovers once and whose keys it caches, as go-oidc does.
type verifier struct {
	// ctx outlives every request: the key set is fetched under it.
	ctx              context.Context
	issuer, audience string
	now              func() time.Time

	mu    sync.Mutex
	ready *oidc.IDTokenVerifier
}

// discovered returns the verifier, discovering the issuer if that has not succeeded yet: services may start before it does.
func (v *verifier) discovered() (*oidc.IDTokenVerifier, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ready != nil {
		return v.ready, nil
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	provider, err := oidc.NewProvider(oidc.ClientContext(v.ctx, client), v.issuer)
	if err != nil {
		return nil, fmt.Errorf("discover issuer: %w", err)
	}
	v.ready = provider.Verifier(&oidc.Config{ClientID: v.audience, SupportedSigningAlgs: []string{oidc.ES256}, Now: v.now})
	return v.ready, nil
}

var errIssuer = errors.New("the issuer cannot be asked for its keys")

// verify returns who is calling. Its errors never hold the token.
func (v *verifier) verify(ctx context.Context, token string) (subject string, c claims, err error) {
	ready, err := v.discovered()
	if err != nil {
		return "", claims{}, fmt.Errorf("%w: %v", errIssuer, err)
	}
	verified, err := ready.Verify(ctx, token)
	if err != nil {
		return "", claims{}, err
	}
	if !v.now().Before(verified.Expiry) { // go-oidc takes the very instant of expiry; zero leeway does not
		return "", claims{}, &oidc.TokenExpiredError{Expiry: verified.Expiry}
	}
	if err := verified.Claims(&c); err != nil {
		return "", claims{}, errors.New("claims are not what a task's token has")
	}
	return verified.Subject, c, nil
}

// authenticate answers 401 or 403 itself (RFC 6750 §3) and returns whether the request may go on.
func (s *Service) authenticate(w http.ResponseWriter, r *http.Request, seen *Seen, scope string) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", s.options.Kind))
		problem(w, http.StatusUnauthorized, "A token is needed", "The request carries no bearer token.")
		return false
	}
	subject, c, err := s.verifier.verify(r.Context(), token)
	if errors.Is(err, errIssuer) {
		s.options.Log.Error("issuer", "service", s.options.Kind, "error", err)
		problem(w, http.StatusServiceUnavailable, "Cannot verify", "The issuer cannot be asked for its keys.")
		return false
	}
	if err != nil {
		why := reason(err)
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q, error=\"invalid_token\", error_description=%q", s.options.Kind, why))
		problem(w, http.StatusUnauthorized, "The token is not accepted", why)
		return false
	}
	seen.Subject, seen.Run, seen.Permit, seen.Lease, seen.Scope = subject, c.Run, c.Permit, c.Lease, c.Scope
	if scope != "" && !slices.Contains(strings.Fields(c.Scope), scope) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q, error=\"insufficient_scope\", scope=%q", s.options.Kind, scope))
		problem(w, http.StatusForbidden, "The token's scope does not reach", "The request needs scope "+scope+".")
		return false
	}
	if s.options.Witness != nil {
		s.options.Witness(token)
	}
	return true
}

// reason says what is wrong with a token in words of our own: a library's error may quote the token.
func reason(err error) string {
	var expired *oidc.TokenExpiredError
	switch {
	case errors.As(err, &expired):
		return "The token expired at " + expired.Expiry.UTC().Format(time.RFC3339) + "."
	case strings.Contains(err.Error(), "expected audience"):
		return "The token is for another audience."
	case strings.Contains(err.Error(), "issued by a different provider"):
		return "The token is by another issuer."
	case strings.Contains(err.Error(), "signature"):
		return "The token's signature is not by the issuer."
	}
	return "The token is not a valid one."
}

// problem writes an RFC 9457 problem.
func problem(w http.ResponseWriter, status int, title, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", title, status, detail})
}

func answer(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
