package durable_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/durable"
)

const (
	get3 = `[{"a":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://hr.example.com/v1/{id}","authentication":{"use":"hr"}}},"output":{"as":"${ {id:\"x\", urls:[.url]} }"}}},
		{"b":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://hr.example.com/v2/{id}","authentication":{"use":"hr"}}},"output":{"as":"${ {id:\"y\", urls:($input.urls + [.url])} }"}}},
		{"c":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://hr.example.com/v3/{id}","authentication":{"use":"hr"}}},"output":{"as":"${ $input.urls + [.url] }"}}}]`
	want3 = `["https://hr.example.com/v1/7","https://hr.example.com/v2/x","https://hr.example.com/v3/y"]`
	once  = `[{"pay":{"call":"http","with":{"method":"post","endpoint":{"uri":"https://hr.example.com/pay","authentication":{"use":"hr"}},"body":{"n":1}}}}]`
)

func TestRunToItsEnd(t *testing.T) {
	w := newWorld(t)
	w.runner("a", "standard", 4)
	id := w.start(w.define(get3), `{"id":"7"}`)
	r := w.ended(id)
	if r.GetStatus() != "completed" || string(r.GetOutputJson()) != want3 {
		t.Fatalf("%s %s %s", r.GetStatus(), r.GetOutputJson(), r.GetErrorJson())
	}
	if len(r.GetTasks()) != 3 || r.GetClosure().GetLeafId() != "lf_end" || r.GetStartedBy() != "person:ann" || r.GetProvenance().GetKind() != "person" {
		t.Errorf("%v", r)
	}
	for _, task := range r.GetTasks() {
		if task.GetStatus() != "completed" || task.GetEpoch() != 1 || task.GetRunner() == "" || task.GetVerdict().GetPolicies()[0] != "p" || task.GetEndedAt() == nil || len(task.GetConnections()) != 1 {
			t.Errorf("%v", task)
		}
	}
	rows, err := w.driver.List(context.Background(), durable.Filter{Limit: 10})
	must(t, err)
	if len(rows) != 1 || rows[0].Status != "completed" || !rows[0].Closed || rows[0].Revision != r.GetRevision() {
		t.Errorf("%+v", rows)
	}
	if keys, most := w.target.most(); keys != 3 || most != 1 {
		t.Errorf("%d keys, at most %d deliveries", keys, most)
	}
}

func TestManyRunsShareCallsToTheAuthority(t *testing.T) {
	w := newWorld(t)
	w.runner("a", "standard", 20)
	w.runner("b", "standard", 20)
	digest := w.define(get3)
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if r := w.ended(w.start(digest, `{"id":"7"}`)); string(r.GetOutputJson()) != want3 {
				t.Errorf("%v", r)
			}
		})
	}
	group.Wait()
	w.authority.set(func() {
		if w.authority.asked >= 150 {
			t.Errorf("%d calls for 150 attempts: none was shared", w.authority.asked)
		}
	})
	if keys, most := w.target.most(); keys != 150 || most != 1 {
		t.Errorf("%d keys, at most %d deliveries", keys, most)
	}
}

// Invariant 1: what Start acknowledged is there after a crash that follows at once.
func TestStartIsDurableBeforeItIsAnswered(t *testing.T) {
	w := newWorld(t)
	digest := w.define(get3)
	w.faults.arm(1, false)
	if _, err := w.driver.Start(context.Background(), request(digest, `{}`, "lost")); err == nil {
		t.Fatal("a start was acknowledged that is not durable")
	}
	if err := w.shut(); !errors.Is(err, errPower) {
		t.Fatalf("the driver went on after a failed commit: %v", err)
	}
	w.open()
	rows, err := w.driver.List(context.Background(), durable.Filter{Limit: 10})
	must(t, err)
	if len(rows) != 0 {
		t.Fatalf("%+v", rows)
	}
	id := w.start(digest, `{"id":"7"}`)
	w.restart()
	w.runner("a", "standard", 4)
	if r := w.ended(id); r.GetStatus() != "completed" {
		t.Errorf("%v", r)
	}
}

