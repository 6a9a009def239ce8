package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"cardea/internal/flow"
)

// Format is the version of events and states that this build writes and knows. It is raised when the same events would no
// longer give the same commands.
const Format = 1

// MaxEvent bounds one encoded event, in bytes.
const MaxEvent = 16 << 20

// Event is one input of a run: what is journalled. Exactly one field besides At is set.
type Event struct {
	// At is when it happened, by its driver's clock: UTC, whole microseconds. It is the only time that Step knows.
	At time.Time `json:"at"`

	Started   *Started     `json:"started,omitempty"`
	Opened    *Opened      `json:"opened,omitempty"`
	Refused   *OpenRefused `json:"open_refused,omitempty"`
	Result    *Result      `json:"result,omitempty"`
	Denied    *Denied      `json:"denied,omitempty"`
	Waiting   *Waiting     `json:"waiting,omitempty"`
	InDoubt   *InDoubt     `json:"in_doubt,omitempty"`
	Lost      *Lost        `json:"lost,omitempty"`
	Continued *Continued   `json:"continued,omitempty"`
	Cancelled *Cancelled   `json:"cancelled,omitempty"`
	Closed    *Closed      `json:"closed,omitempty"`
}

// Started begins a run. It is a run's first event, and durable before its start is acknowledged.
type Started struct {
	Run    string `json:"run"`
	Digest string `json:"workflow_digest"`
	// Input is JSON.
	Input       json.RawMessage `json:"input,omitempty"`
	InputDigest string          `json:"input_digest"`
	// Ticket is the evidence: presented to the authority when the run is opened.
	Ticket string `json:"ticket,omitempty"`
}

// Verdict is what the authority decided, as far as a run shows it.
type Verdict struct {
	Outcome  string   `json:"outcome,omitempty"` // allow, deny, pending or in_doubt
	Policies []string `json:"policies,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Mend     string   `json:"mend,omitempty"`
	Leaf     string   `json:"leaf,omitempty"`
}

// Opened says that the authority has opened the run.
type Opened struct {
	Verdict   Verdict `json:"verdict"`
	Kind      string  `json:"provenance_kind"`
	Origin    string  `json:"provenance_origin"`
	StartedBy string  `json:"started_by"`
	// Tiers are the tiers of runners that tasks need, by pointer. The authority has the last word at each attempt.
	Tiers map[string]string `json:"tiers,omitempty"`
}

// OpenRefused says that the run may not, or cannot, run at all.
type OpenRefused struct {
	Verdict Verdict `json:"verdict"`
	// Problem is set when the definition could not be loaded, although the start was allowed.
	Problem *flow.Problem `json:"problem,omitempty"`
}

// Delivery says how far an attempt's action got.
type Delivery string

// The deliveries.
const (
	NotSent  Delivery = "not_sent"
	Sent     Delivery = "sent"
	Answered Delivery = "answered"
)

// Result is how an attempt ended. Exactly one of HTTP and Problem is set.
type Result struct {
	Task     TaskID        `json:"id"`
	Attempt  uint32        `json:"attempt"`
	Grant    Grant         `json:"grant"`
	Delivery Delivery      `json:"delivery"`
	Verdict  Verdict       `json:"verdict"`
	HTTP     *HTTPResponse `json:"http,omitempty"`
	Problem  *flow.Problem `json:"problem,omitempty"`
}

// HTTPResponse is a response as the runner passed it on.
type HTTPResponse struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers,omitempty"`
	Body    []byte      `json:"body,omitempty"`
}

// Denied says that policy does not allow the attempt.
type Denied struct {
	Task    TaskID  `json:"id"`
	Attempt uint32  `json:"attempt"`
	Verdict Verdict `json:"verdict"`
}

// Waiting says that people are asked to approve. It changes nothing but what the run shows: the attempt stays outstanding.
type Waiting struct {
	Task     TaskID  `json:"id"`
	Attempt  uint32  `json:"attempt"`
	Approval string  `json:"approval"`
	Verdict  Verdict `json:"verdict"`
}

// InDoubt says that a `once` action may have been delivered and nobody knows. The task waits for a person, or for the
// runner's late answer.
type InDoubt struct {
	Task    TaskID  `json:"id"`
	Attempt uint32  `json:"attempt"`
	Verdict Verdict `json:"verdict"`
}

// Lost says that the runner that held the attempt is gone. Its grant stays known: until a newer epoch is issued, its late
// answer is the current one.
type Lost struct {
	Task    TaskID `json:"id"`
	Attempt uint32 `json:"attempt"`
	Grant   Grant  `json:"grant"`
}

// Grant is an attempt in the hands of a runner.
type Grant struct {
	Epoch  uint64 `json:"epoch"`
	Permit string `json:"permit"`
	// Runner is its SPIFFE id, Key the thumbprint of its key.
	Runner string `json:"runner"`
	Key    string `json:"key,omitempty"`
}

// Continued goes on after a Continue command.
type Continued struct{}

// Cancelled ends the run because a person asked for it.
type Cancelled struct {
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// Closed says that the authority has ended the run and what its closure was.
type Closed struct {
	Issued uint32      `json:"issued"`
	Ended  uint32      `json:"ended"`
	Live   []LiveLease `json:"live,omitempty"`
	Leaf   string      `json:"leaf,omitempty"`
}

// LiveLease is a credential that outlived the run, and why.
type LiveLease struct {
	Lease      string    `json:"lease"`
	Connection string    `json:"connection"`
	Until      time.Time `json:"until"`
	Why        string    `json:"why"`
}

// Encode is the event's journalled form.
func (e Event) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	if len(data) > MaxEvent {
		return nil, fmt.Errorf("event has %d bytes; at most %d are allowed", len(data), MaxEvent)
	}
	return data, nil
}

// DecodeEvent reads what Encode wrote and refuses whatever is not an event of this format. Who edits a journal can make a run
// believe in results that nobody gave, but cannot make this decoder guess.
func DecodeEvent(data []byte) (Event, error) {
	var e Event
	if len(data) > MaxEvent {
		return Event{}, fmt.Errorf("event has %d bytes; at most %d are allowed", len(data), MaxEvent)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Event{}, errors.New("decode event: trailing data")
	}
	return e, e.check()
}

func (e Event) check() error {
	set := 0
	for _, is := range []bool{e.Started != nil, e.Opened != nil, e.Refused != nil, e.Result != nil, e.Denied != nil, e.Waiting != nil,
		e.InDoubt != nil, e.Lost != nil, e.Continued != nil, e.Cancelled != nil, e.Closed != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return fmt.Errorf("event has %d bodies, not 1", set)
	case e.At.IsZero() || !e.At.Equal(e.At.Truncate(time.Microsecond)) || e.At.Location() != time.UTC:
		return errors.New("event's time is not in whole microseconds of UTC")
	}
	if r := e.Result; r != nil {
		return r.check()
	}
	return nil
}

func (r *Result) check() error {
	if (r.HTTP == nil) == (r.Problem == nil) {
		return errors.New("result has not exactly one of response and problem")
	}
	if r.Delivery != NotSent && r.Delivery != Sent && r.Delivery != Answered {
		return fmt.Errorf("result's delivery %q is not known", r.Delivery)
	}
	if r.HTTP != nil && r.Delivery != Answered {
		return errors.New("result has a response that was not answered")
	}
	return nil
}
