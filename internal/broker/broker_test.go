package broker

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cardea/internal/sqlite"
	"cardea/internal/store"
)

// target is a system with named credentials that can refuse to revoke, or revoke and say that it failed.
type target struct {
	mu      sync.Mutex
	alive   map[string]bool
	fail    int  // how many more calls fail
	applied bool // whether failing calls take effect all the same
}

func (t *target) Name() string                { return "fake" }
func (t *target) Promise() Promise            { return Named }
func (t *target) ShortestLife() time.Duration { return time.Second }
func (t *target) Local() bool                 { return false }

func (t *target) Mint(_ context.Context, o Order) (Minted, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.alive[o.Lease] = true
	return Minted{Credential: []byte("x"), Expires: o.NotAfter}, nil
}

func (t *target) Revoke(_ context.Context, lease, _ string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fail > 0 {
		t.fail--
		if t.applied {
			delete(t.alive, lease)
		}
		return errors.New("target is away")
	}
	delete(t.alive, lease)
	return nil
}

type rig struct {
	db     *sqlite.DB
	target *target
	ender  *Ender
	now    time.Time
	ends   map[string]State
}

func newRig(t testing.TB, dir string) *rig {
	r := &rig{target: &target{alive: map[string]bool{}}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ends: map[string]State{}}
	r.open(t, dir)
	return r
}

func (r *rig) open(t testing.TB, dir string) {
	t.Helper()
	db, err := sqlite.Open(context.Background(), filepath.Join(dir, "broker.db"), nil, sqlite.Component("broker", Schema))
	if err != nil {
		t.Fatal(err)
	}
	record := func(_ store.Tx, l Lease, s State, _ time.Time) (string, error) {
		r.ends[l.ID] = s
		return "lf_" + l.ID, nil
	}
	r.db, r.ender = db, NewEnder(db, map[string]Provider{"fake": r.target}, record, func() time.Time { return r.now }, slog.New(slog.DiscardHandler))
}

func (r *rig) lease(id string, promise Promise, life time.Duration) Lease {
	return Lease{ID: id, Permit: "prm_" + id, Run: "run_1", Task: "/do/0/a", Connection: "c", Provider: "fake", Promise: promise, IntendedAt: r.now, ExpiresAt: r.now.Add(life)}
}