// Invariant 1: a result is acknowledged only when it is durable.
func TestResultIsTakenOnlyWhenDurable(t *testing.T) {
	w := newWorld(t)
	run := w.runner("a", "standard", 4)
	held := make(chan struct{})
	run.act = func(t *cardeav1.WorkTask) *cardeav1.TaskResult { <-held; return run.ask(t) }
	id := w.start(w.define(once), `{}`)
	w.until(id, "given out", func(r *cardeav1.Run) bool { return len(r.GetTasks()) > 0 && r.GetTasks()[0].GetRunner() != "" })
	time.Sleep(20 * time.Millisecond) // the grant's own commit, which nobody waits for
	w.faults.arm(1, false)
	close(held)
	if err := <-w.stopped; !errors.Is(err, errPower) {
		t.Fatalf("%v", err)
	}
	w.stopped <- nil
	run.mu.Lock()
	owed := len(run.jobs)
	run.mu.Unlock()
	if owed != 1 {
		t.Fatal("a result was acknowledged that is not durable")
	}
	w.restart()
	if r := w.ended(id); r.GetStatus() != "completed" {
		t.Errorf("%v", r)
	}
	if _, most := w.target.most(); most != 1 {
		t.Errorf("delivered %d times", most)
	}
}

func TestStartIsIdempotent(t *testing.T) {
	w := newWorld(t)
	digest := w.define(get3)
	q := request(digest, `{"id":"7"}`, "same")
	first, err := w.driver.Start(context.Background(), q)
	must(t, err)
	again, err := w.driver.Start(context.Background(), q)
	if err != nil || again != first {
		t.Errorf("the same request began %s and %s: %v", first, again, err)
	}
	q.TicketID = "tkt_other"
	if again, err = w.driver.Start(context.Background(), q); err != nil || again != first {
		t.Errorf("the same request with another ticket began %s and %s: %v", first, again, err)
	}
	q.InputDigest = "sha256:other"
	if _, err = w.driver.Start(context.Background(), q); !errors.Is(err, durable.ErrConflict) {
		t.Errorf("another input under the same request id: %v", err)
	}
	q = request(digest, `{"id":"7"}`, "other")
	q.TicketID = "tkt_same"
	if again, err = w.driver.Start(context.Background(), q); err != nil || again != first {
		t.Errorf("a ticket began two runs: %s and %s: %v", first, again, err)
	}
}

func TestDenialNeedsNoRunner(t *testing.T) {
	w := newWorld(t)
	w.authority.set(func() {
		w.authority.decide = func(*cardeav1.Intent) cardeav1.Outcome { return cardeav1.Outcome_OUTCOME_DENY }
	})
	r := w.ended(w.start(w.define(get3), `{"id":"7"}`))
	if r.GetStatus() != "faulted" || !strings.Contains(string(r.GetErrorJson()), `"status":403`) || !strings.Contains(string(r.GetErrorJson()), `"instance":"/do/0/a"`) {
		t.Errorf("%s %s", r.GetStatus(), r.GetErrorJson())
	}
}

// Invariant 6: an answer without a verdict is a denial, even if it brings a permit.
func TestNoVerdictIsADenial(t *testing.T) {
	w := newWorld(t)
	w.runner("a", "standard", 4)
	w.authority.set(func() {
		w.authority.decide = func(*cardeav1.Intent) cardeav1.Outcome { return cardeav1.Outcome_OUTCOME_UNSPECIFIED }
	})
	r := w.ended(w.start(w.define(get3), `{"id":"7"}`))
	if r.GetStatus() != "faulted" || !strings.Contains(string(r.GetErrorJson()), `"status":403`) {
		t.Errorf("%s %s", r.GetStatus(), r.GetErrorJson())
	}
	if keys, _ := w.target.most(); keys != 0 {
		t.Error("something was attempted without a verdict")
	}
}

