package expr

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
)

// walker admits a syntax tree, and rewrites it so that the meter sees every value whose size determines work. A tree that
// it leaves out of sight somewhere is a way to make an engine run out of memory: each case of each type is handled or refused.
type walker struct {
	src    string
	class  Class
	why    *Error          // the first reason for class Costly
	funcs  map[string]int  // the expression's own functions in sight, name/arity
	active map[string]bool // those whose body is being walked: calling one is recursion
	lhs    bool            // inside a path that something may be written to, or a function that may become one
	target bool            // directly inside the left side of an assignment
	steps  int             // of that left side, as written
}

// refuse ends the walk.
type refusal struct{ err *Error }

func (w *walker) refuse(rule, token, format string, args ...any) {
	panic(refusal{&Error{Offset: max(0, strings.Index(w.src, token)), Rule: rule, Message: fmt.Sprintf(format, args...)}})
}

func (w *walker) costly(token, mend, format string, args ...any) {
	if w.class == Cheap {
		w.class = Costly
		w.why = &Error{Offset: max(0, strings.Index(w.src, token)), Rule: "expr/costly", Mend: mend,
			Message: fmt.Sprintf(format, args...) + ", so it cannot be evaluated in process; evaluation in a limited child comes with a later version"}
	}
}

// walk rewrites q in place. The error is an *Error.
func (w *walker) walk(q *gojq.Query) (err error) {
	defer func() {
		if r := recover(); r != nil {
			refused, ok := r.(refusal)
			if !ok {
				panic(r)
			}
			err = refused.err
		}
	}()
	w.query(q)
	return nil
}

func (w *walker) query(q *gojq.Query) {
	if q == nil {
		return
	}
	if q.Meta != nil || len(q.Imports) > 0 {
		w.refuse("expr/ambient", "import", "an expression cannot use modules")
	}
	for _, d := range q.FuncDefs {
		key := d.Name + "/" + strconv.Itoa(len(d.Args))
		w.define(key, d)
		defer func() { w.funcs[key]-- }()
	}
	if q.Term != nil {
		w.term(q.Term)
		return
	}
	for _, p := range q.Patterns {
		w.pattern(p)
	}
	if assigns(q.Op) {
		w.assignment(q)
		return
	}
	w.query(q.Left)
	w.query(q.Right)
	w.operator(q)
}

func assigns(op gojq.Operator) bool { return op >= gojq.OpAssign && op <= gojq.OpUpdateAlt }

func (w *walker) operator(q *gojq.Query) {
	through := ""
	switch q.Op {
	case gojq.OpPipe, gojq.OpComma, gojq.OpAnd, gojq.OpOr, gojq.OpAlt, gojq.OpMod:
		return
	case gojq.OpAdd:
		through = fnFlat
	case gojq.OpSub:
		through = fnSmall
	case gojq.OpMul:
		through = fnFactor
	case gojq.OpDiv:
		through = fnWide
	case gojq.OpEq, gojq.OpNe, gojq.OpGt, gojq.OpLt, gojq.OpGe, gojq.OpLe:
		through = fnDeep
	case 0:
		w.refuse("expr/syntax", "", "the expression is empty")
	default:
		w.refuse("expr/unknown", "", "the expression has an operator that is not known")
	}
	q.Left, q.Right = pass(q.Left, through), pass(q.Right, through)
}

// assignment walks `path = value` and its kin. An arithmetic update `path op= value` becomes
// `value as $__rhs | path |= . op $__rhs`, which is its definition, so that the meter sees both operands.
func (w *walker) assignment(q *gojq.Query) {
	w.path(q.Left)
	w.query(q.Right)
	op, arithmetic := updates[q.Op]
	if !arithmetic {
		return
	}
	update := &gojq.Query{Left: identity(), Op: op, Right: variable("$__rhs")}
	if op != gojq.OpAlt {
		w.operator(update)
	}
	*q = gojq.Query{
		Left: paren(q.Right), Op: gojq.OpPipe, Patterns: []*gojq.Pattern{{Name: "$__rhs"}},
		Right: &gojq.Query{Left: q.Left, Op: gojq.OpModify, Right: update},
	}
}

