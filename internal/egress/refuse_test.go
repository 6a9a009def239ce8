package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cardea/internal/action"
	"cardea/internal/secret"
)

func TestCheckAddress(t *testing.T) {
	refused := strings.Fields(`
		0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.254 100.100.100.200 127.0.0.1 127.255.255.255 169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.255
		192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1
		255.255.255.255 168.63.129.16
		:: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::10.0.0.1 64:ff9b:1::1
		100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254
		fd20:ce::254 fe80::1 fec0::1 ff02::1 4000::1`)
	for _, text := range refused {
		if err := checkAddress(netip.MustParseAddr(text)); kindOf(err) != Refused {
			t.Errorf("%s is let through (%v)", text, err)
		}
	}
	for _, text := range strings.Fields(`
		1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.1 172.15.255.255 172.32.0.1 192.0.1.1 198.17.255.255 198.20.0.1 223.255.255.255
		::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1 2606:4700:4700::1111 2a00:1450:4001:830::200e`) {
		if err := checkAddress(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s is refused: %v", text, err)
		}
	}
	if err := checkAddress(netip.MustParseAddr("2a00::1%eth0")); err == nil {
		t.Error("a zone is let through")
	}
}

// publicly makes an Egress whose DNS is f and whose connections to public addresses reach s; dialled notes them.
func publicly(t *testing.T, f Resolver, s string, dialled *[]netip.AddrPort) *Egress {
	t.Helper()
	e := New(Options{Resolver: f})
	t.Cleanup(e.Close)
	e.dial.connect = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		*dialled = append(*dialled, a)
		return (&net.Dialer{}).DialContext(ctx, "tcp", s)
	}
	return e
}

// TestRebinding: the name's second answer is an inside address; it is never asked for.
func TestRebinding(t *testing.T) {
	s, grant := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	grant.Address = ""
	for _, once := range []bool{true, false} {
		dns := &fakeDNS{answers: [][]netip.Addr{addrs("93.184.215.14"), addrs("169.254.169.254")}}
		var dialled []netip.AddrPort
		e := publicly(t, dns, s.Listener.Addr().String(), &dialled)
		if _, _, err := e.Do(t.Context(), post(grant, func(r *Request) { r.Once = once })); err != nil {
			t.Fatal(err)
		}
		if dns.asked.Load() != 1 || len(dialled) != 1 || dialled[0] != netip.MustParseAddrPort("93.184.215.14:443") {
			t.Fatalf("asked %d times, dialled %v", dns.asked.Load(), dialled)
		}
		if !once {
			continue
		}
		// The next fresh connection resolves anew, and what it finds is checked anew.
		if _, report, err := e.Do(t.Context(), post(grant, func(r *Request) { r.Once = true })); kindOf(err) != Refused || report.Delivery != NotSent || len(dialled) != 1 {
			t.Fatalf("%v, dialled %v", err, dialled)
		}
	}
}

// TestEveryAnswerIsChecked: one bad address among good ones refuses the name; so does a name or literal that is inside.
func TestEveryAnswerIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		url     string
		answers []netip.Addr
		kind    Kind
	}{
		"inside":            {"https://" + host + "/", addrs("10.0.0.1"), Refused},
		"second is inside":  {"https://" + host + "/", addrs("8.8.8.8", "127.0.0.1"), Refused},
		"mapped":            {"https://" + host + "/", addrs("::ffff:127.0.0.1"), Refused},
		"none":              {"https://" + host + "/", nil, Unreachable},
		"too many":          {"https://" + host + "/", make([]netip.Addr, maxAddresses+1), Unreachable},
		"loopback literal":  {"https://127.0.0.1/", nil, Refused},
		"v6 literal":        {"https://[::1]/", nil, Refused},
		"mapped literal":    {"https://[::ffff:169.254.169.254]/", nil, Refused},
		"metadata, no name": {"http://169.254.169.254/latest/meta-data/", nil, Refused},
	} {
		t.Run(name, func(t *testing.T) {
			var dialled []netip.AddrPort
			e := publicly(t, &fakeDNS{answers: [][]netip.Addr{c.answers}}, "127.0.0.1:1", &dialled)
			_, report, err := e.Do(t.Context(), post(Grant{}, func(r *Request) { r.Action.URL, r.Grants = c.url, nil }))
			if kindOf(err) != c.kind || report.Delivery != NotSent || len(dialled) != 0 {
				t.Fatalf("%v, dialled %v", err, dialled)
			}
		})
	}
}

