package authority

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/store"
)

// DecideService answers the engine.
type DecideService struct{ *Authority }

var _ cardeav1connect.DecideHandler = DecideService{}

// maxIntents bounds one batch.
const maxIntents = 512

// OpenRun opens a run on the evidence given.
func (s DecideService) OpenRun(ctx context.Context, r *cardeav1.OpenRunRequest) (*cardeav1.OpenRunResponse, error) {
	if r.GetTicket() == "" {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("this build takes tickets as evidence; envelopes, schedules and parents come with their own roles"))
	}
	run, err := s.Authority.OpenRun(ctx, r.GetRunId(), r.GetWorkflowDigest(), r.GetTicket(), r.GetInputDigest())
	if err != nil {
		return nil, s.rpcError("OpenRun", err)
	}
	return &cardeav1.OpenRunResponse{Verdict: protoVerdict(run.Verdict), StartedBy: run.StartedBy, Tiers: s.tiers(ctx, run.Digest),
		Provenance: &cardeav1.Provenance{Kind: run.Provenance.Kind, Origin: run.Provenance.Origin}}, nil
}

// tiers are hints for dispatch; a task whose connections contradict each other has none.
func (a *Authority) tiers(ctx context.Context, digest string) map[string]string {
	var d definition
	err := a.DB.View(ctx, func(tx store.Tx) (err error) {
		d, err = a.definition(tx, digest)
		return err
	})
	if err != nil {
		return nil
	}
	s, out := a.current.Load(), map[string]string{}
	for _, t := range d.Tasks {
		if tier, err := s.TaskTier(t); err == nil {
			out[t.Pointer] = tier
		}
	}
	return out
}

// Authorize decides a batch. Each intent commits on its own, so that one that cannot be decided takes no other along; the batch
// fails with the first such error and the engine asks again, which is harmless.
func (s DecideService) Authorize(ctx context.Context, r *cardeav1.AuthorizeRequest) (*cardeav1.AuthorizeResponse, error) {
	if len(r.GetIntents()) > maxIntents {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d intents; at most %d are taken at once", len(r.GetIntents()), maxIntents))
	}
	out := make([]*cardeav1.Authorization, len(r.GetIntents()))
	var group errgroup.Group
	for i, in := range r.GetIntents() {
		group.Go(func() error {
			answer, err := s.authorizeOne(ctx, in)
			out[i] = answer
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, s.rpcError("Authorize", err)
	}
	return &cardeav1.AuthorizeResponse{Authorizations: out}, nil
}

// authorizeOne turns what can never be decided for one intent into a denial of that intent: a run that has ended, a malformed action.
func (s DecideService) authorizeOne(ctx context.Context, in *cardeav1.Intent) (*cardeav1.Authorization, error) {
	answer, err := s.Authority.Authorize(ctx, intentOf(in))
	switch {
	case errors.Is(err, ErrStale), errors.Is(err, ErrInvalid), errors.Is(err, ErrNotFound), errors.Is(err, ErrDenied):
		return &cardeav1.Authorization{Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_DENY, Reason: "denied: " + err.Error()}}, nil
	case err != nil:
		return nil, err
	}
	out := &cardeav1.Authorization{Verdict: protoVerdict(answer.Verdict), Epoch: answer.Epoch, IdempotencyKey: answer.IdempotencyKey,
		Permit: answer.Permit, ApprovalId: answer.Approval, Tier: answer.Tier}
	if !answer.PermitExpires.IsZero() {
		out.PermitExpiresAt = timestamppb.New(answer.PermitExpires)
	}
	return out, nil
}

func intentOf(in *cardeav1.Intent) Intent {
	return Intent{Task: taskOf(in.GetTask()), Attempt: in.GetAttempt(), Action: in.GetAction(), Connections: in.GetConnections(),
		Runner: in.GetRunner(), Claimed: in.GetClaimedJson()}
}

func taskOf(t *cardeav1.TaskRef) TaskRef {
	return TaskRef{Run: t.GetRunId(), Task: t.GetTask(), Iteration: t.GetIteration(), Visit: t.GetVisit()}
}

// EndRun closes a run.
func (s DecideService) EndRun(ctx context.Context, r *cardeav1.EndRunRequest) (*cardeav1.EndRunResponse, error) {
	closure, leaf, err := s.Authority.EndRun(ctx, r.GetRunId(), r.GetStatus())
	if err != nil {
		return nil, s.rpcError("EndRun", err)
	}
	return &cardeav1.EndRunResponse{Closure: protoClosure(&closure, leaf)}, nil
}

func protoClosure(c *Closure, leaf string) *cardeav1.Closure {
	if c == nil {
		return nil
	}
	return &cardeav1.Closure{Issued: uint32(c.Issued), Ended: uint32(c.Ended), Live: protoLive(c.Live), LeafId: leaf}
}

func protoLive(live []LiveLease) []*cardeav1.LiveLease {
	var out []*cardeav1.LiveLease
	for _, l := range live {
		out = append(out, &cardeav1.LiveLease{LeaseId: l.Lease, Connection: l.Connection, Until: timestamppb.New(l.Until), Why: l.Why})
	}
	return out
}

// Workflow gives a definition's bytes.
func (s DecideService) Workflow(ctx context.Context, r *cardeav1.WorkflowRequest) (*cardeav1.WorkflowResponse, error) {
	canonical, err := s.Authority.Workflow(ctx, r.GetDigest())
	if err != nil {
		return nil, s.rpcError("Workflow", err)
	}
	return &cardeav1.WorkflowResponse{Canonical: canonical}, nil
}

// Watch streams what settles.
func (s DecideService) Watch(ctx context.Context, _ *cardeav1.WatchDecideRequest, stream *connect.ServerStream[cardeav1.WatchDecideResponse]) error {
	events, stop := s.Authority.Watch()
	defer stop()
	first := &cardeav1.WatchDecideResponse{Event: &cardeav1.WatchDecideResponse_Generation{
		Generation: &cardeav1.Generation{Generation: uint64(s.current.Load().generation)}}}
	if err := stream.Send(first); err != nil {
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
			if err := stream.Send(protoEvent(e)); err != nil {
				return err
			}
		}
	}
}

func protoEvent(e Event) *cardeav1.WatchDecideResponse {
	switch {
	case e.Approval != nil:
		return &cardeav1.WatchDecideResponse{Event: &cardeav1.WatchDecideResponse_Approval{Approval: &cardeav1.ApprovalSettled{
			ApprovalId: e.Approval.Approval, RunId: e.Approval.Run, State: e.Approval.State, Reason: e.Approval.Reason}}}
	case e.Void != nil:
		return &cardeav1.WatchDecideResponse{Event: &cardeav1.WatchDecideResponse_Void{Void: protoVoid(*e.Void)}}
	}
	return &cardeav1.WatchDecideResponse{Event: &cardeav1.WatchDecideResponse_Generation{Generation: &cardeav1.Generation{Generation: e.Generation}}}
}

func protoVoid(v PermitVoided) *cardeav1.PermitVoided {
	return &cardeav1.PermitVoided{PermitId: v.Permit, RunId: v.Run, Reason: v.Reason}
}

func protoTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
