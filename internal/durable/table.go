package durable

import (
	"container/list"
	"context"
	"sync"
)

// table holds the runs in memory.
type table struct {
	mu   sync.Mutex
	runs map[string]*run
	idle list.List // of *run, the longest idle first
	keep int       // how many idle runs stay
}

// pin keeps a run in memory until unpin.
func (t *table) pin(id string) *run {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.runs[id]
	if r == nil {
		r = &run{id: id}
		t.runs[id] = r
	}
	r.pins++
	if r.idle != nil {
		t.idle.Remove(r.idle)
		r.idle = nil
	}
	return r
}

// unpin lets go of a run; one that is not busy may then be forgotten. One that could not be read is forgotten at once, so that
// names that do not exist take nobody's place.
func (t *table) unpin(r *run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.pins--
	switch {
	case r.pins > 0 || r.moving.Load():
		return
	case !r.known.Load():
		delete(t.runs, r.id)
		return
	}
	r.idle = t.idle.PushBack(r)
	for t.idle.Len() > t.keep {
		oldest := t.idle.Remove(t.idle.Front()).(*run)
		oldest.idle = nil
		delete(t.runs, oldest.id)
	}
}

func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.runs)
}

// acquire pins a run, reads it if it is not in memory, and locks it. Every acquire is followed by one release.
func (d *Driver) acquire(ctx context.Context, id string) (*run, error) {
	r := d.runs.pin(id)
	r.mu.Lock()
	if !r.loaded {
		if err := d.load(ctx, r); err != nil {
			d.release(r)
			return nil, err
		}
	}
	if r.held != nil {
		err := r.held
		d.release(r)
		return nil, err
	}
	return r, nil
}

func (d *Driver) release(r *run) {
	r.moving.Store(r.busy())
	r.known.Store(r.loaded)
	r.mu.Unlock()
	d.runs.unpin(r)
}
