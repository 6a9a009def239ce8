package role

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"cardea/api/cardea/v1/cardeav1connect"
)

// Spec is one role, ready to run.
type Spec struct {
	// Role is Authority, Engine, Runner, Console or Origin.
	Role string
	// Config has been loaded and validated.
	Config Config
	// Needs is what the role uses of the machine beyond its folder and sockets.
	Needs Needs
	// Build makes the role: it opens its stores, and registers listeners, workers and checks with the Host. The role has joined by then.
	// Nothing runs before it returns; after an error the role ends.
	Build func(ctx context.Context, h *Host) error
}

// Run runs a role until ctx ends, SIGTERM or SIGINT comes, the supervisor is gone, or something fails; then it drains. It hardens the
// whole process, so a process runs one role.
func Run(ctx context.Context, spec Spec) error {
	unix.Umask(0o077)
	collectLess()
	put, err := hardenProcess()
	if err != nil {
		return err
	}
	h, err := newHost(spec, os.Stderr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := watchParent(h.conf.common().ParentFD, func() { cancel(errors.New("the supervisor is gone")) }); err != nil {
		return err
	}
	return h.run(ctx, spec, func() error {
		put, err := confine(h.conf, spec.Needs, put)
		if err == nil {
			h.log.Info("walls", "up", put.Has, "missing", put.Missing)
		}
		return err
	})
}

// gcPercent is how much a role's heap may grow by, in percent of what lives, before it is collected. A few MB live in a role and most of
// what it allocates dies with the call, so that at Go's 100 a tenth of the processor time of a loaded hub went into collecting. 300
// collects about a third as often and costs about 40 MB in all roles together; what it saves was not told apart from the noise of the machine.
const gcPercent = 300

// collectLess leaves the last word to whoever sets GOGC.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

func newHost(spec Spec, logTo io.Writer) (*Host, error) {
	c := spec.Config.common()
	log, err := newLogger(logTo, spec.Role, c)
	if err != nil {
		return nil, err
	}
	h := &Host{
		log: log, clock: time.Now, conf: spec.Config, admin: &admin{}, draining: make(chan struct{}),
		held:    semaphore.NewWeighted(roleBudget),
		metrics: prometheus.NewRegistry(),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cardea_refused_callers_total", Help: "Callers that were turned away before their request was read, by reason.",
		}, []string{"reason"}),
	}
	for _, collector := range []prometheus.Collector{h.refusals, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := h.metrics.Register(collector); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	return h, nil
}

