package authority

import "sync"

// Event tells a role of something that settled. Exactly one part is set.
type Event struct {
	Approval   *ApprovalSettled
	Void       *PermitVoided
	Generation uint64
}

// ApprovalSettled says that an approval waits no longer.
type ApprovalSettled struct{ Approval, Run, State, Reason string }

// PermitVoided says that a permit must not be used any more.
type PermitVoided struct{ Permit, Run, Runner, Reason string }

// watchers hands events to whoever watches. Events are hints: a watcher that is too slow is closed and asks again after it has
// come back, so nothing rests on their delivery.
type watchers struct {
	mu     sync.Mutex
	nextID int
	open   map[int]chan Event
	// later waits for the commit of the transaction that it speaks of; whoever announces hands out all of it. Word of a
	// transaction that failed is harmless: who hears it asks, and is told the truth.
	later   []Event
	bundles map[int]chan struct{}
}

const watcherBuffer = 1024

// Watch returns a channel of events until stop is called. The channel is closed when its reader is too slow.
func (a *Authority) Watch() (events <-chan Event, stop func()) {
	w := &a.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[int]chan Event{}
	}
	id := w.nextID
	w.nextID++
	c := make(chan Event, watcherBuffer)
	w.open[id] = c
	return c, func() { w.drop(id) }
}

func (w *watchers) drop(id int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.open[id]; ok {
		delete(w.open, id)
		close(c)
	}
}

func (w *watchers) send(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, c := range w.open {
		select {
		case c <- e:
		default:
			delete(w.open, id)
			close(c)
		}
	}
}

func (w *watchers) generation(g uint64) { w.send(Event{Generation: g}) }

func (a *Authority) voidedLater(v PermitVoided) { a.watchers.keep(Event{Void: &v}) }

func (a *Authority) settledLater(s ApprovalSettled) { a.watchers.keep(Event{Approval: &s}) }

func (w *watchers) keep(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.later = append(w.later, e)
}

// announce tells watchers what the transactions since the last one have settled.
func (a *Authority) announce() {
	w := &a.watchers
	w.mu.Lock()
	events := w.later
	w.later = nil
	w.mu.Unlock()
	for _, e := range events {
		w.send(e)
	}
}

// WatchBundle returns a channel that ticks when the bundle may have changed.
func (a *Authority) WatchBundle() (changed <-chan struct{}, stop func()) {
	w := &a.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bundles == nil {
		w.bundles = map[int]chan struct{}{}
	}
	id := w.nextID
	w.nextID++
	c := make(chan struct{}, 1)
	w.bundles[id] = c
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.bundles, id)
	}
}

func (a *Authority) bundleChanged() {
	w := &a.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.bundles {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
