package approval

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// people is a small treasury. Everybody's key is key-<name>.
func people() map[string]Person {
	m := map[string]Person{}
	for _, name := range []string{"tom", "tina", "tess", "ana", "sam"} {
		m[name] = Person{Name: name, Active: true, Groups: []string{"treasury"}, Keys: []string{"key-" + name}}
	}
	m["otto"] = Person{Name: "otto", Active: true, Groups: []string{"sales"}, Keys: []string{"key-otto"}}
	return m
}

func world(m map[string]Person) World {
	return World{
		Person:    func(n string) (Person, bool) { p, ok := m[n]; return p, ok },
		Forbidden: func(string) string { return "" },
		Now:       six.Add(time.Hour),
	}
}

func signed(name string) Signature {
	return Signature{Person: name, Key: "key-" + name, At: six.Add(time.Minute)}
}

func TestJudge(t *testing.T) {
	both := []Signature{signed("tom"), signed("tina")}
	tests := []struct {
		name      string
		sigs      []Signature
		statement func(*Statement)
		people    func(map[string]Person)
		world     func(*World)
		record    func(*Record)
		state     State
		approvers []string
		because   string // of the last signature
	}{
		{name: "nobody", state: Pending},
		{name: "one of two", sigs: both[:1], state: Pending, approvers: []string{"tom"}},
		{name: "both", sigs: both, state: Approved, approvers: []string{"tina", "tom"}},
		{name: "one person twice", sigs: []Signature{signed("tom"), signed("tom")}, state: Pending, approvers: []string{"tom"}},
		{name: "one person, two keys", sigs: []Signature{signed("tom"), {Person: "tom", Key: "key-2", At: six.Add(time.Minute)}},
			people: func(m map[string]Person) {
				p := m["tom"]
				p.Keys = append(p.Keys, "key-2")
				m["tom"] = p
			}, state: Pending, approvers: []string{"tom"}},
		{name: "requester", sigs: []Signature{signed("tom"), signed("ana")}, state: Pending, approvers: []string{"tom"}, because: "ana asked for it"},
		{name: "requester by bare name", sigs: []Signature{signed("tom"), signed("ana")}, statement: func(s *Statement) { s.Requester = "ana" },
			state: Pending, approvers: []string{"tom"}, because: "ana asked for it"},
		{name: "applier", sigs: []Signature{signed("tom"), signed("sam")}, state: Pending, approvers: []string{"tom"}, because: "sam applied the definition"},
		{name: "applier with prefix", sigs: []Signature{signed("tom"), signed("sam")}, statement: func(s *Statement) { s.Appliers = []string{"person:sam"} },
			state: Pending, approvers: []string{"tom"}, because: "sam applied the definition"},
		{name: "not eligible", sigs: []Signature{signed("tom"), signed("otto")}, state: Pending, approvers: []string{"tom"}, because: "otto is not among the approvers of two-from-treasury"},
		{name: "no longer eligible", sigs: both, people: func(m map[string]Person) { p := m["tina"]; p.Groups = nil; m["tina"] = p },
			state: Pending, approvers: []string{"tom"}, because: "tina is not among the approvers of two-from-treasury"},
		{name: "no longer active", sigs: both, people: func(m map[string]Person) { p := m["tina"]; p.Active = false; m["tina"] = p },
			state: Pending, approvers: []string{"tom"}, because: "tina is not active"},
		{name: "key taken away", sigs: both, people: func(m map[string]Person) { p := m["tina"]; p.Keys = []string{"key-new"}; m["tina"] = p },
			state: Pending, approvers: []string{"tom"}, because: "the key key-tina is not tina's"},
		{name: "key of another", sigs: []Signature{signed("tom"), {Person: "tina", Key: "key-tom", At: six.Add(time.Minute)}},
			state: Pending, approvers: []string{"tom"}, because: "the key key-tom is not tina's"},
		{name: "no key at all", sigs: []Signature{{Person: "tom", At: six}}, people: func(m map[string]Person) { p := m["tom"]; p.Keys = []string{""}; m["tom"] = p },
			state: Pending, because: "the key  is not tom's"},
		{name: "gone", sigs: both, people: func(m map[string]Person) { delete(m, "tina") }, state: Pending, approvers: []string{"tom"}, because: "no such person"},
		{name: "policy forbids", sigs: both, world: func(w *World) {
			w.Forbidden = func(n string) string { return map[string]string{"tina": "agents never approve"}[n] }
		}, state: Pending, approvers: []string{"tom"}, because: "agents never approve"},
		{name: "no policy asked", sigs: both, world: func(w *World) { w.Forbidden = nil }, state: Pending, because: "nothing is known of the signers"},
		{name: "signed too late", sigs: []Signature{signed("tom"), {Person: "tina", Key: "key-tina", At: six.Add(4 * time.Hour)}},
			world: func(w *World) { w.Now = six.Add(5 * time.Hour) }, state: Expired, approvers: []string{"tom"}, because: "it was signed after the approval had expired"},
		{name: "signed in the future", sigs: []Signature{signed("tom"), {Person: "tina", Key: "key-tina", At: six.Add(2 * time.Hour)}},
			state: Pending, approvers: []string{"tom"}, because: "it was signed in the future"},
		{name: "expired at the instant", sigs: both, world: func(w *World) { w.Now = six.Add(4 * time.Hour) }, state: Expired, approvers: []string{"tina", "tom"}},
		{name: "refused", sigs: append(slices.Clone(both), Signature{Person: "tess", Key: "key-tess", At: six, Refuse: true, Reason: "too much"}),
			state: Refused, approvers: []string{"tina", "tom"}},
		{name: "refused by the requester", sigs: append(slices.Clone(both), Signature{Person: "ana", Key: "key-ana", At: six, Refuse: true}),
			state: Refused, approvers: []string{"tina", "tom"}},
		{name: "refused by a stranger", sigs: append(slices.Clone(both), Signature{Person: "otto", Key: "key-otto", At: six, Refuse: true}),
			state: Approved, approvers: []string{"tina", "tom"}, because: "otto is not among the approvers of two-from-treasury"},
		{name: "used up", sigs: both, record: func(r *Record) { r.Uses = map[string]int{"a-key": 3} }, state: Used, approvers: []string{"tina", "tom"}},
		{name: "used once", sigs: both, record: func(r *Record) { r.Uses = map[string]int{"a-key": 1} }, state: Approved, approvers: []string{"tina", "tom"}},
		{name: "voided stays voided", sigs: both, record: func(r *Record) { r.Settled = Voided }, state: Voided, approvers: []string{"tina", "tom"}},
		{name: "refused stays refused", sigs: both, record: func(r *Record) { r.Settled = Refused }, state: Refused, approvers: []string{"tina", "tom"}},
		{name: "lone evaluator", sigs: []Signature{signed("ana")}, statement: func(s *Statement) { s.Dev = true; s.Rule.Quorum = 1 },
			world: func(w *World) { w.Lone = true }, state: Approved, approvers: []string{"ana"}},
		{name: "dev with two persons is strict", sigs: []Signature{signed("ana")}, statement: func(s *Statement) { s.Dev = true; s.Rule.Quorum = 1 },
			state: Pending, because: "ana asked for it"},
		{name: "alone outside dev is strict", sigs: []Signature{signed("ana")}, statement: func(s *Statement) { s.Rule.Quorum = 1 },
			world: func(w *World) { w.Lone = true }, state: Pending, because: "ana asked for it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, m, r := attempt(t, "1"), people(), Record{Settled: Pending, Signatures: tt.sigs}
			w := world(m)
			if tt.statement != nil {
				tt.statement(s)
			}
			if tt.people != nil {
				tt.people(m)
			}
			if tt.world != nil {
				tt.world(&w)
			}
			if tt.record != nil {
				tt.record(&r)
			}
			j := s.Judge(r, w)
			if j.State != tt.state || !slices.Equal(j.Approvers, tt.approvers) {
				t.Errorf("%s by %v (%s), want %s by %v", j.State, j.Approvers, j.Reason, tt.state, tt.approvers)
			}
			if n := len(j.Signatures); n > 0 && (j.Signatures[n-1].Because != tt.because || j.Signatures[n-1].Counts != (tt.because == "")) {
				t.Errorf("the last signature: %+v, want because %q", j.Signatures[n-1], tt.because)
			}
			err := s.Use(s.Actions[0].Digest, "a-key", r, w)
			if (err == nil) != (tt.state == Approved) {
				t.Errorf("%s, but use says %v", j.State, err)
			}
			if s.Use(zeros, "a-key", r, w) == nil || s.Use(s.Actions[0].Digest, "other", r, w) == nil || s.UsePlan(zeros, r, w) == nil {
				t.Error("used for something else")
			}
		})
	}
}