func TestUnmappedAddressIsDialled(t *testing.T) {
	s, grant := server(t, func(http.ResponseWriter, *http.Request) {})
	grant.Address = ""
	var dialled []netip.AddrPort
	e := publicly(t, &fakeDNS{answers: [][]netip.Addr{addrs("::ffff:8.8.8.8")}}, s.Listener.Addr().String(), &dialled)
	if _, _, err := e.Do(t.Context(), post(grant, nil)); err != nil || dialled[0].Addr() != netip.MustParseAddr("8.8.8.8") {
		t.Fatalf("%v, dialled %v", err, dialled)
	}
}

func TestNextAddressIsTried(t *testing.T) {
	s, grant := server(t, func(http.ResponseWriter, *http.Request) {})
	grant.Address = ""
	e := New(Options{Resolver: &fakeDNS{answers: [][]netip.Addr{addrs("8.8.8.8", "1.1.1.1")}}})
	defer e.Close()
	e.dial.connect = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		if a.Addr() == netip.MustParseAddr("8.8.8.8") {
			return nil, errors.New("down")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
	if _, _, err := e.Do(t.Context(), post(grant, nil)); err != nil {
		t.Fatal(err)
	}
}

// TestDialExactly: the last wall sees what the kernel is asked for.
func TestDialExactly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := dialExactly(t.Context(), netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// TestBindRefuses: the credential goes to its connection's hosts, over TLS, by one way.
func TestBindRefuses(t *testing.T) {
	var hits atomic.Int32
	s, grant := server(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	address := s.Listener.Addr().String()
	for name, change := range map[string]func(*Request){
		"another host":            func(r *Request) { r.Grants[0].Hosts = []string{"https://hr.example"} },
		"no hosts":                func(r *Request) { r.Grants[0].Hosts = nil },
		"another port":            func(r *Request) { r.Grants[0].Hosts = []string{"https://" + host + ":8443"} },
		"url's port":              func(r *Request) { r.Action.URL = "https://" + host + ":8443/" },
		"another scheme":          func(r *Request) { r.Grants[0].Hosts = []string{"http://" + host} },
		"subdomain":               func(r *Request) { r.Action.URL = "https://x." + host + "/" },
		"superdomain":             func(r *Request) { r.Action.URL = "https://" + host + ".evil.example/" },
		"trailing dot":            func(r *Request) { r.Action.URL = "https://" + host + "./" },
		"host with path":          func(r *Request) { r.Grants[0].Hosts = []string{"https://" + host + "/v1"} },
		"plaintext":               func(r *Request) { r.Action.URL, r.Grants[0].Hosts = "http://"+host+"/", []string{"http://" + host} },
		"address is a name":       func(r *Request) { r.Grants[0].Address = "localhost:443" },
		"address without port":    func(r *Request) { r.Grants[0].Address = "127.0.0.1" },
		"address port 0":          func(r *Request) { r.Grants[0].Address = "127.0.0.1:0" },
		"address unspecified":     func(r *Request) { r.Grants[0].Address = "0.0.0.0:443" },
		"address multicast":       func(r *Request) { r.Grants[0].Address = "[ff02::1]:443" },
		"two addresses":           func(r *Request) { r.Grants = append(r.Grants, withHeader(grant, "x-two", "127.0.0.1:1", grant.Roots)) },
		"second of another roots": func(r *Request) { r.Grants = append(r.Grants, withHeader(grant, "x-two", address, "")) },
		"second of another host": func(r *Request) {
			two := withHeader(grant, "x-two", address, grant.Roots)
			two.Hosts = []string{"https://hr.example"}
			r.Grants = append(r.Grants, two)
		},
		"two in one header":         func(r *Request) { r.Grants = append(r.Grants, grant) },
		"unknown presentation":      func(r *Request) { r.Grants[0].Presentation = "sigv4" },
		"no presentation":           func(r *Request) { r.Grants[0].Presentation = "" },
		"header without name":       func(r *Request) { r.Grants[0].Presentation = "header:" },
		"header with a line end":    func(r *Request) { r.Grants[0].Presentation = "header:x\r\ny" },
		"header is Host":            func(r *Request) { r.Grants[0].Presentation = "header:Host" },
		"header is the action's":    func(r *Request) { r.Grants[0].Presentation = "header:Content-Type" },
		"credential empty":          func(r *Request) { r.Grants[0].Credential = secret.Value{} },
		"credential with line ends": func(r *Request) { r.Grants[0].Credential = secret.Take([]byte("a\r\nX-Injected: 1")) },
		"credential with NUL":       func(r *Request) { r.Grants[0].Credential = secret.Take([]byte("a\x00b")) },
		"basic without colon": func(r *Request) {
			r.Grants[0].Presentation, r.Grants[0].Credential = "basic", secret.Take([]byte("password"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, report, err := newEgress(t).Do(t.Context(), post(grant, change))
			if kindOf(err) != Refused || report.Delivery != NotSent {
				t.Fatalf("%v, delivery %d", err, report.Delivery)
			}
			if strings.Contains(err.Error(), token) {
				t.Fatal("the refusal quotes the credential")
			}
		})
	}
	if hits.Load() != 0 {
		t.Fatalf("%d requests came", hits.Load())
	}
}

func withHeader(g Grant, name, address, roots string) Grant {
	g.Connection, g.Presentation, g.Address, g.Roots = "two", "header:"+name, address, roots
	return g
}

func TestTwoGrantsThatAgree(t *testing.T) {
	_, grant := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header.Get("Authorization") != "" && r.Header.Get("X-Two") != "")
	})
	resp, report, err := newEgress(t).Do(t.Context(), post(grant, func(r *Request) {
		r.Grants = append(r.Grants, withHeader(grant, "x-two", grant.Address, grant.Roots))
	}))
	if err != nil || string(resp.Body) != "true" || report.Connection != "bank+two" {
		t.Fatalf("%q %+v %v", resp.Body, report, err)
	}
}

// TestActionsThatAreNotCanonical never leave, although action.Parse would have refused them before.
func TestActionsThatAreNotCanonical(t *testing.T) {
	s, grant := raw(t, ok)
	header := func(name, value string) func(*Request) {
		return func(r *Request) { r.Action.Headers = append(r.Action.Headers, action.Header{Name: name, Value: value}) }
	}
	url := func(u string) func(*Request) { return func(r *Request) { r.Action.URL = u } }
	for name, change := range map[string]func(*Request){
		"line end in value":       header("x", "a\r\nX-Injected: 1"),
		"bare line feed":          header("x", "a\nb"),
		"NUL":                     header("x", "a\x00b"),
		"space around":            header("x", " a"),
		"line end in name":        header("x\r\ny", "a"),
		"colon in name":           header("x:y", "a"),
		"empty name":              header("", "a"),
		"authorization":           header("Authorization", "Bearer mine"),
		"host":                    header("host", "evil.example"),
		"content-length":          header("content-length", "0"),
		"transfer-encoding":       header("transfer-encoding", "chunked"),
		"connection":              header("connection", "x"),
		"cookie":                  header("cookie", "a=b"),
		"expect":                  header("expect", "100-continue"),
		"idempotency key":         header("idempotency-key", "mine"),
		"forwarded":               header("x-forwarded-host", "evil.example"),
		"repeated":                header("Content-Type", "text/plain"),
		"idempotency key, broken": func(r *Request) { r.IdempotencyKey = "a\r\nX: 1" },
		"user":                    url("https://me:pw@" + host + "/"),
		"fragment":                url("https://" + host + "/#x"),
		"no path":                 url("https://" + host),
		"upper-case host":         url("https://" + strings.ToUpper(host) + "/"),
		"escaped host":            url("https://b%61nk.example/"),
		"empty port":              url("https://" + host + ":/"),
		"other scheme":            url("ftp://" + host + "/"),
		"opaque":                  url("https:bank.example/"),
		"line end":                url("https://" + host + "/a\r\nX: 1"),
		"space":                   url("https://" + host + "/a b"),
		"zone":                    url("https://[fe80::1%25eth0]/"),
	} {
		t.Run(name, func(t *testing.T) {
			_, report, err := newEgress(t).Do(t.Context(), post(grant, change))
			if kindOf(err) != Refused || report.Delivery != NotSent {
				t.Fatalf("%v, delivery %d", err, report.Delivery)
			}
		})
	}
	if got := s.received(); got != "" {
		t.Fatalf("the target got %q", got)
	}
}

// TestReachCarriesNoCredential: a request without a connection goes out bare.
func TestReachCarriesNoCredential(t *testing.T) {
	var header atomic.Pointer[http.Header]
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Clone()
		header.Store(&h)
		w.Header().Set("Content-Encoding", "br") // nothing to search for, so nothing to refuse
		_, _ = io.WriteString(w, "anything")
	}))
	defer s.Close()
	var dialled []netip.AddrPort
	e := publicly(t, &fakeDNS{answers: [][]netip.Addr{addrs("8.8.8.8")}}, s.Listener.Addr().String(), &dialled)
	resp, report, err := e.Do(t.Context(), post(Grant{}, func(r *Request) { r.Grants, r.Action.URL = nil, "http://"+host+"/" }))
	if err != nil || string(resp.Body) != "anything" || report.Connection != "" {
		t.Fatalf("%q %v", resp.Body, err)
	}
	for _, name := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
		if v := header.Load().Get(name); v != "" {
			t.Fatalf("%s: %s", name, v)
		}
	}
	if dialled[0].Port() != 80 {
		t.Fatalf("dialled %v", dialled)
	}
}

