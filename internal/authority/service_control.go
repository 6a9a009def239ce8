package authority

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/broker"
	"cardea/internal/evidence"
	"cardea/internal/registry"
)

// ControlService answers people, through the console.
type ControlService struct{ *Authority }

var _ cardeav1connect.ControlHandler = ControlService{}

type speakerKey struct{}

// ProvePerson lets a request pass when it carries a person's proof over its exact bytes. What the handler then parses is what was
// proven: the body is read here once.
func (a *Authority) ProvePerson(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
		if err != nil {
			refuseUnproven(w, r, unreadable(err))
			return
		}
		who, err := a.Identify(r.Context(), r.Header.Get(evidence.ProofHeader), r.URL.Path, body)
		if err != nil {
			caller, _ := peer(r.Context())
			a.Refused("control", "no valid proof of a person", caller.ID.String())
			refuseUnproven(w, r, a.rpcError(r.URL.Path, err))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), speakerKey{}, who)))
	})
}

// unreadable tells a request that is too large, which is the caller's to mend, from one that this role has no room for now.
func unreadable(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the request is too large"))
	}
	return connect.NewError(connect.CodeUnavailable, errors.New("the request could not be read: try again"))
}

func refuseUnproven(w http.ResponseWriter, r *http.Request, err error) {
	if writeErr := connect.NewErrorWriter().Write(w, r, err); writeErr != nil {
		http.Error(w, "unauthenticated", http.StatusUnauthorized)
	}
}

// speaker is the person whom ProvePerson has proven. Without one nothing is done.
func speaker(ctx context.Context) (Speaker, error) {
	who, ok := ctx.Value(speakerKey{}).(Speaker)
	if !ok {
		return who, connect.NewError(connect.CodeUnauthenticated, errors.New("no person has been proven"))
	}
	return who, nil
}

// Plan says what a change would do.
func (s ControlService) Plan(ctx context.Context, r *cardeav1.PlanRequest) (*cardeav1.PlanResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	plan, err := s.Authority.Plan(ctx, who, changeOf(r))
	if err != nil {
		return nil, s.rpcError("Plan", err)
	}
	return protoPlan(plan), nil
}

func changeOf(r *cardeav1.PlanRequest) registry.Change {
	var change registry.Change
	for _, resource := range r.GetResources() {
		change.Apply = append(change.Apply, registry.Resource{Kind: resource.GetKind(), Name: resource.GetName(), Body: resource.GetBody()})
	}
	for _, resource := range r.GetRemove() {
		change.Remove = append(change.Remove, registry.ID{Kind: resource.GetKind(), Name: resource.GetName()})
	}
	return change
}

// Apply makes a planned change.
func (s ControlService) Apply(ctx context.Context, r *cardeav1.ApplyRequest) (*cardeav1.ApplyResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	applied, err := s.Authority.Apply(ctx, who, changeOf(r.GetChange()), r.GetPlanDigest())
	if err != nil {
		return nil, s.rpcError("Apply", err)
	}
	return &cardeav1.ApplyResponse{Applied: applied.Done, Verdict: protoVerdict(applied.Verdict), ApprovalId: applied.Approval, Warnings: applied.Warnings}, nil
}

// Get answers one resource.
func (s ControlService) Get(ctx context.Context, r *cardeav1.GetRequest) (*cardeav1.GetResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	state := s.current.Load()
	id := registry.ID{Kind: r.GetKind(), Name: r.GetName()}
	if id.Kind == registry.KindWorkflow {
		if w, err := resolve(state, id.Name); err == nil {
			id = w.ID()
		}
	}
	stored, ok := state.Get(id)
	if !ok || !s.mayReadResource(state, who.Person, stored) {
		return nil, s.rpcError("Get", fmt.Errorf("%s: %w", id, ErrNotFound))
	}
	return &cardeav1.GetResponse{Resource: s.protoResource(state, stored)}, nil
}

// mayReadResource lets everybody known see what is shared ground (processes, rules, groups, connections by name are how people find
// whom to ask), and whoever reads a process its workflows and policies.
func (s ControlService) mayReadResource(state *snapshot, person string, r registry.Stored) bool {
	switch r.Kind {
	case registry.KindWorkflow:
		process, _, _, err := registry.SplitWorkflowName(r.Name)
		return err == nil && s.requireRead(state, person, process) == nil
	case registry.KindPolicy, registry.KindPerson, registry.KindRunner:
		return s.requireRead(state, person, "*") == nil
	}
	return true
}

// List answers all resources of a kind that the person may see.
func (s ControlService) List(ctx context.Context, r *cardeav1.ListRequest) (*cardeav1.ListResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	state, out := s.current.Load(), &cardeav1.ListResponse{}
	for _, stored := range state.List(r.GetKind()) {
		if s.mayReadResource(state, who.Person, stored) {
			out.Resources = append(out.Resources, s.protoResource(state, stored))
		}
	}
	return out, nil
}

func (s ControlService) protoResource(state *snapshot, r registry.Stored) *cardeav1.Resource {
	out := &cardeav1.Resource{Kind: r.Kind, Name: r.Name, Body: r.Body, Digest: r.Digest, AppliedAt: protoTime(r.AppliedAt), AppliedBy: r.AppliedBy}
	if r.Kind == registry.KindConnection {
		out.UsedBy = state.UsedBy(r.Name)
	}
	return out
}

