package expr

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/itchyny/gojq"

	"cardea/internal/flow/problem"
)

// maxSource bounds the syntax tree, and with it the depth of every recursion over it.
const maxSource = 16 << 10

// Class says where an expression may be evaluated.
type Class int

// The classes.
const (
	// Cheap expressions cost no more than the meter allows; they are evaluated in process.
	Cheap Class = iota
	// Costly expressions may cost anything; they are for a capped child. They are refused for now.
	Costly
)

// Scope is what an expression can see. Its values are JSON values as Decode makes them; evaluation never changes them, and
// a result may share parts of them.
type Scope struct {
	Data          any // the dot
	Context       any // $context
	Input         any // $input
	Output        any // $output
	Task          any // $task
	Workflow      any // $workflow
	Runtime       any // $runtime
	Authorization any // $authorization, its parameter redacted by whoever fills it
	// Vars are variables that the definition itself names: loop items and indices, caught errors. Names without the dollar;
	// null where absent.
	Vars map[string]any
	// Now is the time of the event being handled; the only clock that an expression has. Zero: `now` is an error.
	Now time.Time
}

// Expr is a compiled expression. It is immutable and safe for concurrent use.
type Expr struct {
	src  string
	vars []string // names without the dollar, in the order of the code's variables after scopeVars
	code *gojq.Code
}

// Error is a refusal to compile an expression.
type Error struct {
	Offset  int    // bytes into the source where it was noticed
	Message string // one sentence
	Mend    string // may be empty
	Rule    string // expr/syntax, expr/costly, expr/ambient, expr/unknown, expr/secrets or expr/size
}

func (e *Error) Error() string { return e.Message }

// Problem is the standard error that the refusal stands for: authorization for $secrets, expression for all others.
func (e *Error) Problem() *problem.Problem {
	if e.Rule == "expr/secrets" {
		return problem.New(problem.Authorization, e.Message)
	}
	return problem.New(problem.Expression, e.Message)
}

// Compile compiles jq source. vars are the names, without the dollar, that Scope.Vars may hold. The error is an *Error.
func Compile(src string, vars ...string) (*Expr, error) {
	if len(src) > maxSource {
		return nil, &Error{Offset: maxSource, Rule: "expr/size", Message: fmt.Sprintf("the expression is longer than %d KiB", maxSource>>10)}
	}
	names := append([]string{}, scopeVars...)
	for _, v := range vars {
		if !variableName.MatchString(v) {
			return nil, &Error{Rule: "expr/unknown", Message: fmt.Sprintf("%q cannot be the name of a variable", v)}
		}
		names = append(names, "$"+v)
	}
	q, err := parse(src)
	if err != nil {
		return nil, err
	}
	if err := admit(q, src, names); err != nil {
		return nil, err
	}
	code, err := gojq.Compile(q, options(append(names, meterVar))...)
	if err != nil {
		return nil, &Error{Rule: "expr/unknown", Message: err.Error()}
	}
	return &Expr{src: src, vars: append([]string(nil), vars...), code: code}, nil
}

// variableName keeps out the names that the rewriting uses.
var variableName = regexp.MustCompile(`^([A-Za-z]|_[A-Za-z0-9])[A-Za-z0-9_]*$`)

func parse(src string) (*gojq.Query, error) {
	q, err := gojq.Parse(src)
	if err == nil {
		return q, nil
	}
	e := &Error{Rule: "expr/syntax", Message: "not a jq expression: " + err.Error()}
	var at *gojq.ParseError
	if errors.As(err, &at) {
		e.Offset = max(0, min(at.Offset-len(at.Token), len(src)))
		e.Message += fmt.Sprintf(" at character %d", e.Offset+1)
	}
	return nil, e
}

