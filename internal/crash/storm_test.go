package crash_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	cardeav1 "cardea/api/cardea/v1"
)

// acked is a run whose start was acknowledged.
type acked struct {
	id, workflow, request string
	// signed, cancelled: somebody was told that this has happened.
	signed, cancelled bool
	// doubt: a person found the run in doubt, and cancelled it.
	doubt bool
}

// storm is what people ask of a hub during one round.
type storm struct {
	h    *hub
	tag  string
	mu   sync.Mutex
	runs []*acked
}

const stormSteps = 4

// brew starts runs side by side: some that only work, one that is signed and one that is cancelled while it waits for a signature. It
// returns when everything that was asked has been acknowledged.
func (h *hub) brew(tag string) *storm {
	s := &storm{h: h, tag: tag}
	var group sync.WaitGroup
	for i := range stormSteps {
		group.Go(func() { s.start("crash/steps", fmt.Sprintf("%s-%d", tag, i)) })
	}
	group.Go(func() {
		if r := s.start("crash/signed", tag+"-signed"); r != nil {
			s.sign(r)
		}
	})
	group.Go(func() {
		if r := s.start("crash/signed", tag+"-cancelled"); r != nil {
			s.cancel(r)
		}
	})
	group.Wait()
	return s
}

// start asks for one run until it is acknowledged, always with the same request id.
func (s *storm) start(workflow, request string) *acked {
	return s.startWith(workflow, request, fmt.Sprintf(`{"id":%q}`, request))
}

// startWith is start with an input of its own.
func (s *storm) startWith(workflow, request, input string) *acked {
	r := &acked{workflow: workflow, request: request}
	s.h.insist("start "+request, func(ctx context.Context) error {
		answer, err := s.h.ana.Runs.Start(ctx, &cardeav1.StartRunRequest{Workflow: workflow, RequestId: request, InputJson: []byte(input)})
		r.id = answer.GetRunId()
		return err
	})
	if r.id == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs = append(s.runs, r)
	return r
}

// sign signs what the run waits for, until that is acknowledged or shown.
func (s *storm) sign(r *acked) {
	s.h.until("the approval of "+r.id, func() bool {
		r.signed = s.h.signWhatWaits(r.id)
		return r.signed || s.h.t.Failed()
	})
}

func (h *hub) signWhatWaits(run string) (signed bool) {
	h.t.Helper()
	for id := range h.waiting(run) {
		err := h.try(func(ctx context.Context) error { return h.sign(ctx, id) })
		switch there := h.approved(id); {
		case err == nil && !there:
			h.t.Errorf("the signature under %s was acknowledged and is not there (invariant 1)", id)
		case err != nil && !there:
			h.t.Errorf("sign %s: %v", id, err)
		}
		signed = true
	}
	return signed
}

// approved says whether bo's signature is under an approval.
func (h *hub) approved(id string) (signed bool) {
	h.insist("show approval "+id, func(ctx context.Context) error {
		shown, err := h.bo.Control.GetApproval(ctx, &cardeav1.GetApprovalRequest{Id: id})
		signed = len(shown.GetApproval().GetSignatures()) == 1
		return err
	})
	return signed
}

func (s *storm) cancel(r *acked) {
	s.h.insist("cancel "+r.id, func(ctx context.Context) error {
		_, err := s.h.ana.Runs.Cancel(ctx, &cardeav1.CancelRunRequest{RunId: r.id, Reason: "the storm"})
		return err
	})
	r.cancelled = true
}

// show reads a run.
func (h *hub) show(id string) (run *cardeav1.Run) {
	h.insist("show run "+id, func(ctx context.Context) error {
		answer, err := h.ana.Runs.Get(ctx, &cardeav1.GetRunRequest{RunId: id})
		run = answer.GetRun()
		return err
	})
	return run
}

// settle waits until every run has ended and been closed. What is in doubt is cancelled, as a person would; what waits once more, since
// an approval of one attempt was used up by an attempt that sent nothing, is signed once more.
func (s *storm) settle() {
	for _, r := range s.runs {
		var run *cardeav1.Run
		s.h.untilOr("run "+r.id+" to settle", func() bool {
			run = s.h.show(r.id)
			if run.GetStatus() == "in_doubt" && !r.doubt {
				r.doubt = true
				s.cancel(r)
			}
			if run.GetStatus() == "waiting" && r.signed && s.h.seen(r.id).times["POST"] == 0 {
				s.h.signWhatWaits(r.id)
			}
			return s.h.t.Failed() || ended(run.GetStatus()) && run.GetClosure() != nil
		}, func() string {
			explained, _ := s.h.cardea(ana, "run", "show", r.id)
			approvals, _ := s.h.cardea(bo, "approval", "list", "--run", r.id, "-o", "json")
			return describe(run) + explained + approvals + s.h.levels()
		})
	}
}

