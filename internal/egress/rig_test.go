package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cardea/internal/action"
	"cardea/internal/secret"
)

const (
	host  = "bank.example"
	token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ0YXNrIn0.c2ln-_nature"
)

// TestMain sets a proxy that nobody may use: with one honoured, every test here fails.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"} {
		_ = os.Setenv(name, "http://192.0.2.1:1")
	}
	os.Exit(m.Run())
}

// certs are a certificate authority of the test's own and a server certificate under it.
type certs struct {
	roots string
	leaf  tls.Certificate
}

func newCerts(t testing.TB, names ...string) certs {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature}
	caDER, err1 := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	leafDER, err2 := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return certs{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})), tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}}
}

// server is a real HTTPS server under the name bank.example.
func server(t testing.TB, h http.HandlerFunc) (*httptest.Server, Grant) {
	t.Helper()
	c := newCerts(t, host)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c.leaf}}
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s, grantFor(s.Listener.Addr().String(), c.roots)
}

func grantFor(address, roots string) Grant {
	return Grant{
		Connection: "bank", Presentation: "bearer", Credential: secret.Take([]byte(token)), Hosts: []string{"https://" + host}, Address: address, Roots: roots,
	}
}

// rawServer speaks TLS and then whatever serve does with each connection. It counts the requests that arrived, over all connections.
type rawServer struct {
	net.Listener
	requests atomic.Int32
	mu       sync.Mutex
	bytes    bytes.Buffer
}

func raw(t testing.TB, serve func(s *rawServer, n int32, conn net.Conn, req *http.Request)) (*rawServer, Grant) {
	t.Helper()
	c := newCerts(t, host)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{c.leaf}})
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.converse(conn, serve)
		}
	}()
	return s, grantFor(l.Addr().String(), c.roots)
}

func (s *rawServer) converse(conn net.Conn, serve func(*rawServer, int32, net.Conn, *http.Request)) {
	defer conn.Close()
	tap := tapReader{s, conn}
	in := bufio.NewReader(tap)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(req.Body); err != nil {
			return
		}
		serve(s, s.requests.Add(1), conn, req)
	}
}

type tapReader struct {
	s *rawServer
	net.Conn
}

func (t tapReader) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.s.mu.Lock()
	t.s.bytes.Write(p[:n])
	t.s.mu.Unlock()
	return n, err
}

func (s *rawServer) received() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes.String()
}

func (s *rawServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes.Reset()
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func ok(_ *rawServer, _ int32, conn net.Conn, _ *http.Request) { _, _ = conn.Write([]byte(okAnswer)) }

// post is a request to the test's host; change may alter it.
func post(grant Grant, change func(*Request)) Request {
	r := Request{
		Action: action.HTTP{
			Method: "POST", URL: "https://" + host + "/v1/transfers?dry=no", Headers: []action.Header{{Name: "content-type", Value: "application/json"}},
			Body: []byte(`{"amount":1}`),
		},
		Grants: []Grant{grant}, IdempotencyKey: "idem-1", Deadline: time.Now().Add(20 * time.Second),
	}
	if change != nil {
		change(&r)
	}
	return r
}

func newEgress(t testing.TB) *Egress {
	e := New(Options{})
	t.Cleanup(e.Close)
	return e
}

func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

// fakeDNS answers with the next of its answers and counts how often it was asked.
type fakeDNS struct {
	answers [][]netip.Addr
	asked   atomic.Int32
}

func (f *fakeDNS) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	n := int(f.asked.Add(1)) - 1
	return f.answers[min(n, len(f.answers)-1)], nil
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}
