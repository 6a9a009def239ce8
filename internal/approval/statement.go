package approval

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gowebpki/jcs"

	"cardea/internal/action"
)

// Version of the statement's form that this build writes and reads.
const Version = 1

// Kinds of statement.
const (
	// KindAttempt is consent to attempts of the actions in it.
	KindAttempt = "attempt"
	// KindPlan is consent to one change of desired state.
	KindPlan = "plan"
)

// Bounds of one statement.
const (
	MaxStatement  = 8 << 20
	MaxActions    = 1000
	MaxAttempts   = 1000
	maxList       = 1000
	maxText       = 4096
	maxPrivileges = 5000
	// MaxChanges and MaxChange bound a plan's changes and the text of each side of one; the registry takes less.
	MaxChanges = 1000
	MaxChange  = 512 << 10
)

// Statement is everything that an approval permits, by value. All of it is signed.
type Statement struct {
	V    int    `json:"v"`
	Kind string `json:"kind"`
	// ID is the approval's, apr_….
	ID string `json:"id"`
	// Hub names the hub that asks; an approval is of no use elsewhere.
	Hub string `json:"hub"`
	// Dev says that the hub runs in dev mode.
	Dev bool `json:"dev,omitempty"`
	// Requester is who asked: person:<name>, route:<name>, schedule or run:<id>.
	Requester string `json:"requester"`
	// Appliers are the persons who applied the definition that runs, or the change; they do not count as signers.
	Appliers []string `json:"appliers,omitempty"`
	Rule     Rule     `json:"rule"`
	// Policies determined the verdict that asks for this approval.
	Policies []Policy `json:"policies"`
	// Attempts is how many times each action may be tried; 1 for an action that happens once.
	Attempts  int     `json:"attempts"`
	CreatedAt Instant `json:"createdAt"`
	ExpiresAt Instant `json:"expiresAt"`
	// Nonce makes two statements about the same thing different, so that a signature cannot move between them.
	Nonce string `json:"nonce"`
	// Replaces is the approval that a change voided and this one stands in for.
	Replaces string `json:"replaces,omitempty"`
	// Process is whose business it is. Optional for a plan, which may touch several.
	Process *Process `json:"process,omitempty"`

	// The rest of an attempt.
	Workflow    *Workflow    `json:"workflow,omitempty"`
	Run         string       `json:"run,omitempty"`
	Task        *Task        `json:"task,omitempty"`
	Iteration   []uint32     `json:"iteration,omitempty"`
	Visit       uint32       `json:"visit,omitempty"`
	Actions     []Action     `json:"actions,omitempty"`
	Connections []Connection `json:"connections,omitempty"`

	// The rest of a plan.
	Plan *Plan `json:"plan,omitempty"`
}

// Process is a business process and its owner, such as group:people-ops.
type Process struct {
	Name  string `json:"name"`
	Owner string `json:"owner"`
}

// Workflow is the definition that runs. Ref is payroll/pay-run.
type Workflow struct {
	Ref     string `json:"ref"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

// Task is the task that waits: its JSON pointer and its names joined by /.
type Task struct {
	Pointer string `json:"pointer"`
	Name    string `json:"name"`
}

// Action is one action by value. Its canonical bytes stand in the statement as they are, so that
// `jq -cj '.actions[0].action' statement.json | sha256sum` gives its digest.
type Action struct {
	Digest string `json:"digest"`
	// IdempotencyKey is the same for every attempt of this action.
	IdempotencyKey string `json:"idempotencyKey"`
	// Action is what Canonical of package action wrote.
	Action json.RawMessage `json:"action"`
}

// Connection is where the actions go and what credential they get.
type Connection struct {
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"`
	// Address is the ip:port that is dialled instead of what the host's name resolves to.
	Address string `json:"address,omitempty"`
	// Roots is the digest of the PEM certificates that are trusted in place of the system's.
	Roots string `json:"roots,omitempty"`
	// Plaintext says that the host is spoken to without TLS.
	Plaintext bool     `json:"plaintext,omitempty"`
	Allow     []Allow  `json:"allow"`
	Scopes    []string `json:"scopes,omitempty"`
	Tier      string   `json:"tier"`
	Zone      string   `json:"zone"`
	// Credential describes what is issued, such as identity token.
	Credential string `json:"credential"`
	// TTL is the longest life of one credential, such as 2m.
	TTL string `json:"ttl"`
	// Provider issues the credential, such as jwt, for this audience.
	Provider string `json:"provider"`
	Audience string `json:"audience,omitempty"`
	// Present is how the host is shown the credential, such as bearer; Deliver how it gets there, such as egress.
	Present string `json:"present"`
	Deliver string `json:"deliver"`
}

// Allow is one entry of a connection's allow list.
type Allow struct {
	Methods []string `json:"methods"`
	Path    string   `json:"path"`
	// Query names the query parameters that may occur; * stands for any.
	Query []string `json:"query,omitempty"`
	// Body is the digest of the schema that bodies must fit.
	Body  string            `json:"body,omitempty"`
	Facts map[string]string `json:"facts,omitempty"`
}

// Policy names a policy and the digest of its text.
type Policy struct {
	ID     string `json:"id"`
	Digest string `json:"digest"`
}

