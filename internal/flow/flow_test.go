package flow

import (
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"cardea/internal/expr"
	"cardea/internal/flow/claims"
	"cardea/internal/flow/problem"
)

func canonical(t testing.TB, s string) []byte {
	t.Helper()
	b, err := jcs.Transform([]byte(s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return b
}

func around(more, tasks string) string {
	return `{"document":{"dsl":"1.0.3","namespace":"payroll","name":"pay-run","version":"1.2.0","title":"T","tags":{"a":"b"}},
	"use":{"secrets":["bank"],"authentications":{"bank":{"bearer":{"use":"bank"}}}},` + more + `"do":[` + tasks + `]}`
}

func compile(t testing.TB, doc string) *Plan {
	t.Helper()
	p, findings := Compile(canonical(t, doc), Options{Profile: true})
	if p == nil {
		t.Fatalf("%+v", findings)
	}
	return p
}

func value(t testing.TB, s string) any {
	t.Helper()
	v, err := expr.Decode([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPlan(t *testing.T) {
	p := compile(t, around(`"input":{"schema":{"document":{"type":"object"}},"from":".x"},"output":{"as":{"r":"${ . }"}},`, `
		{"first":{"if":".ok","set":{"n":"${ .n + 1 }"},"then":"third","export":{"as":"$context + {n: .n}"}}},
		{"second":{"do":[{"inner":{"set":"${ . }"}},{"last":{"set":{"a":1},"then":"exit"}}]}},
		{"third":{"call":"http","with":{"method":"put","endpoint":{"uri":"https://a.example/x","authentication":{"use":"bank"}},"output":"response","redirect":true},
			"metadata":{"cardea/v1":{"scopes":["w"],"labels":{"l":"v"}}},"then":"end"}}`))
	first, second, third := p.Do[0], p.Do[1], p.Do[2]
	if first.Target() != third || first.Then != (Then{ThenTask, "third", 2}) || first.Next() != second || third.Next() != nil || third.Target() != nil {
		t.Errorf("navigation: %+v", first.Then)
	}
	inner, ok := p.Task("/do/1/second/do/0/inner")
	if !ok || inner.Parent != second || inner.Next().Then.Kind != ThenExit || inner.Kind != KindSet || second.Kind != KindDo || len(inner.Siblings()) != 2 {
		t.Errorf("the inner task: %+v", inner)
	}
	if third.Kind != KindHTTP || third.HTTP.Connection != "bank" || third.HTTP.Effect != claims.EffectIdempotent || !third.HTTP.Redirect || third.HTTP.Output != OutputResponse {
		t.Errorf("the call: %+v", third.HTTP)
	}
	if third.Meta.Labels["l"] != "v" || third.Then.Kind != ThenEnd || second.Then.Kind != ThenContinue {
		t.Errorf("the rest: %+v %+v", third.Meta, second.Then)
	}
	if p.Document.Title != "T" || p.Document.Tags["a"] != "b" || p.Digest != Digest(p.Canonical) || p.Input.Schema == nil || p.Output.As == nil {
		t.Errorf("the document: %+v", p.Document)
	}
	got, err := first.Export.As.Eval(expr.Scope{Data: value(t, `{"n":2}`), Context: value(t, `{"a":1}`)})
	if err != nil || !reflect.DeepEqual(got, value(t, `{"a":1,"n":2}`)) {
		t.Errorf("export gives %v, %v", got, err)
	}
	if decoded, err := claims.Decode(p.Canonical); err != nil || !reflect.DeepEqual(decoded, p.Claims) {
		t.Errorf("the authority reads %+v, %v", decoded, err)
	}
}

func TestExpressionsAreRefusedWhereTheyStand(t *testing.T) {
	for _, c := range []struct{ task, pointer, rule string }{
		{`{"a":{"if":"$secrets.bank","set":{"x":1}}}`, "/do/0/a/if", "expr/secrets"},
		{`{"a":{"set":{"x":[1,"${ $secrets.bank }"]}}}`, "/do/0/a/set/x/1", "expr/secrets"},
		{`{"a":{"set":{"x":1},"output":{"as":"range(3)"}}}`, "/do/0/a/output/as", "expr/costly"},
		{`{"a":{"set":{"x":1},"export":{"as":{"y":"${ env }"}}}}`, "/do/0/a/export/as/y", "expr/ambient"},
		{`{"a":{"set":{"x":1},"input":{"from":"$item"}}}`, "/do/0/a/input/from", "expr/unknown"},
		{`{"a":{"call":"http","with":{"method":"get","endpoint":"https://a.example/","query":{"q":"${ | }"}}}}`, "/do/0/a/with/query/q", "expr/syntax"},
		{`{"a":{"call":"http","with":{"method":"get","endpoint":"https://a.example/","headers":{"X-A":"${ input }"}}}}`, "/do/0/a/with/headers/X-A", "expr/ambient"},
		{`{"a":{"call":"http","with":{"method":"post","endpoint":"https://a.example/","body":{"b":"${ $secrets.bank }"}}}}`, "/do/0/a/with/body/b", "expr/secrets"},
		{`{"a":{"set":{"x":1},"input":{"schema":{"document":{"type":"nonsense"}}}}}`, "/do/0/a/input/schema/document", "dsl/schema"},
	} {
		p, findings := Compile(canonical(t, around("", c.task)), Options{Profile: true})
		var last Finding
		for _, f := range findings {
			if f.Severity == claims.Error {
				last = f
			}
		}
		if p != nil || last.Pointer != c.pointer || last.Rule != c.rule {
			t.Errorf("%s: %+v", c.task, findings)
		}
	}
}

func request(t testing.TB, with, data string) (Request, error) {
	t.Helper()
	p := compile(t, around("", `{"a":{"call":"http","with":{"method":"post",`+with+`}}}`))
	return p.Do[0].HTTP.Request(expr.Scope{Data: value(t, data)})
}

func TestRequest(t *testing.T) {
	for _, c := range []struct{ name, with, data, url, headers, body string }{
		{"plain", `"endpoint":"https://a.example"`, `{}`, "https://a.example/", "", ""},
		{"a variable", `"endpoint":"https://a.example/pet/{petId}"`, `{"petId":1}`, "https://a.example/pet/1", "", ""},
		{"a missing one", `"endpoint":"https://a.example/pet/{petId}"`, `{}`, "https://a.example/pet/", "", ""},
		{"data that is no object", `"endpoint":"https://a.example/pet/{petId}"`, `[1]`, "https://a.example/pet/", "", ""},
		{"encoding", `"endpoint":"https://a.example/{a}-{b}"`, `{"a":"x y?#%&=é","b":1.5}`, "https://a.example/x%20y%3F%23%25%26%3D%C3%A9-1.5", "", ""},
		{"dots inside", `"endpoint":"https://a.example/{a}"`, `{"a":"..x"}`, "https://a.example/..x", "", ""},
		{"a static query", `"endpoint":"https://a.example/x?status={status}&y=1"`, `{"status":"a&b=c/d"}`, "https://a.example/x?status=a%26b%3Dc%2Fd&y=1", "", ""},
		{"a query", `"endpoint":"https://a.example/x?y=1","query":{"b":"${ .b }","a":"l","n":"${ .no }"}`, `{"b":["p q",2,true]}`, "https://a.example/x?y=1&a=l&b=p%20q&b=2&b=true", "", ""},
		{"a computed query", `"endpoint":"https://a.example/x","query":"${ .q }"`, `{"q":{"a&b":"1"}}`, "https://a.example/x?a%26b=1", "", ""},
		{"no query", `"endpoint":"https://a.example/x","query":"${ .q }"`, `{}`, "https://a.example/x", "", ""},
		{"a JSON body", `"endpoint":"https://a.example/x","body":{"b":"${ .n }","a":[1.5,null]}`, `{"n":123456789012345678901234567890}`, "https://a.example/x", "content-type: application/json", `{"a":[1.5,null],"b":123456789012345678901234567890}`},
		{"a string as JSON", `"endpoint":"https://a.example/x","body":"hi"`, `{}`, "https://a.example/x", "content-type: application/json", `"hi"`},
		{"a text", `"endpoint":"https://a.example/x","headers":{"Content-Type":"text/plain; charset=utf-8","X-A":"${ .a }","x-b":"${ .b }"},"body":"hi"`, `{"a":1}`, "https://a.example/x", "content-type: text/plain; charset=utf-8|x-a: 1", `hi`},
		{"a form", `"endpoint":"https://a.example/x","headers":{"content-type":"application/x-www-form-urlencoded"},"body":"${ . }"`, `{"b":"x&y","a":1}`, "https://a.example/x", "content-type: application/x-www-form-urlencoded", `a=1&b=x%26y`},
	} {
		r, err := request(t, c.with, c.data)
		var headers []string
		for _, h := range r.Headers {
			headers = append(headers, h.Name+": "+h.Value)
		}
		if err != nil || r.Method != "POST" || r.URL != c.url || strings.Join(headers, "|") != c.headers || string(r.Body) != c.body {
			t.Errorf("%s: got %+v, %v", c.name, r, err)
		}
	}
}

// Whoever controls the data controls values, never where the request goes or what it is.
func TestDataCannotChangeTheRequestsShape(t *testing.T) {
	for _, c := range []struct{ name, with, data string }{
		{"a slash", `"endpoint":"https://a.example/x/{a}"`, `{"a":"y/z"}`},
		{"a slash before a host", `"endpoint":"https://a.example/{a}/x"`, `{"a":"/evil.example"}`},
		{"a backslash", `"endpoint":"https://a.example/x/{a}"`, `{"a":"..\\y"}`},
		{"a dot segment", `"endpoint":"https://a.example/x/{a}"`, `{"a":".."}`},
		{"a dot segment of two values", `"endpoint":"https://a.example/x/{a}{b}/y"`, `{"a":".","b":"."}`},
		{"a dot segment with a literal", `"endpoint":"https://a.example/x/.{a}/y"`, `{"a":"."}`},
		{"the current segment", `"endpoint":"https://a.example/x/{a}"`, `{"a":"."}`},
		{"an empty segment", `"endpoint":"https://a.example/x/{a}/delete"`, `{"a":""}`},
		{"a missing segment", `"endpoint":"https://a.example/x/{a}/delete"`, `{}`},
		{"a NUL", `"endpoint":"https://a.example/x/{a}"`, `{"a":"\u0000"}`},
		{"a line break", `"endpoint":"https://a.example/x/{a}"`, `{"a":"\r\nHost: evil"}`},
		{"a list in a path", `"endpoint":"https://a.example/x/{a}"`, `{"a":[1]}`},
		{"an object in a query", `"endpoint":"https://a.example/x","query":{"q":"${ .a }"}`, `{"a":{"b":1}}`},
		{"a query that is a list", `"endpoint":"https://a.example/x","query":"${ .a }"`, `{"a":[1]}`},
		{"a header with a line break", `"endpoint":"https://a.example/x","headers":{"x-a":"${ .a }"}`, `{"a":"1\r\nauthorization: x"}`},
		{"a header in unicode", `"endpoint":"https://a.example/x","headers":{"x-a":"${ .a }"}`, `{"a":"é"}`},
		{"a header that is a list", `"endpoint":"https://a.example/x","headers":{"x-a":"${ .a }"}`, `{"a":[1]}`},
		{"a long URL", `"endpoint":"https://a.example/{a}"`, `{"a":"` + strings.Repeat("x", maxURL) + `"}`},
		{"a large body", `"endpoint":"https://a.example/","body":"${ .a }"`, `{"a":"` + strings.Repeat("x", maxBody) + `"}`},
		{"an object as text", `"endpoint":"https://a.example/","headers":{"content-type":"text/plain"},"body":"${ . }"`, `{}`},
	} {
		r, err := request(t, c.with, c.data)
		var p *Problem
		if !errors.As(err, &p) || !p.Of(problem.Expression) {
			t.Errorf("%s: %.200s, %v", c.name, r.URL, err)
		}
	}
}

// The property behind the table above: whatever the values are, a request that is made keeps its origin and its segments.
func TestExpansionKeepsThePath(t *testing.T) {
	templates := []string{"https://a.example/{x}", "https://a.example/v1/{x}/y{z}/w", "https://a.example/{x}{z}?q={x}&r={z}", "https://a.example:8443/a.{x}.{z}/"}
	rapid.Check(t, func(t *rapid.T) {
		template := rapid.SampledFrom(templates).Draw(t, "template")
		piece := rapid.OneOf(rapid.String(), rapid.StringMatching(`[./\\%a2eEfF?#&=@:;]{0,6}`))
		checkExpansion(t, template, piece.Draw(t, "x"), piece.Draw(t, "z"))
	})
}

func checkExpansion(t interface{ Fatalf(string, ...any) }, template, x, z string) {
	e, err := claims.ParseEndpoint(template)
	if err != nil {
		return
	}
	c := HTTPCall{Origin: e.Origin, Path: e.Path, StaticQuery: e.Query}
	got, err := c.url(expr.Scope{Data: map[string]any{"x": x, "z": z}})
	if err != nil {
		return
	}
	u, err := url.Parse(got)
	if err != nil || u.Scheme+"://"+u.Host != e.Origin || u.Fragment != "" || u.User != nil {
		t.Fatalf("%s with %q and %q gives %s: %v", template, x, z, got, err)
	}
	want, segments := strings.Split(e.Path.Source, "/"), strings.Split(u.EscapedPath(), "/")
	decoded := strings.Split(strings.ReplaceAll(u.Path, `\`, "/"), "/")
	if len(segments) != len(want) || len(decoded) != len(want) {
		t.Fatalf("%s with %q and %q gives %s, of other segments", template, x, z, got)
	}
	for i, s := range decoded {
		if s == "." || s == ".." || !strings.Contains(want[i], "{") && s != unescape(want[i]) {
			t.Fatalf("%s with %q and %q gives %s, whose segment %q is another", template, x, z, got, s)
		}
	}
	if q := u.Query(); e.Query != nil && template == "https://a.example/{x}{z}?q={x}&r={z}" && (len(q) != 2 || q.Get("q") != x || q.Get("r") != z) {
		t.Fatalf("%s with %q and %q gives the query %v", template, x, z, q)
	}
}

func unescape(s string) string {
	u, err := url.PathUnescape(s)
	if err != nil {
		return s
	}
	return u
}

func TestComputedRequestsWithoutTheProfile(t *testing.T) {
	p, findings := Compile(canonical(t, around("", `{"a":{"call":"http","with":{"method":"get","endpoint":"${ .url }","headers":"${ .headers }"}}}`)), Options{})
	if p == nil {
		t.Fatalf("%+v", findings)
	}
	ask := func(data string) (Request, error) { return p.Do[0].HTTP.Request(expr.Scope{Data: value(t, data)}) }
	r, err := ask(`{"url":"https://A.example/x/1?y=2","headers":{"Accept":"text/plain"}}`)
	if err != nil || r.URL != "https://a.example/x/1?y=2" || !reflect.DeepEqual(r.Headers, []Header{{"accept", "text/plain"}}) {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, bad := range []string{
		`{"url":"file:///etc/passwd"}`, `{"url":"https://u:p@a.example/"}`, `{"url":"https://a.example/../x"}`, `{"url":1}`,
		`{"url":"https://a.example/","headers":{"Authorization":"x"}}`, `{"url":"https://a.example/","headers":{"a\r\nb":"x"}}`, `{"url":"https://a.example/","headers":[1]}`,
	} {
		if r, err := ask(bad); err == nil {
			t.Errorf("%s gives %+v", bad, r)
		}
	}
}

func TestSchema(t *testing.T) {
	compileOne := func(doc string) (*Schema, error) { return compileSchema([]byte(doc)) }
	s, err := compileOne(`{"type":"object","required":["id"],"properties":{"id":{"type":"integer","minimum":1},"e":{"$ref":"#/$defs/e"}},"$defs":{"e":{"enum":["x"]}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		`{"id":1,"e":"x"}`: "", `{"id":123456789012345678901234567890}`: "", `{"id":2.0}`: "",
		`{}`: "/: id is missing", `{"id":0}`: "/id: breaks minimum", `{"id":"secret"}`: "/id: breaks type", `{"id":1,"e":"secret"}`: "/e: breaks enum", `[]`: "/: breaks type",
	} {
		err := s.Validate(value(t, in))
		var p *Problem
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", in, err)
		case want != "" && (!errors.As(err, &p) || !p.Of(problem.Validation) || !strings.Contains(p.Detail, want) || strings.Contains(p.Detail, "secret")):
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
	doubling := map[string]any{}
	defs := map[string]any{"d0": true}
	for i := 1; i < 40; i++ {
		ref := map[string]any{"$ref": "#/$defs/d" + string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10))}
		if i == 1 {
			ref = map[string]any{"$ref": "#/$defs/d0"}
		}
		defs["d"+string(rune('0'+i/10))+string(rune('0'+i%10))] = map[string]any{"anyOf": []any{ref, ref}}
	}
	doubling["$ref"], doubling["$defs"] = "#/$defs/d39", defs
	bomb, err := json.Marshal(doubling)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		string(bomb), `{"properties":{"default":` + string(bomb) + `}}`, `{"properties":{"const":{"$ref":"#"}}}`, `{"$ref":"#"}`, `{"$ref":"https://example.com/s"}`, `{"$ref":"file:///etc/passwd"}`, `{"$ref":"other"}`, `{"$id":"https://example.com/s"}`, `{"$dynamicRef":"#x"}`,
		`{"properties":{"a":{"$ref":"#/properties/a"}}}`, `{"type":"nonsense"}`, `{"pattern":"("}`, `{"$schema":"https://example.com/meta"}`, `{"anyOf":[` + strings.Repeat(`true,`, 3000) + `true]}`,
		`{"pattern":"((a{900}){900}){900}"}`, `{"$ref":"#/nowhere/at/all"}`,
	} {
		if _, err := compileOne(bad); err == nil {
			t.Errorf("%.80s is accepted", bad)
		}
	}
}

// The library's own loader reads files: a schema could then tell what a machine has.
func TestSchemasAreLoadedFromNowhere(t *testing.T) {
	meta := filepath.Join(t.TempDir(), "meta.json")
	if err := os.WriteFile(meta, []byte(`{"$schema":"https://json-schema.org/draft/2020-12/schema","$vocabulary":{"https://json-schema.org/draft/2020-12/vocab/core":true}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := compileSchema([]byte(`{"$schema":"file://` + filepath.ToSlash(meta) + `"}`)); err == nil || !strings.Contains(err.Error(), "from nowhere") {
		t.Fatalf("a file is read: %v", err)
	}
}

func TestProblem(t *testing.T) {
	p := problem.New(problem.Communication, "x").At("/do/0/a").At("/do")
	if p.Status != 502 || p.Instance != "/do/0/a" || p.Type != "https://serverlessworkflow.io/spec/1.0.0/errors/communication" {
		t.Errorf("%+v", p)
	}
	for _, same := range []string{"https://serverlessworkflow.io/dsl/errors/types/communication", "https://open-workflow-specification.org/spec/1.0.0/errors/communication", "https://open-workflow-specification.org/dsl/errors/types/communication"} {
		if !problem.SameType(p.Type, same) {
			t.Errorf("%s is not the same", same)
		}
	}
	for _, other := range []string{"https://serverlessworkflow.io/spec/1.0.0/errors/timeout", "https://example.com/spec/1.0.0/errors/communication", "communication"} {
		if problem.SameType(p.Type, other) {
			t.Errorf("%s is the same", other)
		}
	}
}

// FuzzCompile: what compiles, the authority decodes, to the same claims. Nothing panics.
func FuzzCompile(f *testing.F) {
	for _, tasks := range []string{
		`{"a":{"if":".x","set":{"x":"${ .y }"},"then":"a"}}`,
		`{"a":{"do":[{"b":{"set":{"x":1},"then":"exit"}}]}},{"c":{"set":{"x":1}}}`,
		`{"a":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://a.example/{x}?y={z}","authentication":{"use":"bank"}},"query":{"a":"1"},"headers":{"x":"${ .x }"}},"metadata":{"cardea/v1":{"scopes":["a"]}}}}`,
		`{"a":{"set":{"x":1},"input":{"schema":{"document":{"$ref":"#/$defs/a","$defs":{"a":{}}}},"from":".x"},"output":{"as":{"a":"${ . }"}},"export":{"as":"."}}}`,
	} {
		f.Add(canonical(f, around("", tasks)), true)
		f.Add(canonical(f, around("", tasks)), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, profile bool) {
		p, findings := Compile(data, Options{Profile: profile})
		errs := 0
		for _, finding := range findings {
			if finding.Severity == claims.Error {
				errs++
			}
		}
		if (p == nil) != (errs > 0) {
			t.Fatalf("a plan %v with %d errors", p != nil, errs)
		}
		if p == nil || !profile {
			return
		}
		decoded, err := claims.Decode(data)
		if err != nil || !reflect.DeepEqual(decoded, p.Claims) {
			t.Fatalf("the plan claims %+v, the authority reads %+v, %v", p.Claims, decoded, err)
		}
		for pointer, task := range p.tasks {
			if task.Pointer != pointer || task.Then.Kind == ThenTask && task.Target() == nil {
				t.Fatalf("%s: %+v", pointer, task)
			}
			if task.HTTP != nil {
				_, _ = task.HTTP.Request(expr.Scope{Data: map[string]any{"x": "y"}})
			}
		}
	})
}

func FuzzExpansion(f *testing.F) {
	f.Add("https://a.example/v1/{x}/y{z}/w", "..", "%2e")
	f.Add("https://a.example/{x}{z}?q={x}&r={z}", ".", ".")
	f.Fuzz(func(t *testing.T, template, x, z string) {
		if len(template)+len(x)+len(z) > 4096 || strings.ToValidUTF8(x+z, "") != x+z {
			return
		}
		checkExpansion(t, template, x, z)
	})
}
