package role

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

const (
	minRetry = 200 * time.Millisecond
	maxRetry = 30 * time.Second
)

// errExpired ends a role whose SVID could not be renewed in time: nobody answers it any more, so it ends in good order
// and joins again when it is started with a new token.
var errExpired = errors.New("the SVID has expired and could not be renewed: the role must join again")

// renewAt is when to renew an SVID: at half its life, up to a tenth of its life earlier or later, so that a hub's roles do not all come at once.
func renewAt(s identity.SVID) time.Time {
	tenth := s.Leaf.NotAfter.Sub(s.Leaf.NotBefore) / 10
	return s.HalfLife().Add(rand.N(2*tenth+1) - tenth)
}

// keepRenewed renews the own SVID for ever; renew gets a new chain. Failures are retried, and calls go on,
// until the SVID in use has expired.
func keepRenewed(ctx context.Context, h *Host, renew func(context.Context) ([][]byte, error), kept func() error) error {
	source, clock := h.source, h.clock
	at := renewAt(source.SVID())
	for retry := minRetry; ; {
		if err := sleep(ctx, at.Sub(clock())); err != nil {
			return nil // stopping
		}
		err := renewOnce(ctx, source, renew, kept)
		if err == nil {
			h.log.Debug("renewed the SVID", "until", source.SVID().Leaf.NotAfter)
			at, retry = renewAt(source.SVID()), minRetry
			if soonest := clock().Add(minRetry); at.Before(soonest) {
				at = soonest // an authority that issues very short lives is not to be flooded
			}
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if !clock().Before(source.SVID().Leaf.NotAfter) {
			return fmt.Errorf("%w: %w", errExpired, err)
		}
		h.log.Warn("cannot renew the SVID; trying again", "error", err, "until", source.SVID().Leaf.NotAfter)
		at, retry = clock().Add(retry), min(2*retry, maxRetry)
	}
}

func renewOnce(ctx context.Context, source *identity.Source, renew func(context.Context) ([][]byte, error), kept func() error) error {
	ctx, cancel := context.WithTimeout(ctx, maxRetry)
	defer cancel()
	chain, err := renew(ctx)
	if err != nil {
		return err
	}
	if err := source.SetSVID(chain); err != nil {
		return err
	}
	return kept()
}

// renewer asks the authority for a new chain for the same key.
func (m *membership) renewer(client cardeav1connect.IdentityClient) func(context.Context) ([][]byte, error) {
	return func(ctx context.Context) ([][]byte, error) {
		csr, err := identity.NewCSR(m.key)
		if err != nil {
			return nil, err
		}
		answer, err := client.Renew(ctx, &cardeav1.RenewRequest{Csr: csr})
		if err != nil {
			return nil, err
		}
		return answer.GetChain(), nil
	}
}

// watchBundle keeps the bundle new for ever.
func (m *membership) watchBundle(ctx context.Context, client cardeav1connect.IdentityClient) error {
	for retry := minRetry; ctx.Err() == nil; {
		got, err := m.followBundle(ctx, client)
		if got {
			retry = minRetry
		}
		if ctx.Err() != nil {
			break
		}
		m.log.Debug("the watch for bundles ended; beginning again", "error", err)
		if sleep(ctx, retry) != nil {
			break
		}
		retry = min(2*retry, maxRetry)
	}
	return nil
}

func (m *membership) followBundle(ctx context.Context, client cardeav1connect.IdentityClient) (got bool, err error) {
	stream, err := client.Watch(ctx, &cardeav1.WatchIdentityRequest{})
	if err != nil {
		return false, err
	}
	defer stream.Close()
	for stream.Receive() {
		bundle, err := identity.BundleFromProto(stream.Msg().GetBundle())
		if err == nil {
			err = m.source.SetBundle(bundle)
		}
		if err == nil {
			err = SaveBundle(filepath.Join(m.dir, bundleFile), bundle)
		}
		if err != nil {
			m.log.Error("refused a bundle", "error", err)
			return got, err
		}
		got = true
	}
	return got, stream.Err()
}
