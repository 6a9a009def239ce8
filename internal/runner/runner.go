// Package runner takes attempts from the engine, redeems their permits at the authority, acts, and returns what it was given.
//
// It promises: a permit is verified here, against the authority's key, this runner's own name and key and the action's bytes,
// before it is redeemed; it is redeemed once, and after a redeem whose outcome is unknown nothing is done; credentials live in
// secret.Value alone; every result is sent until the engine has taken it, and every permit is returned until the authority has
// confirmed; a slot is free only when both have happened, so that slots bound all memory.
//
// It refuses tasks beyond its credit, permits of another runner, actions that are not what was permitted. It decides nothing: that
// a permit is verified here protects the targets from an engine that has been taken, not from the authority.
package runner

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/action"
	"cardea/internal/egress"
	"cardea/internal/permit"
)

// Self is who this runner is and whose permits it honours.
type Self struct {
	TrustDomain string
	// ID is the SPIFFE id, Key the thumbprint of its key.
	ID, Key    string
	PermitKeys []ed25519.PublicKey
}

// Executor performs actions of one kind. Execute must end when ctx does, and must say NotSent only when nothing can have left.
type Executor interface {
	Execute(ctx context.Context, a Attempt) Outcome
}

// Attempt is one permitted action and what was issued for it. The grants' credentials are wiped when Execute has returned.
type Attempt struct {
	Permit   permit.Permit
	Action   action.Action
	Grants   []egress.Grant
	Deadline time.Time
}

// Outcome is what came of an attempt: an answer or an error, how far it came, and a report for the ledger.
type Outcome struct {
	Delivery cardeav1.Delivery
	HTTP     *cardeav1.HttpResponse
	Err      *cardeav1.TaskError
	Actions  []*cardeav1.ActionReport
}

// Config is what a Runner is made of.
type Config struct {
	// Self is asked for every permit: keys and SVID change while a runner lives.
	Self  func() Self
	Work  cardeav1connect.WorkClient
	Lease cardeav1connect.LeaseClient
	// Executors by kind of action.
	Executors map[string]Executor
	// Slots is how many attempts are under way at once.
	Slots int
	// Drain is how long attempts may go on after Run was told to stop; Flush how long results and returns then have.
	Drain, Flush time.Duration
	Log          *slog.Logger
	Metrics      prometheus.Registerer
	// Now is the clock for permits; nil for the system's.
	Now func() time.Time
}

// Runner is one runner process. Run it once.
type Runner struct {
	cfg     Config
	metrics *metrics

	mu sync.Mutex
	// jobs are all attempts that hold a slot, by permit id.
	jobs     map[string]*job
	session  *session // nil while there is none
	draining bool
	// changed is closed and replaced whenever a job ends a stage: drain waits on it.
	changed chan struct{}
}

// New checks the configuration and returns a Runner that does nothing yet.
func New(cfg Config) (*Runner, error) {
	switch {
	case cfg.Self == nil || cfg.Work == nil || cfg.Lease == nil || cfg.Log == nil || cfg.Metrics == nil:
		return nil, errors.New("runner: identity, clients, log and metrics are needed")
	case cfg.Slots < 1:
		return nil, fmt.Errorf("runner: %d slots", cfg.Slots)
	case len(cfg.Executors) == 0:
		return nil, errors.New("runner: no executor")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Runner{cfg: cfg, jobs: map[string]*job{}, changed: make(chan struct{})}
	var err error
	r.metrics, err = newMetrics(cfg.Metrics, r)
	return r, err
}

// Run works until ctx ends and then drains: no new credit, what runs may finish within Drain and is cancelled after it, results and
// returns are flushed within Flush. It returns an error when something could not be flushed: the engine then treats
// the attempts as lost, and the authority ends the leases without being asked.
func (r *Runner) Run(ctx context.Context) error {
	live, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	loops.Go(func() { r.keepSession(live) })
	loops.Go(func() { r.keepWatching(live) })
	<-ctx.Done()
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	if !r.wait(r.cfg.Drain, r.running) {
		r.cancelAll(errDraining)
	}
	flushed := r.wait(r.cfg.Flush, r.occupied)
	left := r.occupied()
	stop(errDraining)
	loops.Wait()
	if !flushed {
		return fmt.Errorf("runner: %d attempts were neither taken by the engine nor returned in time", left)
	}
	return nil
}

// Connected says why the runner cannot be given work, or nil.
func (r *Runner) Connected(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session == nil || !r.session.up.Load() {
		return errors.New("no session with the engine")
	}
	return nil
}

// wait waits until count is zero, at most for limit.
func (r *Runner) wait(limit time.Duration, count func() int) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if count() == 0 {
			return true
		}
		select {
		case <-changed:
		case <-timeout.C:
			return count() == 0
		}
	}
}

// running counts jobs without a result.
func (r *Runner) running() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, j := range r.jobs {
		if j.result == nil {
			n++
		}
	}
	return n
}

// occupied counts slots in use.
func (r *Runner) occupied() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.jobs)
}

// note wakes whoever waits for a change. The lock is held.
func (r *Runner) note() {
	close(r.changed)
	r.changed = make(chan struct{})
}
