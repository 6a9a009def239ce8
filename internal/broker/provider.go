// Package broker keeps the life of every lease: intended, issued, revoking, and revoked or expired.
//
// It promises that a lease is durable under its name before anything outside can know of it, that every lease ends, and
// that no failure makes it forget one: ending is retried until the target confirms or the credential has expired by itself. It
// refuses to use a name twice and to end what it did not issue.
package broker

import (
	"context"
	"errors"
	"time"
)

// Promise is what a provider can promise about ending a credential.
type Promise string

// The three promises.
const (
	// Named credentials are revoked by a name that was chosen before minting, so that a mint whose answer was lost can be undone.
	Named Promise = "named"
	// ByHandle credentials are revoked with a handle that is known only after minting.
	ByHandle Promise = "by-handle"
	// Expiring credentials end by themselves, at a time stated when they are minted.
	Expiring Promise = "expiring"
)

// Order is one credential to mint. Lease is the name at the target.
type Order struct {
	Lease      string
	Permit     string
	Run        string
	Subject    string
	Audience   string
	Scopes     []string
	NotAfter   time.Time
	Connection string
}

// Minted is what a provider made.
type Minted struct {
	Credential []byte
	// Handle is what revokes it, for a provider that promises by-handle.
	Handle string
	// Expires is when the target stops accepting it by itself.
	Expires time.Time
}

// Provider mints and ends credentials at one kind of target. Mint and Revoke may be called again with the same name after
// an unknown outcome; Revoke of a name that does not exist succeeds.
type Provider interface {
	Name() string
	Promise() Promise
	// ShortestLife is the least time a credential can be given; an attempt that has less left is refused.
	ShortestLife() time.Duration
	// Local says that Mint has no effect outside the authority, so that intent and issue are one commit.
	Local() bool
	Mint(ctx context.Context, order Order) (Minted, error)
	Revoke(ctx context.Context, lease, handle string) error
}

// ErrAmbiguous wraps a Mint error after which the credential may exist at the target.
var ErrAmbiguous = errors.New("the credential may have been minted")