func TestUseCountsEachAction(t *testing.T) {
	s, w := attempt(t, "1", "2"), world(people())
	r := Record{Settled: Approved, Signatures: []Signature{signed("tom"), signed("tina")}, Uses: map[string]int{"a-key": 3}}
	if err := s.Use(s.Actions[0].Digest, "a-key", r, w); err == nil {
		t.Error("a fourth attempt of three was allowed")
	}
	if err := s.Use(s.Actions[1].Digest, "b-key", r, w); err != nil {
		t.Errorf("the second action: %v", err)
	}
	if err := s.Use(s.Actions[1].Digest, "a-key", r, w); err == nil {
		t.Error("an action was used under another's key")
	}
}

func TestUsePlan(t *testing.T) {
	s := planStatement()
	m := people()
	m["zoe"] = Person{Name: "zoe", Active: true, Keys: []string{"key-zoe"}}
	r := Record{Settled: Approved, Signatures: []Signature{signed("zoe")}}
	s.ExpiresAt = At(six.Add(2 * time.Hour))
	if err := s.UsePlan(zeros, r, world(m)); err != nil {
		t.Error(err)
	}
	r.Uses = map[string]int{zeros: 1}
	if err := s.UsePlan(zeros, r, world(m)); err == nil {
		t.Error("a plan was applied twice")
	}
	if err := s.UsePlan("", Record{Settled: Approved, Signatures: r.Signatures}, world(m)); err == nil {
		t.Error("no plan at all was covered")
	}
}

