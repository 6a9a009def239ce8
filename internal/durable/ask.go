package durable

import (
	"context"
	"errors"
	"sync"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/dispatch"
)

// maxBatch bounds the intents of one call; their actions can have a MiB each.
const (
	maxBatch      = 64
	maxBatchBytes = 4 << 20
)

// question asks for a verdict about an attempt: for the session whose credit was taken, or, without one, for the verdict alone.
type question struct {
	attempt *attempt
	session *dispatch.Session
	asked   time.Time
}

func (q question) intent() *cardeav1.Intent {
	in := q.attempt.intent
	out := &cardeav1.Intent{Task: in.GetTask(), Attempt: in.GetAttempt(), Action: in.GetAction(), Connections: in.GetConnections()}
	if q.session != nil {
		out.Runner = q.session.Runner().ID
	}
	return out
}

// stale says whether the answer would help nobody.
func (q question) stale() bool {
	if q.attempt.gone.Load() {
		return true
	}
	if q.session == nil {
		return q.attempt.probed.Load()
	}
	select {
	case <-q.session.Done():
		return true
	default:
		return false
	}
}

// asker puts questions to the authority: one call at a time, and what comes while it lasts goes together in the next.
type asker struct {
	mu      sync.Mutex
	waiting []question
	wake    chan struct{}
}

func newAsker() *asker { return &asker{wake: make(chan struct{}, 1)} }

// add never blocks.
func (k *asker) add(q question) {
	k.mu.Lock()
	k.waiting = append(k.waiting, q)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// take gives the next batch.
func (k *asker) take() []question {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, bytes := 0, 0
	for n < len(k.waiting) && n < maxBatch {
		bytes += len(k.waiting[n].attempt.cmd.Action)
		if n > 0 && bytes > maxBatchBytes {
			break
		}
		n++
	}
	batch := k.waiting[:n:n]
	k.waiting = k.waiting[n:]
	if len(k.waiting) == 0 {
		k.waiting = nil
	}
	return batch
}

// ask runs until ctx ends.
func (d *Driver) ask(ctx context.Context) {
	for {
		batch := d.asker.take()
		if len(batch) == 0 {
			select {
			case <-d.asker.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		d.askBatch(ctx, d.stillAsked(batch))
	}
}

// stillAsked drops questions whose answers would help nobody, and puts their attempts back.
func (d *Driver) stillAsked(batch []question) []question {
	kept := batch[:0]
	for _, q := range batch {
		switch {
		case !q.stale():
			q.asked = d.now()
			kept = append(kept, q)
		case q.session != nil:
			d.spawn(func() { d.putBack(q) })
		}
	}
	return kept
}

// putBack handles a question that was not asked.
func (d *Driver) putBack(q question) {
	q.session.Release()
	r, err := d.acquire(d.ctx, q.attempt.run)
	if err != nil {
		return
	}
	defer d.release(r)
	if r.attempts[q.attempt.task] == q.attempt && q.attempt.phase == phaseOpen {
		d.enqueue(q.attempt, 0)
	}
}

func (d *Driver) askBatch(ctx context.Context, batch []question) {
	if len(batch) == 0 {
		return
	}
	request := &cardeav1.AuthorizeRequest{}
	for _, q := range batch {
		request.Intents = append(request.Intents, q.intent())
	}
	d.metrics.batch.Observe(float64(len(batch)))
	started := time.Now()
	response, err := persist(ctx, d.log, d.metrics.away.Inc, func(ctx context.Context) (*cardeav1.AuthorizeResponse, error) {
		return d.cfg.Authority.Authorize(ctx, request)
	})
	d.metrics.authorize.Observe(time.Since(started).Seconds())
	var refusal *Refusal
	switch {
	case answered(err) && len(batch) > 1:
		// One bad intent must not decide over the others.
		for _, q := range batch {
			d.askBatch(ctx, []question{q})
		}
	case errors.As(err, &refusal):
		// An answer that is no verdict is a denial.
		d.answerLater(batch[0], &cardeav1.Authorization{Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_DENY, Reason: refusal.Error()}})
	case err == nil:
		for i, q := range batch {
			d.answerLater(q, response.GetAuthorizations()[i])
		}
	case answered(err):
		// It failed with this one alone, which then holds up nobody else.
		d.log.ErrorContext(ctx, "the authority cannot decide an attempt; asking again", "run", batch[0].attempt.run, "in", lastRetry, "error", err)
		time.AfterFunc(lastRetry, func() { d.asker.add(batch[0]) })
	}
}

func (d *Driver) answerLater(q question, a *cardeav1.Authorization) {
	d.spawn(func() { d.answered(q, a) })
}

// approvals remembers which approvals were settled of late, for answers that were on their way meanwhile.
type approvals struct {
	mu    sync.Mutex
	at    map[string]time.Time
	order []string
}

// rememberApprovals is how many are kept; an answer is on its way for seconds at most.
const rememberApprovals = 4096

func (s *approvals) settle(id string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[string]time.Time{}
	}
	if _, known := s.at[id]; !known {
		s.order = append(s.order, id)
	}
	s.at[id] = at
	if len(s.order) > rememberApprovals {
		delete(s.at, s.order[0])
		s.order = s.order[1:]
	}
}

func (s *approvals) settledSince(id string, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.at[id]
	return known && !at.Before(since)
}
