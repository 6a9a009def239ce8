package registry

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

func readProcess(o *object, name string) Object {
	p := &Process{Name: name, Owner: readOwner(o), Purpose: readProse(o, "purpose", true)}
	p.Criticality = o.text("criticality", true)
	if p.Criticality != "" && !slices.Contains(criticalities, p.Criticality) {
		o.bad("criticality", "%q is not one of %s", p.Criticality, strings.Join(criticalities, ", "))
	}
	return p
}

// criticalities rise from left to right. Never written to.
var criticalities = []string{"low", "medium", "high", "critical"}

func readGroup(o *object, name string) Object {
	return &Group{Name: name, Purpose: readProse(o, "purpose", false)}
}

func readRunner(o *object, name string) Object {
	r := &Runner{Name: name, Tier: readName(o, "tier", true)}
	r.Processes = o.texts("processes", true, checkNameOrStar)
	r.Zones = o.texts("zones", true, checkNameOrStar)
	return r
}

func readRule(o *object, name string) Object {
	r := &ApprovalRule{Name: name, Process: readName(o, "process", false)}
	r.Approvers = o.texts("approvers", true, checkPrincipal)
	if len(r.Approvers) == 0 && o.members["approvers"] != nil {
		o.bad("approvers", "must name at least one group:<name> or person:<name>")
	}
	if _, ok := o.members["quorum"]; !ok {
		o.bad("quorum", "is missing")
	}
	r.Quorum = o.integer("quorum", 1, 1, 20)
	if groups := slices.ContainsFunc(r.Approvers, func(a string) bool { return strings.HasPrefix(a, "group:") }); !groups && r.Quorum > len(r.Approvers) && len(r.Approvers) > 0 {
		o.bad("quorum", "asks for %d of %d people, who could never sign enough", r.Quorum, len(r.Approvers))
	}
	r.Expires = readDuration(o, "expires", true, 0, MaxExpires)
	r.Attempts = o.integer("attempts", 1, 1, 100)
	return r
}

func readPerson(o *object, name string) Object {
	p := &Person{Name: name, Groups: o.texts("groups", false, checkName)}
	p.SSHKeys = o.texts("sshKeys", false, func(line string) error {
		key, err := parseSSHKey(line)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(p.keys, func(k ssh.PublicKey) bool { return string(k.Marshal()) == string(key.Marshal()) }) {
			return fmt.Errorf("key %s stands twice", ssh.FingerprintSHA256(key))
		}
		p.keys = append(p.keys, key)
		return nil
	})
	return p
}

// parseSSHKey reads one authorized_keys line without options. Certificates are refused, since their authority would be a second
// registry of people, and so are key types that OpenSSH itself no longer takes.
func parseSSHKey(line string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return nil, fmt.Errorf("is not an SSH public key as in a .pub file: %w", err)
	case len(options) > 0:
		return nil, fmt.Errorf("has options (%s); only the key itself counts", strings.Join(options, ","))
	case len(rest) > 0 || strings.ContainsAny(line, "\r\n"):
		return nil, fmt.Errorf("holds more than one line; write one key per entry")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		return key, nil
	case ssh.KeyAlgoRSA:
		if bits := rsaBits(key); bits < 2048 {
			return nil, fmt.Errorf("is an RSA key of %d bits; at least 2048 are needed", bits)
		}
		return key, nil
	}
	return nil, fmt.Errorf("has key type %s; use ed25519, ecdsa, their sk- forms, or rsa", key.Type())
}

func readOwner(o *object) string {
	owner := o.text("owner", true)
	if owner != "" {
		if err := checkPrincipal(owner); err != nil {
			o.bad("owner", "%v", err)
		}
	}
	return owner
}

func readName(o *object, field string, required bool) string {
	name := o.text(field, required)
	if name != "" {
		if err := checkName(name); err != nil {
			o.bad(field, "%v", err)
		}
	}
	return name
}

// readProse reads a sentence that people will be shown on terminals: no control characters, bounded.
func readProse(o *object, field string, required bool) string {
	s := o.text(field, required)
	if len(s) > 500 {
		o.bad(field, "has %d bytes; at most 500 are allowed", len(s))
	}
	if strings.ContainsFunc(s, isControl) {
		o.bad(field, "holds a control character")
	}
	return s
}

// isControl also covers what turns the direction of text around: it would let a plan read otherwise than it is.
func isControl(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
}

func readRoots(o *object) string {
	roots := o.text("roots", false)
	rest, count := []byte(roots), 0
	for len(strings.TrimSpace(string(rest))) > 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			o.bad("roots", "is not PEM")
			return roots
		}
		if block.Type != "CERTIFICATE" {
			o.bad("roots", "holds a PEM block of type %q; only CERTIFICATE belongs here", block.Type)
			return roots
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			o.bad("roots", "certificate %d does not parse: %v", count+1, err)
			return roots
		}
		count++
	}
	return roots
}

func readAddress(o *object) string {
	address := o.text("address", false)
	if address == "" {
		return ""
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() || ap.String() != address {
		o.bad("address", "%q is not ip:port, such as 10.0.0.7:443 or [fd00::7]:443", address)
	}
	return address
}

func readDuration(o *object, field string, required bool, absent, most time.Duration) time.Duration {
	s := o.text(field, required)
	if s == "" {
		return absent
	}
	d, err := parseDuration(s)
	if err != nil {
		o.bad(field, "%v", err)
		return absent
	}
	if d <= 0 || d > most {
		o.bad(field, "is %s; it must be more than 0 and at most %s", s, FormatDuration(most))
		return absent
	}
	return d
}
