package durable

import (
	"container/list"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"cardea/internal/dispatch"
	"cardea/internal/engine"
)

// Config is what a Driver is made of. Journal, Definitions, Grants, Authority and Load are required.
type Config struct {
	Journal     Journal
	Definitions Definitions
	Grants      Grants
	Authority   Authority
	// Load makes a program of a definition's canonical bytes.
	Load func(canonical []byte) (*engine.Program, error)
	// Now is the clock; nil: the system's.
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Grace is how long a runner whose session broke may take to come back; 0: 5 s.
	Grace time.Duration
	// Patience is how long an attempt waits for a runner before its verdict is asked for without one; 0: 2 s.
	Patience time.Duration
	// Idle is how many runs in which nothing moves stay in memory; 0: 256.
	Idle int
	// Plans is how many definitions stay in memory; 0: 256.
	Plans int
}

func (c Config) withDefaults() (Config, error) {
	if c.Journal == nil || c.Definitions == nil || c.Grants == nil || c.Authority == nil || c.Load == nil {
		return c, errors.New("durable: a journal, definitions, grants, an authority and a loader are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Grace <= 0 {
		c.Grace = 5 * time.Second
	}
	if c.Patience <= 0 {
		c.Patience = 2 * time.Second
	}
	if c.Idle <= 0 {
		c.Idle = 256
	}
	if c.Plans <= 0 {
		c.Plans = 256
	}
	return c, nil
}

// Driver drives all runs of one journal. Its methods are safe for concurrent use.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	pool    *dispatch.Pool
	runs    table
	plans   *plans

	asker     *asker
	opener    *workers
	closer    *workers
	grants    *grantWriter
	approvals approvals

	recoveredMu sync.Mutex
	recovery    map[[2]string]Grant // by run and task: what an earlier process gave out

	// ctx ends when the driver does.
	ctx    context.Context
	cancel context.CancelCauseFunc
	group  sync.WaitGroup
	mu     sync.Mutex // guards ended
	ended  bool
}

// ErrStopped answers whatever comes when the driver has stopped. What is durable is safe; ask the next one.
var ErrStopped = errors.New("the engine is stopping")

// Open makes a driver and recovers what is durable. Nothing may ask it before: who holds which attempt is known only then. Run drives.
func Open(ctx context.Context, cfg Config) (*Driver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	d := &Driver{cfg: cfg, log: cfg.Log, asker: newAsker(), opener: newWorkers(), closer: newWorkers(), grants: newGrantWriter(),
		recovery: map[[2]string]Grant{}}
	d.ctx, d.cancel = context.WithCancelCause(context.Background())
	d.runs = table{runs: map[string]*run{}, keep: cfg.Idle, idle: list.List{}}
	d.plans = newPlans(d)
	d.pool = dispatch.New(dispatch.Config{Grace: cfg.Grace, Patience: cfg.Patience,
		Match: func(a dispatch.Attempt, s *dispatch.Session) {
			d.asker.add(question{attempt: a.(*attempt), session: s})
		},
		Starved: func(a dispatch.Attempt) {
			if q := (question{attempt: a.(*attempt)}); !q.stale() {
				d.asker.add(q)
			}
		},
		Lost: func(h dispatch.Held) { d.spawn(func() { d.lost(h) }) },
	})
	d.metrics = newMetrics(cfg.Metrics, d)
	if err := d.recover(ctx); err != nil {
		d.cancel(err)
		d.stop()
		return nil, fmt.Errorf("recover runs: %w", err)
	}
	return d, nil
}

// Bounds on concurrent calls to the authority, besides the one that authorizes.
const (
	openers = 16
	closers = 16
)

// Run drives until ctx ends or a commit fails.
func (d *Driver) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { d.cancel(ErrStopped) })
	defer stop()
	d.spawn(func() { d.ask(d.ctx) })
	d.spawn(func() { d.watch(d.ctx) })
	d.spawn(func() { d.grants.run(d) })
	for range openers {
		d.spawn(func() { d.opener.run(d.ctx, d.open) })
	}
	for range closers {
		d.spawn(func() { d.closer.run(d.ctx, d.close) })
	}
	<-d.ctx.Done()
	d.stop()
	if cause := context.Cause(d.ctx); !errors.Is(cause, ErrStopped) {
		return cause
	}
	return nil
}

// Ready says why the driver cannot take work.
func (d *Driver) Ready(context.Context) error {
	if d.ctx.Err() != nil {
		return ErrStopped
	}
	return nil
}

// stop waits for whatever is under way.
func (d *Driver) stop() {
	d.pool.Close()
	d.mu.Lock()
	d.ended = true
	d.mu.Unlock()
	d.group.Wait()
}