func (r *rig) commit(t testing.TB, fn func(store.Tx) error) {
	t.Helper()
	if err := r.db.Commit(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

// mint goes through intent, mint and issue, as the authority does.
func (r *rig) mint(t testing.TB, id string) {
	l := r.lease(id, Named, time.Hour)
	r.commit(t, func(tx store.Tx) error { return Intend(tx, l) })
	m, _ := r.target.Mint(context.Background(), Order{Lease: id, NotAfter: l.ExpiresAt})
	r.commit(t, func(tx store.Tx) error { return Issue(tx, id, m, "lf", r.now) })
}

func (r *rig) round(t testing.TB) {
	t.Helper()
	if _, err := r.ender.Round(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) live(t testing.TB) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	err := r.db.View(context.Background(), func(tx store.Tx) error {
		leases, err := List(tx, Filter{Live: true, Limit: 1000})
		for _, l := range leases {
			out[l.ID] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Invariant 4: retries are unbounded, across restarts, until the target confirms.
func TestRevocationNeverGivesUp(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir)
	r.mint(t, "lse_1")
	r.target.fail = 50
	r.commit(t, func(tx store.Tx) error { _, err := EndOfPermit(tx, "prm_lse_1", r.now); return err })
	for tries := 0; r.target.alive["lse_1"]; tries++ {
		if tries > 60 {
			t.Fatal("gave up")
		}
		if tries == 20 {
			if err := r.db.Close(); err != nil {
				t.Fatal(err)
			}
			r.open(t, dir)
		}
		r.round(t)
		r.now = r.now.Add(retryMost)
	}
	r.round(t)
	if r.ends["lse_1"] != Revoked || len(r.live(t)) != 0 {
		t.Fatalf("ended as %q, live %v", r.ends["lse_1"], r.live(t))
	}
}

// Invariant 3: an intent whose mint was never confirmed is undone by its name, after no mint can be under way.
func TestLostMintIsUndone(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.commit(t, func(tx store.Tx) error { return Intend(tx, r.lease("lse_1", Named, time.Hour)) })
	r.target.alive["lse_1"] = true // minted, and the hub died before it heard of it
	r.commit(t, func(tx store.Tx) error { _, err := EndOfPermit(tx, "prm_lse_1", r.now); return err })
	r.round(t)
	if !r.target.alive["lse_1"] || len(r.live(t)) != 1 {
		t.Fatal("a mint that may be under way was taken for undone")
	}
	r.now = r.now.Add(mintGrace)
	r.round(t)
	if r.target.alive["lse_1"] || len(r.live(t)) != 0 {
		t.Fatal("a lost mint lives on")
	}
	if mintGrace <= MintTimeout {
		t.Fatal("a mint can outlast the grace after which it is taken for lost")
	}
}

// A credential that was minted while its ending was asked for stays due.
func TestIssueAfterEndingStaysDue(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.commit(t, func(tx store.Tx) error { return Intend(tx, r.lease("lse_1", Named, time.Hour)) })
	r.commit(t, func(tx store.Tx) error { _, err := EndOfPermit(tx, "prm_lse_1", r.now); return err })
	m, _ := r.target.Mint(context.Background(), Order{Lease: "lse_1", NotAfter: r.now.Add(time.Hour)})
	r.commit(t, func(tx store.Tx) error { return Issue(tx, "lse_1", m, "lf", r.now) })
	r.round(t)
	if r.target.alive["lse_1"] || r.ends["lse_1"] != Revoked {
		t.Fatal("it was not revoked")
	}
}

func TestExpiringEndsAtItsTimeAndNotBefore(t *testing.T) {
	r := newRig(t, t.TempDir())
	l := r.lease("lse_1", Expiring, time.Minute)
	r.commit(t, func(tx store.Tx) error { return IntendAndIssue(tx, l) })
	r.commit(t, func(tx store.Tx) error { _, err := EndOfPermit(tx, l.Permit, r.now); return err })
	r.round(t)
	if len(r.live(t)) != 1 {
		t.Fatal("called ended while its target accepts it")
	}
	r.now = r.now.Add(time.Minute)
	r.round(t)
	if r.ends["lse_1"] != Expired || len(r.live(t)) != 0 {
		t.Fatalf("ended as %q", r.ends["lse_1"])
	}
}

func TestNamesAreNeverReused(t *testing.T) {
	r := newRig(t, t.TempDir())
	l := r.lease("lse_1", Named, time.Hour)
	r.commit(t, func(tx store.Tx) error { return Intend(tx, l) })
	if err := r.db.Commit(context.Background(), func(tx store.Tx) error { return Intend(tx, l) }); err == nil {
		t.Fatal("a name was used twice")
	}
}

// Invariant 20, for this target: at rest, what it holds are exactly the hub's live leases, whatever failed on the way.
func TestConservation(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, t.TempDir())
		defer r.db.Close()
		n := rapid.IntRange(1, 6).Draw(rt, "leases")
		for i := range n {
			id := "lse_" + strconv.Itoa(i)
			r.mint(t, id)
			if rapid.Bool().Draw(rt, "returned") {
				r.commit(t, func(tx store.Tx) error { _, err := EndOfPermit(tx, "prm_"+id, r.now); return err })
			}
		}
		r.target.fail, r.target.applied = rapid.IntRange(0, 5).Draw(rt, "failures"), rapid.Bool().Draw(rt, "applied")
		for range 12 {
			r.round(t)
			r.now = r.now.Add(retryMost)
		}
		live := r.live(t)
		if len(live) != len(r.target.alive) {
			rt.Fatalf("hub has %v, target has %v", live, r.target.alive)
		}
		for id := range live {
			if !r.target.alive[id] {
				rt.Fatalf("%s lives in the hub alone", id)
			}
		}
	})
}
