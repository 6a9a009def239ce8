package flow

import (
	"time"

	"cardea/internal/expr"
	"cardea/internal/flow/claims"
	"cardea/internal/flow/problem"
)

// The types that the authority's strict path owns; see package claims.
type (
	Claims    = claims.Claims
	TaskClaim = claims.TaskClaim
	Finding   = claims.Finding
	Problem   = problem.Problem
)

// Plan is a definition ready to run: immutable, safe for concurrent use, and free of anything that still has to be parsed.
type Plan struct {
	Document  Document
	Digest    string // sha256:<hex> of Canonical
	Canonical []byte // RFC 8785; the definition itself. Do not change it
	Claims    Claims // the same that claims.Decode extracts from Canonical; zero without the profile
	Input     Input
	Output    Output
	Timeout   *Timeout // nil: none
	Do        []*Task

	tasks map[string]*Task
}

// Document is what the definition says about itself.
type Document struct {
	DSL, Namespace, Name, Version string
	Title, Summary                string
	Tags, Metadata                map[string]any
}

// Input is a task's or the workflow's input handling. Nil fields do nothing.
type Input struct {
	Schema *Schema
	From   *expr.Template
}

// Output is a task's or the workflow's output handling. Nil fields do nothing.
type Output struct {
	As     *expr.Template
	Schema *Schema
}

// Export replaces $context. Nil fields do nothing.
type Export struct {
	As     *expr.Template
	Schema *Schema
}

// Timeout ends what it is on with the standard timeout error.
type Timeout struct{ After Duration }

// Duration is fixed, unless Expr is set, which gives an ISO 8601 string.
type Duration struct {
	Fixed time.Duration
	Expr  *expr.Expr
}

// Kind says what a task does, and which of its fields is set.
type Kind string

// The kinds of the language. Compile accepts do, set and http for now; the others name what later versions bring.
const (
	KindDo       Kind = "do"
	KindSet      Kind = "set"
	KindHTTP     Kind = "http"
	KindFor      Kind = "for"
	KindFork     Kind = "fork"
	KindSwitch   Kind = "switch"
	KindTry      Kind = "try"
	KindRaise    Kind = "raise"
	KindWait     Kind = "wait"
	KindEmit     Kind = "emit"
	KindListen   Kind = "listen"
	KindRun      Kind = "run"
	KindGRPC     Kind = "grpc"
	KindOpenAPI  Kind = "openapi"
	KindAsyncAPI Kind = "asyncapi"
	KindA2A      Kind = "a2a"
	KindMCP      Kind = "mcp"
	KindFunction Kind = "function"
)

// Task is one step of the definition.
type Task struct {
	Pointer string // /do/0/timesheets
	Name    string
	Kind    Kind
	Index   int   // its place among its siblings
	Parent  *Task // the task whose list it is in; nil at the top

	If      *expr.Expr // nil: always
	Input   Input
	Output  Output
	Export  Export
	Then    Then
	Timeout *Timeout
	Meta    Meta

	Do   []*Task        // KindDo
	Set  *expr.Template // KindSet
	HTTP *HTTPCall      // KindHTTP

	siblings []*Task
}

// ThenKind says where a task leads.
type ThenKind string

// The flow directives.
const (
	ThenContinue ThenKind = "continue" // the next sibling; after the last one the list ends
	ThenExit     ThenKind = "exit"     // the end of the list it is in
	ThenEnd      ThenKind = "end"      // the end of the workflow
	ThenTask     ThenKind = "task"     // the sibling named
)

// Then is a task's flow directive. The zero value never occurs: without one, Kind is ThenContinue.
type Then struct {
	Kind  ThenKind
	Task  string // ThenTask: the sibling's name
	Index int    // ThenTask: the sibling's place
}

// Meta is the metadata under cardea/v1 on a task. It restricts, never grants.
type Meta struct {
	Tier   string
	Effect string // claims.EffectIdempotent, claims.EffectOnce or ""
	Uses   []string
	Scopes []string
	Labels map[string]string
}

// Task finds a task by its JSON pointer.
func (p *Plan) Task(pointer string) (*Task, bool) {
	t, ok := p.tasks[pointer]
	return t, ok
}

// Siblings is the list that t is in. Do not change it.
func (t *Task) Siblings() []*Task { return t.siblings }

// Next is the sibling after t, or nil when t is the last.
func (t *Task) Next() *Task {
	if t.Index+1 < len(t.siblings) {
		return t.siblings[t.Index+1]
	}
	return nil
}

// Target is the sibling that t's `then` names, or nil when it names none.
func (t *Task) Target() *Task {
	if t.Then.Kind != ThenTask {
		return nil
	}
	return t.siblings[t.Then.Index]
}