func ended(status string) bool {
	return status == "completed" || status == "faulted" || status == "cancelled"
}

// check compares what people were told with what is, and what the target has seen with what may be.
func (s *storm) check(mayDoubt bool) {
	s.listed()
	for _, r := range s.runs {
		run := s.h.show(r.id)
		if err := s.judge(r, run, mayDoubt); err != nil {
			s.h.t.Errorf("run %s (%s): %v\n%s", r.id, r.request, err, describe(run))
		}
	}
}

// listed demands one run for each request, and no other: asking again for what was not acknowledged must not start it twice.
func (s *storm) listed() {
	known := map[string]bool{}
	s.h.insist("list runs", func(ctx context.Context) error {
		answer, err := s.h.ana.Runs.List(ctx, &cardeav1.ListRunsRequest{Limit: 1000})
		for _, r := range answer.GetRuns() {
			known[r.GetId()] = true
		}
		return err
	})
	for _, r := range s.runs {
		if !known[r.id] {
			s.h.t.Errorf("run %s was acknowledged and is not listed", r.id)
		}
	}
}

func (s *storm) judge(r *acked, run *cardeav1.Run, mayDoubt bool) error {
	seen := s.h.seen(r.id)
	var errs []error
	for task, keys := range seen.keys {
		if len(keys) != 1 {
			errs = append(errs, fmt.Errorf("%s was delivered under %d idempotency keys (invariant 8)", task, len(keys)))
		}
	}
	if n := seen.times["POST"]; n > 1 {
		errs = append(errs, fmt.Errorf("the once action was delivered %d times (invariant 7)", n))
	}
	want := "completed"
	if r.cancelled {
		want = "cancelled"
	}
	switch {
	case r.doubt && !mayDoubt:
		errs = append(errs, errors.New("it was in doubt although no runner has died"))
	case run.GetStatus() != want && !r.doubt: // its doubt may have been resolved while it was being cancelled
		errs = append(errs, fmt.Errorf("it is %s, not %s", run.GetStatus(), want))
	}
	if run.GetStatus() == "completed" && seen.times["POST"] != 1 {
		errs = append(errs, fmt.Errorf("it has completed, and its charge was delivered %d times", seen.times["POST"]))
	}
	if r.workflow == "crash/steps" && (seen.times["GET"] == 0 || seen.times["PUT"] == 0) {
		errs = append(errs, errors.New("an idempotent task was never delivered"))
	}
	if r.cancelled && !r.doubt && seen.times["POST"] != 0 {
		errs = append(errs, errors.New("it was cancelled before anybody signed, and was delivered"))
	}
	return errors.Join(errs...)
}

// deliveries is what the target has seen of one run.
type deliveries struct {
	times map[string]int             // by method, which tells the tasks of a run apart
	keys  map[string]map[string]bool // by method
}

func (h *hub) seen(run string) deliveries {
	d := deliveries{map[string]int{}, map[string]map[string]bool{}}
	for _, a := range h.target.Arrivals() {
		if a.Run != run {
			continue
		}
		d.times[a.Method]++
		if d.keys[a.Method] == nil {
			d.keys[a.Method] = map[string]bool{}
		}
		d.keys[a.Method][a.Key] = true
	}
	return d
}

func describe(run *cardeav1.Run) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s error %s\n", run.GetWorkflow(), run.GetStatus(), run.GetErrorJson())
	for _, t := range run.GetTasks() {
		fmt.Fprintf(&b, "  %-8s %-10s attempt %d epoch %d %s\n", t.GetName(), t.GetStatus(), t.GetAttempt(), t.GetEpoch(), t.GetErrorJson())
	}
	return b.String()
}

// TestStorm is a round in which nobody dies.
func TestStorm(t *testing.T) {
	h := newHub(t, "warn")
	s := h.brew("calm")
	s.settle()
	s.check(false)
	h.checkLedger()
	h.checkLeases()
}
