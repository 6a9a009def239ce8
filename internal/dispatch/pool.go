package dispatch

import (
	"slices"
	"sync"
	"time"
)

// Runner is who stands at the other end of a session, as its SVID proves.
type Runner struct {
	ID   string // SPIFFE id
	Key  string // thumbprint of its key: a new one means a new process
	Tier string
}

// Held is an attempt that a runner was given.
type Held struct {
	Run, Task string // Task is unique within the run
	Permit    string
	Epoch     uint64
	Runner    Runner
	// Deadline is when the attempt must have ended.
	Deadline time.Time
}

// Config is what a Pool needs of its owner. The functions are called without any lock held, and must not block.
type Config struct {
	// Grace is how long a runner whose session broke may take to come back before what it holds is lost, and how long after its
	// deadline a result may still arrive.
	Grace time.Duration
	// Patience is how long an attempt waits for credit before Starved is told of it, once.
	Patience time.Duration
	// Match gives an attempt to a session. One credit has been taken: the owner answers with Assign or Release.
	Match func(Attempt, *Session)
	// Lost tells of an attempt whose runner will not answer.
	Lost func(Held)
	// Starved tells of an attempt for which nobody has had credit for a while.
	Starved func(Attempt)
}

// Pool matches attempts and credit. Its methods are safe for concurrent use.
type Pool struct {
	cfg Config

	mu      sync.Mutex
	tiers   map[string]*tier
	runners map[string]*runner
	closed  bool
}

// tier is guarded by the pool's lock.
type tier struct {
	queue fair
	// sessions are connected; the one whose turn it is stands first.
	sessions []*Session
	patience map[Attempt]*time.Timer
}

// runner is guarded by the pool's lock. It outlives its session while it holds something.
type runner struct {
	Runner
	session *Session
	held    map[string]*held // by permit
	grace   *time.Timer      // runs while no session is there
}

type held struct {
	Held
	deadline *time.Timer
	// session is the newest one in which the runner was given it, or has named it.
	session *Session
}

// New makes an empty pool.
func New(cfg Config) *Pool {
	return &Pool{cfg: cfg, tiers: map[string]*tier{}, runners: map[string]*runner{}}
}

func (p *Pool) tier(name string) *tier {
	t := p.tiers[name]
	if t == nil {
		t = &tier{patience: map[Attempt]*time.Timer{}}
		p.tiers[name] = t
	}
	return t
}

// Enqueue makes an attempt wait for credit of its tier.
func (p *Pool) Enqueue(a Attempt) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	t := p.tier(a.Tier())
	t.queue.push(a)
	matches := p.matchTier(t)
	starved := false
	if !slices.ContainsFunc(matches, func(m match) bool { return m.attempt == a }) {
		starved = len(t.sessions) == 0
		if !starved {
			t.patience[a] = time.AfterFunc(p.cfg.Patience, func() { p.lapse(a) })
		}
	}
	p.mu.Unlock()
	p.deliver(matches)
	if starved {
		p.cfg.Starved(a)
	}
}

// lapse tells of an attempt whose patience ran out while it was still queued.
func (p *Pool) lapse(a Attempt) {
	p.mu.Lock()
	t := p.tier(a.Tier())
	_, waits := t.patience[a]
	delete(t.patience, a)
	p.mu.Unlock()
	if waits {
		p.cfg.Starved(a)
	}
}

// Withdraw takes back an attempt that is still queued, and says whether it was.
func (p *Pool) Withdraw(a Attempt) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tier(a.Tier())
	t.forget(a)
	return t.queue.remove(a)
}

func (t *tier) forget(a Attempt) {
	if timer := t.patience[a]; timer != nil {
		timer.Stop()
		delete(t.patience, a)
	}
}

type match struct {
	attempt Attempt
	session *Session
}

// matchTier pairs what can be paired; the caller delivers after unlocking.
func (p *Pool) matchTier(t *tier) []match {
	var out []match
	for len(t.queue.order) > 0 {
		s := t.turn()
		if s == nil {
			break
		}
		s.credit--
		a := t.queue.pop()
		t.forget(a)
		out = append(out, match{a, s})
	}
	return out
}

// turn finds the next session with credit and moves it to the end of the line.
func (t *tier) turn() *Session {
	i := slices.IndexFunc(t.sessions, func(s *Session) bool { return s.credit > 0 })
	if i < 0 {
		return nil
	}
	s := t.sessions[i]
	t.sessions = append(slices.Delete(t.sessions, i, i+1), s)
	return s
}

