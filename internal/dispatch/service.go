package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/fault"
	"cardea/internal/identity"
)

// Results takes what runners say of attempts. The answer comes once the result is durable; stale says that it was not the current
// one. An error means that the runner must keep it.
type Results interface {
	Result(ctx context.Context, from Runner, r *cardeav1.TaskResult) (stale bool, err error)
}

// maxNamed bounds the tasks that a session begins with: a runner has at most 4096 slots.
const maxNamed = 4096

// maxResults bounds the results of one session that are being committed at a time.
const maxResults = 256

// Service is the Work service: one session per runner.
type Service struct {
	pool    *Pool
	results Results
	log     *slog.Logger
}

// NewService serves a pool.
func NewService(pool *Pool, results Results, log *slog.Logger) *Service {
	return &Service{pool: pool, results: results, log: log}
}

// Session serves one runner until either side ends it. Who the runner is comes from its SVID alone.
func (s *Service) Session(ctx context.Context, stream *connect.BidiStream[cardeav1.SessionRequest, cardeav1.SessionResponse]) error {
	peer, ok := identity.PeerOf(ctx)
	if !ok || peer.Kind != identity.KindRunner || peer.Tier == "" || peer.KeyThumbprint == "" {
		return connect.NewError(connect.CodePermissionDenied, errors.New("only a runner has a work session"))
	}
	has, slots, err := opening(stream)
	if err != nil {
		return err
	}
	session := s.pool.Connect(Runner{ID: peer.ID.String(), Key: peer.KeyThumbprint, Tier: peer.Tier})
	defer session.Close()
	s.log.InfoContext(ctx, "runner connected", "runner", peer.ID.String(), "credit", slots, "has", len(has))
	defer s.log.InfoContext(ctx, "runner disconnected", "runner", peer.ID.String())

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, permit := range has {
		session.Started(permit)
	}
	session.Credit(slots)
	// Returning closes the stream, which ends the reader.
	go func() { cancel(s.read(ctx, cancel, session, stream)) }()
	return write(ctx, session, stream)
}

// opening reads what begins a session: the permit of each task that the runner has, then its credit.
func opening(stream *connect.BidiStream[cardeav1.SessionRequest, cardeav1.SessionResponse]) (has []string, slots uint32, err error) {
	for len(has) <= maxNamed {
		message, err := stream.Receive()
		if err != nil {
			return nil, 0, err
		}
		switch m := message.GetMessage().(type) {
		case *cardeav1.SessionRequest_Started:
			has = append(has, m.Started.GetPermitId())
			continue
		case *cardeav1.SessionRequest_Credit:
			return has, m.Credit.GetSlots(), nil
		}
		break
	}
	return nil, 0, connect.NewError(connect.CodeInvalidArgument, errors.New("a session begins with the tasks that the runner has, and its credit"))
}

// errClosed is a session that its runner ended in order.
var errClosed = errors.New("closed by the runner")

// read takes what the runner says until the stream ends. Results are committed side by side; one that cannot be ends the session, and
// comes again in the next.
func (s *Service) read(ctx context.Context, cancel context.CancelCauseFunc, session *Session, stream *connect.BidiStream[cardeav1.SessionRequest, cardeav1.SessionResponse]) error {
	slots := make(chan struct{}, maxResults)
	var group sync.WaitGroup
	defer group.Wait()
	for {
		message, err := stream.Receive()
		if err != nil {
			return errors.Join(errClosed, err)
		}
		switch m := message.GetMessage().(type) {
		case *cardeav1.SessionRequest_Credit:
			session.Credit(m.Credit.GetSlots())
		case *cardeav1.SessionRequest_Started:
			session.Started(m.Started.GetPermitId())
		case *cardeav1.SessionRequest_Result:
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			group.Go(func() {
				defer func() { <-slots }()
				if err := s.take(ctx, session, m.Result); err != nil {
					cancel(err)
				}
			})
		}
	}
}

// take commits a result and only then tells the runner that it may forget it (invariant 1).
func (s *Service) take(ctx context.Context, session *Session, r *cardeav1.TaskResult) error {
	stale, err := s.results.Result(ctx, session.Runner(), r)
	if err != nil {
		s.log.WarnContext(ctx, "could not take a result; the runner keeps it", "run", r.GetTask().GetRunId(), "task", r.GetTask().GetTask(), "error", err)
		return connect.NewError(connect.CodeUnavailable, errors.New("the result could not be made durable; send it again"))
	}
	session.Taken(r.GetPermitId(), stale)
	return nil
}

func write(ctx context.Context, session *Session, stream *connect.BidiStream[cardeav1.SessionRequest, cardeav1.SessionResponse]) error {
	for {
		select {
		case m := <-session.Outbox():
			if err := stream.Send(m); err != nil {
				return err
			}
			sent(m)
		case <-session.Done():
			return connect.NewError(connect.CodeAborted, errors.New("this session has been ended by the engine, or by a newer one"))
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, errClosed) {
				return err
			}
			return nil
		}
	}
}

// sent names the fault points behind what has left.
func sent(m *cardeav1.SessionResponse) {
	switch {
	case m.GetTask() != nil:
		fault.Point("engine.task.pushed")
	case m.GetTaken() != nil:
		fault.Point("engine.result.acked")
	}
}
