// Package journaltest says what every adapter of the engine's journal must do.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"cardea/internal/dispatch"
	"cardea/internal/durable"
	"cardea/internal/engine"
)

// Store is all that one adapter implements.
type Store interface {
	durable.Journal
	durable.Definitions
	durable.Grants
}

// Run runs the suite. open makes an empty store; reopen, when not nil, closes one and opens what it left.
func Run(t *testing.T, open func(t *testing.T) Store, reopen func(t *testing.T, s Store) Store) {
	for name, test := range map[string]func(*testing.T, Store, func(*testing.T, Store) Store){
		"begin once":       beginOnce,
		"append and load":  appendAndLoad,
		"fenced":           fenced,
		"list":             list,
		"definitions":      definitions,
		"grants":           grants,
		"at the same time": together,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t), reopen) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func record(n int) durable.Record {
	return durable.Record{ID: fmt.Sprintf("run_%04d", n), Workflow: fmt.Sprintf("payroll/w%d", n%2), Version: "1.0.0", Digest: "sha256:d", Person: "ann",
		RequestID: fmt.Sprintf("req_%d", n), TicketID: fmt.Sprintf("tkt_%d", n), InputDigest: "sha256:i", StartedAt: time.UnixMicro(int64(1000 + n)).UTC()}
}

func entry(seq uint64) durable.Entry {
	return durable.Entry{Seq: seq, Data: []byte(fmt.Sprint("event ", seq)), Commands: [32]byte{byte(seq)}}
}

func begin(t *testing.T, s Store, n int) durable.Record {
	t.Helper()
	r, err := s.Begin(context.Background(), record(n), entry(1))
	must(t, err)
	return r
}

func beginOnce(t *testing.T, s Store, _ func(*testing.T, Store) Store) {
	ctx := context.Background()
	if got := begin(t, s, 1); !reflect.DeepEqual(got, record(1)) {
		t.Fatalf("%+v", got)
	}
	for name, change := range map[string]func(*durable.Record){
		"same ticket":  func(r *durable.Record) { r.RequestID = "other" },
		"same request": func(r *durable.Record) { r.TicketID = "other" },
	} {
		again := record(2)
		again.RequestID, again.TicketID = record(1).RequestID, record(1).TicketID
		change(&again)
		got, err := s.Begin(ctx, again, entry(1))
		must(t, err)
		if got.ID != record(1).ID {
			t.Errorf("%s: began %s", name, got.ID)
		}
		if _, _, err := s.Load(ctx, again.ID); !errors.Is(err, durable.ErrNoRun) {
			t.Errorf("%s: a second run is there: %v", name, err)
		}
	}
	other := record(3)
	other.RequestID, other.Person = record(1).RequestID, "bob"
	if got, err := s.Begin(ctx, other, entry(1)); err != nil || got.ID != other.ID {
		t.Errorf("another person's request of the same name: %s, %v", got.ID, err)
	}
}

func appendAndLoad(t *testing.T, s Store, reopen func(*testing.T, Store) Store) {
	ctx := context.Background()
	begin(t, s, 1)
	p := durable.Progress{Status: engine.StatusRunning, StartedBy: "person:ann", Kind: "person", Origin: "ann"}
	must(t, s.Append(ctx, "run_0001", entry(2), &p))
	must(t, s.Append(ctx, "run_0001", entry(3), nil))
	if reopen != nil {
		s = reopen(t, s)
	}
	got, entries, err := s.Load(ctx, "run_0001")
	must(t, err)
	want := durable.Summary{Record: record(1), Progress: p, Format: engine.Format, Revision: 3}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("summary %+v, want %+v", got, want)
	}
	if !reflect.DeepEqual(entries, []durable.Entry{entry(1), entry(2), entry(3)}) {
		t.Errorf("entries %+v", entries)
	}
	p.Status, p.EndedAt, p.Closed = engine.StatusCompleted, time.UnixMicro(5000).UTC(), true
	must(t, s.Append(ctx, "run_0001", entry(4), &p))
	if got, _, err = s.Load(ctx, "run_0001"); err != nil || got.Progress != p {
		t.Errorf("%+v, %v", got, err)
	}
}

func fenced(t *testing.T, s Store, _ func(*testing.T, Store) Store) {
	ctx := context.Background()
	begin(t, s, 1)
	must(t, s.Append(ctx, "run_0001", entry(2), nil))
	other := entry(2)
	other.Data = []byte("another driver's")
	err := s.Append(ctx, "run_0001", other, &durable.Progress{Status: engine.StatusFaulted})
	if !errors.Is(err, durable.ErrFenced) {
		t.Errorf("a place was taken twice: %v", err)
	}
	got, entries, err := s.Load(ctx, "run_0001")
	must(t, err)
	if len(entries) != 2 || string(entries[1].Data) != "event 2" || got.Status != engine.StatusOpening {
		t.Errorf("a refused event left traces: %+v %+v", got, entries)
	}
}