// newLogger writes text for people or JSON for machines, times in UTC with milliseconds.
func newLogger(w io.Writer, roleName string, c *Common) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindTime {
			a.Value = slog.StringValue(a.Value.Time().UTC().Format("2006-01-02T15:04:05.000Z"))
		}
		return a
	}}
	if c.LogFormat == "json" { // machines merge logs; a supervisor's text lines begin with the process's name
		return slog.New(slog.NewJSONHandler(w, opts)).With("role", roleName, "name", c.Name), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

// watchParent calls gone when the descriptor reads end-of-file: the supervisor held its other end.
func watchParent(fd int, gone func()) error {
	if fd < 0 {
		return nil
	}
	f, err := inherited(fd, "--parent-fd")
	if err != nil {
		return err
	}
	go func() {
		defer f.Close()
		_, _ = io.Copy(io.Discard, f) // whatever ends the reading means that nobody holds the other end
		gone()
	}()
	return nil
}

// run is the life of the role, from the first socket to the last; confine is called when all listeners are bound.
func (h *Host) run(ctx context.Context, spec Spec, confine func() error) (err error) {
	c := h.conf.common()
	adminGate, err := openGate(c.Admin, publicBounds(), nil)
	if err != nil {
		return err
	}
	adminServer := newServer(adminGate, nil, h.admin.handler(h.metrics), h.log)
	go func() {
		if err := adminServer.serve(); err != nil {
			h.log.Error("the admin listener failed", "error", err)
		}
	}()
	defer func() { err = errors.Join(err, adminServer.http.Close()) }()
	if err := h.join(ctx, spec); err != nil {
		return ignoreStop(ctx, err)
	}
	defer func() { err = errors.Join(err, h.stopAll(c.Drain)) }()
	if err := spec.Build(ctx, h); err != nil {
		return errors.Join(ignoreStop(ctx, fmt.Errorf("start %s: %w", spec.Role, err)), h.closeListeners())
	}
	if err := confine(); err != nil {
		return errors.Join(err, h.closeListeners())
	}
	return h.work(ctx)
}

// ignoreStop takes a failure that came from being told to stop for what it is.
func ignoreStop(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (h *Host) closeListeners() error {
	var errs []error
	for _, s := range h.servers {
		errs = append(errs, s.ln.Close())
	}
	return errors.Join(errs...)
}

// stopAll runs in reverse order what OnStop registered.
func (h *Host) stopAll(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var errs []error
	for i := len(h.stops) - 1; i >= 0; i-- {
		if err := h.stops[i].run(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", h.stops[i].name, err))
		}
	}
	return errors.Join(errs...)
}

// join gets the role's identity and the workers that keep it; the origin and the authority have no Joining.
func (h *Host) join(ctx context.Context, spec Spec) error {
	joins, ok := spec.Config.(interface{ joining() (*Joining, string) })
	if !ok {
		return nil
	}
	conf, tier := joins.joining()
	c := h.conf.common()
	id, err := c.ID(spec.Role, tier)
	if err != nil {
		return err
	}
	m := &membership{id: id, dir: c.Dir, conf: conf, log: h.log, clock: h.clock}
	if err := m.enter(ctx); err != nil {
		return err
	}
	h.source = m.source
	h.admin.add("identity", func(context.Context) error { return h.source.Valid() })
	client := cardeav1connect.NewIdentityClient(h.Dial(conf.Identity, Authority), BaseURL, ClientOptions()...)
	h.Go("renew SVID", func(ctx context.Context) error { return keepRenewed(ctx, h, m.renewer(client), m.save) })
	h.Go("watch bundle", func(ctx context.Context) error { return m.watchBundle(ctx, client) })
	h.Go("end streams of banned peers", func(ctx context.Context) error { return h.followOwn(ctx, "") })
	return nil
}

// work serves until ctx ends or something fails, then drains.
func (h *Host) work(ctx context.Context) error {
	failed := make(chan error, len(h.servers)+len(h.workers))
	for _, s := range h.servers {
		go func() {
			if err := s.serve(); err != nil {
				failed <- err
			}
		}()
	}
	workCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var workers sync.WaitGroup
	for _, w := range h.workers {
		workers.Go(func() {
			if err := w.run(workCtx); err != nil && !errors.Is(err, context.Canceled) {
				failed <- fmt.Errorf("%s: %w", w.name, err)
			}
		})
	}
	h.admin.started.Store(true)
	h.notify("READY=1")
	h.log.Info("serving", "at", h.addresses())
	var failure error
	select {
	case <-ctx.Done():
		h.log.Info("stopping", "because", context.Cause(ctx))
	case failure = <-failed:
		h.log.Error("stopping", "because", failure)
	}
	return errors.Join(failure, h.drain(stopWork, &workers))
}

// addresses are where the role listens.
func (h *Host) addresses() []string {
	var list []string
	for _, s := range h.servers {
		list = append(list, s.bound)
	}
	return list
}

// drain ends in order: no new work, listeners, workers. What has not ended by the deadline is cut.
func (h *Host) drain(stopWork func(), workers *sync.WaitGroup) error {
	limit := h.conf.common().Drain
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	h.admin.closing.Store(true)
	h.notify("STOPPING=1")
	close(h.draining)
	errs := make(chan error, len(h.servers))
	for _, s := range h.servers {
		go func() { errs <- s.shutdown(ctx) }()
	}
	var all []error
	for range h.servers {
		all = append(all, <-errs)
	}
	stopWork()
	done := make(chan struct{})
	go func() { workers.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		all = append(all, fmt.Errorf("workers did not end within %s", limit))
	}
	return errors.Join(all...)
}
