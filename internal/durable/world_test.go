package durable_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/action"
	"cardea/internal/dispatch"
	"cardea/internal/durable"
	"cardea/internal/durable/sqljournal"
	"cardea/internal/engine"
	"cardea/internal/flow"
	"cardea/internal/sqlite"
	"cardea/internal/store"
)

// The world of these tests: a real driver over a real journal, and an authority, a target and runners that keep the same rules as
// the real ones and fail the test when the driver breaks one.

const patience = 10 * time.Second

type world struct {
	t         testing.TB
	path      string
	db        store.DB
	faults    *faults
	authority *authority
	target    *target
	driver    *durable.Driver
	stopped   chan error
	cancel    context.CancelFunc
	runners   []*runner
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "journal.db"), faults: &faults{}}
	w.target = &target{delivered: map[string]int{}}
	w.authority = &authority{t: t, runs: map[string]*run{}, tickets: map[string]string{}, definitions: map[string][]byte{}, instances: map[string]*instance{},
		permits: map[string]*permit{}, listeners: map[chan *cardeav1.WatchDecideResponse]bool{}}
	w.authority.decide = func(*cardeav1.Intent) cardeav1.Outcome { return cardeav1.Outcome_OUTCOME_ALLOW }
	t.Cleanup(w.close)
	w.open()
	return w
}

// open starts a driver over whatever the journal holds.
func (w *world) open() {
	w.t.Helper()
	must(w.t, w.tryOpen())
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.stopped = cancel, make(chan error, 1)
	driver, stopped := w.driver, w.stopped
	go func() { stopped <- driver.Run(ctx) }()
	for _, r := range w.runners {
		r.attach(w.driver)
	}
}

func (w *world) tryOpen() error {
	migrations, err := sqljournal.Migrations()
	must(w.t, err)
	w.db, err = sqlite.Open(context.Background(), w.path, migrations)
	must(w.t, err)
	journal := sqljournal.New(w.db)
	w.driver, err = durable.Open(context.Background(), durable.Config{Journal: &faulty{journal, w.faults}, Definitions: journal, Grants: journal,
		Authority: w.authority, Load: load, Log: slog.New(slog.DiscardHandler), Grace: 200 * time.Millisecond, Patience: 20 * time.Millisecond, Idle: 2})
	if err != nil {
		err = errors.Join(err, w.db.Close())
	}
	return err
}

// shut stops the driver and closes the journal; what the driver ended with is the answer.
func (w *world) shut() error {
	w.cancel()
	err := <-w.stopped
	must(w.t, w.db.Close())
	w.driver = nil
	return err
}