func TestApprovalNeedsNoRunnerAndKeepsNoCredit(t *testing.T) {
	w := newWorld(t)
	approved := false
	w.authority.set(func() {
		w.authority.decide = func(*cardeav1.Intent) cardeav1.Outcome {
			if approved {
				return cardeav1.Outcome_OUTCOME_ALLOW
			}
			return cardeav1.Outcome_OUTCOME_PENDING
		}
	})
	id := w.start(w.define(once), `{}`)
	r := w.inStatus(id, "waiting")
	if got := r.GetTasks()[0]; got.GetStatus() != "waiting" || got.GetApprovalId() != "apr_"+id {
		t.Errorf("%v", got)
	}
	w.runner("a", "standard", 1)
	other := w.start(w.define(once), `{}`)
	w.inStatus(other, "waiting")
	w.restart() // people may take longer than an engine lives
	w.inStatus(id, "waiting")
	w.authority.set(func() { approved = true })
	w.authority.settle("apr_"+id, id, "approved")
	if r := w.ended(id); r.GetStatus() != "completed" {
		t.Errorf("%v", r)
	}
	w.authority.settle("apr_"+other, other, "approved")
	if r := w.ended(other); r.GetStatus() != "completed" {
		t.Errorf("%v", r)
	}
	if _, most := w.target.most(); most != 1 {
		t.Errorf("delivered %d times", most)
	}
}

// The word that an approval was settled may be missed: after a gap everything that waits is asked about again.
func TestApprovalSettledDuringAGap(t *testing.T) {
	w := newWorld(t)
	w.runner("a", "standard", 1)
	approved := false
	w.authority.set(func() {
		w.authority.decide = func(*cardeav1.Intent) cardeav1.Outcome {
			if approved {
				return cardeav1.Outcome_OUTCOME_ALLOW
			}
			return cardeav1.Outcome_OUTCOME_PENDING
		}
	})
	id := w.start(w.define(once), `{}`)
	w.inStatus(id, "waiting")
	w.authority.set(func() {
		approved = true
		for c := range w.authority.listeners {
			close(c)
			delete(w.authority.listeners, c)
		}
	})
	if r := w.ended(id); r.GetStatus() != "completed" {
		t.Errorf("%v", r)
	}
}

func TestReroute(t *testing.T) {
	w := newWorld(t)
	w.runner("a", "standard", 2)
	w.authority.set(func() { w.authority.tier = "privileged" })
	id := w.start(w.define(once), `{}`)
	w.runner("p", "privileged", 2)
	r := w.ended(id)
	if r.GetStatus() != "completed" || !strings.Contains(r.GetTasks()[0].GetRunner(), "/privileged/") {
		t.Errorf("%v", r)
	}
}

// Invariant 19: while the authority is away nothing is attempted, and nothing finished is lost.
func TestAuthorityAway(t *testing.T) {
	w := newWorld(t)
	run := w.runner("a", "standard", 4)
	held := make(chan struct{})
	run.act = func(t *cardeav1.WorkTask) *cardeav1.TaskResult { <-held; return run.ask(t) }
	id := w.start(w.define(get3), `{"id":"7"}`)
	w.until(id, "given out", func(r *cardeav1.Run) bool { return len(r.GetTasks()) > 0 && r.GetTasks()[0].GetRunner() != "" })
	w.authority.set(func() { w.authority.away = true })
	close(held)
	w.until(id, "past its first task", func(r *cardeav1.Run) bool {
		return len(r.GetTasks()) == 2 && r.GetTasks()[0].GetStatus() == "completed"
	})
	late := w.start(w.define(once), `{}`)
	time.Sleep(50 * time.Millisecond)
	if keys, _ := w.target.most(); keys != 1 {
		t.Errorf("%d attempts were made without a verdict", keys-1)
	}
	w.authority.set(func() { w.authority.away = false })
	if r := w.ended(id); string(r.GetOutputJson()) != want3 {
		t.Errorf("%v", r)
	}
	if r := w.ended(late); r.GetStatus() != "completed" {
		t.Errorf("%v", r)
	}
}

