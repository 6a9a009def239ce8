package authority

import (
	"bytes"
	"crypto/ed25519"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// testSigner signs with a key in memory.
type testSigner struct{ key ed25519.PrivateKey }

func (s testSigner) signer() ssh.Signer {
	out, err := ssh.NewSignerFromKey(s.key)
	if err != nil {
		panic(err)
	}
	return out
}

func (s testSigner) PublicKey() ssh.PublicKey { return s.signer().PublicKey() }

func (s testSigner) Name() string { return "test" }

func (s testSigner) Sign(message []byte, namespace string) ([]byte, error) {
	sig, err := sshsig.Sign(bytes.NewReader(message), s.signer(), sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, err
	}
	return sshsig.Armor(sig), nil
}
