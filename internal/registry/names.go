package registry

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	namePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	durationPattern = regexp.MustCompile(`^[1-9][0-9]{0,8}(ms|s|m|h|d)$`)
	labelPattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	factPattern     = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,62}$`)
	scopePattern    = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]{1,128}$`) // scope-token, RFC 6749 §3.3
	methods         = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
)

func checkName(s string) error {
	if !namePattern.MatchString(s) {
		return fmt.Errorf("%q is not a name: use 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit", s)
	}
	return nil
}

func checkNameOrStar(s string) error {
	if s == "*" {
		return nil
	}
	return checkName(s)
}

// checkPrincipal takes group:<name> and person:<name>.
func checkPrincipal(s string) error {
	kind, name, ok := strings.Cut(s, ":")
	if !ok || kind != "group" && kind != "person" || checkName(name) != nil {
		return fmt.Errorf("%q must be group:<name> or person:<name>", s)
	}
	return nil
}

func checkScope(s string) error {
	if !scopePattern.MatchString(s) {
		return fmt.Errorf("%q is not a scope (RFC 6749 §3.3): printable ASCII without space, quote or backslash", s)
	}
	return nil
}

// checkOrigin accepts exactly one spelling of an origin: lower-case, no default port, no path, no trailing slash.
func checkOrigin(s string, plaintext bool) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme == "" {
		return fmt.Errorf("%q is not an origin, such as https://api.example.com", s)
	}
	switch {
	case u.Scheme == "http" && !plaintext:
		return fmt.Errorf("%q would send the credential in the clear: use https, or say plaintext: true", s)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q must begin with https://", s)
	case u.Scheme+"://"+u.Host != s:
		return fmt.Errorf("%q must be scheme and host only, such as %s://%s", s, u.Scheme, strings.ToLower(u.Host))
	}
	return checkHost(u)
}

func checkHost(u *url.URL) error {
	host, port := u.Hostname(), u.Port()
	if strings.HasSuffix(u.Host, ":") || port != "" {
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
			return fmt.Errorf("%q has no valid port", u.Host)
		}
		if u.Scheme == "https" && n == 443 || u.Scheme == "http" && n == 80 {
			return fmt.Errorf("%q names the scheme's own port: leave it out", u.Host)
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.String() != host || addr.Zone() != "" || addr.Is4In6() {
			return fmt.Errorf("%q is not the canonical form of that address", host)
		}
		return nil
	}
	return checkDomain(host)
}

// checkDomain wants lower-case ASCII labels (an internationalised name in its xn-- form), and a last label that no resolver takes
// for a number: 0x7f.1 and 127.1 are addresses to some.
func checkDomain(host string) error {
	if len(host) > 253 {
		return errors.New("host name is longer than 253")
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if !labelPattern.MatchString(l) {
			return fmt.Errorf("host %q must be lower-case labels of a-z, 0-9 and - (xn-- for other letters), without a final dot", host)
		}
	}
	if last := labels[len(labels)-1]; last[0] >= '0' && last[0] <= '9' {
		return fmt.Errorf("host %q ends in a number, which some resolvers read as an address", host)
	}
	return nil
}

// parseDuration reads one number and one unit. Years and months have no fixed length, and fractions have two spellings.
func parseDuration(s string) (time.Duration, error) {
	if !durationPattern.MatchString(s) {
		return 0, fmt.Errorf("%q is not a duration: a whole number and one of ms, s, m, h, d, such as 90s", s)
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n > 36500 {
			return 0, fmt.Errorf("%q is too long", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(s)
}

// FormatDuration writes a duration for people in its largest whole unit: 5 min, 4 h, 30 d.
func FormatDuration(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		word string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if d >= u.unit && d%u.unit == 0 {
			return fmt.Sprintf("%d %s", d/u.unit, u.word)
		}
	}
	return d.String()
}

func rsaBits(key ssh.PublicKey) int {
	if ck, ok := key.(ssh.CryptoPublicKey); ok {
		if r, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok {
			return r.N.BitLen()
		}
	}
	return 0
}
