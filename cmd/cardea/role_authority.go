package main

import (
	"context"
	"crypto"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/authority"
	"cardea/internal/broker"
	"cardea/internal/broker/jwt"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/role"
	"cardea/internal/sqlite"
)

func authorityCommand() *cobra.Command {
	conf := &role.AuthorityConfig{}
	return roleCommand(role.Authority, "Decide, record, mint and revoke", conf, func(ctx context.Context) error {
		return role.Run(ctx, role.Spec{
			Role: role.Authority, Config: conf,
			Needs: role.Needs{ReadWrite: []string{conf.OriginDir}},
			Build: func(ctx context.Context, h *role.Host) error { return buildAuthority(ctx, h, conf) },
		})
	})
}

// buildAuthority opens keys, store and ledger, puts the authority on them, and serves each kind of caller on its own listener.
func buildAuthority(ctx context.Context, h *role.Host, c *role.AuthorityConfig) error {
	td, err := c.Domain()
	if err != nil {
		return err
	}
	keys, err := authority.LoadKeys(c.Dir, td, c.OriginURL, time.Now)
	if err != nil {
		return err
	}
	db, err := sqlite.Open(ctx, filepath.Join(c.Dir, "authority.db"), nil,
		sqlite.Component("ledger", ledger.Schema), sqlite.Component("broker", broker.Schema), sqlite.Component("authority", authority.Schema))
	if err != nil {
		return err
	}
	h.OnStop("store", func(context.Context) error { return db.Close() })
	a, err := openAuthority(ctx, h, c, keys, db)
	if err != nil {
		return err
	}
	if err := publishKeys(c.OriginDir, keys.SVID()); err != nil {
		return err
	}
	for _, collector := range a.Collectors() {
		if err := h.Metrics().Register(collector); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	h.Go("authority", a.Run)
	if c.GrantsFD >= 0 {
		h.Go("grants", func(ctx context.Context) error { return role.ReadGrants(ctx, c.GrantsFD, takeGrant(a)) })
	}
	return serveAuthority(h, c, a)
}

func openAuthority(ctx context.Context, h *role.Host, c *role.AuthorityConfig, keys *authority.Keys, db *sqlite.DB) (*authority.Authority, error) {
	name := c.TrustDomain + "/ledger"
	signer, verifier, verifierKey, err := keys.CheckpointSigner(name)
	if err != nil {
		return nil, err
	}
	book, err := ledger.Open(ctx, ledger.Config{DB: db, Hub: c.TrustDomain, Dev: c.Dev, Signer: signer, Verifier: verifier,
		Publish: c.OriginDir, Now: time.Now, Log: h.Log()})
	if err != nil {
		return nil, err
	}
	td, err := c.Domain()
	if err != nil {
		return nil, err
	}
	a, err := authority.New(ctx, authority.Config{TrustDomain: td, Hub: c.TrustDomain, Issuer: c.OriginURL, Dev: c.Dev, DB: db, Ledger: book,
		CheckpointKey: verifierKey, Keys: keys, Providers: []broker.Provider{jwt.Provider{Signer: keys.SVID(), Now: time.Now}},
		Now: time.Now, Log: h.Log()})
	if err != nil {
		return nil, err
	}
	bundle, err := a.Bundle(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.UseCA(keys.RoleCA(), bundle); err != nil {
		return nil, err
	}
	h.Go("own bundle", func(ctx context.Context) error { return followBundle(ctx, h, a) })
	h.OnRefusal(func(r role.Refusal) { a.Refused(filepath.Base(r.Listener), string(r.Reason), r.Peer) })
	return a, nil
}

// followBundle lets the authority's own listeners obey bans as soon as they are durable.
func followBundle(ctx context.Context, h *role.Host, a *authority.Authority) error {
	changed, stop := a.WatchBundle()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		bundle, err := a.Bundle(ctx)
		if err == nil {
			err = h.Source().SetBundle(bundle)
		}
		if err != nil {
			h.Log().Error("cannot follow the bundle", "error", err)
		}
	}
}

// maxLease is enough for a permit, or for what was done under one: a runner sends no bodies of actions.
const maxLease = 1 << 20

func serveAuthority(h *role.Host, c *role.AuthorityConfig, a *authority.Authority) error {
	options := role.HandlerOptions()
	_, enroll := cardeav1connect.NewEnrollHandler(authority.EnrollService{Authority: a}, options...)
	if err := h.ServeJoiners(c.ListenEnroll, role.Mount{Service: cardeav1connect.EnrollName, Handler: enroll, MaxBody: role.SmallBody}); err != nil {
		return err
	}
	_, ids := cardeav1connect.NewIdentityHandler(authority.IdentityService{Authority: a}, options...)
	if err := h.Serve(c.ListenIdentity, role.Mount{Service: cardeav1connect.IdentityName, Handler: ids, MaxBody: role.SmallBody}); err != nil {
		return err
	}
	_, decide := cardeav1connect.NewDecideHandler(authority.DecideService{Authority: a}, options...)
	if err := h.Serve(c.ListenDecide, role.Mount{Service: cardeav1connect.DecideName, Handler: decide}); err != nil {
		return err
	}
	_, lease := cardeav1connect.NewLeaseHandler(authority.LeaseService{Authority: a}, options...)
	if err := h.Serve(c.ListenLease, role.Mount{Service: cardeav1connect.LeaseName, Handler: lease, MaxBody: maxLease}); err != nil {
		return err
	}
	_, control := cardeav1connect.NewControlHandler(authority.ControlService{Authority: a}, options...)
	_, book := cardeav1connect.NewLedgerHandler(authority.LedgerService{Authority: a}, options...)
	return h.Serve(c.ListenControl,
		role.Mount{Service: cardeav1connect.ControlName, Handler: a.ProvePerson(control)},
		role.Mount{Service: cardeav1connect.LedgerName, Handler: a.ProvePerson(book)})
}

// takeGrant hands the supervisor's word to the authority. A person counts in a dev hub only.
func takeGrant(a *authority.Authority) func(context.Context, role.GrantLine) error {
	return func(ctx context.Context, line role.GrantLine) error {
		if j := line.Join; j != nil {
			if j.Role == role.Runner {
				if err := a.AllowDevRunner(ctx, j.Name, j.Tier); err != nil {
					return err
				}
			}
			return a.AllowJoin(ctx, authority.JoinGrant{Role: j.Role, Name: j.Name, Tier: j.Tier, TokenHash: j.TokenSHA256})
		}
		p := line.Person
		thumbprint, err := p.JWK.Thumbprint(crypto.SHA256)
		if err != nil {
			return fmt.Errorf("session key of %s: %w", p.Name, err)
		}
		return a.AllowDevPerson(ctx, authority.DevPerson{Name: p.Name, Groups: p.Groups, SSHKeys: p.SSHKeys,
			Session: base64.RawURLEncoding.EncodeToString(thumbprint)})
	}
}

// publishKeys writes what verifiers of identity tokens fetch. The origin serves the folder.
func publishKeys(dir string, signer *identity.JWTSigner) error {
	discovery, err := identity.DiscoveryDocument(signer.Issuer())
	if err != nil {
		return err
	}
	keys, err := identity.JWKSDocument(signer.PublicKey())
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{identity.DiscoveryPath: discovery, identity.JWKSPath: keys} {
		if err := publish(filepath.Join(dir, filepath.FromSlash(path)), content); err != nil {
			return err
		}
	}
	return nil
}

// publish replaces a public file in one step, so that no reader sees half of it.
func publish(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	next := path + ".next"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return nil
}
