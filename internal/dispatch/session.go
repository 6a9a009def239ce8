package dispatch

import (
	"sync"

	cardeav1 "cardea/api/cardea/v1"
)

// MaxCredit bounds what one runner may ask for, so that no runner can draw a tier's whole queue to itself.
const MaxCredit = 1024

// outboxSize holds every task of a full credit, and as many cancellations.
const outboxSize = 2*MaxCredit + 8

// Session is one runner's line. It dies when a newer one of the same runner begins.
type Session struct {
	pool   *Pool
	id     Runner
	runner *runner
	outbox chan *cardeav1.SessionResponse
	done   chan struct{}
	once   sync.Once

	// Guarded by the pool's lock.
	credit  int
	greeted bool // its first credit has come
	ended   bool
}

// Connect begins a runner's session; an older one of the same runner ends, and its credit with it.
func (p *Pool) Connect(id Runner) *Session {
	p.mu.Lock()
	r := p.runners[id.ID]
	var gone []Held
	if r != nil {
		if r.session != nil {
			p.leave(r.session)
		}
		if r.Key != id.Key {
			gone = r.takeAll()
			r.Runner = id
		}
		r.stopGrace()
	} else {
		r = p.adopt(id)
	}
	s := &Session{pool: p, id: id, runner: r, outbox: make(chan *cardeav1.SessionResponse, outboxSize), done: make(chan struct{})}
	r.session = s
	t := p.tier(id.Tier)
	t.sessions = append(t.sessions, s)
	if p.closed {
		s.end()
	}
	p.mu.Unlock()
	for _, h := range gone {
		p.cfg.Lost(h)
	}
	return s
}

// leave takes a session out of its tier. The pool's lock is held.
func (p *Pool) leave(s *Session) {
	t := p.tier(s.id.Tier)
	for i, other := range t.sessions {
		if other == s {
			t.sessions = append(t.sessions[:i:i], t.sessions[i+1:]...)
			break
		}
	}
	s.credit, s.ended = 0, true
	s.end()
}

func (s *Session) end() { s.once.Do(func() { close(s.done) }) }

// Close ends the session. What the runner holds is lost unless it comes back within the grace.
func (s *Session) Close() {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.ended {
		return
	}
	p.leave(s)
	s.runner.session = nil
	if len(s.runner.held) == 0 || p.closed {
		p.retire(s.runner)
		return
	}
	p.startGrace(s.runner)
}

// Runner is who this is.
func (s *Session) Runner() Runner { return s.id }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Outbox is what is to be sent to the runner, in order.
func (s *Session) Outbox() <-chan *cardeav1.SessionResponse { return s.outbox }

// Credit adds to how many tasks the runner will take. A session's first credit says that the runner has named all that it has.
func (s *Session) Credit(slots uint32) {
	s.greet()
	s.give(int(min(slots, MaxCredit)))
}

// greet ends a session's opening. What the runner holds and has not named it has lost with its memory, or never got.
func (s *Session) greet() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if s.ended || s.greeted {
		return
	}
	s.greeted = true
	for _, entry := range s.runner.held {
		if entry.session != s {
			entry.deadline.Reset(0)
		}
	}
}

// Started notes that the runner has an attempt: it names each before a session's first credit, and when it begins one.
func (s *Session) Started(permit string) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if entry := s.runner.held[permit]; entry != nil && !s.ended {
		entry.session = s
	}
}

// Release gives back the credit of a match that came to nothing.
func (s *Session) Release() { s.give(1) }

func (s *Session) give(n int) {
	p := s.pool
	p.mu.Lock()
	if s.ended || p.closed {
		p.mu.Unlock()
		return
	}
	s.credit = min(s.credit+n, MaxCredit)
	matches := p.matchTier(p.tier(s.id.Tier))
	p.mu.Unlock()
	p.deliver(matches)
}

// Assign gives the runner a task for the credit that was taken. It reports false when the session has ended meanwhile: then
// the runner has not got it and never will.
func (s *Session) Assign(h Held, task *cardeav1.WorkTask) bool {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.ended || !s.post(&cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Task{Task: task}}) {
		return false
	}
	h.Runner = s.id
	p.hold(s.runner, s, h)
	return true
}

// Taken tells the runner that it may forget a result.
func (s *Session) Taken(permit string, stale bool) {
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.ended {
		s.post(&cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Taken{Taken: &cardeav1.ResultTaken{PermitId: permit, Stale: stale}}})
	}
}

func (s *Session) cancel(permit string) {
	s.post(&cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Cancel{Cancel: &cardeav1.CancelTask{PermitId: permit}}})
}

// Drain tells every runner that no more tasks will come.
func (p *Pool) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.runners {
		if r.session != nil {
			r.session.post(&cardeav1.SessionResponse{Message: &cardeav1.SessionResponse_Drain{Drain: &cardeav1.Drain{}}})
			r.session.credit = 0
		}
	}
}

// post queues a message. A runner that does not read while its outbox fills has a broken line: the session ends. The pool's lock is held.
func (s *Session) post(m *cardeav1.SessionResponse) bool {
	select {
	case s.outbox <- m:
		return true
	default:
		s.end()
		return false
	}
}