// One intent that the authority fails on or refuses to read holds up nobody else.
func TestOneBadIntent(t *testing.T) {
	for name, bad := range map[string]error{"refused": &durable.Refusal{Reason: "malformed"}, "failed": &durable.Fault{Reason: "internal"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.runner("a", "standard", 8)
			digest, other := w.define(get3), w.define(once)
			w.authority.set(func() {
				w.authority.broken = func(in *cardeav1.Intent) error {
					if in.GetTask().GetTask() == "/do/0/pay" {
						return bad
					}
					return nil
				}
			})
			ill := w.start(other, `{}`)
			for range 5 {
				if r := w.ended(w.start(digest, `{"id":"7"}`)); r.GetStatus() != "completed" {
					t.Errorf("%v", r)
				}
			}
			if name == "refused" {
				if r := w.ended(ill); !strings.Contains(string(r.GetErrorJson()), `"status":403`) {
					t.Errorf("%v", r)
				}
			}
		})
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	run := w.runner("a", "standard", 4)
	held := make(chan struct{})
	defer close(held)
	run.act = func(t *cardeav1.WorkTask) *cardeav1.TaskResult { <-held; return run.ask(t) }
	id := w.start(w.define(get3), `{"id":"7"}`)
	w.until(id, "given out", func(r *cardeav1.Run) bool { return len(r.GetTasks()) > 0 && r.GetTasks()[0].GetRunner() != "" })
	must(t, w.driver.Cancel(context.Background(), id, "ann", "wrong month"))
	r := w.ended(id)
	if r.GetStatus() != "cancelled" || r.GetTasks()[0].GetStatus() != "cancelled" {
		t.Errorf("%v", r)
	}
	must(t, w.driver.Cancel(context.Background(), id, "ann", "again"))
	w.authority.set(func() {
		if w.authority.runs[id].ended != "cancelled" {
			t.Error("the authority was not told")
		}
	})
	if err := w.driver.Cancel(context.Background(), "run_none", "ann", ""); !errors.Is(err, durable.ErrNoRun) {
		t.Errorf("%v", err)
	}
}

// A run that is cancelled while the authority cannot be asked must not be opened and left open there.
func TestCancelWhileOpening(t *testing.T) {
	w := newWorld(t)
	w.authority.set(func() { w.authority.away = true })
	id := w.start(w.define(get3), `{}`)
	must(t, w.driver.Cancel(context.Background(), id, "ann", ""))
	w.authority.set(func() { w.authority.away = false })
	if r := w.ended(id); r.GetStatus() != "cancelled" {
		t.Errorf("%v", r)
	}
	w.authority.set(func() {
		if r := w.authority.runs[id]; r != nil && r.ended != "cancelled" {
			t.Error("the run is open at the authority")
		}
	})
}

