package authority

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/mod/sumdb/note"

	"cardea/internal/identity"
	"cardea/internal/ledger"
)

// Keys are the authority's signing keys, each for one purpose. They never leave the authority's own folder.
type Keys struct {
	roleCA *identity.CA
	svid   *identity.JWTSigner
	permit ed25519.PrivateKey
	// checkpoint signs the ledger's checkpoints.
	checkpoint ed25519.PrivateKey
}

// LoadKeys reads the keys in dir, and makes those that are not there yet.
func LoadKeys(dir string, td spiffeid.TrustDomain, issuer string, now func() time.Time) (*Keys, error) {
	ca, err := loadCA(filepath.Join(dir, "role-ca.pem"), td, now)
	if err != nil {
		return nil, err
	}
	jwtKey, err := identity.LoadOrCreateKey(filepath.Join(dir, "jwt-svid.pem"))
	if err != nil {
		return nil, err
	}
	signer, err := identity.NewJWTSigner(td, issuer, jwtKey, now)
	if err != nil {
		return nil, err
	}
	permitKey, err := identity.LoadOrCreateEd25519(filepath.Join(dir, "permit.pem"))
	if err != nil {
		return nil, err
	}
	checkpoint, err := identity.LoadOrCreateEd25519(filepath.Join(dir, "checkpoint.pem"))
	if err != nil {
		return nil, err
	}
	return &Keys{roleCA: ca, svid: signer, permit: permitKey, checkpoint: checkpoint}, nil
}

func loadCA(path string, td spiffeid.TrustDomain, now func() time.Time) (*identity.CA, error) {
	text, err := identity.ReadSecretFile(path)
	if err == nil {
		return identity.ParseCA(td, text, now)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ca, err := identity.NewCA(td, now)
	if err != nil {
		return nil, err
	}
	text, err = ca.MarshalPEM()
	if err != nil {
		return nil, err
	}
	if err := identity.WriteSecretFile(path, text); err != nil {
		return nil, fmt.Errorf("keep the role CA: %w", err)
	}
	return ca, nil
}

// CheckpointSigner signs checkpoints of the ledger called name; verifierKey is what everybody else pins (C2SP signed-note).
func (k *Keys) CheckpointSigner(name string) (signer note.Signer, verifier note.Verifier, verifierKey string, err error) {
	return ledger.NewKey(name, k.checkpoint)
}

// PermitPublic verifies permits, tickets and statements.
func (k *Keys) PermitPublic() ed25519.PublicKey { return k.permit.Public().(ed25519.PublicKey) }

// Roots are the role CA's certificates.
func (k *Keys) Roots() []*x509.Certificate { return []*x509.Certificate{k.roleCA.Root()} }

// RoleCA issues the authority's own SVID and those of the roles.
func (k *Keys) RoleCA() *identity.CA { return k.roleCA }

// SVID signs JWT-SVIDs; its public half is what the origin publishes.
func (k *Keys) SVID() *identity.JWTSigner { return k.svid }