func (p *Pool) deliver(matches []match) {
	for _, m := range matches {
		p.cfg.Match(m.attempt, m.session)
	}
}

// Settle forgets an attempt that a runner held: its result is durable, or nobody wants it any more.
func (p *Pool) Settle(runnerID, permit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.runners[runnerID]; r != nil {
		r.drop(permit)
		p.retire(r)
	}
}

// Cancel tells the runner to stop an attempt, if it is there to be told, and forgets the attempt.
func (p *Pool) Cancel(runnerID, permit string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runners[runnerID]
	if r == nil {
		return
	}
	if r.session != nil {
		r.session.cancel(permit)
	}
	r.drop(permit)
	p.retire(r)
}

// Restore makes a runner hold what an earlier process gave it. The runner has the grace to come back.
func (p *Pool) Restore(h Held) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runners[h.Runner.ID]
	switch {
	case r == nil:
		r = p.adopt(h.Runner)
		p.startGrace(r)
	case r.Key != h.Runner.Key:
		go p.cfg.Lost(h)
		return
	}
	p.hold(r, nil, h)
}

func (p *Pool) adopt(id Runner) *runner {
	r := &runner{Runner: id, held: map[string]*held{}}
	p.runners[id.ID] = r
	return r
}

// hold notes an attempt and watches its deadline.
func (p *Pool) hold(r *runner, s *Session, h Held) {
	entry := &held{Held: h, session: s}
	wait := max(time.Until(h.Deadline), 0) + p.cfg.Grace
	entry.deadline = time.AfterFunc(wait, func() { p.expire(h) })
	r.held[h.Permit] = entry
}

// expire loses an attempt that is past its deadline and has no result.
func (p *Pool) expire(h Held) {
	p.mu.Lock()
	r := p.runners[h.Runner.ID]
	late := r != nil && r.Key == h.Runner.Key && r.drop(h.Permit)
	if late {
		p.retire(r)
	}
	p.mu.Unlock()
	if late {
		p.cfg.Lost(h)
	}
}

func (r *runner) drop(permit string) bool {
	entry := r.held[permit]
	if entry == nil {
		return false
	}
	entry.deadline.Stop()
	delete(r.held, permit)
	return true
}

// retire forgets a runner that is gone and holds nothing.
func (p *Pool) retire(r *runner) {
	if r.session == nil && len(r.held) == 0 && p.runners[r.ID] == r {
		r.stopGrace()
		delete(p.runners, r.ID)
	}
}

func (p *Pool) startGrace(r *runner) {
	r.grace = time.AfterFunc(p.cfg.Grace, func() { p.giveUp(r) })
}

func (r *runner) stopGrace() {
	if r.grace != nil {
		r.grace.Stop()
		r.grace = nil
	}
}

// giveUp loses all that a runner held that did not come back.
func (p *Pool) giveUp(r *runner) {
	p.mu.Lock()
	if p.runners[r.ID] != r || r.session != nil {
		p.mu.Unlock()
		return
	}
	gone := r.takeAll()
	delete(p.runners, r.ID)
	p.mu.Unlock()
	for _, h := range gone {
		p.cfg.Lost(h)
	}
}

func (r *runner) takeAll() []Held {
	out := make([]Held, 0, len(r.held))
	for permit, entry := range r.held {
		out = append(out, entry.Held)
		r.drop(permit)
	}
	slices.SortFunc(out, func(a, b Held) int { return compare(a.Permit, b.Permit) })
	return out
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Level is what a tier looks like now.
type Level struct{ Queued, Credit, Sessions, Held int }

// Levels tells of every tier that was ever used.
func (p *Pool) Levels() map[string]Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]Level{}
	for name, t := range p.tiers {
		l := Level{Queued: t.queue.len(), Sessions: len(t.sessions)}
		for _, s := range t.sessions {
			l.Credit += s.credit
		}
		out[name] = l
	}
	for _, r := range p.runners {
		l := out[r.Tier]
		l.Held += len(r.held)
		out[r.Tier] = l
	}
	return out
}

// Close ends every session and stops every timer. Nothing is reported lost: the attempts stay outstanding.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, t := range p.tiers {
		for _, timer := range t.patience {
			timer.Stop()
		}
	}
	for _, r := range p.runners {
		r.takeAll()
		r.stopGrace()
		if r.session != nil {
			r.session.end()
		}
	}
}