func (w *world) close() {
	if w.driver != nil {
		w.shut()
	}
	for _, r := range w.runners {
		r.halt()
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.shut()
	w.open()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(canonical []byte) (*engine.Program, error) {
	plan, findings := flow.Compile(canonical, flow.Options{Profile: true})
	if plan == nil {
		return nil, fmt.Errorf("%+v", findings)
	}
	return engine.Load(plan)
}

// define registers a definition whose `do` is given.
func (w *world) define(do string) string {
	w.t.Helper()
	canonical, err := jcs.Transform([]byte(`{"document":{"dsl":"1.0.3","namespace":"payroll","name":"test","version":"1.0.0"},
		"use":{"secrets":["hr"],"authentications":{"hr":{"bearer":{"use":"hr"}}}},"do":` + do + `}`))
	must(w.t, err)
	_, err = load(canonical)
	must(w.t, err)
	digest := flow.Digest(canonical)
	w.authority.mu.Lock()
	defer w.authority.mu.Unlock()
	w.authority.definitions[digest] = canonical
	return digest
}

var requests atomic.Int64

func (w *world) start(digest, input string) string {
	w.t.Helper()
	n := requests.Add(1)
	id, err := w.driver.Start(context.Background(), request(digest, input, fmt.Sprintf("req_%d", n)))
	must(w.t, err)
	return id
}

func request(digest, input, name string) durable.StartRequest {
	return durable.StartRequest{Workflow: "payroll/test", Version: "1.0.0", Digest: digest, Person: "ann", RequestID: name,
		TicketID: "tkt_" + name, Ticket: "ticket " + name, Input: []byte(input), InputDigest: action.Digest([]byte(input))}
}

// until waits for a run to satisfy a condition.
func (w *world) until(id, what string, holds func(*cardeav1.Run) bool) *cardeav1.Run {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := errors.New("done")
	var last *cardeav1.Run
	err := w.driver.Watch(ctx, id, 0, func(r *cardeav1.Run) error {
		last = r
		if holds(r) {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		w.t.Fatalf("run %s is not %s: %v\n%v", id, what, err, last)
	}
	return last
}

func (w *world) ended(id string) *cardeav1.Run {
	w.t.Helper()
	return w.until(id, "ended", func(r *cardeav1.Run) bool { return r.GetClosure() != nil })
}

func (w *world) inStatus(id, status string) *cardeav1.Run {
	w.t.Helper()
	return w.until(id, status, func(r *cardeav1.Run) bool { return r.GetStatus() == status })
}

// faults make the journal fail.
type faults struct {
	mu sync.Mutex
	// left counts the writes until one fails; 0: none does. after makes it fail when it has been committed.
	left   int
	after  bool
	writes int
}

var errPower = errors.New("the power is gone")

func (f *faults) hit() (before, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.left == 0 {
		return false, false
	}
	f.left--
	if f.left > 0 {
		return false, false
	}
	return !f.after, f.after
}

func (f *faults) arm(n int, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.after, f.writes = n, after, 0
}

type faulty struct {
	*sqljournal.Journal
	faults *faults
}

func (j *faulty) Begin(ctx context.Context, r durable.Record, e durable.Entry) (durable.Record, error) {
	before, after := j.faults.hit()
	if before {
		return durable.Record{}, errPower
	}
	out, err := j.Journal.Begin(ctx, r, e)
	if after {
		return durable.Record{}, errPower
	}
	return out, err
}

func (j *faulty) Append(ctx context.Context, run string, e durable.Entry, p *durable.Progress) error {
	before, after := j.faults.hit()
	if before {
		return errPower
	}
	err := j.Journal.Append(ctx, run, e, p)
	if after {
		return errPower
	}
	return err
}

// target is what runners act on. It counts what reaches it by idempotency key.
type target struct {
	mu        sync.Mutex
	delivered map[string]int
}

func (g *target) deliver(key string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.delivered[key]++
	return g.delivered[key]
}

func (g *target) most() (keys, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.delivered {
		most = max(most, n)
	}
	return len(g.delivered), most
}

// authority decides as the real one does: epochs grow, permits are for one runner and one redeem, doubt is for people.
type authority struct {
	t  testing.TB
	mu sync.Mutex
	// decide is the policy.
	decide      func(*cardeav1.Intent) cardeav1.Outcome
	tier        string // what attempts need; empty: standard
	away        bool
	broken      func(*cardeav1.Intent) error
	runs        map[string]*run
	tickets     map[string]string
	definitions map[string][]byte
	instances   map[string]*instance
	permits     map[string]*permit
	listeners   map[chan *cardeav1.WatchDecideResponse]bool
	asked       int
	batches     []int
	intents     []*cardeav1.Intent
}

type run struct {
	digest string
	ended  string
}

type instance struct {
	epoch  uint64
	permit *permit
	once   bool
}

type permit struct {
	id, runner, state, delivery string
	epoch                       uint64
	attempt                     uint32
	instance                    *instance
	token, key                  string
}

var errAway = errors.New("connection refused")

func (a *authority) gone() error {
	if a.away {
		return errAway
	}
	return nil
}

func (a *authority) set(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
}

func (a *authority) OpenRun(_ context.Context, q *cardeav1.OpenRunRequest) (*cardeav1.OpenRunResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.gone(); err != nil {
		return nil, err
	}
	if by := a.tickets[q.GetTicket()]; q.GetTicket() == "" || by != "" && by != q.GetRunId() {
		return nil, &durable.Refusal{Reason: "the ticket has started another run"}
	}
	a.tickets[q.GetTicket()] = q.GetRunId()
	if a.runs[q.GetRunId()] == nil {
		a.runs[q.GetRunId()] = &run{digest: q.GetWorkflowDigest()}
	}
	return &cardeav1.OpenRunResponse{Verdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_ALLOW, LeafId: "lf_start"},
		Provenance: &cardeav1.Provenance{Kind: "person", Origin: "ann"}, StartedBy: "person:ann"}, nil
}

func (a *authority) EndRun(_ context.Context, q *cardeav1.EndRunRequest) (*cardeav1.EndRunResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.gone(); err != nil {
		return nil, err
	}
	r := a.runs[q.GetRunId()]
	if r == nil {
		return nil, &durable.Refusal{Reason: "no such run"}
	}
	if r.ended != "" && r.ended != q.GetStatus() {
		a.t.Errorf("run %s ended as %s and as %s", q.GetRunId(), r.ended, q.GetStatus())
	}
	r.ended = q.GetStatus()
	return &cardeav1.EndRunResponse{Closure: &cardeav1.Closure{Issued: 1, Ended: 1, LeafId: "lf_end"}}, nil
}

func (a *authority) Workflow(_ context.Context, q *cardeav1.WorkflowRequest) (*cardeav1.WorkflowResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.gone(); err != nil {
		return nil, err
	}
	if canonical, ok := a.definitions[q.GetDigest()]; ok {
		return &cardeav1.WorkflowResponse{Canonical: canonical}, nil
	}
	return nil, &durable.Refusal{Reason: "no such definition"}
}

func (a *authority) Watch(ctx context.Context, each func(*cardeav1.WatchDecideResponse)) error {
	c := make(chan *cardeav1.WatchDecideResponse, 100)
	a.mu.Lock()
	if err := a.gone(); err != nil {
		a.mu.Unlock()
		return err
	}
	a.listeners[c] = true
	a.mu.Unlock()
	defer a.set(func() { delete(a.listeners, c) })
	each(nil)
	for {
		select {
		case m, ok := <-c:
			if !ok {
				return errAway
			}
			each(m)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *authority) settle(approval, runID, state string) {
	a.set(func() {
		for c := range a.listeners {
			c <- &cardeav1.WatchDecideResponse{Event: &cardeav1.WatchDecideResponse_Approval{
				Approval: &cardeav1.ApprovalSettled{ApprovalId: approval, RunId: runID, State: state}}}
		}
	})
}

func (a *authority) Authorize(_ context.Context, q *cardeav1.AuthorizeRequest) (*cardeav1.AuthorizeResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if err := a.gone(); err != nil {
		return nil, err
	}
	a.batches = append(a.batches, len(q.GetIntents()))
	out := &cardeav1.AuthorizeResponse{}
	for _, in := range q.GetIntents() {
		if a.broken != nil {
			if err := a.broken(in); err != nil {
				return nil, err
			}
		}
		out.Authorizations = append(out.Authorizations, a.authorize(in))
	}
	return out, nil
}

func (a *authority) authorize(in *cardeav1.Intent) *cardeav1.Authorization {
	a.intents = append(a.intents, in)
	answer := func(o cardeav1.Outcome, reason string) *cardeav1.Authorization {
		return &cardeav1.Authorization{Verdict: &cardeav1.Verdict{Outcome: o, Reason: reason, Policies: []string{"p"}, LeafId: "lf_v"}, Tier: a.needs()}
	}
	r := a.runs[in.GetTask().GetRunId()]
	if r == nil || r.ended != "" {
		return answer(cardeav1.Outcome_OUTCOME_DENY, "the run is not open")
	}
	act, err := action.Parse(in.GetAction())
	if err != nil {
		a.t.Errorf("the engine sent an action that is none: %v", err)
		return answer(cardeav1.Outcome_OUTCOME_DENY, "no action")
	}
	key := fmt.Sprint(in.GetTask().GetRunId(), in.GetTask().GetTask(), in.GetTask().GetIteration(), in.GetTask().GetVisit())
	i := a.instances[key]
	if i == nil {
		i = &instance{once: act.HTTP.Method == "POST"}
		a.instances[key] = i
	}
	if p := i.permit; p != nil && p.state == "minted" && p.runner == in.GetRunner() && p.attempt == in.GetAttempt() {
		return a.granted(answer(cardeav1.Outcome_OUTCOME_ALLOW, ""), p)
	}
	if p := i.permit; p != nil && i.once && (p.state == "redeemed" || p.state == "returned" && p.delivery != "not_sent") {
		return answer(cardeav1.Outcome_OUTCOME_IN_DOUBT, "it may have been delivered")
	}
	if in.GetRunner() != "" && tierOf(in.GetRunner()) != a.needs() {
		return answer(cardeav1.Outcome_OUTCOME_REROUTE, "another tier")
	}
	switch o := a.decide(in); {
	case o == cardeav1.Outcome_OUTCOME_PENDING:
		out := answer(o, "people must approve")
		out.ApprovalId = "apr_" + in.GetTask().GetRunId()
		return out
	case o != cardeav1.Outcome_OUTCOME_ALLOW || in.GetRunner() == "":
		return answer(o, "no policy allows it")
	}
	i.epoch++
	p := &permit{id: fmt.Sprintf("prm_%d", len(a.permits)), runner: in.GetRunner(), state: "minted", epoch: i.epoch, attempt: in.GetAttempt(), instance: i, key: key}
	if i.permit != nil && i.permit.state != "returned" {
		i.permit.state = "voided"
	}
	i.permit = p
	a.permits[p.id] = p
	claims, _ := json.Marshal(map[string]any{"jti": p.id, "exp": time.Now().Add(time.Minute).Unix(), "tctx": map[string]any{"deadline": time.Now().Add(time.Minute).Unix()}})
	p.token = "h." + base64.RawURLEncoding.EncodeToString(claims) + ".s"
	return a.granted(answer(cardeav1.Outcome_OUTCOME_ALLOW, ""), p)
}

func (a *authority) granted(out *cardeav1.Authorization, p *permit) *cardeav1.Authorization {
	out.Epoch, out.Permit, out.IdempotencyKey = p.epoch, p.token, p.key
	out.PermitExpiresAt = timestamppb.New(time.Now().Add(time.Minute))
	return out
}

func (a *authority) needs() string {
	if a.tier == "" {
		return "standard"
	}
	return a.tier
}

func tierOf(runner string) string {
	if runner == "spiffe://cardea.local/runner/privileged/p" {
		return "privileged"
	}
	return "standard"
}

// redeem is the runner's one redeem of a permit.
func (a *authority) redeem(id, runner string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.permits[id]
	if p == nil || p.runner != runner {
		a.t.Errorf("runner %s was given permit %s that is not its own", runner, id)
		return false
	}
	if p.state != "minted" {
		return false
	}
	p.state = "redeemed"
	return true
}

func (a *authority) giveBack(id, delivery string) {
	a.set(func() {
		if p := a.permits[id]; p.state == "redeemed" {
			p.state, p.delivery = "returned", delivery
		}
	})
}

// runner acts as the real one does: it redeems, acts once, and keeps each result until it is taken, over as many drivers as it takes.
type runner struct {
	w     *world
	id    dispatch.Runner
	slots int
	// act performs a task; nil: the target answers.
	act func(*cardeav1.WorkTask) *cardeav1.TaskResult

	mu      sync.Mutex
	session *dispatch.Session
	driver  *durable.Driver
	jobs    map[string]*cardeav1.TaskResult // nil while under way
	stopped bool
	acted   int
	stale   int
}

func (w *world) runner(name, tier string, slots int) *runner {
	r := &runner{w: w, id: dispatch.Runner{ID: "spiffe://cardea.local/runner/" + tier + "/" + name, Key: "key-1", Tier: tier}, slots: slots,
		jobs: map[string]*cardeav1.TaskResult{}}
	w.runners = append(w.runners, r)
	r.attach(w.driver)
	return r
}

// attach begins a session with a driver, and says what it owes.
func (r *runner) attach(d *durable.Driver) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	s := d.Pool().Connect(r.id)
	r.session, r.driver = s, d
	go r.listen(s)
	for permit := range r.jobs {
		s.Started(permit)
	}
	s.Credit(uint32(r.slots - len(r.jobs)))
	for _, res := range r.jobs {
		if res != nil {
			go r.deliver(d, s, res)
		}
	}
}

func (r *runner) listen(s *dispatch.Session) {
	for {
		select {
		case m := <-s.Outbox():
			switch m := m.GetMessage().(type) {
			case *cardeav1.SessionResponse_Task:
				r.accept(m.Task)
			case *cardeav1.SessionResponse_Taken:
				r.taken(s, m.Taken)
			}
		case <-s.Done():
			return
		}
	}
}

func (r *runner) accept(t *cardeav1.WorkTask) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	if _, known := r.jobs[t.GetPermitId()]; known {
		r.w.t.Errorf("permit %s was pushed twice", t.GetPermitId())
	}
	if len(r.jobs) >= r.slots {
		r.w.t.Errorf("a task was pushed beyond %d slots", r.slots)
	}
	r.jobs[t.GetPermitId()] = nil
	go r.perform(t)
}

func (r *runner) perform(t *cardeav1.WorkTask) {
	act := r.act
	if act == nil {
		act = r.ask
	}
	var res *cardeav1.TaskResult
	if !r.w.authority.redeem(t.GetPermitId(), r.id.ID) {
		res = failure(t, cardeav1.Delivery_DELIVERY_NOT_SENT, "authorization", 403)
	} else {
		res = act(t)
		r.w.authority.giveBack(t.GetPermitId(), map[cardeav1.Delivery]string{cardeav1.Delivery_DELIVERY_NOT_SENT: "not_sent"}[res.GetDelivery()])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.acted++
	r.jobs[t.GetPermitId()] = res
	go r.deliver(r.driver, r.session, res)
}

// ask is the plain way to act: the target answers with what it was asked.
func (r *runner) ask(t *cardeav1.WorkTask) *cardeav1.TaskResult {
	r.w.target.deliver(t.GetIdempotencyKey())
	act, err := action.Parse(t.GetAction())
	if err != nil {
		r.w.t.Error(err)
	}
	body, _ := json.Marshal(map[string]any{"url": act.HTTP.URL})
	return answerWith(t, 200, string(body))
}

func answerWith(t *cardeav1.WorkTask, status int32, body string) *cardeav1.TaskResult {
	return &cardeav1.TaskResult{PermitId: t.GetPermitId(), Task: t.GetTask(), Epoch: t.GetEpoch(), Delivery: cardeav1.Delivery_DELIVERY_ANSWERED,
		Outcome: &cardeav1.TaskResult_Http{Http: &cardeav1.HttpResponse{Status: status, Body: []byte(body),
			Headers: []*cardeav1.HeaderField{{Name: "content-type", Value: "application/json"}}}}}
}

func failure(t *cardeav1.WorkTask, d cardeav1.Delivery, kind string, status int32) *cardeav1.TaskResult {
	return &cardeav1.TaskResult{PermitId: t.GetPermitId(), Task: t.GetTask(), Epoch: t.GetEpoch(), Delivery: d,
		Outcome: &cardeav1.TaskResult_Error{Error: &cardeav1.TaskError{Type: "https://serverlessworkflow.io/spec/1.0.0/errors/" + kind, Status: status}}}
}

// deliver gives a result to the driver; when that cannot take it, it stays owed.
func (r *runner) deliver(d *durable.Driver, s *dispatch.Session, res *cardeav1.TaskResult) {
	stale, err := d.Result(context.Background(), r.id, res)
	if err != nil {
		return
	}
	s.Taken(res.GetPermitId(), stale)
}

func (r *runner) taken(s *dispatch.Session, m *cardeav1.ResultTaken) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs[m.GetPermitId()] == nil {
		return
	}
	if m.GetStale() {
		r.stale++
	}
	delete(r.jobs, m.GetPermitId())
	if r.session == s {
		go s.Credit(1)
	}
}

// halt kills the runner: what it had is gone.
func (r *runner) halt() {
	r.mu.Lock()
	s := r.session
	r.stopped, r.jobs = true, map[string]*cardeav1.TaskResult{}
	r.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

// reborn is the same runner after a restart: no memory, the same name.
func (r *runner) reborn(key string) {
	r.mu.Lock()
	r.stopped, r.id.Key = false, key
	r.mu.Unlock()
	r.attach(r.w.driver)
}
