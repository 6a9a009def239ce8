// Package profile is the file with which a person's CLI finds a hub and proves who asks.
//
// It promises that a profile is complete and self-consistent when Load returns it, and that
// Save writes it so that only its owner can read it: it holds the person's session key.
// It refuses a file that others can read, unknown fields, and a hub without pinned roots.
package profile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/identity"
)

// Env names the environment variable that points to a profile.
const Env = "CARDEA_PROFILE"

// Profile is everything that the CLI knows of one hub and one person.
type Profile struct {
	// Hub is the hub's name for people, such as "dev".
	Hub string `json:"hub"`
	// Console is where the CLI calls: unix:/path or tcp:host:port.
	Console string `json:"console"`
	// TrustDomain is the SPIFFE trust domain whose roots are pinned.
	TrustDomain string `json:"trust_domain"`
	// RoleRoots is PEM: the role CA that the console's SVID must come from.
	RoleRoots string `json:"role_roots"`
	// Person is who asks.
	Person string `json:"person"`
	// SessionKey is the person's private JWK (EC P-256) that signs the proof of each call.
	SessionKey jose.JSONWebKey `json:"session_key"`
	// SSHKey is the file of the person's SSH signing key for approvals; empty to use an agent.
	SSHKey string `json:"ssh_key,omitempty"`
	// PermitKeys are the authority's Ed25519 keys (base64 of 32 bytes): they verify statements and tickets.
	PermitKeys [][]byte `json:"permit_keys"`
	// CheckpointKey is the ledger's verifier in note form.
	CheckpointKey string `json:"checkpoint_key"`
	// Origin is the URL of the hub's discovery document, the issuer of its tokens.
	Origin string `json:"origin"`
	// Dev is true for a hub started by `cardea dev`.
	Dev bool `json:"dev,omitempty"`
}

// Keys are the permit keys, for package permit and the approval verifier.
func (p Profile) Keys() []ed25519.PublicKey {
	keys := make([]ed25519.PublicKey, 0, len(p.PermitKeys))
	for _, k := range p.PermitKeys {
		keys = append(keys, ed25519.PublicKey(k))
	}
	return keys
}

// Roots are the pinned certificates.
func (p Profile) Roots() ([]*x509.Certificate, error) {
	td, err := spiffeid.TrustDomainFromString(p.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("profile: trust domain: %w", err)
	}
	return identity.ParseRoots(td, p.RoleRoots)
}

// Bundle is what the CLI knows of the roles: enough for identity.ClientTLSWithoutSVID.
func (p Profile) Bundle() (identity.Bundle, error) {
	roots, err := p.Roots()
	if err != nil {
		return identity.Bundle{}, err
	}
	return identity.Bundle{
		TrustDomain: p.TrustDomain, RoleRoots: roots, PermitKeys: p.Keys(), CheckpointKey: p.CheckpointKey, Dev: p.Dev,
	}, nil
}

func (p Profile) check() error {
	if p.Hub == "" || p.Person == "" || p.Console == "" || p.Origin == "" {
		return errors.New("profile: hub, person, console and origin must be set")
	}
	if p.SessionKey.IsPublic() || !p.SessionKey.Valid() {
		return errors.New("profile: session_key is not a private key")
	}
	for _, k := range p.PermitKeys {
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("profile: a permit key of %d bytes", len(k))
		}
	}
	_, err := p.Roots()
	return err
}

// Load reads and checks a profile.
func Load(path string) (Profile, error) {
	text, err := identity.ReadSecretFile(path)
	if err != nil {
		return Profile{}, fmt.Errorf("profile: %w", err)
	}
	var p Profile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		// encoding/json quotes field names and offsets, never the key.
		return Profile{}, fmt.Errorf("profile: %s: %w", path, err)
	}
	if d.More() {
		return Profile{}, fmt.Errorf("profile: %s: more than one JSON value", path)
	}
	if err := p.check(); err != nil {
		return Profile{}, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Save checks and writes a profile with mode 0600.
func (p Profile) Save(path string) error {
	if err := p.check(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("profile: encode %s: %w", path, err)
	}
	if err := identity.WriteSecretFile(path, append(text, '\n')); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}

// ErrNone says that no profile was found; its text tells what to do.
var ErrNone = errors.New("no hub found: start one with `cardea dev`, or name its profile with --profile or " + Env)

// Find is the path of the profile to use: flag, then $CARDEA_PROFILE, then .cardea/profile.json
// here, then cardea/profile.json in the user's configuration folder.
func Find(flag string) (string, error) {
	for _, named := range []string{flag, os.Getenv(Env)} {
		if named != "" {
			return named, nil
		}
	}
	candidates := []string{filepath.Join(".cardea", "profile.json")}
	if dir, err := configDir(); err == nil {
		candidates = append(candidates, filepath.Join(dir, "cardea", "profile.json"))
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("profile: %w", err)
		}
	}
	return "", ErrNone
}

// configDir is $XDG_CONFIG_HOME or ~/.config on every system, so that docs name one path.
func configDir() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); strings.HasPrefix(dir, "/") {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".config"), err
}
