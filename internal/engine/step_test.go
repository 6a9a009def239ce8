package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gowebpki/jcs"

	"cardea/internal/action"
	"cardea/internal/expr"
	"cardea/internal/flow"
	"cardea/internal/flow/problem"
)

// compile makes a program of a definition whose `do` and other top-level members are given as JSON.
func compile(t testing.TB, do string, more ...string) *Program {
	t.Helper()
	text := `{"document":{"dsl":"1.0.3","namespace":"payroll","name":"test","version":"1.0.0"},
		"use":{"secrets":["hr"],"authentications":{"hr":{"bearer":{"use":"hr"}}}},"do":` + do
	for _, m := range more {
		text += "," + m
	}
	canonical, err := jcs.Transform([]byte(text + "}"))
	if err != nil {
		t.Fatal(err)
	}
	plan, findings := flow.Compile(canonical, flow.Options{Profile: true})
	if plan == nil {
		t.Fatalf("definition does not compile: %+v", findings)
	}
	p, err := Load(plan)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// script plays events against a program and keeps what happened, encoded as a journal would.
type script struct {
	t       testing.TB
	p       *Program
	s       State
	now     time.Time
	out     []Command
	journal [][]byte
	digests [][32]byte
}

func begin(t testing.TB, p *Program, input string) *script {
	t.Helper()
	s := &script{t: t, p: p, now: time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)}
	s.play(Event{Started: &Started{Run: "run_1", Digest: p.Plan().Digest, Input: json.RawMessage(input), InputDigest: "sha256:0", Ticket: "ticket"}})
	s.play(Event{Opened: &Opened{Verdict: Verdict{Outcome: "allow"}, Kind: "person", Origin: "ann", StartedBy: "person:ann"}})
	s.goOn()
	return s
}

func (s *script) play(e Event) {
	s.t.Helper()
	if err := s.try(e); err != nil {
		s.t.Fatalf("step: %v", err)
	}
}

func (s *script) try(e Event) error {
	s.t.Helper()
	s.now = s.now.Add(time.Second)
	e.At = s.now
	before := encodeState(s.t, s.s)
	next, out, err := Step(s.p, s.s, e)
	if after := encodeState(s.t, s.s); after != before {
		s.t.Fatalf("Step changed the state that it was given:\n%s\n%s", before, after)
	}
	if err != nil {
		if !reflect.DeepEqual(next, s.s) || out != nil {
			s.t.Fatal("a refused event changed something")
		}
		return err
	}
	data, err := e.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	s.journal, s.digests = append(s.journal, data), append(s.digests, Digest(out))
	s.s, s.out = next, out
	return nil
}

func (s *script) goOn() {
	s.t.Helper()
	for slices.ContainsFunc(s.out, func(c Command) bool { _, ok := c.(Continue); return ok }) {
		s.play(Event{Continued: &Continued{}})
	}
}

