// Package services is two sample targets, an HR system and a bank, that verify what they are given as real ones do.
//
// They promise: TLS under a certificate authority of their own; no answer without a task's JWT that they verified through the
// issuer's OIDC discovery (signature by its JWKS, ES256 only, issuer, audience, expiry without leeway); a scope for what moves
// money; idempotency keys honoured. They keep what they saw, never the token, so that a demo can show it, a crash test can
// count deliveries and a benchmark can compare counts. They are no part of the product: nothing in Cardea imports them but its
// demo, tests and benchmark.
package services

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Kind is which service to start.
type Kind string

// The two services.
const (
	HR   Kind = "hr"
	Bank Kind = "bank"
)

// Options say what a service trusts.
type Options struct {
	Kind Kind
	// Issuer is the URL whose /.well-known/openid-configuration is read at the first request.
	Issuer string
	// Audience is what the token must be for; "https://" and the first host when empty.
	Audience string
	// Hosts are the names in the certificate, beside 127.0.0.1; hr.example.com or api.bank.example.com when empty.
	Hosts []string
	// Listen is host:port; 127.0.0.1:0 when empty.
	Listen string
	// Log is for what was seen; nil for nowhere.
	Log *slog.Logger
	// Witness, if set, is handed every token that was accepted: what somebody who reads this service's memory would see. Only the demo
	// and tests that hunt for leaks set it.
	Witness func(token string)
	// Now is the clock that expiry is judged by; nil for the system's.
	Now func() time.Time
}

// Service is a running target. Close it.
type Service struct {
	options  Options
	listener net.Listener
	server   *http.Server
	roots    string
	verifier *verifier
	journal  *journal
	done     chan struct{}
}

// Start listens and serves until ctx ends or Close is called.
func Start(ctx context.Context, o Options) (*Service, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	roots, certificate, err := newCertificate(o.Hosts)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", o.Kind, err)
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", o.Kind, err)
	}
	s := &Service{options: o, listener: listener, roots: roots, journal: newJournal(), done: make(chan struct{})}
	s.verifier = &verifier{ctx: context.WithoutCancel(ctx), issuer: o.Issuer, audience: o.Audience, now: o.Now}
	handler, err := s.handler()
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("data of %s: %w", o.Kind, err)
	}
	s.server = &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	go s.serve(tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}))
	context.AfterFunc(ctx, s.Close)
	return s, nil
}

func (o *Options) complete() error {
	host := map[Kind]string{HR: "hr.example.com", Bank: "api.bank.example.com"}[o.Kind]
	if host == "" {
		return fmt.Errorf("service kind %q is neither hr nor bank", o.Kind)
	}
	if o.Issuer == "" {
		return fmt.Errorf("service %s has no issuer to trust", o.Kind)
	}
	if len(o.Hosts) == 0 {
		o.Hosts = []string{host}
	}
	if o.Audience == "" {
		o.Audience = "https://" + o.Hosts[0]
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

func (s *Service) serve(l net.Listener) {
	defer close(s.done)
	if err := s.server.Serve(l); err != http.ErrServerClosed {
		s.options.Log.Error("service stopped", "service", s.options.Kind, "error", err)
	}
}

// Close stops the service at once and waits until it has stopped.
func (s *Service) Close() {
	_ = s.server.Close()
	<-s.done
}

// Addr is ip:port, as a connection's `address` names it.
func (s *Service) Addr() string { return s.listener.Addr().String() }

// RootsPEM is the certificate authority that a connection's `roots` must name.
func (s *Service) RootsPEM() string { return s.roots }

// Host is the name that requests must be for.
func (s *Service) Host() string { return s.options.Hosts[0] }

// Audience is what tokens must be for.
func (s *Service) Audience() string { return s.options.Audience }

// Client dials this service whatever the host name, and trusts its certificate alone.
func (s *Service) Client() *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.roots))
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: s.Host()},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Addr())
		},
		DisableKeepAlives: true,
	}}
}

// Requests returns what was seen, oldest first.
func (s *Service) Requests() []Seen { return s.journal.all() }

// Stats returns the counters that /_stats serves.
func (s *Service) Stats() Stats { return s.journal.stats() }

func (s *Service) handler() (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_stats", s.serveStats)
	if s.options.Kind == Bank {
		b := &bank{byKey: map[string]*transfer{}, now: s.options.Now}
		mux.HandleFunc("POST /v1/transfers", s.guarded("transfers:write", b.create))
		mux.HandleFunc("GET /v1/transfers", s.guarded("", b.list))
		return mux, nil
	}
	h, err := newHR()
	if err != nil {
		return nil, err
	}
	mux.HandleFunc("GET /v1/timesheets/{month}", s.guarded("", h.timesheets))
	return mux, nil
}

// guarded verifies the caller before h runs, and records what came of the request.
func (s *Service) guarded(scope string, h func(http.ResponseWriter, *http.Request, *Seen)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		seen := Seen{At: s.options.Now().UTC(), Method: r.Method, Path: r.URL.Path, IdempotencyKey: r.Header.Get("Idempotency-Key")}
		out := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		if s.authenticate(out, r, &seen, scope) {
			h(out, r, &seen)
		}
		seen.Status = out.status
		s.journal.add(seen)
		s.options.Log.Info("request", "service", s.options.Kind, "seen", seen)
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