// path walks what is assigned to. Each place costs as much as its path is long, which no meter sees: the interpreter makes
// these paths itself. So a path may only be as long as it is written, plus the depth of what `..` descends.
func (w *walker) path(q *gojq.Query) {
	lhs, target, steps := w.lhs, w.target, w.steps
	w.lhs, w.target, w.steps = true, true, 0
	w.query(q)
	if w.steps > pathLimit {
		w.costly("", "", "a path of more than %d steps is written to", pathLimit)
	}
	w.lhs, w.target, w.steps = lhs, target, steps
}

var updates = map[gojq.Operator]gojq.Operator{
	gojq.OpUpdateAdd: gojq.OpAdd, gojq.OpUpdateSub: gojq.OpSub, gojq.OpUpdateMul: gojq.OpMul,
	gojq.OpUpdateDiv: gojq.OpDiv, gojq.OpUpdateMod: gojq.OpMod, gojq.OpUpdateAlt: gojq.OpAlt,
}

func (w *walker) define(key string, d *gojq.FuncDef) {
	if _, builtin := cheap[key]; builtin || strings.HasPrefix(d.Name, "_") || ambient[d.Name] != "" {
		w.refuse("expr/unknown", d.Name, "the function %s cannot be defined anew", d.Name)
	}
	w.funcs[key]++
	for _, arg := range d.Args {
		if !strings.HasPrefix(arg, "$") {
			if _, builtin := cheap[arg+"/0"]; builtin || strings.HasPrefix(arg, "_") || ambient[arg] != "" {
				w.refuse("expr/unknown", arg, "the parameter %s has the name of a built-in function", arg)
			}
			w.funcs[arg+"/0"]++
			defer func() { w.funcs[arg+"/0"]-- }()
		} else {
			w.variable(arg)
		}
	}
	wasActive, outer := w.active[key], w.lhs
	w.active[key], w.lhs = true, true
	w.query(d.Body)
	w.active[key], w.lhs = wasActive, outer
}

func (w *walker) term(t *gojq.Term) {
	switch t.Type {
	case gojq.TermTypeRecurse:
		if w.steps += pathLimit / 4; w.target {
			w.before(t, fnShallow)
		}
	case gojq.TermTypeIdentity, gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse, gojq.TermTypeBreak:
	case gojq.TermTypeNumber:
		w.number(t.Number)
	case gojq.TermTypeIndex:
		w.index(t.Index)
		if w.lhs || t.Index.IsSlice {
			w.before(t, fnFlat)
		}
	case gojq.TermTypeFunc:
		w.call(t)
	case gojq.TermTypeObject:
		w.object(t.Object)
	case gojq.TermTypeArray:
		w.query(t.Array.Query)
	case gojq.TermTypeUnary:
		w.term(t.Unary.Term)
	case gojq.TermTypeFormat:
		w.format(t)
	case gojq.TermTypeString:
		w.str(t.Str)
	case gojq.TermTypeIf:
		w.conditional(t.If)
	case gojq.TermTypeTry:
		w.query(t.Try.Body)
		w.query(t.Try.Catch)
	case gojq.TermTypeReduce, gojq.TermTypeForeach:
		if w.target {
			w.costly("", "", "a loop is written through")
		}
		w.iteration(t)
	case gojq.TermTypeLabel:
		w.query(t.Label.Body)
	case gojq.TermTypeQuery:
		w.query(t.Query)
	default:
		w.refuse("expr/unknown", "", "the expression has a part that is not known")
	}
	w.suffixes(t)
}

// suffixes makes `.a[]` (.a | meter)[]: iterating copies the level iterated, and writing through a path copies each level of it.
func (w *walker) suffixes(t *gojq.Term) {
	w.steps += len(t.SuffixList)
	for i := 0; i < len(t.SuffixList); i++ {
		s := t.SuffixList[i]
		if s.Index != nil {
			w.index(s.Index)
		}
		if s.Iter || s.Index != nil && (s.Index.IsSlice || w.lhs) {
			base := *t
			base.SuffixList = t.SuffixList[:i:i]
			*t = gojq.Term{Type: gojq.TermTypeQuery, Query: pass(&gojq.Query{Term: &base}, fnFlat), SuffixList: t.SuffixList[i:]}
			i = 0
		}
	}
}

