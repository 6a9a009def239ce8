package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"cardea/internal/approval"
)

// Signer is one key of the person who sits at the client. It may ask for a passphrase, a PIN or a touch.
type Signer interface {
	PublicKey() ssh.PublicKey
	// Name tells a person which key it is: a path, or an agent's comment.
	Name() string
	// Sign returns an armoured signature over a message in a namespace of approvals.
	Sign(message []byte, namespace string) ([]byte, error)
}

// SignApproval signs a statement's canonical bytes, as consent or as a refusal.
func SignApproval(s Signer, statement []byte, refuse bool) ([]byte, error) {
	namespace := NamespaceApproval
	if refuse {
		namespace = NamespaceRefusal
	}
	armored, err := s.Sign(approval.Message(statement), namespace)
	if err != nil {
		return nil, err
	}
	if _, err := Person(statement, armored, namespace); err != nil { // a broken agent is found here, not at the authority
		return nil, fmt.Errorf("sign with %s: %w", s.Name(), err)
	}
	return armored, nil
}

// fingerprint names the key that a signer signs with.
func fingerprint(s Signer) string { return ssh.FingerprintSHA256(s.PublicKey()) }

// sign makes an SSHSIG with SHA-512, as ssh-keygen does.
func sign(s ssh.Signer, name string, message []byte, namespace string) ([]byte, error) {
	sig, err := sshsig.Sign(bytes.NewReader(message), s, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", name, err)
	}
	return sshsig.Armor(sig), nil
}

// maxKeyFile bounds a private key file.
const maxKeyFile = 64 << 10

// fileSigner is a private key in a file. The key is decrypted for each signature and not kept.
type fileSigner struct {
	path       string
	public     ssh.PublicKey
	passphrase func(path string) ([]byte, error)
}

// FileSigner offers the private key at path. passphrase is asked only when the key is encrypted, and only when something is
// signed; nil refuses encrypted keys.
func FileSigner(path string, passphrase func(path string) ([]byte, error)) (Signer, error) {
	raw, err := readKey(path)
	if err != nil {
		return nil, err
	}
	f := &fileSigner{path: path, passphrase: passphrase}
	key, err := ssh.ParsePrivateKey(raw)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		f.public = key.PublicKey()
	case errors.As(err, &locked) && passphrase == nil:
		return nil, fmt.Errorf("ssh key %s has a passphrase and nobody can be asked for it; add it to ssh-agent", path)
	case errors.As(err, &locked):
		if f.public, err = publicPart(path, locked.PublicKey); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("ssh key %s: %w (a security key is used through ssh-agent)", path, err)
	}
	if err := CheckKey(f.public); err != nil {
		return nil, fmt.Errorf("ssh key %s: %w", path, err)
	}
	return f, nil
}

func readKey(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("ssh key: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("ssh key %s: %w", path, err)
	}
	return raw, nil
}

// publicPart is the public key of an encrypted one: OpenSSH's format carries it in clear, older ones have it beside them.
func publicPart(path string, inside ssh.PublicKey) (ssh.PublicKey, error) {
	if inside != nil {
		return inside, nil
	}
	raw, err := readKey(path + ".pub")
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(raw)
	if err != nil {
		return nil, fmt.Errorf("ssh key %s.pub: %w", path, err)
	}
	return key, nil
}

func (f *fileSigner) PublicKey() ssh.PublicKey { return f.public }
func (f *fileSigner) Name() string             { return f.path }

func (f *fileSigner) Sign(message []byte, namespace string) ([]byte, error) {
	raw, err := readKey(f.path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(raw)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) && f.passphrase != nil {
		var pass []byte
		if pass, err = f.passphrase(f.path); err != nil {
			return nil, fmt.Errorf("ssh key %s: %w", f.path, err)
		}
		defer clear(pass)
		key, err = ssh.ParsePrivateKeyWithPassphrase(raw, pass)
	}
	if err != nil {
		return nil, fmt.Errorf("ssh key %s: %w", f.path, err)
	}
	if !bytes.Equal(key.PublicKey().Marshal(), f.public.Marshal()) {
		return nil, fmt.Errorf("ssh key %s changed while it was in use", f.path)
	}
	return sign(key, f.path, message, namespace)
}

// agentSigner is a key that an ssh-agent holds.
type agentSigner struct {
	socket, comment string
	public          ssh.PublicKey
}

// agentWait bounds one exchange with an agent; a person may have to find and touch a security key meanwhile.
const agentWait = 2 * time.Minute

// AgentSigners offers the acceptable keys of the ssh-agent at a Unix socket, usually $SSH_AUTH_SOCK. Keys that CheckKey
// refuses, and certificates, are left out.
func AgentSigners(ctx context.Context, socket string) ([]Signer, error) {
	var out []Signer
	err := withAgent(ctx, socket, func(a agent.ExtendedAgent) error {
		keys, err := a.List()
		if err != nil {
			return err
		}
		for _, k := range keys {
			public, err := ssh.ParsePublicKey(k.Blob)
			if err != nil || CheckKey(public) != nil {
				continue
			}
			out = append(out, &agentSigner{socket: socket, comment: k.Comment, public: public})
		}
		return nil
	})
	return out, err
}

func withAgent(ctx context.Context, socket string, do func(agent.ExtendedAgent) error) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(agentWait)); err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	if err := do(agent.NewClient(conn)); err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	return nil
}

func (a *agentSigner) PublicKey() ssh.PublicKey { return a.public }
func (a *agentSigner) Name() string             { return "ssh-agent: " + a.comment }

func (a *agentSigner) Sign(message []byte, namespace string) (armored []byte, err error) {
	err = withAgent(context.Background(), a.socket, func(client agent.ExtendedAgent) error {
		signers, err := client.Signers()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(signers, func(s ssh.Signer) bool {
			return bytes.Equal(s.PublicKey().Marshal(), a.public.Marshal())
		})
		if i < 0 {
			return errors.New("it no longer holds " + ssh.FingerprintSHA256(a.public))
		}
		armored, err = sign(signers[i], a.Name(), message, namespace)
		return err
	})
	return armored, err
}

// Find returns the signers whose key is among the given SHA256:… fingerprints, in the order of the signers, each key once.
func Find(signers []Signer, fingerprints []string) []Signer {
	var out []Signer
	seen := map[string]bool{}
	for _, s := range signers {
		if f := fingerprint(s); slices.Contains(fingerprints, f) && !seen[f] {
			seen[f] = true
			out = append(out, s)
		}
	}
	return out
}
