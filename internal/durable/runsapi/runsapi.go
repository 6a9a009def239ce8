// Package runsapi is what people can ask of the engine, through the console.
//
// It promises that a request is parsed only after its ticket was verified over its exact bytes, that a run is started with
// exactly the definition and the input that the ticket names, and that success is said only of what is durable. It refuses
// everything without a ticket, and does not yet know how to suspend, resume, retry, resolve or send events.
package runsapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/gowebpki/jcs"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/action"
	"cardea/internal/durable"
	"cardea/internal/engine"
)

// Service is the Runs service. It stands behind a Gate.
type Service struct {
	cardeav1connect.UnimplementedRunsHandler
	driver *durable.Driver
}

// NewService serves a driver's runs.
func NewService(d *durable.Driver) *Service { return &Service{driver: d} }

var _ cardeav1connect.RunsHandler = (*Service)(nil)

// Bounds of a request.
const (
	maxInput     = 1 << 20
	maxRequestID = 128
	maxReason    = 1024
	// courtesy is how long a start waits for the authority to hear of the run, so that the next question finds it there.
	courtesy = time.Second
	// pace is the shortest time between two messages of a watch while the run goes on.
	pace = 100 * time.Millisecond
)

// Start answers once the evidence is durable.
func (s *Service) Start(ctx context.Context, r *cardeav1.StartRunRequest) (*cardeav1.StartRunResponse, error) {
	t, err := ticketOf(ctx)
	if err != nil {
		return nil, err
	}
	if t.WorkflowDigest == "" || t.InputDigest == "" {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("ticket %s is for no start", t.ID))
	}
	if len(r.GetRequestId()) > maxRequestID {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the request id has more than %d bytes", maxRequestID))
	}
	input, err := inputOf(r.GetInputJson(), t.InputDigest)
	if err != nil {
		return nil, err
	}
	id, err := s.driver.Start(ctx, durable.StartRequest{Workflow: t.Process + "/" + t.Workflow, Version: t.Version, Digest: t.WorkflowDigest,
		Person: t.Person, RequestID: r.GetRequestId(), TicketID: t.ID, Ticket: t.token, Input: input, InputDigest: t.InputDigest})
	if err != nil {
		return nil, rpcError(err)
	}
	s.driver.AwaitOpening(ctx, id, courtesy)
	return &cardeav1.StartRunResponse{RunId: id}, nil
}

// inputOf is the input, which must be the one that the ticket names.
func inputOf(input []byte, digest string) ([]byte, error) {
	if len(input) > maxInput {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the input has %d bytes; at most %d are taken", len(input), maxInput))
	}
	if len(input) == 0 {
		input = []byte("{}")
	}
	canonical, err := jcs.Transform(input)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the input is not JSON: %w", err))
	}
	if action.Digest(canonical) != digest {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("the ticket is for another input"))
	}
	return input, nil
}

// Get answers with a run as it is.
func (s *Service) Get(ctx context.Context, r *cardeav1.GetRunRequest) (*cardeav1.GetRunResponse, error) {
	run, err := s.driver.Get(ctx, r.GetRunId())
	if err != nil {
		return nil, rpcError(err)
	}
	return &cardeav1.GetRunResponse{Run: run}, nil
}

// List answers with runs, the newest first.
func (s *Service) List(ctx context.Context, r *cardeav1.ListRunsRequest) (*cardeav1.ListRunsResponse, error) {
	limit := int(min(r.GetLimit(), 1000))
	if limit == 0 {
		limit = 50
	}
	f := durable.Filter{Workflow: r.GetWorkflow(), Before: r.GetPageToken(), Limit: limit + 1}
	if r.GetStatus() != "" {
		f.Statuses = []engine.Status{engine.Status(r.GetStatus())}
	}
	rows, err := s.driver.List(ctx, f)
	if err != nil {
		return nil, rpcError(err)
	}
	out := &cardeav1.ListRunsResponse{}
	if len(rows) > limit {
		rows = rows[:limit]
		out.NextPageToken = rows[limit-1].ID
	}
	for _, row := range rows {
		out.Runs = append(out.Runs, durable.SummaryProto(row))
	}
	return out, nil
}

// Watch sends the run as it is and again after each change, until it has ended and the authority has closed it.
func (s *Service) Watch(ctx context.Context, r *cardeav1.WatchRunRequest, stream *connect.ServerStream[cardeav1.WatchRunResponse]) error {
	err := s.driver.Watch(ctx, r.GetRunId(), pace, func(run *cardeav1.Run) error {
		return stream.Send(&cardeav1.WatchRunResponse{Run: run})
	})
	return rpcError(err)
}

// Cancel answers once the cancellation is durable.
func (s *Service) Cancel(ctx context.Context, r *cardeav1.CancelRunRequest) (*cardeav1.CancelRunResponse, error) {
	t, err := ticketOf(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.GetReason()) > maxReason {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the reason has more than %d bytes", maxReason))
	}
	if err := s.driver.Cancel(ctx, r.GetRunId(), t.Person, r.GetReason()); err != nil {
		return nil, rpcError(err)
	}
	run, err := s.driver.Get(ctx, r.GetRunId())
	if err != nil {
		return nil, rpcError(err)
	}
	return &cardeav1.CancelRunResponse{Run: run}, nil
}

func later(what string) error {
	return connect.NewError(connect.CodeUnimplemented, fmt.Errorf("this engine cannot %s yet: it comes with the whole language", what))
}

// Suspend is not there yet.
func (s *Service) Suspend(context.Context, *cardeav1.SuspendRunRequest) (*cardeav1.SuspendRunResponse, error) {
	return nil, later("suspend a run")
}

// Resume is not there yet.
func (s *Service) Resume(context.Context, *cardeav1.ResumeRunRequest) (*cardeav1.ResumeRunResponse, error) {
	return nil, later("resume a run")
}

// Retry is not there yet.
func (s *Service) Retry(context.Context, *cardeav1.RetryRunRequest) (*cardeav1.RetryRunResponse, error) {
	return nil, later("retry a run")
}

// Resolve is not there yet.
func (s *Service) Resolve(context.Context, *cardeav1.ResolveRunRequest) (*cardeav1.ResolveRunResponse, error) {
	return nil, later("resolve a task in doubt")
}

// SendEvent is not there yet.
func (s *Service) SendEvent(context.Context, *cardeav1.SendEventRequest) (*cardeav1.SendEventResponse, error) {
	return nil, later("take an event")
}

// rpcError is the one table from errors to codes.
func rpcError(err error) error {
	var coded *connect.Error
	switch {
	case err == nil, errors.As(err, &coded):
		return err
	case errors.Is(err, durable.ErrNoRun):
		return connect.NewError(connect.CodeNotFound, durable.ErrNoRun)
	case errors.Is(err, durable.ErrConflict):
		return connect.NewError(connect.CodeAlreadyExists, err)
	case errors.Is(err, durable.ErrReplay):
		return connect.NewError(connect.CodeFailedPrecondition, err)
	case errors.Is(err, durable.ErrStopped), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeUnavailable, errors.New("the engine is stopping; ask again"))
	case errors.Is(err, engine.ErrInput):
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewError(connect.CodeInternal, errors.New("the engine could not do this; its log says why"))
}
