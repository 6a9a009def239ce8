package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
)

// Authority is all that the driver asks of the authority. An error that is a *Refusal is its answer; one that is a *Fault is its
// failure with this very question; every other one means that it is away. The question stands unless it was refused. Calls are
// safe to repeat and to make concurrently.
type Authority interface {
	OpenRun(context.Context, *cardeav1.OpenRunRequest) (*cardeav1.OpenRunResponse, error)
	// Authorize gives one answer per intent, in order.
	Authorize(context.Context, *cardeav1.AuthorizeRequest) (*cardeav1.AuthorizeResponse, error)
	EndRun(context.Context, *cardeav1.EndRunRequest) (*cardeav1.EndRunResponse, error)
	Workflow(context.Context, *cardeav1.WorkflowRequest) (*cardeav1.WorkflowResponse, error)
	// Watch calls each for whatever happens until it fails. It calls each with nil once it listens: what happened before is to be
	// asked for again.
	Watch(ctx context.Context, each func(*cardeav1.WatchDecideResponse)) error
}

// Refusal is the authority's answer to a question that it will not answer otherwise when it is asked again.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return "the authority refuses: " + r.Reason }

// Fault says that the authority is there and failed. Other questions may well be answered.
type Fault struct{ Reason string }

func (f *Fault) Error() string { return "the authority failed: " + f.Reason }

// answered says whether an error shows that the authority is there.
func answered(err error) bool {
	var refusal *Refusal
	var fault *Fault
	return errors.As(err, &refusal) || errors.As(err, &fault)
}

// callTimeout bounds one call to the authority; a call that takes longer is made again.
const callTimeout = 30 * time.Second

// Client is the Authority behind a connection.
type Client struct{ decide cardeav1connect.DecideClient }

// NewClient uses the authority's Decide service.
func NewClient(decide cardeav1connect.DecideClient) *Client { return &Client{decide: decide} }

var _ Authority = (*Client)(nil)

// OpenRun implements Authority.
func (c *Client) OpenRun(ctx context.Context, r *cardeav1.OpenRunRequest) (*cardeav1.OpenRunResponse, error) {
	return call(ctx, "open run "+r.GetRunId(), r, c.decide.OpenRun)
}

// Authorize implements Authority.
func (c *Client) Authorize(ctx context.Context, r *cardeav1.AuthorizeRequest) (*cardeav1.AuthorizeResponse, error) {
	out, err := call(ctx, "authorize", r, c.decide.Authorize)
	if err == nil && len(out.GetAuthorizations()) != len(r.GetIntents()) {
		return nil, fmt.Errorf("authorize: %d answers to %d intents", len(out.GetAuthorizations()), len(r.GetIntents()))
	}
	return out, err
}

// EndRun implements Authority.
func (c *Client) EndRun(ctx context.Context, r *cardeav1.EndRunRequest) (*cardeav1.EndRunResponse, error) {
	return call(ctx, "end run "+r.GetRunId(), r, c.decide.EndRun)
}

// Workflow implements Authority.
func (c *Client) Workflow(ctx context.Context, r *cardeav1.WorkflowRequest) (*cardeav1.WorkflowResponse, error) {
	return call(ctx, "fetch workflow "+r.GetDigest(), r, c.decide.Workflow)
}

// Watch implements Authority.
func (c *Client) Watch(ctx context.Context, each func(*cardeav1.WatchDecideResponse)) error {
	stream, err := c.decide.Watch(ctx, &cardeav1.WatchDecideRequest{})
	if err != nil {
		return fmt.Errorf("watch the authority: %w", err)
	}
	defer stream.Close()
	// Its first message shows that it listens: whatever settles from now on will be told.
	for listening := false; stream.Receive(); listening = true {
		if !listening {
			each(nil)
		}
		each(stream.Msg())
	}
	return fmt.Errorf("watch the authority: %w", errors.Join(stream.Err(), ctx.Err()))
}

func call[Q, A any](ctx context.Context, what string, q *Q, fn func(context.Context, *Q) (*A, error)) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a, err := fn(ctx, q)
	if err == nil {
		return a, nil
	}
	var answer *connect.Error
	if errors.As(err, &answer) {
		switch {
		case final(answer.Code()):
			return nil, fmt.Errorf("%s: %w", what, &Refusal{Reason: answer.Message()})
		case answer.Code() == connect.CodeInternal || answer.Code() == connect.CodeUnknown:
			return nil, fmt.Errorf("%s: %w", what, &Fault{Reason: answer.Message()})
		}
	}
	return nil, fmt.Errorf("%s: %w", what, err)
}

// final says whether a code is an answer. To be unauthenticated is not: the engine's SVID may be about to be renewed, and the
// role's own health says so.
func final(c connect.Code) bool {
	switch c {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodeOutOfRange,
		connect.CodePermissionDenied, connect.CodeAborted, connect.CodeUnimplemented:
		return true
	}
	return false
}

// Bounds of the wait between two tries of the same call.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 3 * time.Second
)

// persist makes a call until the authority is there to answer it, with a value, a Refusal or a Fault. It gives up only with ctx.
func persist[A any](ctx context.Context, log *slog.Logger, away func(), fn func(context.Context) (A, error)) (A, error) {
	wait := firstRetry
	for {
		a, err := fn(ctx)
		if err == nil || answered(err) || ctx.Err() != nil {
			return a, err
		}
		away()
		log.WarnContext(ctx, "the authority does not answer; asking again", "in", wait, "error", err)
		if !sleep(ctx, wait/2+rand.N(wait/2)) {
			return a, err
		}
		wait = min(2*wait, lastRetry)
	}
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
