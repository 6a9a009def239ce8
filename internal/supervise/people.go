package supervise

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/crypto/ssh"

	"cardea/internal/identity"
	"cardea/internal/profile"
	"cardea/internal/role"
)

// keyring is one person's keys: the session key that proves each call, and the SSH key that signs approvals.
type keyring struct {
	person  Person
	session jose.JSONWebKey
	sshFile string
	sshLine string // authorized_keys form
}

// loadKeyring reads the person's keys in folder, and makes those that are not there.
func loadKeyring(folder string, p Person) (keyring, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return keyring{}, fmt.Errorf("keys of %s: %w", p.Name, err)
	}
	session, err := identity.LoadOrCreateKey(filepath.Join(folder, "session.pem"))
	if err != nil {
		return keyring{}, fmt.Errorf("keys of %s: %w", p.Name, err)
	}
	file := filepath.Join(folder, "id_ed25519")
	line, err := loadOrCreateSSH(file, p.Name)
	if err != nil {
		return keyring{}, fmt.Errorf("keys of %s: %w", p.Name, err)
	}
	return keyring{person: p, session: jose.JSONWebKey{Key: session}, sshFile: file, sshLine: line}, nil
}

// loadOrCreateSSH returns the public key of an OpenSSH private key file, as authorized_keys has it; .pub beside the file repeats it.
func loadOrCreateSSH(file, comment string) (string, error) {
	text, err := identity.ReadSecretFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = createSSH(file, comment)
	}
	if err != nil {
		return "", err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	line := string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	line = line[:len(line)-1] + " " + comment
	return line, identity.WriteSecretFile(file+".pub", []byte(line+"\n"))
}

func createSSH(file, comment string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(block)
	return text, identity.WriteSecretFile(file, text)
}

// grant is how the authority is told of the person.
func (k keyring) grant() role.GrantLine {
	return role.GrantLine{Person: &role.PersonAllowed{
		Name: k.person.Name, Groups: append([]string{}, k.person.Groups...), JWK: k.session.Public(), SSHKeys: []string{k.sshLine},
	}}
}

// profile is what the person's CLI needs, with the keys that the running authority has.
func (k keyring) profile(o Options, originURL string, b identity.Bundle) profile.Profile {
	p := profile.Profile{
		Hub: o.Hub, Console: "unix:" + filepath.Join(o.Dir, "run", "console.sock"),
		TrustDomain: b.TrustDomain, RoleRoots: identity.RootsPEM(b.RoleRoots),
		Person: k.person.Name, SessionKey: k.session, SSHKey: k.sshFile,
		CheckpointKey: b.CheckpointKey, Origin: originURL, Dev: b.Dev,
	}
	for _, key := range b.PermitKeys {
		p.PermitKeys = append(p.PermitKeys, key)
	}
	return p
}