// Invariant 9: a result counts only from the runner and the key, and of the epoch, that hold the attempt now.
func TestStaleResults(t *testing.T) {
	w := newWorld(t)
	run := w.runner("a", "standard", 4)
	held := make(chan struct{})
	tasks := make(chan *cardeav1.WorkTask, 1)
	run.act = func(t *cardeav1.WorkTask) *cardeav1.TaskResult { tasks <- t; <-held; return run.ask(t) }
	id := w.start(w.define(once), `{}`)
	task := <-tasks
	for name, forge := range map[string]func(*cardeav1.TaskResult) (from string, key string){
		"older epoch":  func(r *cardeav1.TaskResult) (string, string) { r.Epoch--; return run.id.ID, run.id.Key },
		"newer epoch":  func(r *cardeav1.TaskResult) (string, string) { r.Epoch++; return run.id.ID, run.id.Key },
		"other permit": func(r *cardeav1.TaskResult) (string, string) { r.PermitId = "prm_x"; return run.id.ID, run.id.Key },
		"other runner": func(*cardeav1.TaskResult) (string, string) {
			return "spiffe://cardea.local/runner/standard/b", run.id.Key
		},
		"other key": func(*cardeav1.TaskResult) (string, string) { return run.id.ID, "key-2" },
		"other task": func(r *cardeav1.TaskResult) (string, string) {
			r.Task = &cardeav1.TaskRef{RunId: id, Task: "/do/9/x"}
			return run.id.ID, run.id.Key
		},
		"other visit": func(r *cardeav1.TaskResult) (string, string) {
			r.Task = &cardeav1.TaskRef{RunId: id, Task: task.GetTask().GetTask(), Visit: 1}
			return run.id.ID, run.id.Key
		},
		"no such run": func(r *cardeav1.TaskResult) (string, string) {
			r.Task = &cardeav1.TaskRef{RunId: "run_x", Task: task.GetTask().GetTask()}
			return run.id.ID, run.id.Key
		},
		"nothing at all": func(r *cardeav1.TaskResult) (string, string) { r.Task = nil; return run.id.ID, run.id.Key },
	} {
		t.Run(name, func(t *testing.T) {
			res := answerWith(task, 200, `"forged"`)
			from := run.id
			from.ID, from.Key = forge(res)
			stale, err := w.driver.Result(context.Background(), from, res)
			if err != nil || !stale {
				t.Errorf("stale %v, error %v", stale, err)
			}
		})
	}
	r, err := w.driver.Get(context.Background(), id)
	must(t, err)
	revision := r.GetRevision()
	close(held)
	r = w.ended(id)
	if strings.Contains(string(r.GetOutputJson()), "forged") || r.GetRevision() != revision+2 {
		t.Errorf("a forged result was journalled: %v", r)
	}
}

func TestLostRunner(t *testing.T) {
	for _, c := range []struct {
		name, do, status string
		reborn           bool
		deliveries       int
	}{
		{"idempotent is attempted again", get3, "completed", false, 2},
		{"once is in doubt", once, "in_doubt", false, 1},
		{"a reborn runner has lost what it had", get3, "completed", true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			first := w.runner("a", "standard", 4)
			began := make(chan struct{})
			first.act = func(task *cardeav1.WorkTask) *cardeav1.TaskResult {
				w.target.deliver(task.GetIdempotencyKey())
				close(began)
				select {}
			}
			id := w.start(w.define(c.do), `{"id":"7"}`)
			<-began
			first.halt()
			if c.reborn {
				first.act = nil
				first.reborn("key-1")
			} else {
				w.runner("b", "standard", 4)
			}
			r := w.inStatus(id, c.status)
			if c.status == "completed" && string(r.GetOutputJson()) != want3 {
				t.Errorf("%s", r.GetOutputJson())
			}
			if got := r.GetTasks()[0].GetAttempt(); got != 2 {
				t.Errorf("attempt %d", got)
			}
			if _, most := w.target.most(); most != c.deliveries {
				t.Errorf("delivered %d times, not %d", most, c.deliveries)
			}
			if c.status == "in_doubt" {
				must(t, w.driver.Cancel(context.Background(), id, "ann", "decided"))
				if r := w.ended(id); r.GetStatus() != "cancelled" {
					t.Errorf("%v", r)
				}
			}
		})
	}
}

// A line that breaks and is mended loses nothing and repeats nothing.
func TestReconnect(t *testing.T) {
	w := newWorld(t)
	run := w.runner("a", "standard", 4)
	held := make(chan struct{})
	began := make(chan struct{}, 3)
	run.act = func(t *cardeav1.WorkTask) *cardeav1.TaskResult { began <- struct{}{}; <-held; return run.ask(t) }
	id := w.start(w.define(once), `{}`)
	<-began
	run.session.Close()
	run.attach(w.driver)
	time.Sleep(300 * time.Millisecond) // longer than the grace
	close(held)
	if r := w.ended(id); r.GetStatus() != "completed" || r.GetTasks()[0].GetAttempt() != 1 {
		t.Errorf("%v", r)
	}
	if _, most := w.target.most(); most != 1 {
		t.Errorf("delivered %d times", most)
	}
}

