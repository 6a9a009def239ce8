package role

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"
)

const (
	// roleBudget is how many bytes of requests one role holds at a time, of all listeners; listenerBudget is one listener's part,
	// so that those of one kind of caller cannot keep all others out. What is made of the bytes takes about twice as much again.
	roleBudget     = 128 << 20
	listenerBudget = 64 << 20
	// joinersBudget is apart from the others' and none of theirs.
	joinersBudget = 1 << 20
	// prefixSize is a flag and a length before each message of a stream, in Connect's protocol as in gRPC's.
	prefixSize = 5
)

var errNoRoom = errors.New("too many requests at once; try again in a moment")

// budget is the memory that the requests of one listener share. A request takes what it needs as it arrives, so that announcing much
// and sending nothing costs the others nothing, and gives all back when it ends.
type budget struct {
	own *semaphore.Weighted
	// shared is the role's; nil for a listener that has its own alone.
	shared *semaphore.Weighted
}

func newBudget(own int64, shared *semaphore.Weighted) *budget {
	return &budget{own: semaphore.NewWeighted(own), shared: shared}
}

func (b *budget) take(n int64) bool {
	if !b.own.TryAcquire(n) {
		return false
	}
	if b.shared != nil && !b.shared.TryAcquire(n) {
		b.own.Release(n)
		return false
	}
	return true
}

func (b *budget) give(n int64) {
	b.own.Release(n)
	if b.shared != nil {
		b.shared.Release(n)
	}
}

// room says whether n bytes could be taken now.
func (b *budget) room(n int64) bool {
	ok := b.take(n)
	if ok {
		b.give(n)
	}
	return ok
}

// heldBody is a request's body that takes from a budget what is read of it.
type heldBody struct {
	io.ReadCloser
	budget *budget
	// full is told once that there was not enough.
	full func()

	mu    sync.Mutex
	held  int64
	ended bool
}

func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.hold(int64(n)) {
		return 0, connect.NewError(connect.CodeResourceExhausted, errNoRoom)
	}
	return n, err
}

// hold takes n bytes; false, for good, when there is not enough or the call has ended.
func (b *heldBody) hold(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	if !b.budget.take(n) {
		b.ended = true
		b.release()
		b.full()
		return false
	}
	b.held += n
	return true
}

// release gives back what is held. The lock is held.
func (b *heldBody) release() {
	b.budget.give(b.held)
	b.held = 0
}

// forget gives back what is held while the call goes on.
func (b *heldBody) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release()
}

// end gives back what is held; whoever reads on gets nothing.
func (b *heldBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.release()
}

// messages is the body of a stream on which the client sends one message after another. It holds one of them: who asks for the
// next has done with the last, and what a handler keeps is the handler's to bound.
type messages struct {
	*heldBody
	// limit bounds one message.
	limit  int64
	prefix [prefixSize]byte
	have   int   // bytes of prefix that have been read
	left   int64 // bytes of the message that have not
}

func (m *messages) Read(p []byte) (int, error) {
	if m.left > 0 {
		n, err := m.heldBody.Read(p[:min(int64(len(p)), m.left)])
		m.left -= int64(n)
		return n, err
	}
	if m.have == 0 {
		m.forget()
	}
	n, err := m.ReadCloser.Read(p[:min(len(p), prefixSize-m.have)])
	copy(m.prefix[m.have:], p[:n])
	if m.have += n; m.have < prefixSize {
		return n, err
	}
	m.have, m.left = 0, int64(binary.BigEndian.Uint32(m.prefix[1:]))
	if m.left > m.limit {
		return 0, connect.NewError(connect.CodeResourceExhausted, errors.New("the message is too large"))
	}
	return n, err
}
