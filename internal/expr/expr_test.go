package expr

import (
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/itchyny/gojq"

	"cardea/internal/flow/problem"
)

func value(t testing.TB, s string) any {
	t.Helper()
	v, err := Decode([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// admitted are expressions that must be Cheap, with what they give. The rewriting must not change a single answer: each is
// also given to gojq as it is.
var admitted = []struct{ src, in, want string }{
	{".", `{"a":1}`, `{"a":1}`},
	{".a.b", `{"a":{"b":[1,2]}}`, `[1,2]`},
	{`."a"["b"][1]`, `{"a":{"b":[1,2]}}`, `2`},
	{".a[.i]", `{"a":[5,6],"i":1}`, `6`},
	{".[.k].x", `{"k":"a","a":{"x":1}}`, `1`},
	{".a[1:]", `{"a":[1,2,3]}`, `[2,3]`},
	{".[.i:.j]", `{"i":0}`, ``},
	{".a[0:.n][0]", `{"a":[7,8],"n":1}`, `7`},
	{"[.[].amount] | add", `[{"amount":1},{"amount":2.5}]`, `3.5`},
	{`"Hello \(.first) \(.last)!"`, `{"first":"A","last":"B"}`, `"Hello A B!"`},
	{`@base64 "x\(.)"`, `"y"`, `"xeQ=="`},
	{`@base64d`, `"aGk="`, `"hi"`},
	{`.x|@json`, `{"x":[1]}`, `"[1]"`},
	{`. + { status: "sold" }`, `{"a":1}`, `{"a":1,"status":"sold"}`},
	{".a as [$x, {b: $y}] | $x + $y", `{"a":[1,{"b":2}]}`, `3`},
	{"[.[] | select(.x > 1)]", `[{"x":1},{"x":2}]`, `[{"x":2}]`},
	{"map(.x) | sort | unique | reverse", `[{"x":3},{"x":1},{"x":3}]`, `[3,1]`},
	{"group_by(.k) | map({k: .[0].k, n: length})", `[{"k":"b"},{"k":"a"},{"k":"b"}]`, `[{"k":"a","n":1},{"k":"b","n":2}]`},
	{"to_entries", `{"b":1,"a":2}`, `[{"key":"a","value":2},{"key":"b","value":1}]`},
	{"with_entries(.value += 1)", `{"a":1}`, `{"a":2}`},
	{"reduce .[] as $x (0; . + $x)", `[1,2,3]`, `6`},
	{"[foreach .[] as $x (0; . + $x; [$x, .])]", `[1,2]`, `[[1,1],[2,3]]`},
	{"reduce .[] as $e ({}; .[$e.k] += [$e.v])", `[{"k":"a","v":1},{"k":"a","v":2}]`, `{"a":[1,2]}`},
	{".a.b |= . + 1", `{"a":{"b":1}}`, `{"a":{"b":2}}`},
	{".a[0] = 9", `{"a":[1,2]}`, `{"a":[9,2]}`},
	{".a[] *= 2", `{"a":[1,2]}`, `{"a":[2,4]}`},
	{".a -= [1]", `{"a":[1,2]}`, `{"a":[2]}`},
	{".a /= 2", `{"a":4}`, `{"a":2}`},
	{".a %= 2", `{"a":5}`, `{"a":1}`},
	{".b //= 3", `{"a":5}`, `{"a":5,"b":3}`},
	{".a[1:] = [0]", `{"a":[1,2,3]}`, `{"a":[1,0]}`},
	{"(.a, .b) = 1", `{}`, `{"a":1,"b":1}`},
	{"(.[] | select(. > 1)) |= . * 10", `[1,2,3]`, `[1,20,30]`},
	{"first(.[] | select(.ok)) |= {ok: false}", `[{"ok":false},{"ok":true}]`, `[{"ok":false},{"ok":false}]`},
	{"del(.a, .b[0])", `{"a":1,"b":[1,2]}`, `{"b":[2]}`},
	{"del(.[] | select(. == 2))", `[1,2,3,2]`, `[1,3]`},
	{"to_entries | map(select(.value > 1)) | from_entries", `{"a":1,"b":2}`, `{"b":2}`},
	{`setpath(["a","b"]; 1)`, `null`, `{"a":{"b":1}}`},
	{`getpath(["a","b"])`, `{"a":{"b":1}}`, `1`},
	{"[paths]", `{"a":[1]}`, `[["a"],["a",0]]`},
	{"[path(..)]", `{"a":[1]}`, `[[],["a"],["a",0]]`},
	{"[paths(type == \"number\")]", `{"a":[1]}`, `[["a",0]]`},
	{"(.. | numbers) |= . + 1", `{"a":[1,{"b":2}]}`, `{"a":[2,{"b":3}]}`},
	{"[path(.a[0], .b)][1][0]", `{"a":[1]}`, `"b"`},
	{"del(.a[1:], .c?)", `{"a":[1,2,3]}`, `{"a":[1]}`},
	{"def two: 2; (.a[two - 2], first(.b[] | select(. == two))) = 9", `{"a":[1],"b":[1,2]}`, `{"a":[9],"b":[1,9]}`},
	{"map_values(select(. > 1))", `{"a":1,"b":2}`, `{"b":2}`},
	{"(.a, .b, .c) |= (. // 0) + 1", `{"a":1}`, `{"a":2,"b":1,"c":1}`},
	{"[..]|length", `{"a":[1]}`, `3`},
	{"walk(if type == \"number\" then . + 1 else . end)", `{"a":[1]}`, `{"a":[2]}`},
	{"if .a then 1 elif .b then 2 else 3 end", `{"b":true}`, `2`},
	{"try error(\"x\") catch .", `null`, `"x"`},
	{".a?", `[1]`, ``},
	{"[.[]?]", `3`, `[]`},
	{".a.b.c[]?.d // \"none\"", `{"a":{}}`, `"none"`},
	{"[.[] as $x | .[] as $y | $x * $y]", `[1,2]`, `[1,2,2,4]`},
	{"def f(g; $n): [.[] | g + $n]; f(. * 2; 1)", `[1,2]`, `[3,5]`},
	{"def add1: . + 1; def add2: add1 | add1; add2", `1`, `3`},
	{"label $out | .[] | if . > 1 then ., break $out else empty end", `[1,2,3]`, `2`},
	{"any(.[]; . > 2), all(. > 0) | select(.)", `[0,3]`, `true`},
	{". == {\"a\":[1]}", `{"a":[1]}`, `true`},
	{"contains({a: [1]})", `{"a":[1,2]}`, `true`},
	{"index(\",\")", `"a,b"`, `1`},
	{"split(\",\") | join(\"-\")", `"a,b,c"`, `"a-b-c"`},
	{"ltrimstr(\"a\") | ascii_upcase | explode | implode", `"abc"`, `"BC"`},
	{"tojson | fromjson", `{"a":[1,"x",null,true,1.5]}`, `{"a":[1,"x",null,true,1.5]}`},
	{"tostring | tonumber", `12`, `12`},
	{"min_by(.x).x, max_by(.x).x | select(. == 3)", `[{"x":3},{"x":1}]`, `3`},
	{"flatten | add / length", `[[1,[2]],3]`, `2`},
	{". as {$a, b: [$c]} | [$a, $c]", `{"a":1,"b":[2]}`, `[1,2]`},
	{".[0] as [$a] ?// $a | $a", `[[1]]`, `1`},
	{"{(.k): .v, \"x\\(.k)\": 1, $__loc: 2}", `{"k":"a","v":1}`, ``},
	{"{(.k): .v, \"x\\(.k)\": 1}", `{"k":"a","v":1}`, `{"a":1,"xa":1}`},
	{"-(.a) - 1", `{"a":1}`, `-2`},
	{"1469408083 | todate", `null`, `"2016-07-25T00:54:43Z"`},
	{`strftime("%Y-%m-%d")`, `1469408083`, `"2016-07-25"`},
	{`"2016-07-25T00:54:43Z" | fromdate`, `null`, `1469408083`},
	{"9007199254740993 + 0", `null`, `9007199254740993`},
	{".n", `{"n":123456789012345678901234567890}`, `123456789012345678901234567890`},
	{".n * 2", `{"n":123456789012345678901234567890}`, `246913578024691357802469135780`},
	{"empty", `1`, `null`},
	{"IN(.[]; 1, 2)", `[3]`, ``},
	{"IN(1, 2)", `2`, `true`},
	{"isempty(.[])", `[]`, `true`},
	{"nth(1)", `[1,2]`, `2`},
}

func TestAdmittedExpressionsAnswerAsJQDoes(t *testing.T) {
	n := 0
	for _, c := range admitted {
		if c.want == "" {
			continue // listed for what the fuzz target makes of it
		}
		n++
		e, err := Compile(c.src)
		if err != nil {
			t.Errorf("%s: %v", c.src, err)
			continue
		}
		got, err := e.Eval(Scope{Data: value(t, c.in)})
		if err != nil {
			t.Errorf("%s: %v", c.src, err)
			continue
		}
		if text(t, got) != c.want {
			t.Errorf("%s gives %s, want %s", c.src, text(t, got), c.want)
		}
		if plain := plainJQ(t, c.src, value(t, c.in)); text(t, plain) != c.want {
			t.Errorf("%s: gojq itself gives %s, want %s", c.src, text(t, plain), c.want)
		}
	}
	if n < 60 {
		t.Fatalf("only %d expressions were tried", n)
	}
}

// plainJQ is the first value that gojq gives without any rewriting.
func plainJQ(t testing.TB, src string, in any) any {
	t.Helper()
	q, err := gojq.Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	v, ok := q.Run(in).Next()
	if err, isErr := v.(error); ok && isErr {
		t.Fatalf("%s: %v", src, err)
	}
	v, err = (&finish{left: maxResult}).value(v, 0)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ src, rule, says string }{
		{".a |", "expr/syntax", "unexpected"},
		{"", "expr/", ""},
		{"range(10)", "expr/costly", "range/1"},
		{"[limit(3; .[])]", "expr/costly", "limit/2"},
		{"repeat(.)", "expr/costly", "repeat/1"},
		{"until(. > 5; . + 1)", "expr/costly", "until/2"},
		{"[while(. < 5; . + 1)]", "expr/costly", "while/2"},
		{"recurse(.a)", "expr/costly", "recurse/1"},
		{`test("a")`, "expr/costly", "test/1"},
		{`sub("a"; "b")`, "expr/costly", "sub/2"},
		{"[splits(\",\")]", "expr/costly", "splits"},
		{"combinations", "expr/costly", "combinations"},
		{"transpose", "expr/costly", "transpose"},
		{"pow(2; 3)", "expr/costly", "pow"},
		{".[4e8] = 1", "expr/costly", "index"},
		{".[-100000000]", "expr/costly", "index"},
		{"def f: f; f", "expr/costly", "calls itself"},
		{"def f: def g: f; g; f", "expr/costly", "calls itself"},
		{"def f(x): x | f(x); f(.)", "expr/costly", "calls itself"},
		{`strftime("%99999999d")`, "expr/costly", "format"},
		{strings.Repeat(".a", 100) + " = 1", "expr/costly", "steps"},
		{"def f: .a; f = 1", "expr/costly", "written through"},
		{"(reduce .[] as $x (.; .a)) = 1", "expr/costly", "loop"},
		{"(.. | .. | .. | .. | ..) |= 1", "expr/costly", "steps"},
		{`getpath(["a"]) = 1`, "expr/costly", "getpath"},
		{"INDEX(.x)", "expr/costly", "INDEX"},
		{"$ENV", "expr/ambient", "environment"},
		{"env.PATH", "expr/ambient", "environment"},
		{"input", "expr/ambient", "input stream"},
		{"[inputs]", "expr/ambient", "input stream"},
		{"debug", "expr/ambient", "standard error"},
		{"halt", "expr/ambient", "process"},
		{"localtime", "expr/ambient", "time zone"},
		{"$__loc__", "expr/ambient", "source"},
		{`import "a" as a; 1`, "expr/ambient", "modules"},
		{`include "a"; 1`, "expr/ambient", "modules"},
		{"$secrets.x", "expr/secrets", "$secrets"},
		{"{$secrets}", "expr/secrets", "$secrets"},
		{". as {$secrets} | 1", "expr/secrets", "$secrets"},
		{"$__meter", "expr/unknown", "not known"},
		{"$nope", "expr/unknown", "$nope"},
		{"lenght", "expr/unknown", "lenght"},
		{"__flat(1)", "expr/unknown", "not known"},
		{"_match(1;2;3)", "expr/unknown", "not known"},
		{"def map(f): 1; map(.)", "expr/unknown", "anew"},
		{"def f(length): length; f(1)", "expr/unknown", "built-in"},
		{"@nope", "expr/unknown", "@nope"},
		{strings.Repeat("(", 20000), "expr/size", "longer"},
		{strings.Repeat("9", 500), "expr/syntax", "digits"},
	} {
		_, err := Compile(c.src)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.60s: got %v, want a refusal", c.src, err)
			continue
		}
		if !strings.HasPrefix(e.Rule, c.rule) || !strings.Contains(e.Message, c.says) {
			t.Errorf("%.60s: got %s %q, want %s with %q", c.src, e.Rule, e.Message, c.rule, c.says)
		}
		if e.Rule == "expr/costly" && !strings.Contains(e.Message, "later version") {
			t.Errorf("%.60s: %q does not say that it comes later", c.src, e.Message)
		}
	}
}

func TestSecretsAreAnAuthorizationProblem(t *testing.T) {
	_, err := Compile("$secrets.bank")
	var e *Error
	if !errors.As(err, &e) || !e.Problem().Of(problem.Authorization) || e.Problem().Status != 403 {
		t.Fatalf("got %v", err)
	}
}

func TestVariables(t *testing.T) {
	e, err := Compile("[$context.a, $input, $output, $task.name, $workflow.id, $runtime.name, $authorization.scheme, $item, $index]", "item", "index")
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Eval(Scope{
		Context: map[string]any{"a": 1}, Input: 2, Output: 3, Task: map[string]any{"name": "t"}, Workflow: map[string]any{"id": "w"},
		Runtime: map[string]any{"name": "cardea"}, Authorization: map[string]any{"scheme": "Bearer"}, Vars: map[string]any{"item": "i", "index": 7},
	})
	if err != nil || text(t, got) != `[1,2,3,"t","w","cardea","Bearer","i",7]` {
		t.Fatalf("got %v, %v", got, err)
	}
	for _, bad := range []string{"__meter", "_", "a-b", "", "$x"} {
		if _, err := Compile("1", bad); err == nil {
			t.Errorf("the variable name %q is accepted", bad)
		}
	}
}

func TestNowIsTheEventsTime(t *testing.T) {
	e, err := Compile("now")
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Eval(Scope{Now: time.UnixMilli(1234567)})
	if err != nil || got != 1234.567 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := e.Eval(Scope{}); err == nil {
		t.Error("there is a time where none was given")
	}
}

func TestOneValueOnly(t *testing.T) {
	e, err := Compile(".[]")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Eval(Scope{Data: value(t, "[1,2]")}); err == nil || !strings.Contains(err.Error(), "more than one") {
		t.Errorf("two values: %v", err)
	}
	if _, err := e.Eval(Scope{Data: value(t, `"text"`)}); err == nil || !strings.Contains(err.Error(), "iterate") {
		t.Errorf("an error: %v", err)
	}
	if got, err := e.Eval(Scope{Data: value(t, "[]")}); got != nil || err != nil {
		t.Errorf("no value: %v, %v", got, err)
	}
}

func TestResultsAreJSON(t *testing.T) {
	for _, src := range []string{"nan", "infinite", "-infinite", "[nan]"} {
		e, err := Compile(src)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := e.Eval(Scope{}); err == nil {
			t.Errorf("%s gives %v", src, v)
		}
	}
	e, err := Compile("@base64d")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := e.Eval(Scope{Data: "//79"}); err != nil || v != "\uFFFD" {
		t.Errorf("bytes that are not UTF-8: %q, %v", v, err)
	}
}

// A result goes into the journal as JSON and is read again on replay: it must be the same value, to its Go type.
func TestResultsSurviveTheJournal(t *testing.T) {
	for _, src := range []string{"3.0", "1e15", "1e17", "1e300", "0.1", "-0.0", "9007199254740993", "123456789012345678901234567890", "[1.5, 2.0, {a: 1e16}]", "4 / 2", "1 / 3", `"\u0001\"\\é\u2028<"`} {
		e, err := Compile(src)
		if err != nil {
			t.Fatal(err)
		}
		live, err := e.Eval(Scope{})
		if err != nil {
			t.Fatal(err)
		}
		replayed := value(t, text(t, live))
		if !reflect.DeepEqual(live, replayed) {
			t.Errorf("%s is %#v live and %#v on replay", src, live, replayed)
		}
	}
}

// A value of a foreign Go type is a bug of whoever made the Scope; the interpreter panics on it. That ends one evaluation.
func TestAPanicEndsOneEvaluation(t *testing.T) {
	e, err := Compile("type")
	if err != nil {
		t.Fatal(err)
	}
	var p *problem.Problem
	if _, err := e.Eval(Scope{Data: int64(1)}); !errors.As(err, &p) || !p.Of(problem.Runtime) {
		t.Fatalf("got %v", err)
	}
}

func TestCondition(t *testing.T) {
	for src, want := range map[string]bool{".a": true, ".b": false, ".c": false, ".d": true, "${ .a }": true} {
		e, err := CompileField(src)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.True(Scope{Data: value(t, `{"a":1,"b":false,"d":0}`)}); got != want || err != nil {
			t.Errorf("%s is %v, %v", src, got, err)
		}
	}
}

func TestTemplate(t *testing.T) {
	tpl, err := CompileTemplate(value(t, `{"a":"${ .x }","b":["Hi ${ .x }",{"c":"  ${\n .x + 1 } "}],"d":"x","e":1}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := tpl.Eval(Scope{Data: value(t, `{"x":1}`)})
	if err != nil || text(t, got) != `{"a":1,"b":["Hi ${ .x }",{"c":2}],"d":"x","e":1}` {
		t.Fatalf("got %v, %v", got, err)
	}
}

// What an expression gives is data: it is never evaluated, however much it looks like an expression.
func TestResultsAreNeverEvaluated(t *testing.T) {
	tpl, err := CompileTemplate(value(t, `{"a":"${ .x }"}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := tpl.Eval(Scope{Data: value(t, `{"x":"${ .secret }","secret":"s"}`)})
	if err != nil || text(t, got) != `{"a":"${ .secret }"}` {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestTemplateErrorsNameTheLeaf(t *testing.T) {
	_, err := CompileTemplate(value(t, `{"a":[1,{"b/c":"  ${ .x | }"}]}`))
	var leaf *LeafError
	if !errors.As(err, &leaf) || leaf.Pointer != "/a/1/b~1c" || leaf.Err.Offset != 10 {
		t.Fatalf("got %+v", leaf)
	}
}

// The leaves of one template share one budget: a definition of many leaves costs no more than one of one.
func TestTemplateLeavesShareTheBudget(t *testing.T) {
	leaves := make([]any, 2000)
	for i := range leaves {
		leaves[i] = "${ [.[] as $a | .[] as $b | .[] as $c | 1] | length }"
	}
	tpl, err := CompileTemplate(leaves)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]any, 40) // one leaf is well within the budget
	if one, err := CompileTemplate(leaves[0]); err != nil {
		t.Fatal(err)
	} else if _, err := one.Eval(Scope{Data: data}); err != nil {
		t.Fatal(err)
	}
	if _, err := tpl.Eval(Scope{Data: data}); err == nil {
		t.Fatal("two thousand leaves were evaluated")
	}
	large, err := CompileTemplate([]any{"${ . }", "${ . }", "${ . }"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := large.Eval(Scope{Data: strings.Repeat("x", maxResult/2)}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Fatalf("a result beyond the limit: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, bad := range []string{"", "{", "[1,]", `{"a":1,"a":2}`, "1 2", "1e999", "\xff", `"` + "\xff" + `"`, strings.Repeat("[", 1000) + strings.Repeat("]", 1000), strings.Repeat("9", 401), "NaN"} {
		if v, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%.20q is decoded as %v", bad, v)
		}
	}
	if v := value(t, "123456789012345678901234567890"); v.(*big.Int).String() != "123456789012345678901234567890" {
		t.Errorf("a large integer becomes %v", v)
	}
	if _, err := Encode(int64(1)); err == nil {
		t.Error("a foreign type is encoded")
	}
}