// A late answer of the last epoch ends a doubt that its own silence caused.
func TestLateAnswerEndsDoubt(t *testing.T) {
	w := newWorld(t)
	run := w.runner("a", "standard", 4)
	tasks := make(chan *cardeav1.WorkTask, 1)
	held := make(chan struct{})
	defer close(held)
	run.act = func(t *cardeav1.WorkTask) *cardeav1.TaskResult { tasks <- t; <-held; return run.ask(t) }
	id := w.start(w.define(once), `{}`)
	task := <-tasks
	run.session.Close()
	w.runner("b", "standard", 4)
	w.inStatus(id, "in_doubt")
	w.restart()
	w.inStatus(id, "in_doubt")
	stale, err := w.driver.Result(context.Background(), run.id, answerWith(task, 200, `{"paid":true}`))
	if err != nil || stale {
		t.Fatalf("stale %v, error %v", stale, err)
	}
	if r := w.ended(id); r.GetStatus() != "completed" || string(r.GetOutputJson()) != `{"paid":true}` {
		t.Errorf("%v", r)
	}
}

func TestRestartKeepsWhatRunnersHold(t *testing.T) {
	w := newWorld(t)
	run := w.runner("a", "standard", 4)
	held := make(chan struct{})
	began := make(chan struct{}, 3)
	run.act = func(t *cardeav1.WorkTask) *cardeav1.TaskResult { began <- struct{}{}; <-held; return run.ask(t) }
	id := w.start(w.define(once), `{}`)
	<-began
	time.Sleep(20 * time.Millisecond) // the grant's own commit, which nobody waits for
	w.restart()
	time.Sleep(300 * time.Millisecond) // longer than the grace
	close(held)
	if r := w.ended(id); r.GetStatus() != "completed" || r.GetTasks()[0].GetAttempt() != 1 {
		t.Errorf("%v", r)
	}
	if _, most := w.target.most(); most != 1 {
		t.Errorf("delivered %d times", most)
	}
}

// The property behind recovery: wherever a commit fails, done or not, the run ends as it would have, and nothing is delivered twice
// under `once`.
func TestCrashAtEveryCommit(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			finished := crashAt(t, n, after)
			if finished {
				if n < 6 {
					t.Fatalf("only %d commits were tried", n)
				}
				break
			}
		}
	}
}

// crashAt fails the n-th commit; it reports true when the run had fewer.
func crashAt(t *testing.T, n int, after bool) (finished bool) {
	name := fmt.Sprintf("commit=%d,done=%v", n, after)
	t.Run(name, func(t *testing.T) {
		w := newWorld(t)
		w.runner("a", "standard", 4)
		digest, pay := w.define(get3), w.define(once)
		w.faults.arm(n, after)
		var ids []string
		for i, d := range []string{digest, pay} {
			id, err := w.driver.Start(context.Background(), request(d, `{"id":"7"}`, fmt.Sprint("run", i)))
			if err != nil {
				break
			}
			ids = append(ids, id)
		}
		select {
		case err := <-w.stopped:
			if !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			w.stopped <- nil
		case <-closedRuns(w, ids):
			finished = true
			return
		}
		w.shut()
		w.faults.arm(0, false)
		w.open()
		// What was not acknowledged is asked again, under the same name.
		ids = nil
		for i, d := range []string{digest, pay} {
			id, err := w.driver.Start(context.Background(), request(d, `{"id":"7"}`, fmt.Sprint("run", i)))
			must(t, err)
			ids = append(ids, id)
		}
		if r := w.ended(ids[0]); r.GetStatus() != "completed" || string(r.GetOutputJson()) != want3 {
			t.Errorf("%v", r)
		}
		r := w.until(ids[1], "at rest", func(r *cardeav1.Run) bool { return r.GetClosure() != nil || r.GetStatus() == "in_doubt" })
		if r.GetStatus() != "completed" && r.GetStatus() != "in_doubt" {
			t.Errorf("%v", r)
		}
		w.target.mu.Lock()
		defer w.target.mu.Unlock()
		for key, deliveries := range w.target.delivered {
			if strings.Contains(key, "/pay") && deliveries > 1 {
				t.Errorf("a once action was delivered %d times", deliveries)
			}
		}
	})
	return finished
}

