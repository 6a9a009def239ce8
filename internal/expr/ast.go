package expr

import (
	"strconv"
	"strings"

	"github.com/itchyny/gojq"
)

func literalInt(q *gojq.Query) (float64, bool) {
	if q.Term == nil || len(q.Term.SuffixList) > 0 {
		return 0, false
	}
	t, sign := q.Term, 1.0
	if t.Type == gojq.TermTypeUnary && t.Unary.Op == gojq.OpSub {
		t, sign = t.Unary.Term, -1
	}
	if t.Type != gojq.TermTypeNumber || len(t.SuffixList) > 0 {
		return 0, false
	}
	n, err := strconv.ParseFloat(t.Number, 64)
	return sign * n, err == nil
}

// plainFormat admits a literal without digits: a width such as %999999999d is an allocation of that size.
func plainFormat(q *gojq.Query) bool {
	return q.Term != nil && q.Term.Type == gojq.TermTypeString && len(q.Term.SuffixList) == 0 &&
		q.Term.Str.Queries == nil && len(q.Term.Str.Str) < 100 && !strings.ContainsAny(q.Term.Str.Str, "0123456789")
}

// pass makes q `(q) | meter`. What cannot be large passes as it is. The metering functions give back the very value that
// they are given, so that a path stays a path.
func pass(q *gojq.Query, meterFn string) *gojq.Query {
	if small(q) && meterFn != fnIndex && meterFn != fnFactor {
		return q
	}
	return pipe(paren(q), meterCall(meterFn))
}

// small says whether q is a literal scalar: no larger than the expression. An index or a factor is not harmless for that.
func small(q *gojq.Query) bool {
	if q.Term == nil || len(q.FuncDefs) > 0 || len(q.Term.SuffixList) > 0 {
		return false
	}
	switch q.Term.Type {
	case gojq.TermTypeNumber, gojq.TermTypeNull, gojq.TermTypeTrue, gojq.TermTypeFalse:
		return true
	case gojq.TermTypeString:
		return q.Term.Str.Queries == nil && len(q.Term.Str.Str) < 64
	}
	return false
}

func meterCall(name string) *gojq.Query {
	return call(name, variable(meterVar))
}

func variable(name string) *gojq.Query { return call(name) }

func call(name string, args ...*gojq.Query) *gojq.Query {
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: name, Args: args}}}
}

func pipe(l, r *gojq.Query) *gojq.Query { return &gojq.Query{Left: l, Op: gojq.OpPipe, Right: r} }

func identity() *gojq.Query { return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeIdentity}} }

func paren(q *gojq.Query) *gojq.Query {
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeQuery, Query: q}}
}
