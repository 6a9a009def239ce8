package durable

import (
	"context"
	"sync"
)

// workers is a queue of run ids, served by as many goroutines as run it. Its owner adds an id once at a time.
type workers struct {
	mu    sync.Mutex
	queue []string
	wake  chan struct{}
}

func newWorkers() *workers { return &workers{wake: make(chan struct{}, 1)} }

// add never blocks.
func (w *workers) add(id string) {
	w.mu.Lock()
	w.queue = append(w.queue, id)
	w.mu.Unlock()
	w.nudge()
}

func (w *workers) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *workers) take() (id string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return "", false
	}
	id = w.queue[0]
	w.queue = w.queue[1:]
	if len(w.queue) > 0 {
		w.nudge() // one wake-up for the next worker
	}
	return id, true
}

// run serves the queue until ctx ends.
func (w *workers) run(ctx context.Context, do func(context.Context, string)) {
	for {
		id, ok := w.take()
		if ok {
			do(ctx, id)
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
	}
}

// grantWriter writes grants behind everybody's back: what comes while one commit lasts goes into the next.
type grantWriter struct {
	mu      sync.Mutex
	waiting []Grant
	wake    chan struct{}
}

func newGrantWriter() *grantWriter { return &grantWriter{wake: make(chan struct{}, 1)} }

func (w *grantWriter) add(g Grant) {
	w.mu.Lock()
	w.waiting = append(w.waiting, g)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *grantWriter) run(d *Driver) {
	for {
		select {
		case <-w.wake:
		case <-d.ctx.Done():
			return
		}
		w.mu.Lock()
		batch := w.waiting
		w.waiting = nil
		w.mu.Unlock()
		if err := d.cfg.Grants.KeepGrants(d.ctx, batch); err != nil && d.ctx.Err() == nil {
			d.log.WarnContext(d.ctx, "could not keep who holds which attempt; a crash now would repeat some", "error", err)
		}
	}
}
