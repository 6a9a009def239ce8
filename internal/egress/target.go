package egress

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"cardea/internal/action"
)

// target is where a request goes and whom it trusts there. It is also the key under which connections are kept: two requests share
// one only if all of this is the same, so that no connection made for one trust is used for another.
type target struct {
	connection string
	scheme     string
	// host is the URL's host name or address, which is also the TLS server name; port is never empty.
	host, port string
	// address is what the connection names, or the zero value for what host resolves to.
	address netip.AddrPort
	// roots is PEM; empty for the system's.
	roots string
}

// parseTarget reads the URL once, and refuses it unless what will be written on the wire is the URL to the byte.
func parseTarget(a action.HTTP) (*url.URL, target, error) {
	u, err := url.Parse(a.URL)
	if err != nil {
		return nil, target{}, fail(Refused, "url: %v", err)
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return nil, target{}, fail(Refused, "url scheme %q is neither https nor http", u.Scheme)
	}
	if u.Scheme+"://"+u.Host+u.RequestURI() != a.URL {
		return nil, target{}, fail(Refused, "url %q is not in its canonical form", a.URL)
	}
	t := target{scheme: u.Scheme, host: u.Hostname(), port: u.Port()}
	if !validHost(t.host) || strings.HasSuffix(u.Host, ":") {
		return nil, target{}, fail(Refused, "url host %q is not a name or an address", u.Host)
	}
	if t.port == "" {
		t.port = defaultPort(u.Scheme)
	}
	return u, t, nil
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// validHost takes what a resolver, a certificate and a server all read in the same way.
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return !strings.Contains(host, "%")
	}
	for _, c := range []byte(host) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return host != "" && len(host) <= 253 && host[0] != '.'
}

// bind checks the target against every grant and takes address and roots from them. Grants that disagree are refused: choosing
// one would send the other's credential where its connection does not go.
func (t *target) bind(grants []Grant) error {
	for i, g := range grants {
		if err := t.admits(g); err != nil {
			return err
		}
		var address netip.AddrPort
		if g.Address != "" {
			var err error
			if address, err = checkNamed(g.Address); err != nil {
				return err
			}
		}
		if i > 0 && (address != t.address || g.Roots != t.roots) {
			return fail(Refused, "connections %s and %s disagree on address or roots", t.connection, g.Connection)
		}
		t.address, t.roots = address, g.Roots
		if i > 0 {
			t.connection += "+"
		}
		t.connection += g.Connection
	}
	return nil
}

// admits refuses to send g's credential to t.
func (t *target) admits(g Grant) error {
	if t.scheme == "http" && !g.Plaintext {
		return fail(Refused, "connection %s does not let its credential travel in plaintext", g.Connection)
	}
	for _, origin := range g.Hosts {
		if t.isOrigin(origin) {
			return nil
		}
	}
	return fail(Refused, "%s://%s is not a host of connection %s", t.scheme, net.JoinHostPort(t.host, t.port), g.Connection)
}

func (t *target) isOrigin(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = defaultPort(u.Scheme)
	}
	return u.Scheme == t.scheme && strings.ToLower(u.Hostname()) == t.host && port == t.port
}