func list(t *testing.T, s Store, _ func(*testing.T, Store) Store) {
	ctx := context.Background()
	for n := 1; n <= 6; n++ {
		begin(t, s, n)
		status := engine.StatusRunning
		if n > 3 {
			status = engine.StatusWaiting
		}
		must(t, s.Append(ctx, record(n).ID, entry(2), &durable.Progress{Status: status, Closed: n == 6}))
	}
	for _, c := range []struct {
		f    durable.Filter
		want []string
	}{
		{durable.Filter{Limit: 10}, []string{"run_0006", "run_0005", "run_0004", "run_0003", "run_0002", "run_0001"}},
		{durable.Filter{Limit: 2, Before: "run_0004"}, []string{"run_0003", "run_0002"}},
		{durable.Filter{Limit: 10, Live: true, Statuses: []engine.Status{engine.StatusWaiting}}, []string{"run_0005", "run_0004"}},
		{durable.Filter{Limit: 10, Statuses: []engine.Status{engine.StatusRunning, engine.StatusWaiting}, Workflow: "payroll/w1"}, []string{"run_0005", "run_0003", "run_0001"}},
		{durable.Filter{Limit: 10, Workflow: "payroll/none"}, nil},
	} {
		rows, err := s.List(ctx, c.f)
		must(t, err)
		var got []string
		for _, r := range rows {
			got = append(got, r.ID)
			if r.Revision != 2 {
				t.Errorf("%s has revision %d", r.ID, r.Revision)
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.f, got, c.want)
		}
	}
}

func definitions(t *testing.T, s Store, reopen func(*testing.T, Store) Store) {
	ctx := context.Background()
	if got, err := s.Definition(ctx, "sha256:d"); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
	must(t, s.KeepDefinition(ctx, "sha256:d", []byte("{}")))
	must(t, s.KeepDefinition(ctx, "sha256:d", []byte("{}")))
	if reopen != nil {
		s = reopen(t, s)
	}
	if got, err := s.Definition(ctx, "sha256:d"); err != nil || string(got) != "{}" {
		t.Errorf("%q, %v", got, err)
	}
}

func grants(t *testing.T, s Store, reopen func(*testing.T, Store) Store) {
	ctx := context.Background()
	begin(t, s, 1)
	g := durable.Grant{Attempt: 1, Held: dispatch.Held{Run: "run_0001", Task: "t", Permit: "p1", Epoch: 1, Deadline: time.UnixMicro(9).UTC(),
		Runner: dispatch.Runner{ID: "r", Key: "k", Tier: "standard"}}}
	newer := g
	newer.Epoch, newer.Permit, newer.Attempt = 2, "p2", 2
	orphan := g
	orphan.Run = "run_none"
	must(t, s.KeepGrants(ctx, nil))
	must(t, s.KeepGrants(ctx, []durable.Grant{g, newer, orphan}))
	must(t, s.KeepGrants(ctx, []durable.Grant{g})) // which is older now
	if reopen != nil {
		s = reopen(t, s)
	}
	if got, err := s.Grants(ctx); err != nil || !reflect.DeepEqual(got, []durable.Grant{newer}) {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, s.Append(ctx, "run_0001", entry(2), &durable.Progress{Status: engine.StatusCompleted, Closed: true}))
	must(t, s.KeepGrants(ctx, []durable.Grant{newer}))
	if got, err := s.Grants(ctx); err != nil || len(got) != 0 {
		t.Errorf("a closed run has grants: %+v, %v", got, err)
	}
}

func together(t *testing.T, s Store, _ func(*testing.T, Store) Store) {
	ctx := context.Background()
	var group sync.WaitGroup
	for n := 1; n <= 20; n++ {
		group.Go(func() {
			if _, err := s.Begin(ctx, record(n), entry(1)); err != nil {
				t.Error(err)
			}
			for seq := uint64(2); seq <= 10; seq++ {
				if err := s.Append(ctx, record(n).ID, entry(seq), nil); err != nil {
					t.Error(err)
				}
			}
			if _, entries, err := s.Load(ctx, record(n).ID); err != nil || len(entries) != 10 {
				t.Errorf("%d events: %v", len(entries), err)
			}
		})
	}
	group.Wait()
}