// Rule is the approval rule as it stood when the statement was made.
type Rule struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	// Approvers are group:<name> or person:<name>.
	Approvers []string `json:"approvers"`
	Quorum    int      `json:"quorum"`
}

// Plan is a change of desired state.
type Plan struct {
	Digest string `json:"digest"`
	// Privileges are the lines that the planner was shown, such as "gains  write  bank  POST https://…".
	Privileges []string `json:"privileges,omitempty"`
	// Changes are the resources that change, by value; a plan without any is refused.
	Changes []Change `json:"changes"`
}

// Verbs of a Change.
const (
	VerbNew     = "new"
	VerbChanged = "changed"
	VerbRemoved = "removed"
)

// kindPolicy is the one kind whose text is no JSON.
const kindPolicy = "Policy"

// Change is what happens to one resource. Before and After are its canonical JSON, or a Policy's text; empty where the
// resource does not exist.
type Change struct {
	Verb   string `json:"verb"`
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Instant is a time in UTC, written with milliseconds: 2026-05-01T06:00:00.000Z.
type Instant struct{ time.Time }

const instantForm = "2006-01-02T15:04:05.000Z"

// At rounds a time down to the millisecond that a statement can hold.
func At(t time.Time) Instant { return Instant{t.UTC().Truncate(time.Millisecond)} }

// MarshalJSON writes RFC 3339 in UTC with milliseconds.
func (i Instant) MarshalJSON() ([]byte, error) {
	return json.Marshal(i.UTC().Format(instantForm))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (i *Instant) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	t, err := time.Parse(instantForm, s)
	if err != nil {
		return fmt.Errorf("time %.40q is not like 2026-05-01T06:00:00.000Z", s)
	}
	i.Time = t
	return nil
}

// NewAction puts canonical bytes of an action into the form of a statement.
func NewAction(canonical []byte, idempotencyKey string) Action {
	return Action{Digest: action.Digest(canonical), IdempotencyKey: idempotencyKey, Action: canonical}
}

// Canonical returns the statement's one byte form. It fails for a statement that Decode would refuse.
func (s *Statement) Canonical() ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("statement %s: %w", s.ID, err)
	}
	return s.encode()
}

func (s *Statement) encode() ([]byte, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode statement %s: %w", s.ID, err)
	}
	b, err := jcs.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("encode statement %s: %w", s.ID, err)
	}
	if len(b) > MaxStatement {
		return nil, fmt.Errorf("statement %s has %d bytes; at most %d are allowed", s.ID, len(b), MaxStatement)
	}
	return b, nil
}

// Decode reads canonical bytes and refuses whatever Canonical would not have written: other spellings, unknown or double
// keys, actions whose digest is not theirs. Two readers can therefore not see two statements.
func Decode(canonical []byte) (*Statement, error) {
	if len(canonical) > MaxStatement {
		return nil, fmt.Errorf("statement has %d bytes; at most %d are allowed", len(canonical), MaxStatement)
	}
	dec := json.NewDecoder(bytes.NewReader(canonical))
	dec.DisallowUnknownFields()
	var s Statement
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("decode statement: %w", err)
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("decode statement: %w", err)
	}
	again, err := s.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, canonical) {
		return nil, errors.New("decode statement: it is not in its canonical form")
	}
	return &s, nil
}

// Digest names a statement's canonical bytes: sha256:<hex>. Its 32 raw bytes are what people sign.
func Digest(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Message is what a person's SSH key signs for a statement: the raw SHA-256 of its canonical bytes.
func Message(canonical []byte) []byte {
	sum := sha256.Sum256(canonical)
	return sum[:]
}

// Covers says whether the statement permits exactly this action under exactly this idempotency key.
func (s *Statement) Covers(digest, idempotencyKey string) bool {
	for _, a := range s.Actions {
		if a.Digest == digest && a.IdempotencyKey == idempotencyKey {
			return true
		}
	}
	return false
}

// SameMatter says whether two statements consent to the same: they agree byte for byte in everything but which approval
// they are and when it was made (id, nonce, createdAt, expiresAt, replaces). The authority states anew what would happen now
// and compares, so whatever stands in a statement cannot drift. A statement that may not be written agrees with none.
func (s *Statement) SameMatter(other *Statement) bool {
	if s == nil || other == nil {
		return false
	}
	a, err := s.matter()
	if err != nil {
		return false
	}
	b, err := other.matter()
	return err == nil && bytes.Equal(a, b)
}

// matter is the canonical form with fixed values for what names an approval. It goes through validate: JSON would write two
// strings that are not UTF-8 alike.
func (s *Statement) matter() ([]byte, error) {
	c := *s
	c.ID, c.Nonce, c.Replaces = "apr_", "0000000000000000", ""
	c.CreatedAt, c.ExpiresAt = At(time.Unix(1e9, 0)), At(time.Unix(2e9, 0))
	return c.Canonical()
}

// CoversPlan says whether the statement permits exactly this plan.
func (s *Statement) CoversPlan(digest string) bool {
	return s.Kind == KindPlan && s.Plan != nil && digest != "" && s.Plan.Digest == digest
}

// personName takes the prefix off a requester or applier who is a person.
func personName(s string) string { return strings.TrimPrefix(s, "person:") }
