package engine

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cardea/internal/flow/problem"
)

func TestDecodeEventRefuses(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":               ``,
		"no body":               `{"at":"2026-01-01T00:00:00Z"}`,
		"two bodies":            `{"at":"2026-01-01T00:00:00Z","continued":{},"cancelled":{"by":"ann"}}`,
		"no time":               `{"continued":{}}`,
		"nanoseconds":           `{"at":"2026-01-01T00:00:00.000000001Z","continued":{}}`,
		"another zone":          `{"at":"2026-01-01T00:00:00+01:00","continued":{}}`,
		"unknown member":        `{"at":"2026-01-01T00:00:00Z","continued":{},"x":1}`,
		"trailing data":         `{"at":"2026-01-01T00:00:00Z","continued":{}} {}`,
		"result of nothing":     `{"at":"2026-01-01T00:00:00Z","result":{"id":{"task":"/do/0/a"},"attempt":1,"grant":{"epoch":1,"permit":"p","runner":"r"},"delivery":"answered","verdict":{}}}`,
		"unknown delivery":      `{"at":"2026-01-01T00:00:00Z","result":{"id":{"task":"/do/0/a"},"attempt":1,"grant":{"epoch":1,"permit":"p","runner":"r"},"delivery":"maybe","verdict":{},"http":{"status":200}}}`,
		"response not answered": `{"at":"2026-01-01T00:00:00Z","result":{"id":{"task":"/do/0/a"},"attempt":1,"grant":{"epoch":1,"permit":"p","runner":"r"},"delivery":"sent","verdict":{},"http":{"status":200}}}`,
	} {
		if e, err := DecodeEvent([]byte(data)); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// events of every kind, as the journal holds them.
func sampleEvents() []Event {
	at := time.Date(2026, 5, 1, 6, 0, 0, 1000, time.UTC)
	task := TaskID{Pointer: "/do/0/a", Iteration: []uint32{1, 2}, Visit: 3}
	grant := Grant{Epoch: 7, Permit: "prm_1", Runner: "spiffe://x/runner/standard/a", Key: "k"}
	return []Event{
		{At: at, Started: &Started{Run: "run_1", Digest: "sha256:1", Input: json.RawMessage(`{"a":1}`), InputDigest: "sha256:2", Ticket: "t"}},
		{At: at, Opened: &Opened{Verdict: Verdict{Outcome: "allow", Policies: []string{"p"}}, Kind: "person", Tiers: map[string]string{"/do/0/a": "privileged"}}},
		{At: at, Refused: &OpenRefused{Verdict: Verdict{Reason: "no"}, Problem: problem.New(problem.Configuration, "x")}},
		{At: at, Result: &Result{Task: task, Attempt: 1, Grant: grant, Delivery: Answered, HTTP: &HTTPResponse{Status: 200, Headers: [][2]string{{"a", "b"}}, Body: []byte{0, 255}}}},
		{At: at, Result: &Result{Task: task, Attempt: 1, Grant: grant, Delivery: NotSent, Problem: problem.New(problem.Timeout, "x")}},
		{At: at, Denied: &Denied{Task: task, Attempt: 1}}, {At: at, Waiting: &Waiting{Task: task, Attempt: 1, Approval: "apr_1"}},
		{At: at, InDoubt: &InDoubt{Task: task, Attempt: 1}}, {At: at, Lost: &Lost{Task: task, Attempt: 1, Grant: grant}},
		{At: at, Continued: &Continued{}}, {At: at, Cancelled: &Cancelled{By: "ann"}},
		{At: at, Closed: &Closed{Issued: 1, Live: []LiveLease{{Lease: "lse_1", Until: at}}}},
	}
}

func TestEventsSurviveTheirEncoding(t *testing.T) {
	for _, e := range sampleEvents() {
		data, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeEvent(data)
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("%s: %+v, %v", data, again, err)
		}
	}
}

// FuzzDecodeEvent: what is decoded encodes to what decodes the same; nothing panics, and no event makes Step panic.
func FuzzDecodeEvent(f *testing.F) {
	for _, e := range sampleEvents() {
		data, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	p := compile(f, `[{"who":`+get+`}]`)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := DecodeEvent(data)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatalf("decoded, and cannot be encoded: %v", err)
		}
		if twice, err := DecodeEvent(again); err != nil || !reflect.DeepEqual(normal(twice), normal(e)) {
			t.Fatalf("%s became %s: %v", data, again, err)
		}
		s := begin(t, p, `{"id":"7"}`)
		_, _, _ = Step(p, s.s, e)
		_, _, _ = Step(p, State{}, e)
	})
}