// spawn runs fn on a goroutine that stop waits for; once the driver has stopped, not at all.
func (d *Driver) spawn(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		d.group.Go(fn)
	}
}

// fail ends the driver: after a failed commit nobody knows what is durable but the journal, and only recovery may ask it.
func (d *Driver) fail(err error) error {
	d.cancel(fmt.Errorf("the journal failed: %w", err))
	return fmt.Errorf("%w: %w", ErrStopped, err)
}

// now is the time of an event: what its journalled form can hold.
func (d *Driver) now() time.Time { return d.cfg.Now().UTC().Truncate(time.Microsecond) }

// report logs what could not be done about a run. Everything it is called for is done again: by the next answer, or by recovery.
func (d *Driver) report(what, run string, err error) {
	if d.ctx.Err() == nil {
		d.log.ErrorContext(d.ctx, "could not "+what, "run", run, "error", err)
	}
}

// newRunID makes a name that sorts by time and cannot be guessed.
func (d *Driver) newRunID(at time.Time) string {
	return "run_" + strings.ToLower(ulid.MustNew(ulid.Timestamp(at), rand.Reader).String())
}

// Pool is where runners' sessions come in.
func (d *Driver) Pool() *dispatch.Pool { return d.pool }

// execute does what a step commanded: nothing here waits. The run's lock is held.
func (d *Driver) execute(r *run, commands []engine.Command) {
	for _, c := range commands {
		switch c := c.(type) {
		case engine.OpenRun:
			r.opening = true
			d.opener.add(r.id)
		case engine.Attempt:
			d.begin(r, c)
		case engine.CancelAttempts:
			for _, id := range c.Tasks {
				if a := r.attempts[id.Key()]; a != nil {
					d.withdraw(a)
					r.settled(a)
				}
			}
		case engine.Continue:
			d.spawn(func() { d.goOn(r.id) })
		case engine.Finish:
			d.metrics.finished.WithLabelValues(string(c.Status)).Inc()
			if !r.opening {
				r.closing = true
				d.closer.add(r.id)
			}
		}
	}
}

// goOn continues a run that has more to compute.
func (d *Driver) goOn(id string) {
	r, err := d.acquire(d.ctx, id)
	if err != nil {
		d.report("continue", id, err)
		return
	}
	defer d.release(r)
	if err := d.apply(r, engine.Event{At: d.now(), Continued: &engine.Continued{}}); err != nil && !errors.Is(err, engine.ErrRefused) {
		d.report("continue", id, err)
	}
}

// recover reads every run in which something moves, and makes it move again. Runs that wait for people are read when they are
// needed: whoever settles an approval names the run, and after a gap all are asked about.
func (d *Driver) recover(ctx context.Context) error {
	grants, err := d.cfg.Grants.Grants(ctx)
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, g := range grants {
		d.recovery[[2]string{g.Run, g.Task}] = g
		needed[g.Run] = true
	}
	err = d.eachLive(ctx, nil, func(s Summary) error {
		if s.Format != engine.Format {
			return fmt.Errorf("run %s is journalled in format %d; this build knows format %d", s.ID, s.Format, engine.Format)
		}
		if s.Status != engine.StatusWaiting && s.Status != engine.StatusInDoubt {
			needed[s.ID] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id := range needed {
		r, err := d.acquire(ctx, id)
		switch {
		case err == nil:
			d.release(r)
		case errors.Is(err, ErrReplay): // said and counted already
		default:
			return err
		}
	}
	d.recoveredMu.Lock()
	defer d.recoveredMu.Unlock()
	d.recovery = nil
	return nil
}

// eachLive calls fn for every run that is not closed and has one of the statuses; nil: any.
func (d *Driver) eachLive(ctx context.Context, statuses []engine.Status, fn func(Summary) error) error {
	const page = 1000
	f := Filter{Live: true, Statuses: statuses, Limit: page}
	for {
		rows, err := d.cfg.Journal.List(ctx, f)
		if err != nil {
			return err
		}
		for _, s := range rows {
			if err := fn(s); err != nil {
				return err
			}
			f.Before = s.ID
		}
		if len(rows) < page {
			return nil
		}
	}
}

// takeGrant gives what an earlier process gave out for a task, once.
func (d *Driver) takeGrant(run, task string) (Grant, bool) {
	d.recoveredMu.Lock()
	defer d.recoveredMu.Unlock()
	g, ok := d.recovery[[2]string{run, task}]
	delete(d.recovery, [2]string{run, task})
	return g, ok
}
