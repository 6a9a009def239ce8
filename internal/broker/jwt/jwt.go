// Package jwt mints JWT-SVIDs: the task's own identity, for one audience, signed by the hub.
//
// Nothing outside the authority learns of a token before it is used, so intent and issue are one commit. Nobody can revoke one:
// its promise is its expiry, which is short.
package jwt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/broker"
	"cardea/internal/identity"
)

// Provider mints with the hub's JWT-SVID key.
type Provider struct {
	Signer *identity.JWTSigner
	Now    func() time.Time
}

// Name is the word that connections use.
func (Provider) Name() string { return "jwt" }

// Promise is that a token ends by itself.
func (Provider) Promise() broker.Promise { return broker.Expiring }

// ShortestLife is a second: NumericDate counts no less.
func (Provider) ShortestLife() time.Duration { return 2 * time.Second }

// Local is true: signing has no effect outside.
func (Provider) Local() bool { return true }

// Mint signs a token that ends at order.NotAfter, which is a whole second. It carries run, permit and lease, so that the
// target's own log leads back here.
func (p Provider) Mint(_ context.Context, order broker.Order) (broker.Minted, error) {
	subject, err := spiffeid.FromString(order.Subject)
	if err != nil {
		return broker.Minted{}, fmt.Errorf("mint for lease %s: %w", order.Lease, err)
	}
	extra := map[string]any{"jti": order.Lease, "cardea/run": order.Run, "cardea/permit": order.Permit}
	if len(order.Scopes) > 0 {
		extra["scope"] = strings.Join(order.Scopes, " ")
	}
	token, expires, err := p.Signer.MintJWTSVID(subject, order.Audience, order.NotAfter.Sub(p.Now()), extra)
	if err != nil {
		return broker.Minted{}, err
	}
	if expires.After(order.NotAfter) {
		return broker.Minted{}, fmt.Errorf("lease %s: the token would outlive what was recorded", order.Lease)
	}
	return broker.Minted{Credential: []byte(token), Expires: expires}, nil
}

// Revoke says that it cannot.
func (Provider) Revoke(context.Context, string, string) error {
	return errors.New("a signed token cannot be revoked: it ends when it expires")
}
