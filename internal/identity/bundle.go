package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
)

// Bundle is what a role needs to recognise the others. Treat it as read-only: it is shared.
type Bundle struct {
	TrustDomain string
	RoleRoots   []*x509.Certificate
	// PermitKeys verify permits, tickets and statements.
	PermitKeys []ed25519.PublicKey
	// CheckpointKey is the ledger's verifier in note form; empty before the ledger has one.
	CheckpointKey string
	// Banned holds SPIFFE ids that are refused whatever they present.
	Banned map[string]bool
	// Generation only grows; see Source.SetBundle.
	Generation uint64
	Dev        bool
	IssuedAt   time.Time
}

// BundleFromProto checks and converts a bundle. It refuses roots that are not roots of the
// bundle's own trust domain, keys of the wrong size, and a bundle without roots.
func BundleFromProto(p *cardeav1.Bundle) (Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(p.GetTrustDomain())
	if err != nil {
		return Bundle{}, fmt.Errorf("identity: bundle: %w", err)
	}
	b := Bundle{
		TrustDomain: td.Name(), CheckpointKey: p.GetCheckpointKey(), Generation: p.GetGeneration(),
		Dev: p.GetDev(), Banned: map[string]bool{},
	}
	if p.GetIssuedAt() != nil {
		b.IssuedAt = p.GetIssuedAt().AsTime()
	}
	for _, der := range p.GetRoleRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return Bundle{}, fmt.Errorf("identity: bundle: root: %w", err)
		}
		b.RoleRoots = append(b.RoleRoots, root)
	}
	for _, k := range p.GetPermitKeys() {
		b.PermitKeys = append(b.PermitKeys, slices.Clone(k))
	}
	for _, id := range p.GetBanned() {
		parsed, err := spiffeid.FromString(id)
		if err != nil {
			return Bundle{}, fmt.Errorf("identity: bundle: banned %q: %w", id, err)
		}
		b.Banned[parsed.String()] = true
	}
	return b, b.check()
}

// Proto is the bundle as it goes over the wire.
func (b Bundle) Proto() *cardeav1.Bundle {
	p := &cardeav1.Bundle{
		TrustDomain: b.TrustDomain, CheckpointKey: b.CheckpointKey, Generation: b.Generation, Dev: b.Dev,
	}
	for _, r := range b.RoleRoots {
		p.RoleRoots = append(p.RoleRoots, r.Raw)
	}
	for _, k := range b.PermitKeys {
		p.PermitKeys = append(p.PermitKeys, k)
	}
	for _, id := range slices.Sorted(maps.Keys(b.Banned)) {
		if b.Banned[id] {
			p.Banned = append(p.Banned, id)
		}
	}
	if !b.IssuedAt.IsZero() {
		p.IssuedAt = timestamppb.New(b.IssuedAt)
	}
	return p
}

func (b Bundle) check() error {
	td, err := spiffeid.TrustDomainFromString(b.TrustDomain)
	if err != nil {
		return fmt.Errorf("identity: bundle: %w", err)
	}
	if len(b.RoleRoots) == 0 {
		return errors.New("identity: bundle: no role root")
	}
	for _, r := range b.RoleRoots {
		if err := checkRoot(r, td); err != nil {
			return err
		}
	}
	for _, k := range b.PermitKeys {
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("identity: bundle: a permit key of %d bytes", len(k))
		}
	}
	return nil
}

// GetX509BundleForTrustDomain serves go-spiffe's verifier; it knows one domain only.
func (b Bundle) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td.Name() != b.TrustDomain {
		return nil, fmt.Errorf("the trust domain %q is foreign", td.Name())
	}
	return x509bundle.FromX509Authorities(td, b.RoleRoots), nil
}

// RootsPEM writes certificates as PEM.
func RootsPEM(roots []*x509.Certificate) string {
	var text []byte
	for _, r := range roots {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})...)
	}
	return string(text)
}

// ParseRoots reads PEM certificates that are to be pinned as the role roots of td.
func ParseRoots(td spiffeid.TrustDomain, text string) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("identity: roots: a PEM block of type %q", block.Type)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("identity: roots: %w", err)
		}
		if err := checkRoot(root, td); err != nil {
			return nil, err
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil, errors.New("identity: roots: no certificate")
	}
	return roots, nil
}
