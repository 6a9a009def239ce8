package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"cardea/internal/store"
)

// View runs fn over a snapshot of durable state, on the caller's goroutine. It waits for a free reader as long as ctx lets it; a
// context that ends later ends the next read.
func (db *DB) View(ctx context.Context, fn func(store.Tx) error) error {
	c, err := db.readers.get(ctx)
	if err != nil {
		return fmt.Errorf("view: %w", err)
	}
	healthy := false
	defer func() { db.readers.put(c, healthy) }()
	if err := c.step("BEGIN"); err != nil {
		return fmt.Errorf("view: %w", err)
	}
	// A reader that kept its snapshot would stop the log from ever being reset: the rollback runs even when fn panics.
	t := &tx{c: c, ctx: ctx}
	defer func() {
		t.end()
		healthy = c.step("ROLLBACK") == nil && !t.inSQL
	}()
	if err := fn(t); err != nil {
		return err
	}
	return t.err
}

// pool lends read-only connections, opened when first needed.
type pool struct {
	open  func() (*conn, error)
	slots chan struct{} // one token per connection that may be lent

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

func newPool(n int, open func() (*conn, error)) *pool {
	return &pool{open: open, slots: make(chan struct{}, n)}
}

func (p *pool) get(ctx context.Context) (*conn, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.slots
		return nil, ErrClosed
	}
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return c, nil
	}
	c, err := p.open()
	if err != nil {
		<-p.slots
		return nil, err
	}
	return c, nil
}

func (p *pool) put(c *conn, healthy bool) {
	p.mu.Lock()
	if healthy && !p.closed {
		p.idle = append(p.idle, c)
		c = nil
	}
	p.mu.Unlock()
	if c != nil {
		c.close()
	}
	<-p.slots
}

// close waits for the snapshots that are open.
func (p *pool) close() error {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for range cap(p.slots) {
		p.slots <- struct{}{}
	}
	for range cap(p.slots) {
		<-p.slots
	}
	var errs []error
	for _, c := range idle {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