func encodeState(t testing.TB, s State) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// attempt is the only attempt that the last step commanded.
func (s *script) attempt() Attempt {
	s.t.Helper()
	var found []Attempt
	for _, c := range s.out {
		if a, ok := c.(Attempt); ok {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		s.t.Fatalf("%d attempts were commanded, not 1: %+v", len(found), s.out)
	}
	return found[0]
}

func (s *script) answer(a Attempt, epoch uint64, status int, contentType, body string) {
	s.t.Helper()
	s.play(Event{Result: &Result{Task: a.Task, Attempt: a.Number, Grant: Grant{Epoch: epoch, Runner: "r", Permit: fmt.Sprint("prm_", epoch)},
		Delivery: Answered, HTTP: &HTTPResponse{Status: status, Headers: [][2]string{{"content-type", contentType}}, Body: []byte(body)}}})
	s.goOn()
}

func (s *script) fail(a Attempt, epoch uint64, d Delivery, p *problem.Problem) error {
	return s.try(Event{Result: &Result{Task: a.Task, Attempt: a.Number, Grant: Grant{Epoch: epoch, Runner: "r", Permit: fmt.Sprint("prm_", epoch)}, Delivery: d, Problem: p}})
}

// output is the run's output as JSON, once it has completed.
func (s *script) output() string {
	s.t.Helper()
	if s.s.Phase != StatusCompleted {
		s.t.Fatalf("the run is %s, not completed: %+v", s.s.Phase, s.s.Problem)
	}
	data, err := expr.Encode(s.s.Output.V)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

const get = `{"call":"http","with":{"method":"get","endpoint":{"uri":"https://hr.example.com/v1/people/{id}","authentication":{"use":"hr"}}}}`

func TestPureDefinitions(t *testing.T) {
	for _, c := range []struct {
		name, do, more, input, want string
	}{
		{"sequence", `[{"a":{"set":{"c":"${ .c + [\"red\"] }"}}},{"b":{"set":{"c":"${ .c + [\"blue\"] }"}}}]`, ``, `{}`, `{"c":["red","blue"]}`},
		{"then by name", `[{"a":{"set":{"c":"${ .c + [1] }"},"then":"c"}},{"b":{"set":{"c":"${ .c + [2] }"},"then":"end"}},{"c":{"set":{"c":"${ .c + [3] }"},"then":"b"}}]`, ``, `{}`, `{"c":[1,3,2]}`},
		{"nested do", `[{"o":{"do":[{"a":{"set":{"x":"${ .x + 1 }"}}},{"b":{"set":{"x":"${ .x + 1 }"}}}]}}]`, ``, `{"x":1}`, `{"x":3}`},
		{"exit leaves the list alone", `[{"o":{"do":[{"a":{"set":{"x":1},"then":"exit"}},{"b":{"set":{"x":2}}}],"output":{"as":"${ {x: (.x + 10)} }"}}},{"p":{"set":{"x":"${ .x + 100 }"}}}]`, ``, `{}`, `{"x":111}`},
		{"exit at the top ends the run", `[{"a":{"set":{"x":1},"then":"exit"}},{"b":{"set":{"x":2}}}]`, ``, `{}`, `{"x":1}`},
		{"end in a composite leaves it without its output", `[{"o":{"do":[{"a":{"set":{"x":1},"then":"end"}}],"output":{"as":"${ 7 }"}}},{"p":{"set":{"x":2}}}]`, ``, `{}`, `{"x":1}`},
		{"skipped gives its raw input and ignores then", `[{"a":{"if":"${ .no }","input":{"from":"${ .no }"},"set":{"x":9},"then":"end"}},{"b":{"set":{"x":"${ .x + 1 }"}}}]`, ``, `{"x":1,"no":false}`, `{"x":2}`},
		{"if reads the raw input", `[{"a":{"if":"${ .go }","input":{"from":"${ .in }"},"set":{"x":"${ . }"}}}]`, ``, `{"go":true,"in":5}`, `{"x":5}`},
		{"input from", `[{"a":{"input":{"from":".user.id"},"set":{"p":"${ . }"}}}]`, ``, `{"user":{"id":"u1"}}`, `{"p":"u1"}`},
		{"output as sees $input", `[{"a":{"input":{"from":".n"},"set":{"v":1},"output":{"as":"${ {ids:[$input,.v]} }"}}}]`, ``, `{"n":4}`, `{"ids":[4,1]}`},
		{"export replaces $context and sees $output", `[{"a":{"set":{"v":1},"output":{"as":"${ .v + 1 }"},"export":{"as":"${ {c: ., o: $output, was: $context} }"}}},{"b":{"set":{"x":"${ $context }"}}}]`, ``, `{}`, `{"x":{"c":2,"o":2,"was":{}}}`},
		{"the context survives a composite", `[{"o":{"do":[{"a":{"set":{"v":1},"export":{"as":"${ {n:1} }"}}}]}},{"b":{"set":{"x":"${ $context.n }"}}}]`, ``, `{}`, `{"x":1}`},
		{"workflow input and output", `[{"a":{"set":{"y":"${ .x }"}}}]`, `"input":{"from":"${ .wrap }"},"output":{"as":"${ {z:.y, i:$input.x} }"}`, `{"wrap":{"x":3}}`, `{"i":3,"z":3}`},
		{"integers stay exact", `[{"a":{"set":{"y":"${ .x }"}}}]`, ``, `{"x":9007199254740993}`, `{"y":9007199254740993}`},
		{"data is never evaluated", `[{"a":{"set":{"y":"${ .x }"}}},{"b":{"set":{"z":"${ .y }"}}}]`, ``, `{"x":"${ 1+1 }"}`, `{"z":"${ 1+1 }"}`},
		{"task and workflow descriptors", `[{"a":{"set":{"n":"${ $task.name }","r":"${ $task.reference }","w":"${ $workflow.id }","s":"${ $task.definition.set.n }"}}}]`, ``, `{}`, `{"n":"a","r":"/do/0/a","s":"${ $task.name }","w":"run_1"}`},
		{"jump back counts visits", `[{"a":{"set":{"n":"${ .n + 1 }"}}},{"b":{"if":"${ .n < 5 }","do":[{"c":{"set":{"n":"${ .n }"}}}],"then":"a"}}]`, ``, `{"n":0}`, `{"n":5}`},
		{"no input is an empty object", `[{"a":{"set":{"n":"${ . }"}}}]`, ``, ``, `{"n":{}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var more []string
			if c.more != "" {
				more = append(more, c.more)
			}
			s := begin(t, compile(t, c.do, more...), c.input)
			if got := s.output(); got != c.want {
				t.Errorf("output %s, want %s", got, c.want)
			}
			s.replays()
		})
	}
}

// replays checks that the journal gives the same states and commands again, from its bytes alone (invariant 12).
func (s *script) replays() {
	s.t.Helper()
	state := State{}
	for i, data := range s.journal {
		e, err := DecodeEvent(data)
		if err != nil {
			s.t.Fatalf("event %d: %v", i, err)
		}
		next, out, err := Step(s.p, state, e)
		if err != nil {
			s.t.Fatalf("event %d: %v", i, err)
		}
		if Digest(out) != s.digests[i] {
			s.t.Fatalf("event %d gave other commands: %+v", i, out)
		}
		state = next
	}
	if got, want := encodeState(s.t, state), encodeState(s.t, s.s); got != want {
		s.t.Fatalf("replayed state\n%s\nis not\n%s", got, want)
	}
}

func TestErrorsFaultTheRun(t *testing.T) {
	for _, c := range []struct {
		name, do, more, input string
		kind                  problem.Kind
		instance              string
	}{
		{"expression", `[{"a":{"set":{"x":"${ .x + {} }"}}}]`, ``, `{"x":"s"}`, problem.Expression, "/do/0/a"},
		{"task input schema, on the raw input", `[{"a":{"input":{"schema":{"document":{"type":"object","required":["q"]}},"from":"${ {q:1} }"},"set":{"x":1}}}]`, ``, `{}`, problem.Validation, "/do/0/a"},
		{"task output schema, on the transformed output", `[{"a":{"set":{"x":1},"output":{"as":"${ .x }","schema":{"document":{"type":"object"}}}}}]`, ``, `{}`, problem.Validation, "/do/0/a"},
		{"export schema", `[{"a":{"set":{"x":1},"export":{"as":"${ .x }","schema":{"document":{"type":"object"}}}}}]`, ``, `{}`, problem.Validation, "/do/0/a"},
		{"composite output schema", `[{"o":{"do":[{"a":{"set":{"x":1}}}],"output":{"schema":{"document":{"type":"string"}}}}}]`, ``, `{}`, problem.Validation, "/do/0/o"},
		{"workflow input schema", `[{"a":{"set":{"x":1}}}]`, `"input":{"schema":{"document":{"type":"object","required":["q"]}}}`, `{}`, problem.Validation, ""},
		{"workflow output schema", `[{"a":{"set":{"x":1}}}]`, `"output":{"schema":{"document":{"type":"string"}}}`, `{}`, problem.Validation, ""},
		{"condition", `[{"a":{"if":"${ .x | keys | .[0] > {} | error }","set":{"x":1}}}]`, ``, `{"x":1}`, problem.Expression, "/do/0/a"},
		{"nested", `[{"o":{"do":[{"a":{"set":{"x":"${ .x + {} }"}}}]}}]`, ``, `{"x":"s"}`, problem.Expression, "/do/0/o/do/0/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var more []string
			if c.more != "" {
				more = append(more, c.more)
			}
			s := begin(t, compile(t, c.do, more...), c.input)
			if s.s.Phase != StatusFaulted || !s.s.Problem.Of(c.kind) || s.s.Problem.Instance != c.instance {
				t.Errorf("the run is %s with %+v, want a %s at %q", s.s.Phase, s.s.Problem, c.kind, c.instance)
			}
			if len(s.s.Frames) != 0 {
				t.Errorf("frames live on: %+v", s.s.Frames)
			}
			s.replays()
		})
	}
}

func TestHTTPCall(t *testing.T) {
	s := begin(t, compile(t, `[{"who":`+get+`},{"n":{"set":{"name":"${ .name }"}}}]`), `{"id":"7"}`)
	a := s.attempt()
	act, err := action.Parse(a.Action)
	if err != nil {
		t.Fatal(err)
	}
	if act.HTTP.Method != "GET" || act.HTTP.URL != "https://hr.example.com/v1/people/7" {
		t.Errorf("action %+v", act.HTTP)
	}
	if !slices.Equal(a.Connections, []string{"hr"}) || a.Effect != "idempotent" || a.Tier != DefaultTier || a.Number != 1 || a.Task.Pointer != "/do/0/who" {
		t.Errorf("attempt %+v", a)
	}
	if s.s.Status() != StatusRunning {
		t.Errorf("status %s", s.s.Status())
	}
	s.answer(a, 1, 200, "application/json; charset=utf-8", `{"name":"Ann"}`)
	if got := s.output(); got != `{"name":"Ann"}` {
		t.Errorf("output %s", got)
	}
	if err := s.try(Event{Result: &Result{Task: a.Task, Attempt: 1, Grant: Grant{Epoch: 1}, Delivery: Answered, HTTP: &HTTPResponse{Status: 200}}}); !errors.Is(err, ErrRefused) {
		t.Errorf("the same result again: %v", err)
	}
	s.replays()
}

func TestTierAsTheAuthoritySays(t *testing.T) {
	p := compile(t, `[{"who":`+get+`}]`)
	s := &script{t: t, p: p, now: time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)}
	s.play(Event{Started: &Started{Run: "run_1", Digest: p.Plan().Digest, Input: json.RawMessage(`{"id":"1"}`)}})
	s.play(Event{Opened: &Opened{Tiers: map[string]string{"/do/0/who": "privileged"}}})
	if got := s.attempt().Tier; got != "privileged" {
		t.Errorf("tier %q", got)
	}
	for _, c := range Outstanding(p, s.s) {
		if a := c.(Attempt); a.Tier != "privileged" {
			t.Errorf("after recovery: tier %q", a.Tier)
		}
	}
}

func TestHTTPOutputs(t *testing.T) {
	call := func(output, redirect string) string {
		return `[{"c":{"call":"http","with":{"method":"post","endpoint":{"uri":"https://hr.example.com/v1/x"},"body":{"a":1},"headers":{"X-A":"b"}` + output + redirect + `}}}]`
	}
	for _, c := range []struct {
		name, output, redirect string
		status                 int
		contentType, body      string
		want                   string
		problem                int
	}{
		{"json", ``, ``, 200, "application/json", `{"a":[1,2.5]}`, `{"a":[1,2.5]}`, 0},
		{"json by suffix", ``, ``, 201, "application/hal+json", `[1]`, `[1]`, 0},
		{"text", ``, ``, 200, "text/plain", `hi {"a":1}`, `"hi {\"a\":1}"`, 0},
		{"bytes", ``, ``, 200, "application/octet-stream", "\xff\x00", `"/wA="`, 0},
		{"nothing", ``, ``, 204, "", ``, `null`, 0},
		{"raw", `,"output":"raw"`, ``, 200, "application/json", `{"a":1}`, `"eyJhIjoxfQ=="`, 0},
		{"response", `,"output":"response"`, ``, 200, "application/json", `{"a":1}`,
			`{"content":{"a":1},"headers":{"content-type":"application/json"},"request":{"headers":{"content-type":"application/json","x-a":"b"},"method":"POST","uri":"https://hr.example.com/v1/x"},"statusCode":200}`, 0},
		{"not json", ``, ``, 200, "application/json", `{"a":`, ``, 502},
		{"client error", ``, ``, 404, "text/plain", `no`, ``, 404},
		{"server error", ``, ``, 503, "text/plain", `no`, ``, 503},
		{"redirect is an error", ``, ``, 302, "text/plain", `see`, ``, 302},
		{"redirect asked for", ``, `,"redirect":true`, 302, "text/plain", `see`, `"see"`, 0},
		{"informational", ``, ``, 101, "text/plain", ``, ``, 101},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begin(t, compile(t, call(c.output, c.redirect)), `{}`)
			s.answer(s.attempt(), 1, c.status, c.contentType, c.body)
			s.replays()
			if c.problem != 0 {
				if s.s.Phase != StatusFaulted || !s.s.Problem.Of(problem.Communication) || s.s.Problem.Status != c.problem || s.s.Problem.Instance != "/do/0/c" {
					t.Errorf("%s %+v", s.s.Phase, s.s.Problem)
				}
				return
			}
			if got := s.output(); got != c.want {
				t.Errorf("output %s, want %s", got, c.want)
			}
		})
	}
}

func TestDenialIsTheStandardError(t *testing.T) {
	s := begin(t, compile(t, `[{"who":`+get+`}]`), `{"id":"7"}`)
	a := s.attempt()
	s.play(Event{Denied: &Denied{Task: a.Task, Attempt: 1, Verdict: Verdict{Outcome: "deny", Reason: "no policy allows it"}}})
	p := s.s.Problem
	if s.s.Phase != StatusFaulted || !p.Of(problem.Authorization) || p.Status != 403 || p.Instance != "/do/0/who" || p.Detail != "no policy allows it" {
		t.Errorf("%s %+v", s.s.Phase, p)
	}
	s.replays()
}

func TestRefusedToOpen(t *testing.T) {
	p := compile(t, `[{"a":{"set":{"x":1}}}]`)
	s := &script{t: t, p: nil, now: time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)}
	s.play(Event{Started: &Started{Run: "run_1", Digest: p.Plan().Digest, Input: json.RawMessage(`{}`), Ticket: "tkt"}})
	if c, ok := s.out[0].(OpenRun); !ok || c.Ticket != "tkt" || s.s.Status() != StatusOpening {
		t.Fatalf("%+v", s.out)
	}
	s.play(Event{Refused: &OpenRefused{Verdict: Verdict{Outcome: "deny", Reason: "not yours"}}})
	if s.s.Phase != StatusFaulted || s.s.Problem.Status != 403 || s.s.Ticket != "" {
		t.Errorf("%+v", s.s)
	}
	if err := s.try(Event{Opened: &Opened{}}); !errors.Is(err, ErrRefused) {
		t.Errorf("opened after all: %v", err)
	}
	s.play(Event{Closed: &Closed{}})
	if len(Outstanding(nil, s.s)) != 0 {
		t.Error("a closed run has something outstanding")
	}
	s.replays()
}

func unavailable() *problem.Problem {
	return &problem.Problem{Type: "https://serverlessworkflow.io/spec/1.0.0/errors/runtime", Status: 503}
}

func TestFailuresOfOurOwnAreRetriedAFewTimes(t *testing.T) {
	s := begin(t, compile(t, `[{"who":`+get+`}]`), `{"id":"7"}`)
	a := s.attempt()
	for i := range MaxFailures {
		if err := s.fail(a, uint64(i+1), NotSent, unavailable()); err != nil {
			t.Fatal(err)
		}
		next := s.attempt()
		if next.Number != a.Number+1 || string(next.Action) != string(a.Action) || !next.NotBefore.Equal(s.now.Add(100*time.Millisecond<<i)) {
			t.Fatalf("attempt %d: %+v", i, next)
		}
		if err := s.fail(a, uint64(i+1), NotSent, unavailable()); !errors.Is(err, ErrRefused) {
			t.Fatalf("the same failure again: %v", err)
		}
		a = next
	}
	if err := s.fail(a, 99, NotSent, unavailable()); err != nil {
		t.Fatal(err)
	}
	if s.s.Phase != StatusFaulted || !s.s.Problem.Of(problem.Runtime) {
		t.Errorf("%s %+v", s.s.Phase, s.s.Problem)
	}
	s.replays()
}

func TestFailuresOfTheTargetAreTheDefinitions(t *testing.T) {
	for name, c := range map[string]struct {
		d Delivery
		p *problem.Problem
	}{
		"refused connection":  {NotSent, problem.New(problem.Communication, "refused")},
		"reset":               {Sent, problem.New(problem.Communication, "reset")},
		"too slow":            {Sent, problem.New(problem.Timeout, "slow")},
		"sent, and then ours": {Sent, unavailable()},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t, compile(t, `[{"who":`+get+`}]`), `{"id":"7"}`)
			if err := s.fail(s.attempt(), 1, c.d, c.p); err != nil {
				t.Fatal(err)
			}
			if s.s.Phase != StatusFaulted {
				t.Errorf("%s", s.s.Phase)
			}
		})
	}
}

const post = `[{"pay":{"call":"http","with":{"method":"post","endpoint":{"uri":"https://hr.example.com/v1/pay","authentication":{"use":"hr"}},"body":{"a":1}}}}]`

func TestOnceSentWithoutAnAnswerIsInDoubt(t *testing.T) {
	s := begin(t, compile(t, post), `{}`)
	a := s.attempt()
	if a.Effect != "once" {
		t.Fatalf("effect %s", a.Effect)
	}
	if err := s.fail(a, 3, Sent, problem.New(problem.Communication, "reset")); err != nil {
		t.Fatal(err)
	}
	if s.s.Status() != StatusInDoubt {
		t.Fatalf("status %s", s.s.Status())
	}
	for _, c := range s.out {
		if _, again := c.(Attempt); again {
			t.Fatal("a once action that may have been delivered was attempted again")
		}
	}
	if err := s.fail(a, 3, Sent, problem.New(problem.Communication, "reset")); !errors.Is(err, ErrRefused) {
		t.Errorf("the same doubt again: %v", err)
	}
	if err := s.try(Event{Lost: &Lost{Task: a.Task, Attempt: 1, Grant: Grant{Epoch: 3}}}); !errors.Is(err, ErrRefused) {
		t.Errorf("a lost runner in doubt began another attempt: %v", err)
	}
	s.play(Event{Cancelled: &Cancelled{By: "ann"}})
	if s.s.Phase != StatusCancelled {
		t.Errorf("%s", s.s.Phase)
	}
	s.replays()
}

func TestLateAnswerEndsDoubt(t *testing.T) {
	s := begin(t, compile(t, post), `{}`)
	a := s.attempt()
	s.play(Event{Lost: &Lost{Task: a.Task, Attempt: 1, Grant: Grant{Epoch: 4, Runner: "r", Permit: "prm_4"}}})
	b := s.attempt()
	if b.Number != 2 {
		t.Fatalf("attempt %d", b.Number)
	}
	s.play(Event{InDoubt: &InDoubt{Task: b.Task, Attempt: 2, Verdict: Verdict{Outcome: "in_doubt"}}})
	f, _ := s.s.Frame(b.Task)
	if f.Phase != FrameDoubt || f.Last.Permit != "prm_4" || f.Floor != 4 {
		t.Fatalf("frame %+v", f)
	}
	s.answer(a, 4, 200, "application/json", `{"ok":true}`)
	if got := s.output(); got != `{"ok":true}` {
		t.Errorf("output %s", got)
	}
	s.replays()
}

func TestOlderEpochIsRefused(t *testing.T) {
	s := begin(t, compile(t, `[{"who":`+get+`}]`), `{"id":"7"}`)
	a := s.attempt()
	s.play(Event{Lost: &Lost{Task: a.Task, Attempt: 1, Grant: Grant{Epoch: 4, Runner: "r", Permit: "p"}}})
	err := s.try(Event{Result: &Result{Task: a.Task, Attempt: 1, Grant: Grant{Epoch: 3}, Delivery: Answered, HTTP: &HTTPResponse{Status: 200}}})
	if !errors.Is(err, ErrRefused) {
		t.Errorf("epoch 3 after epoch 4 was lost: %v", err)
	}
}

func TestWaitingAndCancel(t *testing.T) {
	s := begin(t, compile(t, `[{"o":{"do":[{"who":`+get+`}]}}]`), `{"id":"7"}`)
	a := s.attempt()
	s.play(Event{Waiting: &Waiting{Task: a.Task, Attempt: 1, Approval: "apr_1"}})
	if s.s.Status() != StatusWaiting {
		t.Fatalf("status %s", s.s.Status())
	}
	if again := Outstanding(s.p, s.s); len(again) != 1 || again[0].(Attempt).Number != 1 {
		t.Fatalf("outstanding %+v", again)
	}
	s.play(Event{Cancelled: &Cancelled{By: "ann"}})
	var cancelled *CancelAttempts
	for _, c := range s.out {
		if x, ok := c.(CancelAttempts); ok {
			cancelled = &x
		}
	}
	if cancelled == nil || len(cancelled.Tasks) != 1 || !cancelled.Tasks[0].Equal(a.Task) {
		t.Errorf("%+v", s.out)
	}
	if err := s.try(Event{Cancelled: &Cancelled{}}); !errors.Is(err, ErrRefused) {
		t.Errorf("cancelled twice: %v", err)
	}
	s.replays()
}

func TestVisits(t *testing.T) {
	do := `[{"who":` + strings.Replace(get, `{"call"`, `{"if":"${ .n < 3 }","output":{"as":"${ {n: ($input.n + 1), id: \"7\"} }"},"then":"who","call"`, 1) + `}]`
	s := begin(t, compile(t, do), `{"n":0,"id":"7"}`)
	for visit := range uint32(3) {
		a := s.attempt()
		if a.Task.Visit != visit {
			t.Fatalf("visit %d, want %d", a.Task.Visit, visit)
		}
		s.answer(a, uint64(visit)+1, 200, "application/json", `{}`)
	}
	if got := s.output(); got != `{"id":"7","n":3}` {
		t.Errorf("output %s", got)
	}
	s.replays()
}

func TestLoopWithoutEffectFaults(t *testing.T) {
	s := begin(t, compile(t, `[{"a":{"set":{"n":1},"then":"a"}}]`), `{}`)
	if s.s.Phase != StatusFaulted || !s.s.Problem.Of(problem.Runtime) || s.s.Problem.Instance != "/do/0/a" {
		t.Fatalf("%s %+v", s.s.Phase, s.s.Problem)
	}
	if want := SpinLimit/StepBudget + 2; len(s.journal) != want {
		t.Errorf("%d events, want %d: no Step may compute more than its budget", len(s.journal), want)
	}
	s.replays()
}

func TestCancelComesBetween(t *testing.T) {
	p := compile(t, `[{"a":{"set":{"n":1},"then":"a"}}]`)
	s := &script{t: t, p: p, now: time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)}
	s.play(Event{Started: &Started{Run: "run_1", Digest: p.Plan().Digest}})
	s.play(Event{Opened: &Opened{}})
	if _, ok := s.out[len(s.out)-1].(Continue); !ok {
		t.Fatal("the loop did not yield")
	}
	if out := Outstanding(p, s.s); len(out) != 1 || out[0] != (Continue{}) {
		t.Fatalf("outstanding %+v", out)
	}
	s.play(Event{Cancelled: &Cancelled{}})
	if s.s.Phase != StatusCancelled {
		t.Error(s.s.Phase)
	}
}

func TestStateSurvivesItsEncoding(t *testing.T) {
	s := begin(t, compile(t, `[{"o":{"do":[{"who":`+get+`}]}},{"z":{"set":{"r":"${ . }"}}}]`), `{"id":"7","big":9007199254740993}`)
	a := s.attempt()
	data, err := json.Marshal(s.s)
	if err != nil {
		t.Fatal(err)
	}
	var again State
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	if encodeState(t, again) != string(data) {
		t.Fatal("a state is not what it was encoded from")
	}
	s.s = again
	s.answer(a, 1, 200, "application/json", `{"b":9007199254740993}`)
	if got := s.output(); got != `{"r":{"b":9007199254740993}}` {
		t.Errorf("output %s", got)
	}
}

func TestUnknownFormatIsRefused(t *testing.T) {
	s := State{Format: Format + 1, Phase: StatusRunning}
	_, _, err := Step(nil, s, Event{At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Cancelled: &Cancelled{}})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("this build knows %d", Format)) {
		t.Errorf("%v", err)
	}
}
