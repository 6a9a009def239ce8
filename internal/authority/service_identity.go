package authority

import (
	"context"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
)

// EnrollService answers holders of join tokens.
type EnrollService struct{ *Authority }

// IdentityService answers every role.
type IdentityService struct{ *Authority }

var (
	_ cardeav1connect.EnrollHandler   = EnrollService{}
	_ cardeav1connect.IdentityHandler = IdentityService{}
)

// Join issues a first SVID.
func (s EnrollService) Join(ctx context.Context, r *cardeav1.JoinRequest) (*cardeav1.JoinResponse, error) {
	chain, bundle, err := s.Authority.Join(ctx, r.GetToken(), r.GetCsr())
	if err != nil {
		return nil, s.rpcError("Join", err)
	}
	return &cardeav1.JoinResponse{Chain: chain, Bundle: bundle.Proto()}, nil
}

// Renew issues the caller's SVID again.
func (s IdentityService) Renew(ctx context.Context, r *cardeav1.RenewRequest) (*cardeav1.RenewResponse, error) {
	caller, err := peer(ctx)
	if err != nil {
		return nil, err
	}
	chain, err := s.Authority.Renew(ctx, caller, r.GetCsr())
	if err != nil {
		return nil, s.rpcError("Renew", err)
	}
	return &cardeav1.RenewResponse{Chain: chain}, nil
}

// Watch streams the bundle, now and whenever it changes.
func (s IdentityService) Watch(ctx context.Context, _ *cardeav1.WatchIdentityRequest, stream *connect.ServerStream[cardeav1.WatchIdentityResponse]) error {
	changed, stop := s.WatchBundle()
	defer stop()
	for {
		bundle, err := s.Bundle(ctx)
		if err != nil {
			return s.rpcError("Watch", err)
		}
		if err := stream.Send(&cardeav1.WatchIdentityResponse{Bundle: bundle.Proto()}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