// normal leaves out what an encoding may write otherwise: white space in the input, and empty lists.
func normal(e Event) string {
	data, err := e.Encode()
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestDigestTellsCommandsApart(t *testing.T) {
	task := TaskID{Pointer: "/do/0/a"}
	lists := [][]Command{
		nil, {Continue{}}, {Continue{}, Continue{}}, {OpenRun{Digest: "a", InputDigest: "b"}}, {OpenRun{Digest: "ab"}}, {OpenRun{Digest: "a", Ticket: "b"}},
		{CancelAttempts{}}, {CancelAttempts{Tasks: []TaskID{task}}}, {CancelAttempts{Tasks: []TaskID{{Pointer: "/do/0/a", Visit: 1}}}},
		{CancelAttempts{Tasks: []TaskID{{Pointer: "/do/0/a", Iteration: []uint32{1}}}}}, {Finish{Status: StatusCompleted}}, {Finish{Status: StatusFaulted}},
		{Finish{Status: StatusCompleted, Output: Value{1}}}, {Finish{Status: StatusCompleted, Output: Value{"1"}}}, {Finish{Status: StatusFaulted, Problem: problem.New(problem.Runtime, "")}},
		{Attempt{Task: task}}, {Attempt{Task: task, Number: 1}}, {Attempt{Task: task, Action: []byte("x")}}, {Attempt{Task: task, Connections: []string{"a", "b"}}},
		{Attempt{Task: task, Connections: []string{"ab"}}}, {Attempt{Task: task, Scopes: []string{"a"}}}, {Attempt{Task: task, Effect: "once"}}, {Attempt{Task: task, Tier: "once"}},
		{Attempt{Task: task, NotBefore: time.UnixMicro(1)}}, {Note{Task: task}}, {Note{Task: task, Name: "a"}}, {Note{Task: task, Status: "a"}}, {Note{Task: task, Attempt: 1}},
		{Note{Task: task, Problem: problem.New(problem.Runtime, "x")}}, {Note{Task: task, Problem: problem.New(problem.Runtime, "y")}},
	}
	seen := map[[32]byte]int{}
	for i, l := range lists {
		d := Digest(l)
		if before, ok := seen[d]; ok {
			t.Errorf("%+v and %+v have one digest", lists[before], l)
		}
		seen[d] = i
	}
}

// TestReplayProperty: whatever happens to a run, in whatever order, its journal alone gives the same states and commands
// (invariant 12), and what is outstanding can be derived from the state alone.
func TestReplayProperty(t *testing.T) {
	p := compile(t, `[{"o":{"do":[{"a":`+get+`},{"m":{"set":{"id":"${ .id // \"9\" }","n":"${ ($context.n // 0) + 1 }"},"export":{"as":"${ {n: .n} }"}}}],"then":"b"}},
		{"x":{"if":"${ .n < 3 }","set":{"id":"${ .id }"},"then":"o"}},
		{"b":`+`{"call":"http","with":{"method":"post","endpoint":{"uri":"https://hr.example.com/p/{id}"},"body":"${ . }"},"output":{"as":"${ {id:\"1\", n:$context.n} }"},"then":"x"}}]`)
	rapid.Check(t, func(rt *rapid.T) {
		s := begin(t, p, `{"id":"7"}`)
		epoch := uint64(0)
		for range rapid.IntRange(0, 40).Draw(rt, "steps") {
			outstanding := Outstanding(p, s.s)
			if s.s.Phase != StatusRunning || len(outstanding) == 0 {
				break
			}
			a, ok := outstanding[0].(Attempt)
			if !ok {
				break
			}
			epoch++
			e := drawEvent(rt, a, epoch)
			before := s.s
			if err := s.try(e); err != nil && !reflect.DeepEqual(before, s.s) {
				rt.Fatalf("a refused event changed the state: %v", err)
			}
			s.goOn()
		}
		s.replays()
	})
}

func drawEvent(rt *rapid.T, a Attempt, epoch uint64) Event {
	grant := Grant{Epoch: rapid.Uint64Range(epoch/2, epoch).Draw(rt, "epoch"), Permit: fmt.Sprint("prm_", epoch), Runner: "r"}
	number := a.Number - uint32(rapid.IntRange(0, 1).Draw(rt, "late"))*min(a.Number-1, 1)
	switch rapid.SampledFrom([]string{"answer", "answer", "answer", "error", "unavailable", "lost", "waiting", "doubt", "denied", "cancelled", "closed"}).Draw(rt, "event") {
	case "answer":
		body := rapid.SampledFrom([]string{`{"id":"3"}`, `[1,2.50,1e3]`, `"x"`, `{`, ``, `{"id":12345678901234567890}`}).Draw(rt, "body")
		status := rapid.SampledFrom([]int{200, 200, 200, 404}).Draw(rt, "status")
		return Event{Result: &Result{Task: a.Task, Attempt: number, Grant: grant, Delivery: Answered,
			HTTP: &HTTPResponse{Status: status, Headers: [][2]string{{"Content-Type", "application/json"}}, Body: []byte(body)}}}
	case "error":
		d := rapid.SampledFrom([]Delivery{NotSent, Sent}).Draw(rt, "delivery")
		return Event{Result: &Result{Task: a.Task, Attempt: number, Grant: grant, Delivery: d, Problem: problem.New(problem.Communication, "x")}}
	case "unavailable":
		return Event{Result: &Result{Task: a.Task, Attempt: number, Grant: grant, Delivery: NotSent, Problem: unavailable()}}
	case "lost":
		return Event{Lost: &Lost{Task: a.Task, Attempt: number, Grant: grant}}
	case "waiting":
		return Event{Waiting: &Waiting{Task: a.Task, Attempt: number, Approval: "apr_1"}}
	case "doubt":
		return Event{InDoubt: &InDoubt{Task: a.Task, Attempt: number}}
	case "denied":
		return Event{Denied: &Denied{Task: a.Task, Attempt: number, Verdict: Verdict{Reason: "no"}}}
	case "cancelled":
		return Event{Cancelled: &Cancelled{By: "ann"}}
	}
	return Event{Closed: &Closed{}}
}

func BenchmarkStep(b *testing.B) {
	p := compile(b, `[{"who":`+get+`},{"n":{"set":{"name":"${ .name }"}}}]`)
	s := begin(b, p, `{"id":"7"}`)
	a := s.attempt()
	e := Event{At: s.now, Result: &Result{Task: a.Task, Attempt: 1, Grant: Grant{Epoch: 1, Runner: "r", Permit: "p"}, Delivery: Answered,
		HTTP: &HTTPResponse{Status: 200, Headers: [][2]string{{"content-type", "application/json"}}, Body: []byte(`{"name":"Ann"}`)}}}
	b.ReportAllocs()
	for b.Loop() {
		_, out, err := Step(p, s.s, e)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Encode(); err != nil {
			b.Fatal(err)
		}
		Digest(out)
	}
}
