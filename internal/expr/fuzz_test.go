package expr

import (
	"errors"
	"reflect"
	"runtime"
	"testing"
	"time"

	"cardea/internal/flow/problem"
)

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// FuzzExpr: whatever compiles evaluates without a panic and within the budget, twice to the same answer, and leaves its
// input as it was.
func FuzzExpr(f *testing.F) {
	for _, c := range admitted {
		f.Add(c.src, c.in)
	}
	for _, b := range bombs {
		f.Add(b.src, b.in)
	}
	f.Fuzz(func(t *testing.T, src, in string) {
		data, err := Decode([]byte(in))
		if err != nil || len(in) > 1<<16 {
			return
		}
		e, err := Compile(src, "big", "text")
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) || refused.Offset < 0 || refused.Offset > len(src) {
				t.Fatalf("refused with %#v", err)
			}
			return
		}
		scope := Scope{Data: data, Now: time.UnixMilli(1)}
		before := allocated()
		v1, err1 := evalSmall(e, scope)
		if used := allocated() - before; used > 500<<20 {
			t.Fatalf("%q allocated %d MiB", src, used>>20)
		}
		var p *problem.Problem
		if err1 != nil && (!errors.As(err1, &p) || !p.Of(problem.Expression)) {
			t.Fatalf("%q fails with %v", src, err1)
		}
		again, _ := Decode([]byte(in))
		if !reflect.DeepEqual(data, again) {
			t.Fatalf("%q changed its input", src)
		}
		v2, err2 := evalSmall(e, scope)
		if !reflect.DeepEqual(v1, v2) || (err1 == nil) != (err2 == nil) {
			t.Fatalf("%q gives %v, %v and then %v, %v", src, v1, err1, v2, err2)
		}
		if err1 != nil {
			return
		}
		b, err := Encode(v1)
		if err != nil {
			t.Fatalf("%q gives %v, which is not JSON: %v", src, v1, err)
		}
		if replayed, err := Decode(b); err != nil || !reflect.DeepEqual(v1, replayed) {
			t.Fatalf("%q gives %#v, which the journal makes %#v, %v", src, v1, replayed, err)
		}
	})
}

// evalSmall evaluates with a small part of the budget, so that fuzzing goes on.
func evalSmall(e *Expr, s Scope) (any, error) {
	x := newEvaluation(s)
	x.meter.left /= 64
	return x.run(e)
}

// FuzzDecode: what decodes encodes to a fixed point.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,"x",null,true]}`, `123456789012345678901234567890`, `1e17`, `-0`, `"\ud800"`, `[[[]]]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Decode(data)
		if err != nil {
			return
		}
		b, err := Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		w, err := Decode(b)
		if err != nil || !reflect.DeepEqual(v, w) {
			t.Fatalf("%s becomes %s and then %#v, %v", data, b, w, err)
		}
	})
}