// Explain tells a run's whole story.
func (s ControlService) Explain(ctx context.Context, r *cardeav1.ExplainRequest) (*cardeav1.ExplainResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	e, err := s.Authority.Explain(ctx, who, r.GetRunId(), r.GetTask())
	if err != nil {
		return nil, s.rpcError("Explain", err)
	}
	return protoExplanation(e), nil
}

// Check asks policy a question without recording a verdict.
func (s ControlService) Check(ctx context.Context, r *cardeav1.CheckRequest) (*cardeav1.CheckResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	v, err := s.check(who, r)
	if err != nil {
		return nil, s.rpcError("Check", err)
	}
	return &cardeav1.CheckResponse{Verdict: protoVerdict(v), Nearest: v.Nearest}, nil
}

// SetSecret is for providers that keep a secret. None in this build does.
func (s ControlService) SetSecret(context.Context, *cardeav1.SetSecretRequest) (*cardeav1.SetSecretResponse, error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("no provider of this build keeps a secret: connections use identity tokens"))
}

// RevokeLease ends a lease before its time.
func (s ControlService) RevokeLease(ctx context.Context, r *cardeav1.RevokeLeaseRequest) (*cardeav1.RevokeLeaseResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	lease, err := s.Authority.RevokeLease(ctx, who, r.GetLeaseId(), r.GetReason())
	if err != nil {
		return nil, s.rpcError("RevokeLease", err)
	}
	return &cardeav1.RevokeLeaseResponse{Lease: protoLease(LeaseRecord{Lease: lease})}, nil
}

// ListLeases answers leases that the person may see.
func (s ControlService) ListLeases(ctx context.Context, r *cardeav1.ListLeasesRequest) (*cardeav1.ListLeasesResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	leases, err := s.Leases(ctx, who, broker.Filter{Live: r.GetLive(), Connection: r.GetConnection(), Run: r.GetRunId(), Limit: int(r.GetLimit())})
	if err != nil {
		return nil, s.rpcError("ListLeases", err)
	}
	out := &cardeav1.ListLeasesResponse{}
	for _, l := range leases {
		out.Leases = append(out.Leases, protoLease(l))
	}
	return out, nil
}

// ListApprovals answers approvals that the person may see.
func (s ControlService) ListApprovals(ctx context.Context, r *cardeav1.ListApprovalsRequest) (*cardeav1.ListApprovalsResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.Approvals(ctx, who, r.GetState(), r.GetRunId())
	if err != nil {
		return nil, s.rpcError("ListApprovals", err)
	}
	out := &cardeav1.ListApprovalsResponse{}
	for _, shown := range list {
		out.Approvals = append(out.Approvals, protoApproval(shown))
	}
	return out, nil
}

// GetApproval answers one approval.
func (s ControlService) GetApproval(ctx context.Context, r *cardeav1.GetApprovalRequest) (*cardeav1.GetApprovalResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	shown, err := s.Approval(ctx, who, r.GetId())
	if err != nil {
		return nil, s.rpcError("GetApproval", err)
	}
	return &cardeav1.GetApprovalResponse{Approval: protoApproval(shown)}, nil
}

// Sign adds a signature or a refusal.
func (s ControlService) Sign(ctx context.Context, r *cardeav1.SignRequest) (*cardeav1.SignResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	shown, err := s.Authority.Sign(ctx, who, r.GetApprovalId(), r.GetSignature(), r.GetRefuse(), r.GetReason())
	if err != nil {
		return nil, s.rpcError("Sign", err)
	}
	return &cardeav1.SignResponse{Approval: protoApproval(shown)}, nil
}

// Quarantine shuts a runner out, or lets it in again.
func (s ControlService) Quarantine(ctx context.Context, r *cardeav1.QuarantineRequest) (*cardeav1.QuarantineResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	voided, live, err := s.Authority.Quarantine(ctx, who, r.GetRunner(), r.GetReason(), r.GetLift())
	if err != nil {
		return nil, s.rpcError("Quarantine", err)
	}
	return &cardeav1.QuarantineResponse{PermitsVoided: uint32(voided), Live: protoLive(live)}, nil
}

// Ticket states that the person asked for one request to the engine.
func (s ControlService) Ticket(ctx context.Context, r *cardeav1.TicketRequest) (*cardeav1.TicketResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	ticket, err := s.Authority.Ticket(ctx, who, r.GetProcedure(), r.GetRequest())
	if err != nil {
		return nil, s.rpcError("Ticket", err)
	}
	return &cardeav1.TicketResponse{Ticket: ticket}, nil
}

// WhoAmI answers with the person behind the proof.
func (s ControlService) WhoAmI(ctx context.Context, _ *cardeav1.WhoAmIRequest) (*cardeav1.WhoAmIResponse, error) {
	who, err := speaker(ctx)
	if err != nil {
		return nil, err
	}
	return &cardeav1.WhoAmIResponse{Person: who.Person, Groups: who.Groups, Dev: s.Dev}, nil
}
