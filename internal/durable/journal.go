package durable

import (
	"context"
	"errors"
	"time"

	"cardea/internal/dispatch"
	"cardea/internal/engine"
)

// Record is what never changes of a run.
type Record struct {
	ID string
	// Workflow is <process>/<name>.
	Workflow, Version, Digest string
	// Person asked for the run; RequestID is the name that the client gave to the request.
	Person, RequestID string
	// TicketID is the evidence's: it starts one run, ever.
	TicketID    string
	InputDigest string
	StartedAt   time.Time
}

// Progress is what a run's row tells of it besides; it changes together with the event that changes it.
type Progress struct {
	Status    engine.Status
	StartedBy string
	// Kind and Origin are the run's provenance.
	Kind, Origin string
	EndedAt      time.Time
	Closed       bool
}

// Summary is a run's row.
type Summary struct {
	Record
	Progress
	// Format is the engine's format that the run is journalled in.
	Format int
	// Revision is the sequence number of its last event.
	Revision uint64
}

// Entry is one journalled event.
type Entry struct {
	// Seq is 1 for the first.
	Seq  uint64
	Data []byte
	// Commands is engine.Digest of what the event caused.
	Commands [32]byte
}

// Filter selects runs, the newest first.
type Filter struct {
	Workflow string // empty: any
	Statuses []engine.Status
	Live     bool   // only those that are not closed
	Before   string // only ids before this one
	Limit    int
}

// Errors of a Journal that the driver branches on.
var (
	ErrNoRun = errors.New("no such run")
	// ErrFenced says that another driver has written to the run: this one must stop.
	ErrFenced = errors.New("another driver writes to this journal")
)

// Journal keeps runs. Every method may be called concurrently; what it reports as written survives a power cut.
type Journal interface {
	// Begin adds a run with its first event, unless the ticket, or the person's request, has begun one already: then that
	// one is answered and nothing is written.
	Begin(ctx context.Context, r Record, first Entry) (begun Record, err error)
	// Append adds a run's next event, and its progress when that changes, in one commit.
	Append(ctx context.Context, run string, e Entry, p *Progress) error
	// Load reads a run whole. It fails with ErrNoRun.
	Load(ctx context.Context, run string) (Summary, []Entry, error)
	// List reads rows.
	List(ctx context.Context, f Filter) ([]Summary, error)
}

// Definitions keeps the canonical bytes of the definitions that runs are of, so that recovery needs nobody.
type Definitions interface {
	// Definition answers nil when there is none.
	Definition(ctx context.Context, digest string) ([]byte, error)
	KeepDefinition(ctx context.Context, digest string, canonical []byte) error
}

// Grants keeps who holds which attempt, for recovery alone. A task has at most one row, the newest; a closed run has none.
type Grants interface {
	KeepGrants(ctx context.Context, grants []Grant) error
	Grants(ctx context.Context) ([]Grant, error)
}

// Grant is an attempt in a runner's hands.
type Grant struct {
	dispatch.Held
	Attempt uint32
}
