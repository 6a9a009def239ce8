package crash_test

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"cardea/internal/supervise"
)

// point is a place at which a role dies, and how often one storm is certain to pass it.
type point struct {
	name   string
	passes int
}

// A storm opens six runs. Of these, four have three attempts each and one has one; one ends before its attempt.
const (
	perRun     = stormSteps + 2
	perAttempt = 3*stormSteps + 1
)

// TestCrashAuthority: whatever was decided or issued when the authority dies is there afterwards, or was never said.
func TestCrashAuthority(t *testing.T) {
	crash(t, supervise.Authority, false,
		point{"authority.run.committed", perRun},
		point{"authority.verdict.decided", perAttempt},
		point{"authority.verdict.committed", perAttempt},
		point{"authority.lease.intended", perAttempt},
		point{"authority.lease.minted", perAttempt},
		point{"authority.lease.issued", perAttempt},
		point{"authority.return.committed", perAttempt},
		point{"authority.approval.signed", 1},
		point{"authority.run.ended", perRun},
	)
}

// TestCrashEngine: what was acknowledged goes on, and nothing is pushed twice that may not be.
func TestCrashEngine(t *testing.T) {
	crash(t, supervise.Engine, true,
		point{"engine.start.committed", perRun},
		point{"engine.event.committed", 3 * perRun},
		point{"engine.authorized", perAttempt},
		point{"engine.task.pushed", perAttempt},
		point{"engine.result.received", perAttempt},
		point{"engine.result.committed", perAttempt},
		point{"engine.result.acked", perAttempt},
		point{"engine.run.ended", perRun},
	)
}

// TestCrashRunner: what a runner had in hand is tried again, or is in doubt when it may not be.
func TestCrashRunner(t *testing.T) {
	crash(t, standard, true,
		point{"runner.pushed", perAttempt},
		point{"runner.redeemed", perAttempt},
		point{"runner.acted", perAttempt},
		point{"runner.resulted", perAttempt},
		point{"runner.returned", perAttempt},
	)
}

// crash kills one role of a hub at each of its points, again and again.
func crash(t *testing.T, role string, mayDoubt bool, points ...point) {
	h := newHub(t, "warn")
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			h := *h // with this test's t
			h.t = t
			for round := range rounds(t) {
				if h.die(role, p, round, mayDoubt); t.Failed() {
					return // what follows would tell of the same
				}
			}
		})
		if t.Failed() {
			return
		}
	}
	h.checkLeases()
	h.checkLedger()
}

// die is one round.
func (h *hub) die(role string, p point, round int, mayDoubt bool) {
	h.t.Helper()
	begun := time.Now()
	nth := 1 + dice(h.t, p.name, round).IntN(p.passes)
	h.restart(role, fmt.Sprintf("CARDEA_FAULT=%s:%d", p.name, nth))
	starts := h.tree.Starts(role)
	h.tree.SetEnv(role) // the next one lives
	s := h.brew(fmt.Sprintf("%s-%d", p.name, round))
	h.until(fmt.Sprintf("%s to die at its passing %d of %s", role, nth, p.name), func() bool { return h.tree.Starts(role) > starts })
	h.ready()
	s.settle()
	s.check(mayDoubt)
	h.checkLedger()
	doubts := 0
	for _, r := range s.runs {
		if r.doubt {
			doubts++
		}
	}
	h.t.Logf("round %d: died at passing %d, %d runs in doubt, %s", round, nth, doubts, time.Since(begun).Round(time.Millisecond))
}

// restart starts a role anew with these variables.
func (h *hub) restart(role string, env ...string) {
	h.t.Helper()
	h.tree.SetEnv(role, env...)
	if err := h.tree.Stop(role); err != nil {
		h.t.Fatal(err)
	}
	if err := h.tree.StartRole(role); err != nil {
		h.t.Fatal(err)
	}
	h.ready()
}

// rounds is how many kills each point gets.
func rounds(t *testing.T) int { return int(setting(t, "CRASH_ROUNDS", 2)) }

// dice are the same for the same CRASH_SEED, point and round.
func dice(t *testing.T, name string, round int) *rand.Rand {
	sum := fnv.New64a()
	_, _ = fmt.Fprintf(sum, "%s %d", name, round)
	return rand.New(rand.NewPCG(setting(t, "CRASH_SEED", 1), sum.Sum64()))
}

func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