func TestPlaintextWhenTheConnectionSaysSo(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header.Get("Authorization") != "")
	}))
	defer s.Close()
	g := grantFor(s.Listener.Addr().String(), "")
	g.Hosts, g.Plaintext = []string{"http://" + host}, true
	for _, once := range []bool{true, false} {
		resp, _, err := newEgress(t).Do(t.Context(), post(g, func(r *Request) { r.Action.URL, r.Once = "http://"+host+"/", once }))
		if err != nil || string(resp.Body) != "true" {
			t.Fatalf("%q %v", resp.Body, err)
		}
	}
}

// TestTLS: the name that is asked for, verified and sent as Host is the URL's; old versions and HTTP/2 are not spoken.
func TestTLS(t *testing.T) {
	var hello atomic.Pointer[tls.ClientHelloInfo]
	c := newCerts(t, host)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.Host, " ", r.Proto) }))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c.leaf}, NextProtos: []string{"h2", "http/1.1"}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hello.Store(h)
		return nil, nil
	}}
	s.StartTLS()
	defer s.Close()
	resp, _, err := newEgress(t).Do(t.Context(), post(grantFor(s.Listener.Addr().String(), c.roots), nil))
	if err != nil || string(resp.Body) != host+" HTTP/1.1" || hello.Load().ServerName != host {
		t.Fatalf("%q, SNI %q, %v", resp.Body, hello.Load().ServerName, err)
	}
	for _, v := range hello.Load().SupportedVersions {
		if v < tls.VersionTLS12 {
			t.Fatalf("TLS version %x is offered", v)
		}
	}
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{Certificates: []tls.Certificate{c.leaf}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	if _, report, err := newEgress(t).Do(t.Context(), post(grantFor(old.Listener.Addr().String(), c.roots), nil)); kindOf(err) != Unreachable || report.Delivery != NotSent {
		t.Fatalf("TLS 1.1: %v", err)
	}
}

// TestCredentialsEndBoundsTheRequest: after the lease's end nothing is waited for.
func TestCredentialsEndBoundsTheRequest(t *testing.T) {
	_, grant := raw(t, func(*rawServer, int32, net.Conn, *http.Request) { select {} })
	grant.Expires = time.Now().Add(200 * time.Millisecond)
	_, report, err := newEgress(t).Do(t.Context(), post(grant, nil))
	if kindOf(err) != Timeout || report.Delivery != Sent || report.Ended.Sub(report.Started) > 10*time.Second {
		t.Fatalf("%v, delivery %d after %s", err, report.Delivery, report.Ended.Sub(report.Started))
	}
}