func (w *walker) index(x *gojq.Index) {
	w.steps++
	if x.Str != nil {
		w.str(x.Str)
	}
	for _, q := range []**gojq.Query{&x.Start, &x.End} {
		if *q == nil {
			continue
		}
		if n, ok := literalInt(*q); ok {
			if n > indexLimit || n < -indexLimit {
				w.costly((*q).String(), "", "the index %s can make an array of that size", *q)
			}
			continue
		}
		w.aside(*q)
		*q = pass(*q, fnIndex)
	}
}

func (w *walker) number(s string) {
	if len(s) > maxDigits {
		w.refuse("expr/syntax", s, "a number has more than %d digits", maxDigits)
	}
}

func (w *walker) str(s *gojq.String) {
	for i, q := range s.Queries {
		if q.Term != nil && q.Term.Type == gojq.TermTypeString && q.Term.Str.Queries == nil && len(q.Term.SuffixList) == 0 {
			continue // literal text between interpolations
		}
		w.query(q)
		s.Queries[i] = paren(pass(q, fnWide)) // the compiler tells text from expressions by the term that it expects here
	}
}

func (w *walker) format(t *gojq.Term) {
	switch t.Format {
	case "@text", "@json", "@html", "@uri", "@urid", "@csv", "@tsv", "@sh", "@base64", "@base64d":
	default:
		w.refuse("expr/unknown", t.Format, "the format %s is not known", t.Format)
	}
	if t.Str != nil {
		w.str(t.Str)
		return
	}
	w.before(t, fnWide)
}

// before makes the term `meter | term`, keeping its suffixes outside.
func (w *walker) before(t *gojq.Term, meterFn string) {
	inner := *t
	inner.SuffixList = nil
	q := pipe(meterCall(meterFn), &gojq.Query{Term: &inner})
	*t = gojq.Term{Type: gojq.TermTypeQuery, Query: q, SuffixList: t.SuffixList}
}

func (w *walker) object(o *gojq.Object) {
	for _, kv := range o.KeyVals {
		if strings.HasPrefix(kv.Key, "$") {
			w.variable(kv.Key)
		}
		if kv.KeyString != nil {
			w.str(kv.KeyString)
		}
		w.query(kv.KeyQuery)
		w.query(kv.Val)
	}
}

// aside walks what stands inside a path that is written to and is not part of it.
func (w *walker) aside(q *gojq.Query) {
	target, steps := w.target, w.steps
	w.target = false
	w.query(q)
	w.target, w.steps = target, steps
}

func (w *walker) conditional(c *gojq.If) {
	w.aside(c.Cond)
	w.query(c.Then)
	for _, e := range c.Elif {
		w.aside(e.Cond)
		w.query(e.Then)
	}
	w.query(c.Else)
}

func (w *walker) iteration(t *gojq.Term) {
	if r := t.Reduce; r != nil {
		w.loop(r.Patterns, r.Query, r.Start, r.Update)
	}
	if f := t.Foreach; f != nil {
		w.loop(f.Patterns, f.Query, f.Start, f.Update, f.Extract)
	}
}

func (w *walker) loop(patterns []*gojq.Pattern, parts ...*gojq.Query) {
	for _, p := range patterns {
		w.pattern(p)
	}
	for _, q := range parts {
		w.query(q)
	}
}

func (w *walker) pattern(p *gojq.Pattern) {
	if p == nil {
		return
	}
	if p.Name != "" {
		w.variable(p.Name)
	}
	for _, e := range p.Array {
		w.pattern(e)
	}
	for _, e := range p.Object {
		if strings.HasPrefix(e.Key, "$") {
			w.variable(e.Key)
		}
		if e.KeyString != nil {
			w.str(e.KeyString)
		}
		w.query(e.KeyQuery)
		w.pattern(e.Val)
	}
}

// variable refuses names that are not the expression's to use. That one exists is gojq's to say.
func (w *walker) variable(name string) {
	switch {
	case name == "$secrets":
		w.refuse("expr/secrets", name, "$secrets cannot be read: secrets never enter an expression")
	case ambient[name] != "":
		w.refuse("expr/ambient", name, "%s depends on %s, and an expression sees nothing but its run's data", name, ambient[name])
	case strings.HasPrefix(name, "$__"):
		w.refuse("expr/unknown", name, "the variable %s is not known", name)
	}
}

