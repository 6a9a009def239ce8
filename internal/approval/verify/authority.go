package verify

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"

	"cardea/internal/approval"
)

// statementContext keeps a signature over a statement from being one over anything else that the same key signs, such as a
// permit.
const statementContext = "cardea-statement-v1\n"

// ErrStatement is returned for a statement that no known authority key has signed.
var ErrStatement = errors.New("verify statement: not signed by this hub's authority")

func statementMessage(statement []byte) []byte {
	sum := sha256.Sum256(statement)
	return append([]byte(statementContext), sum[:]...)
}

// SignStatement signs a statement's canonical bytes as the authority. It refuses bytes that are no statement: the signature
// tells people that the authority stands behind what they are shown.
func SignStatement(key ed25519.PrivateKey, statement []byte) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("sign statement: not an Ed25519 key")
	}
	if _, err := approval.Decode(statement); err != nil {
		return nil, err
	}
	return ed25519.Sign(key, statementMessage(statement)), nil
}

// VerifyStatement checks the authority's signature under any of its keys and decodes the statement. A signer calls it before
// showing anything: the console in between may be anybody's.
func VerifyStatement(keys []ed25519.PublicKey, statement, signature []byte) (*approval.Statement, error) {
	if len(statement) > approval.MaxStatement || len(signature) != ed25519.SignatureSize {
		return nil, ErrStatement
	}
	message := statementMessage(statement)
	for _, k := range keys {
		if len(k) == ed25519.PublicKeySize && ed25519.Verify(k, message, signature) {
			return approval.Decode(statement)
		}
	}
	return nil, ErrStatement
}
