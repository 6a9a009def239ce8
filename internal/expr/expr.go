package expr

import (
	"errors"
	"time"
)

// Class says where an expression may be evaluated.
type Class int

// The classes.
const (
	// Cheap expressions cost no more than a bound that the data sets; they are evaluated in process.
	Cheap Class = iota
	// Costly expressions may cost anything; they are for a capped child. They are refused for now.
	Costly
)

// Scope is what an expression can see. Its values are JSON values as Decode makes them; evaluation never changes them.
type Scope struct {
	Data          any // the dot
	Context       any // $context
	Input         any // $input
	Output        any // $output
	Task          any // $task
	Workflow      any // $workflow
	Runtime       any // $runtime
	Authorization any // $authorization, its parameter redacted by whoever fills it
	// Vars are variables that the definition itself names: loop items and indices, caught errors. Names without the dollar.
	Vars map[string]any
	// Now is the time of the event being handled; the only clock that an expression has. Zero: `now` is an error.
	Now time.Time
}

// Expr is a compiled expression. It is immutable and safe for concurrent use.
type Expr struct{ src string }

// Error is a refusal to compile an expression.
type Error struct {
	Offset  int    // bytes into the source where it was noticed
	Message string // one sentence
	Mend    string // may be empty
	Rule    string // expr/syntax, expr/costly, expr/ambient, expr/unknown or expr/secrets
}

func (e *Error) Error() string { return e.Message }

// Compile compiles jq source. vars are the names, without the dollar, of Scope.Vars that will be there.
func Compile(src string, vars ...string) (*Expr, error) { return nil, errors.New("expr: not built") }

// CompileField compiles the value of a field that is always an expression: `${ }` around it is optional.
func CompileField(src string, vars ...string) (*Expr, error) {
	return nil, errors.New("expr: not built")
}

// Eval evaluates e. An expression that produces nothing gives null; one that produces several values is an error. Errors
// are *problem.Problem.
func (e *Expr) Eval(s Scope) (any, error) { return nil, errors.New("expr: not built") }

// True evaluates e as a condition: everything but false and null holds.
func (e *Expr) True(s Scope) (bool, error) { return false, errors.New("expr: not built") }

// Source is the jq text, without `${ }`.
func (e *Expr) Source() string { return e.src }

// Class is the cost class.
func (e *Expr) Class() Class { return Cheap }

// Template is a JSON value whose whole-string `${ … }` leaves are expressions. It is immutable and safe for concurrent use.
type Template struct{}

// CompileTemplate compiles the expressions in a JSON value.
func CompileTemplate(v any, vars ...string) (*Template, error) {
	return nil, errors.New("expr: not built")
}

// Eval evaluates the expressions, once each: what they give is data, never evaluated again.
func (t *Template) Eval(s Scope) (any, error) { return nil, errors.New("expr: not built") }

// Decode reads one JSON value as nil, bool, int, *big.Int, float64, string, []any or map[string]any. Integers stay exact.
func Decode(data []byte) (any, error) { return nil, errors.New("expr: not built") }

// Encode writes a value deterministically: sorted keys, exact integers, no HTML escapes.
func Encode(v any) ([]byte, error) { return nil, errors.New("expr: not built") }
