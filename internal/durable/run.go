package durable

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cardea/internal/engine"
	"cardea/internal/fault"
)

// run is a run in memory. A run that nothing moves in is forgotten when others need the place, and read again when needed.
type run struct {
	id string

	// Guarded by the table's lock.
	pins int
	idle *list.Element // its place among the runs that may be forgotten; nil while pinned or busy

	// Written under mu, read under the table's lock: as of the last release.
	moving, known atomic.Bool

	// mu is held while an event is handled, its commit included: one event of a run after the other.
	mu       sync.Mutex
	loaded   bool
	held     error // why the run cannot be driven: its journal does not replay
	summary  Summary
	program  *engine.Program
	state    engine.State
	tasks    taskList
	attempts map[string]*attempt // outstanding, by the task's key
	opening  bool                // the authority is being asked to open it
	closing  bool                // the authority is being told of its end
	changed  chan struct{}       // closed at the next change
}

// busy says whether something moves in the run, so that it must stay in memory. mu is held.
func (r *run) busy() bool {
	if !r.loaded || r.held != nil {
		return false
	}
	switch {
	case r.opening || r.closing:
		return true
	case r.state.Phase.Ended():
		return !r.state.Closed
	case r.state.Phase == engine.StatusOpening || len(r.state.Ready) > 0:
		return true
	}
	for _, a := range r.attempts {
		if a.phase != phaseWaiting && a.phase != phaseDoubt {
			return true
		}
	}
	return false
}

// apply handles one event of a run: step, commit, and only then do what was commanded. mu is held. An event that does not fit is
// refused with engine.ErrRefused and nothing has happened.
func (d *Driver) apply(r *run, ev engine.Event) error {
	if d.ctx.Err() != nil {
		return ErrStopped
	}
	next, commands, err := engine.Step(r.program, r.state, ev)
	if err != nil {
		return fmt.Errorf("run %s: %w", r.id, err)
	}
	data, err := ev.Encode()
	if err != nil {
		return fmt.Errorf("run %s: %w", r.id, err)
	}
	summary := progressed(r.summary, next, ev)
	entry := Entry{Seq: r.summary.Revision + 1, Data: data, Commands: engine.Digest(commands)}
	var progress *Progress
	if summary.Progress != r.summary.Progress {
		progress = &summary.Progress
	}
	started := time.Now()
	// The commit is not given up when the caller is: whether it then happened would be unknown.
	if err := d.cfg.Journal.Append(context.WithoutCancel(d.ctx), r.id, entry, progress); err != nil {
		return d.fail(err)
	}
	d.metrics.commit(time.Since(started))
	fault.Point("engine.event.committed")
	summary.Revision = entry.Seq
	r.summary, r.state = summary, next
	r.tasks.project(ev, commands)
	d.execute(r, commands)
	r.announce()
	return nil
}

// announce wakes whoever watches the run. mu is held.
func (r *run) announce() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// changes is closed at the next change. mu is held.
func (r *run) changes() <-chan struct{} {
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// progressed is the run's row after an event.
func progressed(s Summary, next engine.State, ev engine.Event) Summary {
	s.Status, s.Closed = next.Status(), next.Closed
	if ev.Opened != nil {
		s.StartedBy, s.Kind, s.Origin = ev.Opened.StartedBy, ev.Opened.Kind, ev.Opened.Origin
	}
	if next.Phase.Ended() && s.EndedAt.IsZero() {
		s.EndedAt = ev.At
	}
	return s
}

// load reads a run and replays it. mu is held. A journal that does not give the same commands again, or that another format
// wrote, holds the run: it is neither driven nor changed, and every question about it is answered with the reason.
func (d *Driver) load(ctx context.Context, r *run) error {
	summary, entries, err := d.cfg.Journal.Load(ctx, r.id)
	if err != nil {
		return err
	}
	r.summary, r.attempts, r.tasks = summary, map[string]*attempt{}, taskList{}
	if err := d.replay(ctx, r, entries); err != nil {
		if ctx.Err() != nil {
			return err
		}
		r.held = err
		d.metrics.held.Inc()
		d.log.ErrorContext(ctx, "a run is held: its journal does not replay", "run", r.id, "error", err)
	}
	r.loaded = true
	if r.held == nil {
		d.execute(r, engine.Outstanding(r.program, r.state))
	}
	return nil
}

// ErrReplay says that a run is held: its journal does not give the same commands again, or another format wrote it.
var ErrReplay = errors.New("the journal does not replay")

var errPlace = errors.New("an event is missing")

func (d *Driver) replay(ctx context.Context, r *run, entries []Entry) error {
	if r.summary.Format != engine.Format {
		return fmt.Errorf("run %s is journalled in format %d; this build knows format %d: %w", r.id, r.summary.Format, engine.Format, ErrReplay)
	}
	state := engine.State{}
	for i, e := range entries {
		ev, err := engine.DecodeEvent(e.Data)
		if err != nil || e.Seq != uint64(i+1) {
			return fmt.Errorf("run %s, event %d in place %d: %w: %w", r.id, e.Seq, i+1, cmp.Or(err, errPlace), ErrReplay)
		}
		if ev.Opened != nil {
			if r.program, err = d.plans.get(ctx, state.Digest); unrunnable(err) {
				return fmt.Errorf("run %s: %w: %w", r.id, err, ErrReplay)
			} else if err != nil {
				return fmt.Errorf("run %s: %w", r.id, err)
			}
		}
		next, commands, err := engine.Step(r.program, state, ev)
		if err != nil {
			return fmt.Errorf("run %s, event %d: %w: %w", r.id, e.Seq, err, ErrReplay)
		}
		if engine.Digest(commands) != e.Commands {
			return fmt.Errorf("run %s, event %d: this build (format %d) derives other commands than were journalled: %w", r.id, e.Seq, engine.Format, ErrReplay)
		}
		state = next
		r.tasks.project(ev, commands)
	}
	r.state = state
	return nil
}
