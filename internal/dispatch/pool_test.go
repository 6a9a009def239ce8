package dispatch

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cardeav1 "cardea/api/cardea/v1"
)

type item struct{ run, tier, name string }

func (i *item) Run() string  { return i.run }
func (i *item) Tier() string { return i.tier }

// events records what a pool tells its owner.
type events struct {
	mu      sync.Mutex
	matched []string
	lost    []string
	starved []string
	last    *Session
}

func (e *events) pool() *Pool {
	return New(Config{Grace: 5 * time.Second, Patience: 2 * time.Second,
		Match: func(a Attempt, s *Session) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.matched = append(e.matched, a.(*item).name+"@"+s.Runner().ID)
			e.last = s
		},
		Lost:    func(h Held) { e.mu.Lock(); defer e.mu.Unlock(); e.lost = append(e.lost, h.Permit) },
		Starved: func(a Attempt) { e.mu.Lock(); defer e.mu.Unlock(); e.starved = append(e.starved, a.(*item).name) },
	})
}

func (e *events) take(which *[]string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := *which
	*which = nil
	slices.Sort(out)
	return out
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func add(p *Pool, tier string, names ...string) {
	for _, n := range names {
		p.Enqueue(&item{run: n[:1], tier: tier, name: n})
	}
}

func TestTurnsBetweenRuns(t *testing.T) {
	var e events
	p := e.pool()
	add(p, "standard", "a1", "a2", "a3", "b1", "c1", "c2")
	s := p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"})
	var order []string
	for range 6 {
		s.Credit(1)
		order = append(order, e.take(&e.matched)...)
	}
	expect(t, "order", order, "a1@r", "b1@r", "c1@r", "a2@r", "c2@r", "a3@r")
	if l := p.Levels()["standard"]; l.Queued != 0 || l.Credit != 0 {
		t.Errorf("%+v", l)
	}
}

func TestCreditIsTheBound(t *testing.T) {
	var e events
	p := e.pool()
	s := p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"})
	s.Credit(2)
	add(p, "standard", "a1", "a2", "a3")
	add(p, "privileged", "z1")
	expect(t, "matched", e.take(&e.matched), "a1@r", "a2@r")
	s.Release()
	expect(t, "after a release", e.take(&e.matched), "a3@r")
	s.Credit(1 << 30)
	if got := p.Levels()["standard"].Credit; got != MaxCredit {
		t.Errorf("credit %d", got)
	}
	p.Connect(Runner{ID: "p", Key: "k", Tier: "privileged"}).Credit(1)
	expect(t, "the other tier", e.take(&e.matched), "z1@p")
}

func TestSessionsTakeTurns(t *testing.T) {
	var e events
	p := e.pool()
	p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"}).Credit(2)
	p.Connect(Runner{ID: "s", Key: "k", Tier: "standard"}).Credit(2)
	add(p, "standard", "a1", "a2", "a3", "a4")
	expect(t, "matched", e.take(&e.matched), "a1@r", "a2@s", "a3@r", "a4@s")
}

func TestNewSessionReplacesTheOldOnesCredit(t *testing.T) {
	var e events
	p := e.pool()
	old := p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"})
	old.Credit(5)
	next := p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"})
	select {
	case <-old.Done():
	default:
		t.Error("the old session lives on")
	}
	next.Credit(1)
	old.Credit(3)
	old.Close()
	add(p, "standard", "a1", "a2")
	expect(t, "matched", e.take(&e.matched), "a1@r")
	if old.Assign(Held{Permit: "x"}, &cardeav1.WorkTask{}) {
		t.Error("a task was given to a session that has ended")
	}
}

func TestWithdrawn(t *testing.T) {
	var e events
	p := e.pool()
	a, b, c := &item{"a", "standard", "a1"}, &item{"a", "standard", "a2"}, &item{"b", "standard", "b1"}
	p.Enqueue(a)
	p.Enqueue(b)
	p.Enqueue(c)
	if !p.Withdraw(a) || p.Withdraw(a) || !p.Withdraw(c) {
		t.Error("withdrawals")
	}
	p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"}).Credit(5)
	expect(t, "matched", e.take(&e.matched), "a2@r")
}

func TestStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		p := e.pool()
		add(p, "standard", "a1")
		expect(t, "without any runner, at once", e.take(&e.starved), "a1")
		s := p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"})
		add(p, "standard", "a2", "a3")
		expect(t, "with a runner, not at once", e.take(&e.starved))
		s.Credit(2)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		expect(t, "after a while, what still waits", e.take(&e.starved), "a3")
		p.Close()
	})
}

func hold(p *Pool, s *Session, permits ...string) {
	for _, permit := range permits {
		s.Assign(Held{Run: "a", Task: permit, Permit: permit, Deadline: time.Now().Add(time.Minute)}, &cardeav1.WorkTask{PermitId: permit})
	}
}

