package expr

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"cardea/internal/flow/problem"
)

// bombs pass Compile, and would take gigabytes or minutes if the meter missed them.
var bombs = []struct{ name, src, in string }{
	{"doubling a string", `reduce .[] as $x ("aaaaaaaa"; . + .)`, list100},
	{"doubling by interpolation", `reduce .[] as $x ("aaaaaaaa"; "\(.)\(.)")`, list100},
	{"doubling an array", `reduce .[] as $x ([1]; . + .)`, list100},
	{"doubling by add", `reduce .[] as $x ([1]; [., .] | add)`, list100},
	{"doubling by join", `reduce .[] as $x ("aaaaaaaa"; [., .] | join(""))`, list100},
	{"sharing then printing", `reduce .[] as $x ([1]; [., .]) | tojson`, list100},
	{"sharing then comparing", `reduce .[] as $x ([1]; [., .]) | . == (. | map(.))`, list100},
	{"sharing as the result", `reduce .[] as $x ([1]; [., .])`, list100},
	{"sharing then sorting", `reduce .[] as $x ([1]; [., .]) | [., .] | sort`, list100},
	{"sharing then flattening", `reduce .[] as $x ([1]; [., .]) | flatten`, list100},
	{"squaring a number", `reduce .[] as $x (99999999999; . * .)`, list100},
	{"repeating a string", `.[0] as $n | "aaaaaaaa" * 1e9`, list100},
	{"repeating by update", `{a: "aaaaaaaa"} | .a *= 1000000000`, list100},
	{"repeating by reduce", `reduce .[] as $x ("aaaaaaaa"; . * 1000)`, list100},
	{"a huge index", `.[.[0] + 4e8] = 1`, list100},
	{"a huge index by setpath", `setpath([4e8]; 1)`, list100},
	{"a huge index by pipe", `4e8 as $i | null | .[$i] = 1`, list100},
	{"a huge index by nth", `nth(4e8) = 1`, list100},
	{"a huge index in a function", `def f(i): .[i] = 1; null | f(1e8 + 0)`, list100},
	{"a product of loops", `[.[] as $a | .[] as $b | .[] as $c | .[] as $d | .[] as $e | 1] | length`, list100},
	{"first of many", `[.[] as $a | .[] as $b | .[] as $c | first($big[])] | length`, list100},
	{"a separator", `map("") | join("aaaaaaaa" + $text)`, list100},
	{"difference of arrays", `[.[] as $a | .[] as $b | .[] as $c | $a] | . - .`, list100},
	{"appending by update", `reduce (.[] as $a | .[] as $b | .[] as $c | 1) as $x ({a: []}; .a += [$x])`, list100},
	{"assigning keys", `reduce (.[] as $a | .[] as $b | .[] as $c | $a + $b * 100 + $c * 10000) as $x ({a: {}}; .a["\($x)"] = 1)`, list100},
	{"nesting", `reduce (.[] as $a | .[] as $b | .[] as $c | 1) as $x (null; [.]) | tojson`, list100},
	{"caught", `try (reduce .[] as $x ([1]; . + .)) catch 1`, list100},
	{"slices of a string", `[.[] as $a | .[] as $b | .[] as $c | $text[1:2]] | length`, list100},
	{"walk", `walk([., .]) | walk([., .]) | walk([., .]) | walk([., .]) | walk([., .]) | tojson`, list100},
	{"long paths, listed", `[.[] as $x | null | path(` + strings.Repeat(".a", 4000) + ` | ($big[] as $y | .b))] | length`, list100},
	{"long paths, deleted", `del(` + strings.Repeat(".a", 4000) + ` | ($big[] as $y | .b))`, `null`},
	{"paths of a deep value", `reduce $big[1:20000][] as $x ($big[1:2000]; [.]) | [paths] | length`, list100},
	{"writing to a deep value", `reduce .[] as $x ($big[1:2000]; [.]) | .. |= 1`, list100},
	{"path update everywhere", `reduce .[] as $x ([1]; .. |= [., .])`, list100},
}

var list100 = func() string {
	b, _ := json.Marshal(make([]int, 100))
	return string(b)
}()

func TestBombsSpendTheBudgetAndNoMore(t *testing.T) {
	big := make([]any, 200_000)
	vars := map[string]any{"big": big, "text": strings.Repeat("x", 1<<20)}
	for _, b := range bombs {
		t.Run(b.name, func(t *testing.T) {
			e, err := Compile(b.src, "big", "text")
			if err != nil {
				t.Fatal(err)
			}
			// An eighth of the budget shows the same, and the race detector is slow.
			x := newEvaluation(Scope{Data: value(t, b.in), Vars: vars})
			x.meter.left /= 8
			before := allocated()
			_, err = x.run(e)
			if used := allocated() - before; used > 250<<20 {
				t.Errorf("it allocated %d MiB in all", used>>20)
			}
			var p *problem.Problem
			if !errors.As(err, &p) || !p.Of(problem.Expression) {
				t.Fatalf("got %v, want an expression problem", err)
			}
			again := newEvaluation(Scope{Data: value(t, b.in), Vars: vars})
			again.meter.left /= 8
			if _, err2 := again.run(e); err2 == nil || err2.Error() != err.Error() || again.meter.left != x.meter.left {
				t.Errorf("a second evaluation differs: %v (%d left) and %v (%d left)", err, x.meter.left, err2, again.meter.left)
			}
		})
	}
}

func TestOrdinaryWorkStaysWithinTheBudget(t *testing.T) {
	rows := make([]any, 5000)
	for i := range rows {
		rows[i] = map[string]any{"id": i, "name": "somebody", "amount": 12.5, "tags": []any{"a", "b"}}
	}
	for _, src := range []string{
		"map(select(.amount > 10)) | group_by(.name) | map({n: length, sum: (map(.amount) | add)})",
		"sort_by(.id) | reverse | map(.id) | unique | length",
		"reduce .[] as $r (0; . + $r.amount)",
		"[.[] | {id, label: \"\\(.name) \\(.id)\"}] | length",
		"map(.tags[]) | unique",
	} {
		e, err := Compile(src)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Eval(Scope{Data: rows}); err != nil {
			t.Errorf("%s on 5,000 rows: %v", src, err)
		}
	}
}
