package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	cardeav1 "cardea/api/cardea/v1"
)

// session is one stream to the engine while it lasts.
type session struct {
	outbox chan *cardeav1.SessionRequest
	// end closes the stream; nothing is lost by it, for the next session begins with all that is owed.
	end context.CancelCauseFunc
	// up: the engine has taken a message, so the line stands.
	up atomic.Bool
}

var errSlowEngine = errors.New("the engine does not read what it is sent")

// maxAway bounds the pause between two sessions. It must stay well below the grace that an engine gives a runner whose session
// broke (5 s, durable.Config): who comes later has lost what it holds, and a once action that was done is then in doubt.
const maxAway = time.Second

// sayAway is how often the log tells that the engine is still away.
const sayAway = 30 * time.Second

// keepSession connects again and again until ctx ends.
func (r *Runner) keepSession(ctx context.Context) {
	wait := newBackoff(maxAway)
	var said time.Time // zero when the last session lasted
	for ctx.Err() == nil {
		begun := time.Now()
		err := r.converse(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > wait.limit {
			wait, said = newBackoff(maxAway), time.Time{}
		}
		level := slog.LevelDebug
		if time.Since(said) >= sayAway {
			level, said = slog.LevelWarn, time.Now()
		}
		r.cfg.Log.Log(ctx, level, "the session with the engine ended", "error", err)
		wait.sleep(ctx)
	}
}

// converse is one session: what attach queues first, then whatever happens.
func (r *Runner) converse(ctx context.Context) error {
	streamCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	stream, err := r.cfg.Work.Session(streamCtx)
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	defer func() { _ = stream.CloseResponse() }()
	// The context alone does not end the stream: HTTP/2 sees it only when the request's body, a pipe, ends too.
	context.AfterFunc(streamCtx, func() { _ = stream.CloseRequest() })
	s := r.attach(end)
	defer r.detach(s)
	sender := make(chan struct{})
	go func() {
		defer close(sender)
		s.deliver(streamCtx, stream.Send)
	}()
	defer func() { end(nil); <-sender }()
	r.metrics.sessions.Inc()
	for {
		m, err := stream.Receive()
		if err != nil {
			if cause := context.Cause(streamCtx); cause != nil {
				return cause
			}
			return fmt.Errorf("receive: %w", err)
		}
		if err := r.handle(ctx, m); err != nil {
			return err
		}
	}
}

// deliver sends what is queued, in order, until ctx ends or sending fails.
func (s *session) deliver(ctx context.Context, send func(*cardeav1.SessionRequest) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-s.outbox:
			if err := send(m); err != nil {
				s.end(fmt.Errorf("send: %w", err))
				return
			}
			s.up.Store(true)
		}
	}
}

// handle takes one message. Jobs live under ctx, not under the session: a broken line does not stop what is under way.
func (r *Runner) handle(ctx context.Context, m *cardeav1.SessionResponse) error {
	switch m := m.Message.(type) {
	case *cardeav1.SessionResponse_Task:
		return r.accept(ctx, m.Task)
	case *cardeav1.SessionResponse_Cancel:
		r.cancelJob(m.Cancel.PermitId, errCancelled)
	case *cardeav1.SessionResponse_Taken:
		r.taken(m.Taken.PermitId)
	case *cardeav1.SessionResponse_Drain:
		r.cfg.Log.Info("the engine is draining")
	}
	return nil
}

// attach makes s the session that messages go to, and queues what every session begins with: what there is, how much more may come,
// and what is owed.
func (r *Runner) attach(end context.CancelCauseFunc) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A job sends at most four messages in a session: twice started, result, credit. More waiting than that means that nobody reads.
	s := &session{outbox: make(chan *cardeav1.SessionRequest, 4*r.cfg.Slots+4), end: end}
	r.session = s
	free := r.cfg.Slots - len(r.jobs)
	if r.draining {
		free = 0
	}
	for id := range r.jobs {
		r.send(started(id)) // what is not named before the credit counts as lost
	}
	r.send(credit(free))
	for _, j := range r.jobs {
		if j.result != nil && !j.taken {
			r.send(j.result)
		}
	}
	return s
}

func (r *Runner) detach(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.session == s {
		r.session = nil
	}
}

// send queues m for the session, if there is one: the next one begins with all that matters. The lock is held.
func (r *Runner) send(m *cardeav1.SessionRequest) {
	if r.session == nil {
		return
	}
	select {
	case r.session.outbox <- m:
	default:
		r.session.end(errSlowEngine)
	}
}

func (r *Runner) tell(m *cardeav1.SessionRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.send(m)
}

// backoff doubles from 50 ms to its limit, with jitter so that runners do not come back all at once.
type backoff struct{ next, limit time.Duration }

func newBackoff(limit time.Duration) *backoff { return &backoff{50 * time.Millisecond, limit} }

func (b *backoff) sleep(ctx context.Context) {
	d := b.next/2 + rand.N(b.next)
	b.next = min(2*b.next, b.limit)
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