// closedRuns is closed when two runs have been closed.
func closedRuns(w *world, ids []string) <-chan struct{} {
	done := make(chan struct{})
	d := w.driver
	go func() {
		for _, id := range ids {
			if err := d.Watch(context.Background(), id, 0, func(*cardeav1.Run) error { return nil }); err != nil {
				return
			}
		}
		if len(ids) == 2 {
			close(done)
		}
	}()
	return done
}

// Invariant 12: a journal that does not replay holds its run, says which format this build knows, and harms no other.
func TestJournalThatDoesNotReplay(t *testing.T) {
	for name, tamper := range map[string]string{
		"other commands":  `UPDATE events SET commands = zeroblob(32) WHERE seq = 2`,
		"other event":     `UPDATE events SET data = CAST('{"at":"2026-01-01T00:00:00Z","continued":{}}' AS BLOB) WHERE seq = 2`,
		"no event at all": `UPDATE events SET data = CAST('x' AS BLOB) WHERE seq = 2`,
		"a gap":           `DELETE FROM events WHERE seq = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			digest := w.define(get3)
			id := w.start(digest, `{"id":"7"}`)
			w.inStatus(id, "running")
			w.shut()
			w.edit(tamper)
			w.open()
			_, err := w.driver.Get(context.Background(), id)
			if !errors.Is(err, durable.ErrReplay) {
				t.Fatalf("%v", err)
			}
			if err := w.driver.Cancel(context.Background(), id, "ann", ""); !errors.Is(err, durable.ErrReplay) {
				t.Errorf("a run that is held was changed: %v", err)
			}
			w.runner("a", "standard", 4)
			if r := w.ended(w.start(digest, `{"id":"7"}`)); r.GetStatus() != "completed" {
				t.Errorf("%v", r)
			}
		})
	}
}

func TestJournalOfAnotherFormatIsNotOpened(t *testing.T) {
	w := newWorld(t)
	w.start(w.define(get3), `{"id":"7"}`)
	w.shut()
	w.edit(`UPDATE runs SET format = 99`)
	err := w.tryOpen()
	if err == nil || !strings.Contains(err.Error(), "format 99; this build knows format 1") {
		t.Errorf("%v", err)
	}
}

// edit changes the journal behind everybody's back.
func (w *world) edit(statement string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", w.path)
	must(w.t, err)
	_, err = db.Exec(statement)
	must(w.t, err)
	must(w.t, db.Close())
}

// Runs in which nothing moves are forgotten when others need the place.
func TestParkedRunsLeaveMemory(t *testing.T) {
	w := newWorld(t) // which keeps two
	w.runner("a", "standard", 4)
	approved := false
	w.authority.set(func() {
		w.authority.decide = func(*cardeav1.Intent) cardeav1.Outcome {
			if approved {
				return cardeav1.Outcome_OUTCOME_ALLOW
			}
			return cardeav1.Outcome_OUTCOME_PENDING
		}
	})
	digest := w.define(once)
	var ids []string
	for range 10 {
		ids = append(ids, w.start(digest, `{}`))
	}
	for _, id := range ids {
		w.inStatus(id, "waiting")
	}
	deadline := time.Now().Add(patience)
	for durable.InMemory(w.driver) > 2 {
		if time.Now().After(deadline) {
			t.Fatalf("%d runs are in memory", durable.InMemory(w.driver))
		}
		time.Sleep(time.Millisecond)
	}
	w.authority.set(func() { approved = true })
	for _, id := range ids {
		w.authority.settle("apr_"+id, id, "approved")
	}
	for _, id := range ids {
		if r := w.ended(id); r.GetStatus() != "completed" {
			t.Errorf("%v", r)
		}
	}
}
