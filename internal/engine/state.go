package engine

import (
	"time"

	"cardea/internal/flow"
)

// Status is where a run is.
type Status string

// The statuses of a run.
const (
	StatusOpening   Status = "opening"
	StatusRunning   Status = "running"
	StatusWaiting   Status = "waiting"
	StatusInDoubt   Status = "in_doubt"
	StatusCompleted Status = "completed"
	StatusFaulted   Status = "faulted"
	StatusCancelled Status = "cancelled"
)

// Ended says whether nothing more will happen in a run of this status.
func (s Status) Ended() bool {
	return s == StatusCompleted || s == StatusFaulted || s == StatusCancelled
}

// State is all that a run is, between two events. The zero State is a run that has not started. Treat it as read-only: states
// share what did not change.
type State struct {
	Format int    `json:"format"`
	Run    string `json:"run"`
	// Phase is opening, running, or how the run ended. See Status.
	Phase     Status    `json:"phase"`
	Digest    string    `json:"workflow_digest"`
	StartedAt time.Time `json:"started_at"`
	// Raw is the workflow's input as given; Input is what its `input.from` made of it.
	Raw     Value         `json:"raw"`
	Input   Value         `json:"input"`
	Context Value         `json:"context"`
	Output  Value         `json:"output"`
	Problem *flow.Problem `json:"problem,omitempty"`
	// InputDigest and Ticket are kept until the run has been opened.
	InputDigest string `json:"input_digest,omitempty"`
	Ticket      string `json:"ticket,omitempty"`
	// Tiers is what the authority said when it opened the run.
	Tiers map[string]string `json:"tiers,omitempty"`
	// Closed says that the authority knows of the end.
	Closed bool `json:"closed,omitempty"`

	// Frames are the live tasks, in the order in which they began: composites that contain others, and attempts.
	Frames []Frame `json:"frames,omitempty"`
	// Ready are tasks to be entered when the run continues.
	Ready []Move `json:"ready,omitempty"`
	// LastFrame is the highest frame number given.
	LastFrame uint32 `json:"last_frame,omitempty"`
	// Visits counts the visits of tasks that a `then` can lead back to. Other tasks have one.
	Visits map[string]uint32 `json:"visits,omitempty"`
	// Spin counts the tasks entered since the last event from outside.
	Spin int `json:"spin,omitempty"`
}

// Move is a task about to be entered.
type Move struct {
	Parent  uint32 `json:"parent"` // frame number of the composite that it is in; 0 at the top
	Pointer string `json:"task"`
	Raw     Value  `json:"raw"`
}

// FramePhase is where a frame is.
type FramePhase string

// The phases of a frame.
const (
	FrameInside  FramePhase = "inside"   // a composite: others are live in it
	FrameAttempt FramePhase = "attempt"  // an attempt is outstanding
	FrameWaiting FramePhase = "waiting"  // the same, and people are asked
	FrameDoubt   FramePhase = "in_doubt" // the same, and nobody knows whether it was delivered
)

// Frame is a live task.
type Frame struct {
	Number uint32     `json:"number"`
	Parent uint32     `json:"parent,omitempty"` // 0 at the top
	Task   TaskID     `json:"id"`
	Phase  FramePhase `json:"phase"`
	// Raw is the task's input as given; Input is what its `input.from` made of it.
	Raw       Value     `json:"raw"`
	Input     Value     `json:"input"`
	StartedAt time.Time `json:"started_at"`

	// Attempt is the number of the outstanding attempt; Failures counts those that failed before anything was sent.
	Attempt  uint32 `json:"attempt,omitempty"`
	Failures uint32 `json:"failures,omitempty"`
	// Action is the canonical bytes of what the attempt does: every attempt of a frame does the same.
	Action    []byte    `json:"action,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	Approval  string    `json:"approval,omitempty"`
	// Floor is the lowest epoch whose result can still be this attempt's.
	Floor uint64 `json:"floor,omitempty"`
	// Last is what is known of who held the task last, when that was lost or left it in doubt.
	Last Grant `json:"last,omitzero"`
}

// outstanding says whether an attempt of the frame is under way.
func (f *Frame) outstanding() bool { return f.Phase != FrameInside }

// Status is what the run shows: a run in which anything is in doubt is in doubt, and one in which nothing moves is waiting.
func (s State) Status() Status {
	if s.Phase != StatusRunning {
		return s.Phase
	}
	waiting, moving := false, len(s.Ready) > 0
	for i := range s.Frames {
		switch s.Frames[i].Phase {
		case FrameDoubt:
			return StatusInDoubt
		case FrameWaiting:
			waiting = true
		case FrameAttempt:
			moving = true
		}
	}
	if waiting && !moving {
		return StatusWaiting
	}
	return StatusRunning
}

// Frame finds the live frame of a task.
func (s State) Frame(id TaskID) (Frame, bool) {
	for i := range s.Frames {
		if s.Frames[i].Task.Equal(id) {
			return s.Frames[i], true
		}
	}
	return Frame{}, false
}

// Outstanding are the commands that a state still needs done: after recovery they are all that has to be known. A finished run
// needs its Finish until it is closed.
func Outstanding(p *Program, s State) []Command {
	switch {
	case s.Phase == StatusOpening:
		return []Command{OpenRun{Digest: s.Digest, InputDigest: s.InputDigest, Ticket: s.Ticket}}
	case s.Phase.Ended() && !s.Closed:
		return []Command{Finish{Status: s.Phase, Output: s.Output, Problem: s.Problem}}
	case s.Phase.Ended() || s.Phase == "":
		return nil
	}
	var out []Command
	for i := range s.Frames {
		if f := &s.Frames[i]; f.outstanding() {
			out = append(out, p.attempt(f, s.Tiers))
		}
	}
	if len(s.Ready) > 0 {
		out = append(out, Continue{})
	}
	return out
}
