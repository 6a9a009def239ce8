package authority

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/broker"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/registry"
	"cardea/internal/store"
)

// Config is what an authority is made of. Every field but Metrics is needed: an authority without a ledger or a clock is an error.
type Config struct {
	TrustDomain spiffeid.TrustDomain
	// Hub names this hub in leaves and statements.
	Hub string
	// Issuer is the origin's URL, the iss of JWT-SVIDs.
	Issuer string
	// Dev is true for a hub started by `cardea dev`; every leaf says so.
	Dev    bool
	DB     store.DB
	Ledger *ledger.Ledger
	// CheckpointKey is the ledger's verifier key in note form, for everybody's bundle.
	CheckpointKey string
	Keys          *Keys
	// Providers mint the credentials; a connection's provider that is not among them is refused.
	Providers []broker.Provider
	Now       func() time.Time
	Log       *slog.Logger
}

// Authority decides and records. Its methods are safe for concurrent use.
type Authority struct {
	Config

	providers map[string]broker.Provider
	ender     *broker.Ender
	watchers  watchers
	metrics   *metrics

	// current is what policy is decided over. It is replaced after the commit that changed it; transactions compare its generation
	// with the stored one, so that a decision over an older state cannot be committed.
	current atomic.Pointer[snapshot]
	// applying orders changes of desired state.
	applying sync.Mutex
	// planning lets one plan be computed at a time.
	planning chan struct{}

	// definitions caches claims by digest; they never change.
	definitions sync.Map
	refusals    refusals
	seen        proofMemory
	ids         idSource
}

// snapshot is one generation of desired state.
type snapshot struct {
	*registry.State
	generation int64
}

// New checks the configuration, loads desired state and returns an authority that Run keeps alive.
func New(ctx context.Context, c Config) (*Authority, error) {
	switch {
	case c.DB == nil, c.Ledger == nil:
		return nil, errors.New("authority: a store and a ledger are required: what cannot be recorded is not decided")
	case c.Keys == nil, c.Now == nil, c.Log == nil, c.TrustDomain.IsZero(), c.Hub == "", c.Issuer == "", c.CheckpointKey == "":
		return nil, errors.New("authority: keys, clock, log, trust domain, hub name, issuer and checkpoint key are required")
	}
	a := &Authority{Config: c, metrics: newMetrics(), planning: make(chan struct{}, 1)}
	a.providers = map[string]broker.Provider{}
	for _, p := range c.Providers {
		a.providers[p.Name()] = p
	}
	a.ender = broker.NewEnder(c.DB, a.providers, a.recordLeaseEnd, c.Now, c.Log)
	a.ender.Ended = func(n int) { a.metrics.leasesEnded.Add(float64(n)) }
	if err := a.advanceClock(ctx); err != nil {
		return nil, err
	}
	if err := a.reload(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// Run ends leases, expires approvals and sequences the ledger until ctx is done.
func (a *Authority) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { a.ender.Run(ctx) })
	group.Go(func() { a.tidy(ctx) })
	err := a.Ledger.Run(ctx)
	group.Wait()
	return err
}

// Errors that callers branch on; the services map them to RPC codes in one table.
var (
	ErrNotFound    = errors.New("not found")
	ErrInvalid     = errors.New("invalid request")
	ErrDenied      = errors.New("denied")
	ErrConflict    = errors.New("conflict")
	ErrStale       = errors.New("stale epoch or permit")
	ErrUnavailable = errors.New("unavailable")
	ErrUnknownUser = errors.New("nobody known holds this session key")
)

// metaGeneration counts changes of desired state and quarantines; metaClock is the highest time the hub has acted at.
const (
	metaGeneration = "generation"
	metaClock      = "clock"
)

func metaValue(tx store.Tx, key string) (int64, error) {
	var v int64
	err := tx.QueryRow(`SELECT value FROM meta WHERE key = $1`, key).Scan(&v)
	if errors.Is(err, store.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return v, nil
}

func setMeta(tx store.Tx, key string, v int64) error {
	_, err := tx.Exec(`INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, v)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// maxClockStep is how far behind its own high-water mark the clock may be; further back, expiries could be undone.
const maxClockStep = time.Minute

// advanceClock refuses a clock that has gone back, and moves the high-water mark.
func (a *Authority) advanceClock(ctx context.Context) error {
	return a.DB.Commit(ctx, func(tx store.Tx) error {
		mark, err := metaValue(tx, metaClock)
		if err != nil {
			return err
		}
		now := a.Now()
		if behind := store.Time(mark).Sub(now); mark != 0 && behind > maxClockStep {
			return fmt.Errorf("the clock is %s behind what this hub has already recorded: set it right before starting: %w", behind.Round(time.Second), ErrUnavailable)
		}
		return setMeta(tx, metaClock, max(mark, store.Micros(now)))
	})
}

// tidy expires approvals, records refusals and forgets old proofs. A failure is logged and met again.
func (a *Authority) tidy(ctx context.Context) {
	ticker := time.NewTicker(refusalRound)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := a.recordRefusals(context.WithoutCancel(ctx)); err != nil {
				a.Log.Error("recording refusals", "error", err)
			}
			return
		case <-ticker.C:
		}
		if err := a.expireApprovals(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("expiring approvals", "error", err)
		}
		if err := a.recordRefusals(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("recording refusals", "error", err)
		}
		if err := a.forgetProofs(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("forgetting proofs", "error", err)
		}
	}
}

// idSource makes ULIDs that sort by time.
type idSource struct {
	mu      sync.Mutex
	entropy *ulid.MonotonicEntropy
}

func (s *idSource) next(prefix string, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entropy == nil {
		s.entropy = ulid.Monotonic(rand.Reader, 0)
	}
	id, err := ulid.New(ulid.Timestamp(now), s.entropy)
	if err != nil { // the monotonic part of this millisecond is used up
		s.entropy = ulid.Monotonic(rand.Reader, 0)
		id = ulid.MustNew(ulid.Timestamp(now), s.entropy)
	}
	return prefix + strings.ToLower(id.String())
}

func (a *Authority) permitKeys() []ed25519.PublicKey {
	return []ed25519.PublicKey{a.Keys.PermitPublic()}
}

// Bundle is what roles need to recognise each other.
func (a *Authority) Bundle(ctx context.Context) (identity.Bundle, error) {
	b := identity.Bundle{
		TrustDomain: a.TrustDomain.Name(), RoleRoots: a.Keys.Roots(), PermitKeys: a.permitKeys(),
		CheckpointKey: a.CheckpointKey, Banned: map[string]bool{}, Dev: a.Dev, IssuedAt: a.Now(),
	}
	err := a.DB.View(ctx, func(tx store.Tx) error {
		generation, err := metaValue(tx, metaGeneration)
		if err != nil {
			return err
		}
		b.Generation = uint64(generation)
		return bannedInto(tx, b.Banned)
	})
	return b, err
}

func bannedInto(tx store.Tx, banned map[string]bool) error {
	rows, err := tx.Query(`SELECT id FROM bans`)
	if err != nil {
		return fmt.Errorf("read bans: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return fmt.Errorf("read bans: %w", err)
		}
		banned[id] = true
	}
	return rows.Err()
}