func TestCanSign(t *testing.T) {
	s, w := attempt(t, "1"), world(people())
	r := Record{Settled: Pending, Signatures: []Signature{signed("tom")}}
	for name, want := range map[string]string{
		"tina": "", "tom": "tom has signed already", "ana": "ana asked for it", "otto": "otto is not among the approvers of two-from-treasury",
	} {
		if got := s.CanSign(name, "key-"+name, r, w); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	w.Now = six.Add(9 * time.Hour)
	if got := s.CanSign("tina", "key-tina", r, w); got == "" {
		t.Error("an expired approval can be signed")
	}
}

func TestNext(t *testing.T) {
	all := []State{Pending, Approved, Refused, Expired, Voided, Used}
	for _, from := range all {
		for _, to := range all {
			err := Next(from, to)
			if from.Ended() && err == nil {
				t.Errorf("%s led on to %s", from, to)
			}
		}
	}
	if Next(Pending, Approved) != nil || Next(Approved, Used) != nil || Next(Pending, Used) == nil || Next("", Approved) == nil {
		t.Error("the ordinary way is not as it should be")
	}
}

// The quorum by its definition: distinct persons who are active, eligible, hold the key, and neither asked nor applied.
func TestQuorumIsItsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c", "d", "e"}
		m := map[string]Person{}
		for _, n := range names {
			m[n] = Person{
				Name: n, Active: rapid.Bool().Draw(t, "active"), Keys: rapid.SliceOf(rapid.SampledFrom([]string{"k1", "k2", "k3"})).Draw(t, "keys"),
				Groups: rapid.SliceOf(rapid.SampledFrom([]string{"treasury", "sales"})).Draw(t, "groups"),
			}
		}
		s := &Statement{
			Kind: KindAttempt, Attempts: 1, ExpiresAt: At(six.Add(time.Hour)), CreatedAt: At(six),
			Requester: "person:" + rapid.SampledFrom(names).Draw(t, "requester"), Appliers: []string{rapid.SampledFrom(names).Draw(t, "applier")},
			Rule:    Rule{Name: "r", Approvers: []string{"group:treasury", "person:e"}, Quorum: rapid.IntRange(1, 3).Draw(t, "quorum")},
			Actions: []Action{{Digest: zeros, IdempotencyKey: "k"}},
		}
		var sigs []Signature
		want := map[string]bool{}
		for range rapid.IntRange(0, 8).Draw(t, "signatures") {
			sig := Signature{Person: rapid.SampledFrom(names).Draw(t, "signer"), Key: rapid.SampledFrom([]string{"k1", "k2", "k3"}).Draw(t, "key"), At: six}
			sigs = append(sigs, sig)
			p := m[sig.Person]
			if p.Active && slices.Contains(p.Keys, sig.Key) && (slices.Contains(p.Groups, "treasury") || p.Name == "e") &&
				s.Requester != "person:"+p.Name && s.Appliers[0] != p.Name {
				want[p.Name] = true
			}
		}
		w := world(m)
		w.Now = six.Add(time.Minute)
		j := s.Judge(Record{Settled: Pending, Signatures: sigs}, w)
		if len(j.Approvers) != len(want) || (j.State == Approved) != (len(want) >= s.Rule.Quorum) {
			t.Fatalf("%s by %v, want %v of %d", j.State, j.Approvers, want, s.Rule.Quorum)
		}
	})
}
