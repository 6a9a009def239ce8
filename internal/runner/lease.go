package runner

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
)

// returnTimeout is for one call; the calls themselves go on until the authority answers.
const returnTimeout = 10 * time.Second

// maxWait bounds the pause before the authority is asked again.
const maxWait = 5 * time.Second

// giveBack returns a permit until the authority confirms or says that it never gave anything for it. It runs beside the sending of the
// result, off the path of the step.
func (r *Runner) giveBack(ctx context.Context, j *job, out Outcome) {
	req := &cardeav1.ReturnRequest{PermitId: j.task.PermitId, Actions: out.Actions, Delivery: out.Delivery}
	wait := newBackoff(maxWait)
	for ctx.Err() == nil {
		err := r.returnOnce(ctx, req)
		if err == nil || final(err) {
			if err != nil {
				r.cfg.Log.Warn("the authority does not take the permit back", "permit", req.PermitId, "error", err)
			}
			r.returned(req.PermitId)
			return
		}
		r.cfg.Log.Warn("return failed; trying again", "permit", req.PermitId, "error", err)
		wait.sleep(ctx)
	}
}

func (r *Runner) returnOnce(ctx context.Context, req *cardeav1.ReturnRequest) error {
	ctx, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	_, err := r.cfg.Lease.Return(ctx, req)
	return err
}

// final says that asking again cannot help: the authority knows no such permit of ours, or nothing was issued for it.
func final(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeFailedPrecondition:
		return true
	}
	return false
}

// keepWatching cancels attempts whose permits are voided. While the line is down nothing is cancelled by it: then the deadline, the
// credential's own end and the authority's revocation hold.
func (r *Runner) keepWatching(ctx context.Context) {
	wait := newBackoff(maxWait)
	for ctx.Err() == nil {
		begun := time.Now()
		err := r.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		r.cfg.Log.Warn("the watch for voided permits ended", "error", err)
		if time.Since(begun) > wait.limit {
			wait = newBackoff(maxWait)
		}
		wait.sleep(ctx)
	}
}

func (r *Runner) watch(ctx context.Context) error {
	stream, err := r.cfg.Lease.Watch(ctx, &cardeav1.WatchLeaseRequest{})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		voided := stream.Msg().GetVoided()
		if voided == nil {
			continue
		}
		r.cfg.Log.Info("a permit has been voided", "permit", voided.PermitId, "reason", voided.Reason)
		r.cancelJob(voided.PermitId, fmt.Errorf("%w: %s", errVoided, voided.Reason))
	}
	return stream.Err()
}
