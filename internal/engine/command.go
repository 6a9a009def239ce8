package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"time"

	"cardea/internal/action"
	"cardea/internal/flow"
)

// Command is something to be done about a step. Commands are never journalled: they are derived again, and the digest that
// stands beside each event shows that they are the same.
type Command interface{ digestInto(*hasher) }

// OpenRun asks the authority to verify the evidence and open the run.
type OpenRun struct {
	Digest, InputDigest, Ticket string
}

// Attempt makes one attempt of a task. It stays outstanding until an event about that task settles it.
type Attempt struct {
	Task TaskID
	// Number is 1 for the first.
	Number uint32
	// Action is the canonical bytes of what will be done.
	Action []byte
	// Connections are sorted.
	Connections []string
	Scopes      []string
	Effect      string
	Tier        string
	// NotBefore delays an attempt that follows a failure of our own; zero: at once.
	NotBefore time.Time
}

// CancelAttempts withdraws attempts, wherever they are.
type CancelAttempts struct{ Tasks []TaskID }

// Continue asks for a Continued event: there is more to compute.
type Continue struct{}

// Finish says that the run has ended, and how. The authority is to be told until it has closed the run.
type Finish struct {
	Status  Status // StatusCompleted, StatusFaulted or StatusCancelled
	Output  Value
	Problem *flow.Problem
}

// TaskStatus is what a run shows of a task.
type TaskStatus string

// The statuses of a task.
const (
	TaskRunning   TaskStatus = "running"
	TaskPending   TaskStatus = "pending"
	TaskWaiting   TaskStatus = "waiting"
	TaskInDoubt   TaskStatus = "in_doubt"
	TaskCompleted TaskStatus = "completed"
	TaskSkipped   TaskStatus = "skipped"
	TaskFaulted   TaskStatus = "faulted"
	TaskCancelled TaskStatus = "cancelled"
)

// Note tells of a change in a task's life, for people and for lifecycle events. Nothing that matters depends on it.
type Note struct {
	Task    TaskID
	Name    string
	Status  TaskStatus
	Attempt uint32
	Problem *flow.Problem
}

// Digest names a list of commands: two lists have the same digest only if they are the same.
func Digest(commands []Command) [sha256.Size]byte {
	var h hasher
	for _, c := range commands {
		c.digestInto(&h)
	}
	return sha256.Sum256(h.buf)
}

// hasher collects the unambiguous bytes of commands: every string is preceded by its length.
type hasher struct{ buf []byte }

func (h *hasher) num(n uint64) { h.buf = binary.BigEndian.AppendUint64(h.buf, n) }

func (h *hasher) str(values ...string) {
	for _, s := range values {
		h.num(uint64(len(s)))
		h.buf = append(h.buf, s...)
	}
}

func (h *hasher) list(values []string) {
	h.num(uint64(len(values)))
	h.str(values...)
}

func (h *hasher) task(t TaskID) { h.str(t.Key()) }

func (h *hasher) problem(p *flow.Problem) {
	if p == nil {
		h.num(0)
		return
	}
	h.num(1)
	h.str(p.Type, p.Title, p.Detail, p.Instance)
	h.num(uint64(p.Status))
}

func (c OpenRun) digestInto(h *hasher) { h.str("open", c.Digest, c.InputDigest, c.Ticket) }

func (c Attempt) digestInto(h *hasher) {
	h.str("attempt", action.Digest(c.Action), c.Effect, c.Tier)
	h.task(c.Task)
	h.num(uint64(c.Number))
	h.list(c.Connections)
	h.list(c.Scopes)
	if c.NotBefore.IsZero() {
		h.num(0)
	} else {
		h.num(uint64(c.NotBefore.UnixMicro()))
	}
}

func (c CancelAttempts) digestInto(h *hasher) {
	h.str("cancel")
	h.num(uint64(len(c.Tasks)))
	for _, t := range c.Tasks {
		h.task(t)
	}
}

func (c Continue) digestInto(h *hasher) { h.str("continue") }

func (c Finish) digestInto(h *hasher) {
	h.str("finish", string(c.Status))
	h.problem(c.Problem)
	// A value that was computed can be encoded; if that ever fails, the digest says so rather than nothing.
	output, err := json.Marshal(c.Output)
	if err != nil {
		output = []byte(err.Error())
	}
	h.str(string(output))
}

func (c Note) digestInto(h *hasher) {
	h.str("note", c.Name, string(c.Status))
	h.task(c.Task)
	h.num(uint64(c.Attempt))
	h.problem(c.Problem)
}
