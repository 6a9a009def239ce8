package authority

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// JoinGrant lets the holder of one token become one role, once.
type JoinGrant struct {
	Role      string
	Name      string
	Tier      string
	TokenHash string // lower-case hex SHA-256
}

// joinLife is how long a token waits to be used.
const joinLife = 10 * time.Minute

// AllowJoin records a one-use token. Only whoever started the authority can hand one in: there is no RPC for it.
func (a *Authority) AllowJoin(ctx context.Context, g JoinGrant) error {
	if _, err := a.roleID(g); err != nil {
		return err
	}
	if raw, err := hex.DecodeString(g.TokenHash); err != nil || len(raw) != sha256.Size {
		return fmt.Errorf("join grant for %s %s: the token's digest is not a SHA-256: %w", g.Role, g.Name, ErrInvalid)
	}
	return a.DB.Commit(ctx, func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO join_tokens (hash, role, name, tier, expires_at) VALUES ($1, $2, $3, $4, $5)`,
			g.TokenHash, g.Role, g.Name, g.Tier, store.Micros(a.Now().Add(joinLife)))
		return err
	})
}

func (a *Authority) roleID(g JoinGrant) (spiffeid.ID, error) {
	if g.Role == identity.KindRunner {
		return identity.RunnerID(a.TrustDomain, g.Tier, g.Name)
	}
	return identity.RoleID(a.TrustDomain, g.Role, g.Name)
}

var errToken = fmt.Errorf("the join token is unknown, used or expired: ask for a new one: %w", ErrDenied)

// Join consumes a token and issues the first SVID of the role that it names.
func (a *Authority) Join(ctx context.Context, token string, csr []byte) ([][]byte, identity.Bundle, error) {
	key, err := identity.CheckCSR(csr)
	if err != nil {
		return nil, identity.Bundle{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	thumbprint, err := identity.Thumbprint(key)
	if err != nil {
		return nil, identity.Bundle{}, err
	}
	sum := sha256.Sum256([]byte(token))
	var id spiffeid.ID
	var chain [][]byte
	err = a.DB.Commit(ctx, func(tx store.Tx) error {
		grant, err := a.consumeToken(tx, hex.EncodeToString(sum[:]))
		if err != nil {
			return err
		}
		if id, err = a.roleID(grant); err != nil {
			return err
		}
		if err := refuseBanned(tx, id); err != nil {
			return err
		}
		if chain, err = a.Keys.roleCA.Issue(csr, id, identity.SVIDTTL, sansOf(grant)); err != nil {
			return err
		}
		return a.recordSVID(tx, id, thumbprint, ledger.KindJoin)
	})
	if err != nil {
		return nil, identity.Bundle{}, err
	}
	a.Log.Info("joined", "id", id.String())
	bundle, err := a.Bundle(ctx)
	return chain, bundle, err
}

// sansOf names loopback beside the SPIFFE id of the one role that people reach over TCP by address.
func sansOf(g JoinGrant) identity.SANs {
	if g.Role == "console" {
		return identity.SANs{DNS: []string{"localhost"}}
	}
	return identity.SANs{}
}

func (a *Authority) consumeToken(tx store.Tx, hash string) (JoinGrant, error) {
	g := JoinGrant{TokenHash: hash}
	err := tx.QueryRow(`UPDATE join_tokens SET used_at = $2 WHERE hash = $1 AND used_at = 0 AND expires_at > $2
		RETURNING role, name, tier`, hash, store.Micros(a.Now())).Scan(&g.Role, &g.Name, &g.Tier)
	if errors.Is(err, store.ErrNoRows) {
		a.Refused("enroll", "an unknown, used or expired join token", "")
		return JoinGrant{}, errToken
	}
	if err != nil {
		return JoinGrant{}, fmt.Errorf("consume a join token: %w", err)
	}
	return g, nil
}

func refuseBanned(tx store.Tx, id spiffeid.ID) error {
	var reason string
	err := tx.QueryRow(`SELECT reason FROM bans WHERE id = $1`, id.String()).Scan(&reason)
	if errors.Is(err, store.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read bans: %w", err)
	}
	return fmt.Errorf("%s is quarantined: %s: %w", id, reason, ErrDenied)
}

func (a *Authority) recordSVID(tx store.Tx, id spiffeid.ID, thumbprint string, kind ledger.Kind) error {
	until := a.Now().Add(identity.SVIDTTL)
	_, err := tx.Exec(`INSERT INTO svids (id, thumbprint, not_after) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET thumbprint = excluded.thumbprint, not_after = excluded.not_after`, id.String(), thumbprint, store.Micros(until))
	if err != nil {
		return fmt.Errorf("record the SVID of %s: %w", id, err)
	}
	_, err = a.record(tx, kind, ledger.Refs{}, map[string]any{"id": id.String(), "key": thumbprint, "until": stamp(until)})
	return err
}

// Renew issues the caller's SVID again, for the key that it holds. Another key needs a new join.
func (a *Authority) Renew(ctx context.Context, caller identity.Peer, csr []byte) ([][]byte, error) {
	key, err := identity.CheckCSR(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	thumbprint, err := identity.Thumbprint(key)
	if err != nil {
		return nil, err
	}
	if thumbprint != caller.KeyThumbprint {
		return nil, fmt.Errorf("renewal of %s for another key: %w", caller.ID, ErrDenied)
	}
	var chain [][]byte
	err = a.DB.Commit(ctx, func(tx store.Tx) error {
		if err := refuseBanned(tx, caller.ID); err != nil {
			return err
		}
		if err := a.requireCurrentKey(tx, caller); err != nil {
			return err
		}
		if err := a.requireOldEnough(tx, caller); err != nil {
			return err
		}
		if chain, err = a.Keys.roleCA.Issue(csr, caller.ID, identity.SVIDTTL, sansOf(JoinGrant{Role: caller.Role})); err != nil {
			return err
		}
		return a.recordSVID(tx, caller.ID, thumbprint, ledger.KindJoin)
	})
	return chain, err
}

// requireOldEnough keeps a role from filling the ledger with renewals: roles renew at half their SVID's life.
func (a *Authority) requireOldEnough(tx store.Tx, caller identity.Peer) error {
	var until int64
	if err := tx.QueryRow(`SELECT not_after FROM svids WHERE id = $1`, caller.ID.String()).Scan(&until); err != nil {
		return fmt.Errorf("read the SVID of %s: %w", caller.ID, err)
	}
	if left := store.Time(until).Sub(a.Now()); left > identity.SVIDTTL*3/4 {
		return fmt.Errorf("the SVID of %s still lives for %s: renew it later: %w", caller.ID, left.Round(time.Second), ErrStale)
	}
	return nil
}

// requireCurrentKey refuses a key that a later join has replaced: its holder was restarted, or robbed.
func (a *Authority) requireCurrentKey(tx store.Tx, caller identity.Peer) error {
	current, err := currentKey(tx, caller.ID.String())
	if err != nil {
		return err
	}
	if current != caller.KeyThumbprint {
		return fmt.Errorf("%s has joined again with another key: %w", caller.ID, ErrDenied)
	}
	return nil
}

func currentKey(tx store.Tx, id string) (string, error) {
	var thumbprint string
	err := tx.QueryRow(`SELECT thumbprint FROM svids WHERE id = $1`, id).Scan(&thumbprint)
	if errors.Is(err, store.ErrNoRows) {
		return "", fmt.Errorf("%s has never joined: %w", id, ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("read the key of %s: %w", id, err)
	}
	return thumbprint, nil
}

// DevPerson is somebody whom `cardea dev` introduces, so that a lone evaluator can work at once.
type DevPerson struct {
	Name    string
	Groups  []string
	Session string // RFC 7638 thumbprint of the session key
	SSHKeys []string
}

// sessionLife of a dev session.
const sessionLife = 30 * 24 * time.Hour

// AllowDevPerson registers a person with a session. A hub that is not in dev refuses.
func (a *Authority) AllowDevPerson(ctx context.Context, p DevPerson) error {
	if !a.Dev {
		return fmt.Errorf("person %s: only a dev hub takes people from its supervisor: %w", p.Name, ErrDenied)
	}
	change, err := devResources(p)
	if err != nil {
		return err
	}
	if err := a.applyAs(ctx, "dev", change); err != nil {
		return fmt.Errorf("introduce %s: %w", p.Name, err)
	}
	return a.DB.Commit(ctx, func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO sessions (thumbprint, person, created_at, expires_at, dev) VALUES ($1, $2, $3, $4, 1)
			ON CONFLICT (thumbprint) DO UPDATE SET person = excluded.person, expires_at = excluded.expires_at`,
			p.Session, p.Name, store.Micros(a.Now()), store.Micros(a.Now().Add(sessionLife)))
		if err != nil {
			return fmt.Errorf("record the session of %s: %w", p.Name, err)
		}
		_, err = a.record(tx, ledger.KindChange, ledger.Refs{}, map[string]any{"session": p.Session, "person": p.Name})
		return err
	})
}

// AllowDevRunner gives a dev hub's runner a Runner resource that bounds it by nothing but its tier.
func (a *Authority) AllowDevRunner(ctx context.Context, name, tier string) error {
	if !a.Dev {
		return nil
	}
	if _, ok := a.current.Load().Runner(name); ok {
		return nil
	}
	runner, err := canonicalResource(registry.KindRunner, name, map[string]any{
		"kind": registry.KindRunner, "name": name, "tier": tier, "processes": []string{"*"}, "zones": []string{"*"},
	})
	if err != nil {
		return err
	}
	return a.applyAs(ctx, "dev", registry.Change{Apply: []registry.Resource{runner}})
}
