package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxKeyFile bounds what is read of a PEM file that should hold a key or a few certificates.
const maxKeyFile = 256 << 10

// ErrReadable is returned for a file of secrets that others could read.
var ErrReadable = errors.New("group or others may read it; it should have mode 0600")

// NewKey makes an ECDSA P-256 key, the only kind that SVIDs have here.
func NewKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// LoadOrCreateKey reads the ECDSA P-256 key in the PKCS #8 PEM file path, and
// makes one, durably and with mode 0600, if there is no such file.
func LoadOrCreateKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := loadOrCreate(path, func() (crypto.Signer, error) { return NewKey() })
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fmt.Errorf("identity: %s holds no ECDSA P-256 key", path)
	}
	return ec, nil
}

// LoadOrCreateEd25519 is LoadOrCreateKey for an Ed25519 key.
func LoadOrCreateEd25519(path string) (ed25519.PrivateKey, error) {
	key, err := loadOrCreate(path, func() (crypto.Signer, error) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("identity: %s holds no Ed25519 key", path)
	}
	return ed, nil
}

func loadOrCreate(path string, create func() (crypto.Signer, error)) (crypto.Signer, error) {
	text, err := ReadSecretFile(path)
	if err == nil {
		return parseKey(path, text)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := create()
	if err != nil {
		return nil, fmt.Errorf("identity: make a key for %s: %w", path, err)
	}
	text, err = marshalKey(key)
	if err != nil {
		return nil, fmt.Errorf("identity: encode the key for %s: %w", path, err)
	}
	return key, WriteSecretFile(path, text)
}

func marshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(name string, text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("identity: %s holds no PKCS #8 PEM key", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// x509 quotes no key bytes in its errors.
		return nil, fmt.Errorf("identity: read the key in %s: %w", name, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("identity: the key in %s cannot sign", name)
	}
	return signer, nil
}

// ReadSecretFile reads a small regular file that only its owner may read. Whoever
// could read it otherwise has the secret already, so the file is refused rather than used.
func ReadSecretFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("identity: %s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("identity: %s: %w", path, ErrReadable)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("identity: read %s: %w", path, err)
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("identity: %s is larger than %d bytes", path, maxKeyFile)
	}
	return text, nil
}

// WriteSecretFile replaces path by a file with mode 0600, durably and in one step:
// a reader, or a start after a power cut, sees the old content or the new.
func WriteSecretFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // CreateTemp gives 0600
	if err != nil {
		return fmt.Errorf("identity: write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("identity: write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("identity: write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("identity: write %s: %w", path, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("identity: write %s: %w", path, err)
	}
	return nil
}

// Thumbprint is the base64url SHA-256 of a public key's SubjectPublicKeyInfo (DER).
func Thumbprint(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("identity: thumbprint: %w", err)
	}
	return thumbprintSPKI(der), nil
}

func thumbprintSPKI(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
