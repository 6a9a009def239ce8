package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/fault"
)

// Why a job's context ended, beside its deadline.
var (
	errDraining  = errors.New("the runner is stopping")
	errCancelled = errors.New("cancelled by the engine")
	errVoided    = errors.New("the permit has been voided")
)

// job is one attempt that holds a slot, from its push until result and return are settled. All but task is guarded by the
// runner's lock.
type job struct {
	task   *cardeav1.WorkTask
	cancel context.CancelCauseFunc
	// result is set when the attempt has ended, and sent in every session until it is taken.
	result *cardeav1.SessionRequest
	// taken: the engine has the result. owes: the authority has not confirmed the return yet.
	taken, owes bool
}

// accept begins a task that the engine pushed. An error ends the session: the engine broke the rules of credit.
func (r *Runner) accept(ctx context.Context, t *cardeav1.WorkTask) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.jobs[t.PermitId]; known != nil {
		if known.result != nil && !known.taken {
			r.send(known.result)
		}
		return nil // pushed twice: one attempt is enough
	}
	if len(r.jobs) >= r.cfg.Slots {
		return fmt.Errorf("the engine pushed a task beyond the runner's %d slots", r.cfg.Slots)
	}
	jobCtx, cancel := context.WithCancelCause(ctx)
	j := &job{task: t, cancel: cancel}
	r.jobs[t.PermitId] = j
	if r.draining {
		cancel(errDraining)
		j.result = result(t, refusal(unavailable, "the runner is stopping"))
		r.send(j.result)
		return nil
	}
	go r.run(jobCtx, ctx, j)
	return nil
}

// run is the life of one attempt up to its result. What must survive a crash is with the engine and the authority: this process
// keeps nothing on disk. The return outlives the attempt's own context: a cancelled attempt owes it no less.
func (r *Runner) run(jobCtx, live context.Context, j *job) {
	defer j.cancel(nil)
	fault.Point("runner.pushed")
	out, owes := r.attempt(jobCtx, j.task)
	fault.Point("runner.acted")
	r.metrics.count(out)
	returned := make(chan struct{})
	r.mu.Lock()
	j.owes = owes
	r.mu.Unlock()
	if owes {
		go func() {
			defer close(returned)
			r.giveBack(live, j, out)
		}()
		if out.Delivery == cardeav1.Delivery_DELIVERY_NOT_SENT {
			waitFor(live, returned)
		}
	}
	r.mu.Lock()
	j.result = result(j.task, out)
	r.note()
	r.send(j.result)
	r.mu.Unlock()
}

// returnFirst is how long a result that nothing was sent waits for the authority to know it too.
const returnFirst = 2 * time.Second

// waitFor holds back a result of not sent. The engine will at once ask for another attempt, and the authority, which knows that the
// permit was redeemed and not yet what came of it, would have to call a `once` action in doubt. When it takes too long, that
// is what happens: a person decides what need not have been asked.
func waitFor(ctx context.Context, returned <-chan struct{}) {
	patience := time.NewTimer(returnFirst)
	defer patience.Stop()
	select {
	case <-returned:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// taken notes that the engine has a result, or does not want it any more.
func (r *Runner) taken(permitID string) {
	fault.Point("runner.resulted")
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.jobs[permitID]; j != nil && j.result != nil {
		j.taken = true
		r.settle(permitID, j)
	}
}

// returned notes that the authority has ended, or refused to know, the permit's leases.
func (r *Runner) returned(permitID string) {
	fault.Point("runner.returned")
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.jobs[permitID]; j != nil {
		j.owes = false
		r.settle(permitID, j)
	}
}

// settle frees the slot once nobody is owed anything. The lock is held.
func (r *Runner) settle(permitID string, j *job) {
	if !j.taken || j.owes {
		return
	}
	delete(r.jobs, permitID)
	r.note()
	if !r.draining {
		r.send(credit(1))
	}
}

// cancelJob stops an attempt, whatever it is doing. Its result says how far it came.
func (r *Runner) cancelJob(permitID string, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.jobs[permitID]; j != nil {
		j.cancel(cause)
	}
}

func (r *Runner) cancelAll(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.jobs {
		j.cancel(cause)
	}
}

func credit(slots int) *cardeav1.SessionRequest {
	return &cardeav1.SessionRequest{Message: &cardeav1.SessionRequest_Credit{Credit: &cardeav1.Credit{Slots: uint32(slots)}}}
}

func started(permitID string) *cardeav1.SessionRequest {
	return &cardeav1.SessionRequest{Message: &cardeav1.SessionRequest_Started{Started: &cardeav1.Started{PermitId: permitID}}}
}

func result(t *cardeav1.WorkTask, out Outcome) *cardeav1.SessionRequest {
	r := &cardeav1.TaskResult{PermitId: t.PermitId, Task: t.Task, Epoch: t.Epoch, Delivery: out.Delivery}
	if out.Err != nil {
		r.Outcome = &cardeav1.TaskResult_Error{Error: out.Err}
	} else {
		r.Outcome = &cardeav1.TaskResult_Http{Http: out.HTTP}
	}
	return &cardeav1.SessionRequest{Message: &cardeav1.SessionRequest_Result{Result: r}}
}