func (w *walker) call(t *gojq.Term) {
	f := t.Func
	if strings.HasPrefix(f.Name, "$") {
		w.variable(f.Name)
		return
	}
	for _, a := range f.Args {
		w.argument(f.Name, a)
	}
	key := f.Name + "/" + strconv.Itoa(len(f.Args))
	if w.funcs[key] > 0 {
		if w.active[key] {
			w.costly(f.Name, "", "the function %s calls itself", f.Name)
		}
		if w.target {
			w.costly(f.Name, "write the path out", "the function %s is written through", f.Name)
		}
		return
	}
	if on := ambient[f.Name]; on != "" {
		w.refuse("expr/ambient", f.Name, "%s depends on %s, and an expression sees nothing but its run's data", f.Name, on)
	}
	if strings.HasPrefix(f.Name, "_") {
		w.refuse("expr/unknown", f.Name, "the function %s is not known", f.Name)
	}
	r, ok := cheap[key]
	if !ok {
		w.costly(f.Name, mends[f.Name], "nothing in the data bounds the cost of %s", key)
		return
	}
	if (f.Name == "strftime" || f.Name == "strptime") && !plainFormat(f.Args[0]) {
		w.costly(f.Name, "", "the format of %s is not a plain literal", f.Name)
	}
	if f.Name == "getpath" && w.lhs {
		w.costly(f.Name, "use setpath", "getpath is written through")
	}
	if f.Name == "recurse" && w.target {
		w.steps += pathLimit / 4
		r.in = fnShallow
	}
	if !w.pathFunction(t) {
		w.builtin(t, r)
	}
}

// mends says what to write instead of the commonest functions that are refused.
var mends = map[string]string{
	"test": "compare with startswith, endswith, contains or ==", "match": "use startswith, endswith, split or index",
	"sub": "use ltrimstr, rtrimstr or split and join", "gsub": "use split and join", "limit": "use .[:n]", "splits": "use split with one argument",
	"range": "iterate over the data itself", "leaf_paths": "use paths(scalars)",
}

// argument walks one. What a path function is given may be written through; what first and last are given is part of the
// path that they stand in, and what any other is given is not.
func (w *walker) argument(name string, q *gojq.Query) {
	outer := w.lhs
	switch name {
	case "first", "last":
		w.query(q)
	case "map_values", "walk", "del", "paths", "path", "with_entries":
		w.lhs = true
		w.aside(q)
	default:
		w.aside(q)
	}
	w.lhs = outer
}

func (w *walker) builtin(t *gojq.Term, r rule) {
	if r.out != "" {
		t.Func = meterCall(r.out).Term.Func
		return
	}
	for i, through := range r.arg {
		if through != "" {
			t.Func.Args[i] = pass(t.Func.Args[i], through)
		}
	}
	if r.in != "" {
		w.before(t, r.in)
	}
}

// pathFunction writes out the functions that make paths, so that each path is charged for by its length:
//
//	path(f)   path(f) | meter
//	del(f)    meter | delpaths([path(f) | meter] | meter)
//	paths(f)  path(.. | select(f)) | meter | select(. != [])
func (w *walker) pathFunction(t *gojq.Term) bool {
	f := t.Func
	var q *gojq.Query
	switch {
	case f.Name == "path":
		q = pass(call("path", f.Args[0]), fnFlat)
	case f.Name == "del":
		list := &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeArray, Array: &gojq.Array{Query: pass(call("path", f.Args[0]), fnFlat)}}}
		q = pipe(meterCall(fnDeep), call("delpaths", pass(list, fnDeep)))
	case f.Name == "paths":
		all := &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeRecurse}}
		if len(f.Args) == 1 {
			all = pipe(all, call("select", f.Args[0]))
		}
		empty := &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeArray, Array: &gojq.Array{}}}
		q = pipe(pass(call("path", all), fnFlat), call("select", &gojq.Query{Left: identity(), Op: gojq.OpNe, Right: empty}))
	default:
		return false
	}
	*t = gojq.Term{Type: gojq.TermTypeQuery, Query: q, SuffixList: t.SuffixList}
	return true
}