// back begins a session as a runner does that has these tasks.
func back(p *Pool, r Runner, credit uint32, has ...string) *Session {
	s := p.Connect(r)
	for _, permit := range has {
		s.Started(permit)
	}
	s.Credit(credit)
	return s
}

func TestLost(t *testing.T) {
	r := Runner{ID: "r", Key: "k", Tier: "standard"}
	for _, c := range []struct {
		name  string
		story func(p *Pool, s *Session)
		after time.Duration
		want  []string
	}{
		{"gone for longer than the grace", func(_ *Pool, s *Session) { s.Close() }, 6 * time.Second, []string{"p1", "p2"}},
		{"gone for less", func(_ *Pool, s *Session) { s.Close() }, 4 * time.Second, nil},
		{"back in time with both", func(p *Pool, s *Session) { s.Close(); back(p, r, 2, "p1", "p2") }, 20 * time.Second, nil},
		{"back in time with nothing", func(p *Pool, s *Session) { s.Close(); back(p, r, 4) }, time.Second, []string{"p1", "p2"}},
		{"back without one that it never got", func(p *Pool, s *Session) { s.Started("p1"); s.Close(); back(p, r, 3, "p1") }, time.Second, []string{"p2"}},
		{"back with one, and one that is settled", func(p *Pool, s *Session) { s.Close(); back(p, r, 2, "p1", "p0") }, time.Second, []string{"p2"}},
		{"back before its line was missed", func(p *Pool, _ *Session) { back(p, r, 3, "p2") }, time.Second, []string{"p1"}},
		{"given more while it is back", func(p *Pool, s *Session) { s.Close(); hold(p, back(p, r, 2, "p1", "p2"), "p3") }, time.Second, nil},
		{"back with another key", func(p *Pool, s *Session) { s.Close(); p.Connect(Runner{ID: "r", Key: "k2", Tier: "standard"}) }, 0, []string{"p1", "p2"}},
		{"settled before", func(p *Pool, s *Session) { p.Settle("r", "p1"); s.Close() }, 6 * time.Second, []string{"p2"}},
		{"past its deadline", func(*Pool, *Session) {}, 66 * time.Second, []string{"p1", "p2"}},
		{"not yet past its deadline and the grace", func(*Pool, *Session) {}, 64 * time.Second, nil},
		{"cancelled", func(p *Pool, _ *Session) { p.Cancel("r", "p1"); p.Cancel("r", "p2") }, 66 * time.Second, nil},
		{"the engine stops", func(p *Pool, s *Session) { p.Close(); s.Close() }, 66 * time.Second, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e events
				p := e.pool()
				s := p.Connect(r)
				s.Credit(4)
				hold(p, s, "p1", "p2")
				c.story(p, s)
				time.Sleep(c.after)
				synctest.Wait()
				expect(t, "lost", e.take(&e.lost), c.want...)
				p.Close()
			})
		})
	}
}

func TestRestore(t *testing.T) {
	r := Runner{ID: "r", Key: "k", Tier: "standard"}
	for _, c := range []struct {
		name  string
		story func(p *Pool)
		want  []string
	}{
		{"never comes back", func(*Pool) {}, []string{"p1", "p2"}},
		{"comes back with them", func(p *Pool) { back(p, r, 2, "p1", "p2") }, nil},
		{"comes back without them", func(p *Pool) { back(p, r, 4) }, []string{"p1", "p2"}},
		{"comes back with one", func(p *Pool) { back(p, r, 3, "p2") }, []string{"p1"}},
		{"comes back with one, and one whose return it owes", func(p *Pool) { back(p, r, 2, "p0", "p1") }, []string{"p2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e events
				p := e.pool()
				p.Restore(Held{Run: "a", Task: "t", Permit: "p1", Runner: r, Deadline: time.Now().Add(time.Minute)})
				p.Restore(Held{Run: "a", Task: "u", Permit: "p2", Runner: r, Deadline: time.Now().Add(time.Minute)})
				c.story(p)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				expect(t, "lost", e.take(&e.lost), c.want...)
				p.Close()
			})
		})
	}
}

func TestOutboxOrderAndOverflow(t *testing.T) {
	var e events
	p := e.pool()
	s := p.Connect(Runner{ID: "r", Key: "k", Tier: "standard"})
	hold(p, s, "p1")
	p.Cancel("r", "p1")
	s.Taken("p1", true)
	p.Drain()
	var got []string
	for range 4 {
		got = append(got, fmt.Sprintf("%T", (<-s.Outbox()).GetMessage()))
	}
	expect(t, "outbox", got, "*cardeav1.SessionResponse_Task", "*cardeav1.SessionResponse_Cancel", "*cardeav1.SessionResponse_Taken", "*cardeav1.SessionResponse_Drain")
	for range outboxSize + 1 {
		s.Taken("p", false)
	}
	select {
	case <-s.Done():
	default:
		t.Error("a runner that does not read keeps its session")
	}
}
