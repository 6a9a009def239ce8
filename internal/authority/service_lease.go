package authority

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// LeaseService answers runners.
type LeaseService struct{ *Authority }

var _ cardeav1connect.LeaseHandler = LeaseService{}

// peer is the caller that the listener has proven. Without one nothing is done.
func peer(ctx context.Context) (identity.Peer, error) {
	p, ok := identity.PeerOf(ctx)
	if !ok {
		return p, connect.NewError(connect.CodeUnauthenticated, errors.New("no SVID was presented"))
	}
	return p, nil
}

// Redeem turns a permit into credentials.
func (s LeaseService) Redeem(ctx context.Context, r *cardeav1.RedeemRequest) (*cardeav1.RedeemResponse, error) {
	caller, err := peer(ctx)
	if err != nil {
		return nil, err
	}
	redemption, err := s.Authority.Redeem(ctx, caller, r.GetPermit(), r.GetActionDigest())
	if err != nil {
		return nil, s.rpcError("Redeem", err)
	}
	out := &cardeav1.RedeemResponse{Deadline: timestamppb.New(redemption.Deadline)}
	for _, g := range redemption.Grants {
		c := g.Connection
		out.Grants = append(out.Grants, &cardeav1.Grant{Connection: c.Name, LeaseId: g.Lease, Presentation: c.Present, Credential: g.Credential,
			ExpiresAt: timestamppb.New(g.Expires), Hosts: c.Hosts, Address: c.Address, Roots: c.Roots, Plaintext: c.Plaintext})
	}
	return out, nil
}

// Return ends a permit.
func (s LeaseService) Return(ctx context.Context, r *cardeav1.ReturnRequest) (*cardeav1.ReturnResponse, error) {
	caller, err := peer(ctx)
	if err != nil {
		return nil, err
	}
	var actions []ActionReport
	for _, a := range r.GetActions() {
		actions = append(actions, reportOf(a))
	}
	live, err := s.Authority.Return(ctx, caller, r.GetPermitId(), actions, Delivery(r.GetDelivery()))
	if err != nil {
		return nil, s.rpcError("Return", err)
	}
	return &cardeav1.ReturnResponse{Live: protoLive(live)}, nil
}

const maxReportText = 2 << 10

func clip(s string, most int) string {
	if len(s) > most {
		return s[:most]
	}
	return s
}

func reportOf(a *cardeav1.ActionReport) ActionReport {
	return ActionReport{Connection: clip(a.GetConnection(), 128), Method: clip(a.GetMethod(), 16), URL: clip(a.GetUrl(), 8<<10), Address: clip(a.GetAddress(), 128),
		Status: int(a.GetStatus()), Started: a.GetStartedAt().AsTime(), Ended: a.GetEndedAt().AsTime(), Error: clip(a.GetError(), maxReportText),
		Sent: a.GetSentBytes(), Received: a.GetReceivedBytes()}
}

func protoReport(a ActionReport) *cardeav1.ActionReport {
	return &cardeav1.ActionReport{Connection: a.Connection, Method: a.Method, Url: a.URL, Address: a.Address, Status: int32(a.Status),
		StartedAt: protoTime(a.Started), EndedAt: protoTime(a.Ended), Error: a.Error, SentBytes: a.Sent, ReceivedBytes: a.Received}
}

// Renew is for providers whose credentials can be prolonged. None in this build can.
func (s LeaseService) Renew(context.Context, *cardeav1.RenewLeaseRequest) (*cardeav1.RenewLeaseResponse, error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("no provider of this build prolongs a credential: ask for a new attempt"))
}

// Watch streams this runner's voided permits.
func (s LeaseService) Watch(ctx context.Context, _ *cardeav1.WatchLeaseRequest, stream *connect.ServerStream[cardeav1.WatchLeaseResponse]) error {
	caller, err := peer(ctx)
	if err != nil {
		return err
	}
	events, stop := s.Authority.Watch()
	defer stop()
	if err := stream.Send(&cardeav1.WatchLeaseResponse{}); err != nil { // the stream is open: nothing is missed from here on
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return connect.NewError(connect.CodeResourceExhausted, errors.New("too slow: watch again"))
			}
			if e.Void == nil || e.Void.Runner != caller.ID.String() {
				continue
			}
			if err := stream.Send(&cardeav1.WatchLeaseResponse{Voided: protoVoid(*e.Void)}); err != nil {
				return err
			}
		}
	}
}
