package sqlite

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"cardea/internal/store"
)

// maxGroup bounds how many functions share one transaction, and with it how long the first of them waits for the last.
const maxGroup = 512

// PanicError is what Commit returns when fn panicked; its writes were rolled back.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic in a transaction: %v", e.Value) }

var errGoexit = errors.New("a function of this group ended the writer's goroutine; nothing of the group was committed")

// request is one caller's function on its way through the writer.
type request struct {
	ctx  context.Context
	fn   func(store.Tx) error
	err  error
	done chan struct{}
}

// Commit queues fn for the writer, which takes whatever is queued into one SQL transaction: no timer, so that a lone caller pays
// one sync and many share it.
//
// The answer: nil means durable. A context that ends before the writer takes fn up means fn never ran, and the answer is the
// context's error. Once fn has run the context no longer matters: Commit waits for the outcome, however long the disk takes, so
// that an error other than ErrBroken always means that nothing was written. ErrBroken may mean doubt; see there. Even fn's own error
// is answered after the group's COMMIT, because it may rest on what others in the group wrote.
func (db *DB) Commit(ctx context.Context, fn func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: not begun: %w", err)
	}
	r := &request{ctx: ctx, fn: fn, done: make(chan struct{})}
	if !db.queue.push(r) {
		return ErrClosed
	}
	<-r.done
	return r.err
}

// queue is unbounded by itself and bounded by its callers, each of whom waits for its answer.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	closed  bool
	wake    chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) push(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, r)
	q.signal()
	return true
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for callers and appends a group of them to dst. No group means closed and drained.
func (q *queue) take(dst []*request) []*request {
	for {
		q.mu.Lock()
		n := min(len(q.waiting), maxGroup)
		dst = append(dst, q.waiting[:n]...)
		rest := copy(q.waiting, q.waiting[n:])
		clear(q.waiting[rest:])
		q.waiting = q.waiting[:rest]
		closed := q.closed
		q.mu.Unlock()
		if n > 0 || closed {
			return dst
		}
		<-q.wake
	}
}

// stats count what the writer did; the benchmark and the tests read them.
type stats struct{ commits, calls atomic.Uint64 }

// write is the writer goroutine. A function that calls runtime.Goexit (a test's FailNow does) would take it along and leave every
// later caller waiting, so it is started again.
func (db *DB) write() {
	var group []*request
	finished := false
	defer func() {
		if finished {
			close(db.stopped)
			return
		}
		db.rollback()
		answer(group, errGoexit)
		go db.write()
	}()
	for {
		group = db.queue.take(group[:0])
		if len(group) == 0 {
			finished = true
			return
		}
		db.commitGroup(group)
		db.wal.committed(db.writer)
	}
}

func answer(group []*request, err error) {
	for _, r := range group {
		if err != nil {
			r.err = err
		}
		close(r.done)
	}
}

// commitGroup runs the group's functions in one transaction and answers them all after its end.
func (db *DB) commitGroup(group []*request) {
	if db.broken != nil {
		answer(group, db.broken)
		return
	}
	if err := db.writer.step("BEGIN IMMEDIATE"); err != nil {
		answer(group, db.failed("begin", err))
		return
	}
	alone := len(group) == 1
	succeeded := 0
	for _, r := range group {
		lost := db.call(r, alone)
		if lost != nil {
			db.rollback()
			answer(group, db.failed("transaction", lost))
			return
		}
		if r.err == nil {
			succeeded++
		}
	}
	answer(group, db.settle(succeeded))
}

// settle ends the transaction. Its error is everyone's.
func (db *DB) settle(succeeded int) error {
	if succeeded == 0 {
		db.rollback()
		return nil
	}
	if err := db.writer.step("COMMIT"); err != nil {
		db.rollback()
		return db.failed("commit", err)
	}
	db.stats.commits.Add(1)
	db.stats.calls.Add(uint64(succeeded))
	return nil
}

// failed classifies an error that ended the transaction as a whole. After an I/O error the log's tail is unknown; writing on would
// build on it, so the writer stops for good.
func (db *DB) failed(what string, err error) error {
	if isFull(err) || isConstraint(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	db.broken = fmt.Errorf("%w: %s: %w", ErrBroken, what, err)
	return db.broken
}

// rollback leaves no transaction open. Its own error adds nothing: the transaction has gone already, or the writer is broken.
func (db *DB) rollback() { _ = db.writer.step("ROLLBACK") }

// call runs one function in its savepoint and puts its error into r. It returns an error when the group's transaction is lost.
// A function that is alone needs no savepoint: its failure rolls back the transaction.
func (db *DB) call(r *request, alone bool) (lost error) {
	if err := r.ctx.Err(); err != nil {
		r.err = fmt.Errorf("commit: not begun: %w", err)
		return nil
	}
	if !alone {
		if err := db.writer.step("SAVEPOINT fn"); err != nil {
			return err
		}
	}
	t := &tx{c: db.writer}
	r.err = run(t, r.fn)
	if t.lost {
		return t.err
	}
	if r.err == nil {
		r.err = t.err
	}
	if alone {
		return nil
	}
	if r.err != nil {
		if err := db.writer.step("ROLLBACK TO fn"); err != nil {
			return err
		}
	}
	return db.writer.step("RELEASE fn")
}

// run calls fn and turns a panic into its error.
func run(t *tx, fn func(store.Tx) error) (err error) {
	defer t.end()
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
			if t.inSQL {
				t.err, t.lost = err, true // the driver itself failed; nothing on this connection can be trusted
			}
		}
	}()
	return fn(t)
}
