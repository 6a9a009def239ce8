package approval

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"cardea/internal/action"
)

func TestStatementRoundTrip(t *testing.T) {
	for name, s := range map[string]*Statement{
		"attempt": attempt(t, `{"amount": 1204.00, "iban": "DE89<&>\u2028"}`), "binary body": attempt(t, "\xff\x00\x1b"),
		"loop": attempt(t, "1", "2", "3"), "plan": planStatement(), "moved": moved(t), "full": full(t), "full plan": fullPlan(),
	} {
		b := canonical(t, s)
		again, err := Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(canonical(t, again), b) || !reflect.DeepEqual(again.Actions, s.Actions) {
			t.Errorf("%s did not survive", name)
		}
	}
}

func TestActionStandsByValue(t *testing.T) {
	s := attempt(t, `{"amount": 1}`)
	b := canonical(t, s)
	if !bytes.Contains(b, s.Actions[0].Action) {
		t.Error("the action's canonical bytes do not stand in the statement as they are")
	}
	if !s.Covers(s.Actions[0].Digest, "a-key") || s.Covers(s.Actions[0].Digest, "b-key") || s.Covers(zeros, "a-key") {
		t.Error("Covers takes more than exactly its action and key")
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(canonical(t, attempt(t, `{"amount":1}`)))
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("fixture lacks %s", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	other := action.Digest(payment(t, `{"amount":2}`))
	for name, in := range map[string]string{
		"empty": "", "null": "null", "array": "[]", "white space": good + "\n", "two": good + good,
		"unknown key":        swap(`{"actions"`, `{"aa":1,"actions"`),
		"double key":         swap(`"hub":"hub-1"`, `"hub":"hub-0","hub":"hub-1"`),
		"other case":         swap(`"hub":`, `"Hub":`),
		"double in case":     swap(`"hub":"hub-1"`, `"Hub":"hub-0","hub":"hub-1"`),
		"order":              swap(`"hub":"hub-1","id":"apr_01"`, `"id":"apr_01","hub":"hub-1"`),
		"escape":             swap(`"hub-1"`, `"hub\u002d1"`),
		"not UTF-8":          swap(`"hub-1"`, "\"hub-\xff\""),
		"version":            swap(`"v":1}`, `"v":2}`),
		"kind":               swap(`"kind":"attempt"`, `"kind":"other"`),
		"digest of another":  swap(`"digest":"`+action.Digest(payment(t, `{"amount":1}`)), `"digest":"`+other),
		"action changed":     swap(`{\"amount\":1}`, `{\"amount\":2}`),
		"time zone":          swap(`"2026-05-01T06:00:00.000Z"`, `"2026-05-01T08:00:00.000+02:00"`),
		"expires before":     swap(`"expiresAt":"2026-05-01T10`, `"expiresAt":"2026-05-01T05`),
		"no quorum":          swap(`"quorum":2`, `"quorum":0`),
		"negative attempts":  swap(`"attempts":3`, `"attempts":-1`),
		"approver of a kind": swap(`"group:treasury"`, `"everyone"`),
		"empty list":         swap(`"appliers":["sam"]`, `"appliers":[]`),
		"no run":             swap(`"run":"run_01"`, `"run":""`),
		"short nonce":        swap(`"0123456789abcdef"`, `"0"`),
		"depth":              strings.Repeat("[", 20000),
	} {
		if _, err := Decode([]byte(in)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := Decode(bytes.Repeat([]byte(" "), MaxStatement+1)); err == nil {
		t.Error("too long was taken")
	}
}

func TestCanonicalRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Statement){
		"no actions":        func(s *Statement) { s.Actions = nil },
		"too many actions":  func(s *Statement) { s.Actions = make([]Action, MaxActions+1) },
		"same key twice":    func(s *Statement) { s.Actions = append(s.Actions, s.Actions[0]) },
		"foreign digest":    func(s *Statement) { s.Actions[0].Digest = zeros },
		"no policies":       func(s *Statement) { s.Policies = nil },
		"policy undigested": func(s *Statement) { s.Policies[0].Digest = "sha256:00" },
		"plan in attempt":   func(s *Statement) { s.Plan = &Plan{Digest: zeros} },
		"not UTF-8":         func(s *Statement) { s.Connections[0].Allow[0].Facts["a"] = "\xff" },
		"finer time":        func(s *Statement) { s.CreatedAt = Instant{six.Add(time.Microsecond)} },
		"no process":        func(s *Statement) { s.Process = nil },
		"allows nothing":    func(s *Statement) { s.Connections[0].Allow = nil },
		"address by name":   func(s *Statement) { s.Connections[0].Address = "bank.example.com:443" },
		"address, no port":  func(s *Statement) { s.Connections[0].Address = "6.6.6.6:0" },
		"address otherwise": func(s *Statement) { s.Connections[0].Address = "[0:0::1]:443" },
		"roots in full":     func(s *Statement) { s.Connections[0].Roots = "-----BEGIN CERTIFICATE-----" },
		"long audience":     func(s *Statement) { s.Connections[0].Audience = strings.Repeat("a", maxText+1) },
		"provider no UTF-8": func(s *Statement) { s.Connections[0].Provider = "\xff" },
		"long present":      func(s *Statement) { s.Connections[0].Present = strings.Repeat("a", maxText+1) },
		"deliver no UTF-8":  func(s *Statement) { s.Connections[0].Deliver = "\xff" },
		"empty query":       func(s *Statement) { s.Connections[0].Allow[0].Query = []string{""} },
		"too much query":    func(s *Statement) { s.Connections[0].Allow[0].Query = make([]string, maxPrivileges+1) },
	} {
		s := attempt(t, "1")
		spoil(s)
		if _, err := s.Canonical(); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	p := planStatement()
	p.Run = "run_01"
	if _, err := p.Canonical(); err == nil {
		t.Error("a plan with a run was written")
	}
	p = planStatement()
	p.Attempts = 2
	if _, err := p.Canonical(); err == nil {
		t.Error("a plan that applies twice was written")
	}
}

func TestChangesRefused(t *testing.T) {
	text := func(n int) string { return strings.Repeat("a", n) }
	for name, list := range map[string][]Change{
		"none":                nil,
		"verb":                {{Verb: "unchanged", Kind: kindPolicy, Name: "p", After: "a"}},
		"no kind":             {{Verb: VerbNew, Name: "p", After: "{}"}},
		"no name":             {{Verb: VerbNew, Kind: kindPolicy, After: "a"}},
		"new with a past":     {{Verb: VerbNew, Kind: kindPolicy, Name: "p", Before: "a", After: "b"}},
		"removed with future": {{Verb: VerbRemoved, Kind: kindPolicy, Name: "p", Before: "a", After: "b"}},
		"changed to the same": {{Verb: VerbChanged, Kind: kindPolicy, Name: "p", Before: "a", After: "a"}},
		"new without a body":  {{Verb: VerbNew, Kind: "Person", Name: "p"}},
		"removed without":     {{Verb: VerbRemoved, Kind: "Person", Name: "p"}},
		"changed from none":   {{Verb: VerbChanged, Kind: "Person", Name: "p", After: "{}"}},
		"not JSON":            {{Verb: VerbNew, Kind: "Person", Name: "p", After: "name: p"}},
		"not canonical":       {{Verb: VerbNew, Kind: "Person", Name: "p", After: `{"b":1,"a":2}`}},
		"double keys":         {{Verb: VerbNew, Kind: "Person", Name: "p", After: `{"a":1,"a":2}`}},
		"not UTF-8":           {{Verb: VerbNew, Kind: kindPolicy, Name: "p", After: "\xff"}},
		"too long":            {{Verb: VerbNew, Kind: kindPolicy, Name: "p", After: text(MaxChange + 1)}},
		"twice":               {{Verb: VerbNew, Kind: kindPolicy, Name: "p", After: "a"}, {Verb: VerbNew, Kind: kindPolicy, Name: "p", After: "b"}},
		"too many":            make([]Change, MaxChanges+1),
	} {
		s := planStatement()
		s.Plan.Changes = list
		if _, err := s.Canonical(); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	s := planStatement()
	s.Plan.Changes = nil
	for i := range MaxChanges {
		s.Plan.Changes = append(s.Plan.Changes, Change{Verb: VerbNew, Kind: kindPolicy, Name: "p" + strings.Repeat("x", i), After: "a"})
	}
	canonical(t, s)
}

func FuzzDecode(f *testing.F) {
	f.Add(canonical(f, attempt(f, `{"amount":1}`, "\xff")))
	f.Add(canonical(f, planStatement()))
	f.Add(canonical(f, full(f)))
	f.Add(canonical(f, fullPlan()))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		written, err := s.Canonical()
		if err != nil || !bytes.Equal(written, b) {
			t.Fatalf("taken but not canonical: %v", err)
		}
		if text := Render(s, View{}); !clean(text) {
			t.Errorf("rendered %q", text)
		}
		if d := Diff(s, s); len(d) != 0 {
			t.Errorf("differs from itself: %v", d)
		}
		if other, err := Decode(b); err != nil || !s.SameMatter(other) {
			t.Error("is not the matter that it is")
		}
	})
}