// admit walks and rewrites q. What the walk would call costly may just not exist: that is the better thing to say.
func admit(q *gojq.Query, src string, names []string) error {
	w := &walker{src: src, funcs: map[string]int{}, active: map[string]bool{}}
	if err := w.walk(q); err != nil {
		return err
	}
	if w.class == Cheap {
		return nil
	}
	plain, err := parse(src)
	if err != nil {
		return err
	}
	if _, err := gojq.Compile(plain, gojq.WithVariables(names)); err != nil {
		return &Error{Rule: "expr/unknown", Message: err.Error()}
	}
	return w.why
}

// CompileField compiles the value of a field that is always an expression: `${ }` around it is optional.
func CompileField(src string, vars ...string) (*Expr, error) {
	if inner, offset, ok := Unwrap(src); ok {
		e, err := Compile(inner, vars...)
		return e, shift(err, offset)
	}
	return Compile(src, vars...)
}

// Unwrap takes `${ }` off a string that is one expression as a whole, and says at which byte the inside begins.
func Unwrap(s string) (inner string, offset int, ok bool) {
	t := strings.TrimSpace(s)
	if !strings.HasPrefix(t, "${") || !strings.HasSuffix(t, "}") {
		return "", 0, false
	}
	return t[2 : len(t)-1], strings.Index(s, "${") + 2, true
}

func shift(err error, by int) error {
	var e *Error
	if errors.As(err, &e) {
		moved := *e
		moved.Offset += by
		return &moved
	}
	return err
}

// Eval evaluates e. An expression that produces nothing gives null; one that produces several values is an error. Errors
// are *problem.Problem.
func (e *Expr) Eval(s Scope) (any, error) { return newEvaluation(s).run(e) }

// evaluation is what the expressions of one template share: together they may cost no more than one of them alone.
type evaluation struct {
	scope  Scope
	meter  *meter
	finish *finish
}

func newEvaluation(s Scope) *evaluation {
	return &evaluation{s, &meter{left: budget, now: s.Now}, &finish{left: maxResult}}
}

func (x *evaluation) run(e *Expr) (v any, err error) {
	// A panic here would be a bug of gojq that somebody's data found. It ends this evaluation, not the engine with all its runs.
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, problem.Newf(problem.Runtime, "the interpreter failed on %s", e.brief())
		}
	}()
	s := &x.scope
	values := make([]any, 0, len(scopeVars)+len(e.vars)+1)
	values = append(values, s.Context, s.Input, s.Output, s.Task, s.Workflow, s.Runtime, s.Authorization)
	for _, name := range e.vars {
		values = append(values, s.Vars[name])
	}
	v, err = single(e.code.RunWithContext(x.meter, s.Data, append(values, x.meter)...))
	if x.meter.left < 0 {
		err = errBudget // even if `try` caught it: the answer would depend on the budget
	}
	if err == nil {
		v, err = x.finish.value(v, 0)
	}
	if err != nil {
		return nil, problem.Newf(problem.Expression, "%s: %s", e.brief(), clip(err.Error(), 500))
	}
	return v, nil
}

func single(iter gojq.Iter) (any, error) {
	v, ok := iter.Next()
	if !ok {
		return nil, nil
	}
	if err, isErr := v.(error); isErr {
		return nil, err
	}
	second, more := iter.Next()
	if err, isErr := second.(error); more && isErr {
		return nil, err
	}
	if more {
		return nil, errors.New("it gives more than one value; collect them with [ ]")
	}
	return v, nil
}

// True evaluates e as a condition: everything but false and null holds.
func (e *Expr) True(s Scope) (bool, error) {
	v, err := e.Eval(s)
	return v != nil && v != false && err == nil, err
}

// Source is the jq text, without `${ }`.
func (e *Expr) Source() string { return e.src }

// Class is the cost class. It is Cheap: Compile refuses the others for now.
func (e *Expr) Class() Class { return Cheap }

func (e *Expr) brief() string { return "`" + clip(strings.Join(strings.Fields(e.src), " "), 80) + "`" }

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
