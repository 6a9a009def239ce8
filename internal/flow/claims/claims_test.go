package claims

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
)

// canonical makes a document canonical with somebody else's implementation.
func canonical(t testing.TB, s string) []byte {
	t.Helper()
	b, err := jcs.Transform([]byte(s))
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return b
}

// around puts tasks into a definition that has a connection to use.
func around(tasks string) string {
	return `{"document":{"dsl":"1.0.3","namespace":"payroll","name":"pay-run","version":"1.2.0"},
	"use":{"secrets":["bank"],"authentications":{"bank":{"bearer":{"use":"bank"}}}},"do":[` + tasks + `]}`
}

func call(with string) string {
	return around(`{"pay":{"call":"http","with":{"method":"post","endpoint":{"uri":"https://api.bank.example.com/v1/transfers","authentication":{"use":"bank"}}` + with + `}}}`)
}

func get(uri string) string {
	quoted, _ := json.Marshal(uri)
	return around(`{"get":{"call":"http","with":{"method":"get","endpoint":` + string(quoted) + `}}}`)
}

func TestClaims(t *testing.T) {
	b := canonical(t, around(`
		{"read":{"call":"http","with":{"method":"get","endpoint":"HTTPS://hr.example.com"}}},
		{"both":{"do":[
			{"month":{"call":"http","with":{"method":"Get","endpoint":"https://HR.example.com:443/v1/timesheets/{month}?all=yes"}}},
			{"pay":{"call":"http","with":{"method":"post","endpoint":{"uri":"https://api.bank.example.com:8443/v1/transfers","authentication":{"use":"bank"}}},
				"metadata":{"cardea/v1":{"scopes":["b","a"],"tier":"privileged","effect":"idempotent"},"mine":[1]}}}]}},
		{"done":{"set":{"x":1}}}`))
	if _, err := Decode(b); err == nil || !strings.Contains(err.Error(), "https://") {
		t.Fatalf("an upper-case scheme: %v", err)
	}
	b = []byte(strings.Replace(string(b), "HTTPS://", "https://", 1))
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	want := Claims{
		Process: "payroll", Workflow: "pay-run", Version: "1.2.0", Digest: Digest(b), Connections: []string{"bank"},
		Tasks: []TaskClaim{
			{Pointer: "/do/0/read", Name: "read", Kind: "http", Method: "GET", Origin: "https://hr.example.com", PathTemplate: "/", Headers: []string{}, Connections: []string{}, Scopes: []string{}, Effect: "idempotent", MaxAttempts: 1, Gates: []string{}},
			{Pointer: "/do/1/both/do/0/month", Name: "month", Kind: "http", Method: "GET", Origin: "https://hr.example.com", PathTemplate: "/v1/timesheets/{month}", Headers: []string{}, Connections: []string{}, Scopes: []string{}, Effect: "idempotent", MaxAttempts: 1, Gates: []string{}},
			{Pointer: "/do/1/both/do/1/pay", Name: "pay", Kind: "http", Method: "POST", Origin: "https://api.bank.example.com:8443", PathTemplate: "/v1/transfers", Headers: []string{}, Connections: []string{"bank"}, Scopes: []string{"a", "b"}, Tier: "privileged", Effect: "idempotent", MaxAttempts: 1, Gates: []string{}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// What the profile refuses, the authority refuses: through the same code.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, doc, rule, says string }{
		{"a computed endpoint", get("${ .url }"), "profile/literal-host", "computed"},
		{"a computed host", get("https://{host}/x"), "profile/literal-host", "literal"},
		{"a computed port", get("https://a:{port}/x"), "profile/literal-host", ""},
		{"another scheme", get("ftp://a/x"), "profile/literal-host", "https://"},
		{"a file", get("file:///etc/passwd"), "profile/literal-host", ""},
		{"no scheme", get("//a/x"), "profile/literal-host", ""},
		{"no host", get("https:///x"), "profile/literal-host", "no host"},
		{"userinfo", get("https://u:p@a.example/x"), "profile/literal-host", "credentials"},
		{"userinfo that hides the host", get("https://bank.example@evil.example/x"), "profile/literal-host", "credentials"},
		{"a backslash", get(`https://a.example\@evil.example/x`), "profile/literal-host", ""},
		{"a tab", get("https://a.example/\tx"), "profile/literal-host", ""},
		{"a fragment", get("https://a.example/x#y"), "profile/literal-host", ""},
		{"a host in unicode", get("https://bänk.example/"), "profile/literal-host", ""},
		{"an encoded host", get("https://a%2eexample/"), "profile/literal-host", "host"},
		{"a trailing dot", get("https://a.example./"), "profile/literal-host", "host"},
		{"a decimal address", get("https://2130706433/"), "profile/literal-host", "IPv4"},
		{"a hexadecimal address", get("https://0x7f.0.0.1/"), "profile/literal-host", "IPv4"},
		{"an octal address", get("https://0177.0.0.1/"), "profile/literal-host", "IPv4"},
		{"a mapped address", get("https://[::ffff:127.0.0.1]/"), "profile/literal-host", "IPv6"},
		{"a zone", get("https://[fe80::1%25eth0]/"), "profile/literal-host", "IPv6"},
		{"port 0", get("https://a.example:0/"), "profile/literal-host", "port"},
		{"a port with zeros", get("https://a.example:0443/"), "profile/literal-host", "port"},
		{"no port after a colon", get("https://a.example:/"), "profile/literal-host", "port"},
		{"dot segments", get("https://a.example/x/../y"), "profile/path", "dot segment"},
		{"a dot segment at the end", get("https://a.example/x/."), "profile/path", "dot segment"},
		{"encoded dots", get("https://a.example/%2e%2e/y"), "profile/path", "upper-case"},
		{"encoded dots in upper case", get("https://a.example/%2E%2E/y"), "profile/path", "%2E"},
		{"an encoded slash", get("https://a.example/a%2Fb"), "profile/path", "%2F"},
		{"an encoded backslash", get("https://a.example/a%5Cb"), "profile/path", "%5C"},
		{"an encoded percent sign", get("https://a.example/%252E"), "profile/path", "%25"},
		{"an encoded NUL", get("https://a.example/a%00"), "profile/path", "%00"},
		{"half an escape", get("https://a.example/a%2"), "profile/path", "hexadecimal"},
		{"an empty segment", get("https://a.example//b"), "profile/path", "empty segment"},
		{"a reserved expansion", get("https://a.example/{+x}"), "profile/path", "simple form"},
		{"a list of variables", get("https://a.example/{x,y}"), "profile/path", "simple form"},
		{"a lonely brace", get("https://a.example/x}"), "profile/path", "partner"},
		{"an open brace", get("https://a.example/{x"), "profile/path", "partner"},
		{"a computed header map", call(`,"headers":"${ .h }"`), "profile/literal-headers", "computed"},
		{"Authorization", call(`,"headers":{"AuthoriZation":"Bearer x"}`), "profile/header", "credential"},
		{"Cookie", call(`,"headers":{"Cookie":"a=b"}`), "profile/header", "credential"},
		{"an API key", call(`,"headers":{"X-API-Key":"k"}`), "profile/header", "credential"},
		{"Proxy-Authorization", call(`,"headers":{"Proxy-Authorization":"x"}`), "profile/header", "not the definition's"},
		{"Host", call(`,"headers":{"Host":"evil"}`), "profile/header", "not the definition's"},
		{"Transfer-Encoding", call(`,"headers":{"Transfer-Encoding":"chunked"}`), "profile/header", ""},
		{"Content-Length", call(`,"headers":{"content-length":"0"}`), "profile/header", ""},
		{"Connection", call(`,"headers":{"connection":"close"}`), "profile/header", ""},
		{"a method override", call(`,"headers":{"X-HTTP-Method-Override":"DELETE"}`), "profile/header", ""},
		{"a forwarding header", call(`,"headers":{"X-Forwarded-For":"1.2.3.4"}`), "profile/header", ""},
		{"the idempotency key", call(`,"headers":{"Idempotency-Key":"1"}`), "profile/header", ""},
		{"a header name with a line break", call(`,"headers":{"a\r\nb":"1"}`), "profile/header", "name"},
		{"a header value with a line break", call(`,"headers":{"a":"1\r\nb: 2"}`), "profile/header", "printable"},
		{"a header twice", call(`,"headers":{"A":"1","a":"2"}`), "profile/header", "twice"},
		{"a header that is a number", call(`,"headers":{"a":1}`), "dsl/type", "string"},
		{"CONNECT", strings.Replace(call(""), `"post"`, `"connect"`, 1), "profile/method", ""},
		{"a computed method", strings.Replace(call(""), `"post"`, `"${ .m }"`, 1), "profile/method", "literal"},
		{"an inline credential", around(`{"a":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://a.example/","authentication":{"bearer":{"token":"t"}}}}}}`), "profile/authentication", "use.authentications"},
		{"a secret used without a name", around(`{"a":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://a.example/","authentication":{"bearer":{"use":"bank"}}}}}}`), "profile/authentication", ""},
		{"a name and a credential", around(`{"a":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://a.example/","authentication":{"use":"bank","bearer":{"token":"t"}}}}}}`), "profile/authentication", ""},
		{"an authentication that is not defined", strings.Replace(call(""), `"authentication":{"use":"bank"}`, `"authentication":{"use":"other"}`, 1), "profile/authentication", "other"},
		{"a connection that is not listed", strings.Replace(call(""), `"secrets":["bank"]`, `"secrets":[]`, 1), "profile/secret", "use.secrets"},
		{"a credential in use.authentications", strings.Replace(call(""), `{"bearer":{"use":"bank"}}`, `{"bearer":{"token":"t"}}`, 1), "profile/inline-credential", ""},
		{"a credential beside use", strings.Replace(call(""), `{"bearer":{"use":"bank"}}`, `{"basic":{"use":"bank","password":"p"}}`, 1), "profile/inline-credential", ""},
		{"two schemes", strings.Replace(call(""), `{"bearer":{"use":"bank"}}`, `{"bearer":{"use":"bank"},"basic":{"use":"bank"}}`, 1), "dsl/authentication", ""},
		{"a key in another case", strings.Replace(call(""), `"method"`, `"Method"`, 1), "dsl/unknown-key", "Method"},
		{"an unknown key of the document", strings.Replace(call(""), `"dsl"`, `"owner":1,"dsl"`, 1), "dsl/unknown-key", "owner"},
		{"an unknown key of use", strings.Replace(call(""), `"secrets"`, `"secret":1,"secrets"`, 1), "dsl/unknown-key", "secret"},
		{"an unknown key of a task", around(`{"a":{"set":{"x":1},"when":"x"}}`), "dsl/unknown-key", "when"},
		{"an unknown key of an endpoint", strings.Replace(call(""), `"uri"`, `"proxy":"x","uri"`, 1), "dsl/unknown-key", "proxy"},
		{"an unknown key of our metadata", around(`{"a":{"set":{"x":1},"metadata":{"cardea/v1":{"grant":"x"}}}}`), "dsl/unknown-key", "grant"},
		{"an unknown key of a schema", around(`{"a":{"set":{"x":1},"input":{"schema":{"document":{},"x":1}}}}`), "dsl/unknown-key", ""},
		{"a schema from elsewhere", around(`{"a":{"set":{"x":1},"input":{"schema":{"resource":{"endpoint":"https://a/"}}}}}`), "dsl/later", ""},
		{"a timeout", around(`{"a":{"set":{"x":1},"timeout":{"after":{"seconds":1}}}}`), "dsl/later", "later version"},
		{"a loop", around(`{"a":{"for":{"each":"p","in":".x"},"do":[{"b":{"set":{"x":1}}}]}}`), "dsl/later", "for"},
		{"a gate", around(`{"a":{"call":"approval:1.0.0@default","with":{}}}`), "dsl/later", "approval"},
		{"two kinds", around(`{"a":{"set":{"x":1},"call":"http"}}`), "dsl/task-kind", "call and set"},
		{"no kind", around(`{"a":{"if":"x"}}`), "dsl/task-kind", ""},
		{"two tasks in one entry", around(`{"a":{"set":{"x":1}},"b":{"set":{"x":1}}}`), "dsl/task-item", ""},
		{"a name twice", around(`{"a":{"set":{"x":1}}},{"a":{"set":{"x":1}}}`), "dsl/duplicate-task", ""},
		{"a name that is a directive", around(`{"end":{"set":{"x":1}}}`), "dsl/name", "directive"},
		{"a name with a slash", around(`{"a/do/0/b":{"set":{"x":1}}}`), "dsl/name", ""},
		{"a name with a tilde", around(`{"a~1b":{"set":{"x":1}}}`), "dsl/name", ""},
		{"a name of dots", around(`{"..":{"set":{"x":1}}}`), "dsl/name", ""},
		{"a `then` that leads nowhere", around(`{"a":{"set":{"x":1},"then":"b"}}`), "dsl/then", `"b"`},
		{"an empty `then`", around(`{"a":{"set":{"x":1},"then":""}}`), "dsl/then", ""},
		{"a `then` into another list", around(`{"a":{"do":[{"b":{"set":{"x":1}}}]}},{"c":{"set":{"x":1},"then":"b"}}`), "dsl/then", ""},
		{"a tier without a reach", around(`{"a":{"set":{"x":1},"metadata":{"cardea/v1":{"tier":"privileged"}}}}`), "meta/pointless", ""},
		{"scopes without a connection", around(`{"a":{"call":"http","with":{"method":"get","endpoint":"https://a.example/"},"metadata":{"cardea/v1":{"scopes":["x"]}}}}`), "meta/pointless", ""},
		{"an unknown effect", around(`{"a":{"call":"http","with":{"method":"get","endpoint":"https://a.example/"},"metadata":{"cardea/v1":{"effect":"maybe"}}}}`), "meta/effect", ""},
		{"no tasks", around(""), "dsl/size", ""},
		{"too many tasks", around(strings.Repeat(`{"a":{"set":{"x":1}}},`, maxTasks) + `{"b":{"set":{"x":1}}}`), "dsl/size", ""},
		{"a namespace that is no label", strings.Replace(call(""), `"namespace":"payroll"`, `"namespace":"pay/roll"`, 1), "dsl/namespace", ""},
		{"a version that is none", strings.Replace(call(""), `"1.2.0"`, `"01.2.0"`, 1), "dsl/version", ""},
		{"a later language", strings.Replace(call(""), `"1.0.3"`, `"1.1.0"`, 1), "dsl/dsl", ""},
		{"a version that is a number", strings.Replace(call(""), `"1.2.0"`, `1`, 1), "dsl/type", "string"},
		{"set to a bare string", around(`{"a":{"set":"x"}}`), "dsl/type", ""},
		{"a schedule", strings.Replace(call(""), `"do"`, `"schedule":{"cron":"* * * * *"},"do"`, 1), "dsl/later", "schedule"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := canonical(t, c.doc)
			_, findings := Parse(b, true)
			found := false
			for _, f := range findings {
				found = found || f.Severity == Error && f.Rule == c.rule && strings.Contains(f.Message, c.says)
			}
			if !found {
				t.Errorf("no error %s with %q among %+v", c.rule, c.says, findings)
			}
			if claims, err := Decode(b); err == nil {
				t.Errorf("the authority decodes it: %+v", claims)
			}
		})
	}
	if _, err := Decode(canonical(t, call(`,"headers":{"accept":"application/json","x-trace":"${ .t }"},"body":"${ . }","query":{"a":"${ .a }"}`))); err != nil {
		t.Errorf("what these are variations of: %v", err)
	}
}

func TestRepeats(t *testing.T) {
	task := func(name, more string) string {
		return `{"` + name + `":{"call":"http","with":{"method":"get","endpoint":"https://a.example/"}` + more + `}}`
	}
	for _, c := range []struct {
		name, tasks string
		want        []string
	}{
		{"in order", task("a", "") + "," + task("b", ""), nil},
		{"forward", task("a", `,"then":"c"`) + "," + task("b", "") + "," + task("c", ""), nil},
		{"to itself", task("a", `,"if":".x","then":"a"`), []string{"a"}},
		{"back", task("a", "") + "," + task("b", "") + "," + task("c", `,"if":".x","then":"b"`) + "," + task("d", ""), []string{"b", "c"}},
		{"forward and back", task("a", `,"then":"c"`) + "," + task("b", `,"then":"end"`) + "," + task("c", `,"then":"b"`), nil},
		{"a cycle out of order", task("a", `,"then":"c"`) + "," + task("b", `,"if":".x","then":"a"`) + "," + task("c", `,"then":"b"`), []string{"a", "b", "c"}},
		{"end after a jump", task("a", "") + "," + task("b", `,"then":"end"`) + "," + task("c", `,"then":"a"`), nil},
		{"skipped past an end", task("a", "") + "," + task("b", `,"if":".x","then":"end"`) + "," + task("c", `,"then":"a"`), []string{"a", "b", "c"}},
		{"inside a task that repeats", `{"o":{"do":[` + task("a", "") + `]}},` + task("b", `,"if":".x","then":"o"`), []string{"a", "b"}},
		{"inside only", `{"o":{"do":[` + task("a", `,"if":".x","then":"a"`) + `]}},` + task("b", ""), []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims, err := Decode(canonical(t, around(c.tasks)))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, task := range claims.Tasks {
				if task.Repeats {
					got = append(got, task.Name)
				}
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ doc, rule string }{
		{get("http://a.example/x"), "profile/plaintext"},
		{get("https://a.example/x"), "profile/unused-connection"},
		{around(`{"a":{"set":{"x":1},"then":"end"}},{"b":{"set":{"x":1}}}`), "flow/unreachable"},
		{around(`{"a":{"set":{"x":1},"then":"b"}},{"b":{"set":{"x":1},"then":"a"}}`), "flow/endless"},
		{around(`{"a":{"call":"http","with":{"method":"get","endpoint":"https://a.example/","body":1}}}`), "http/body"},
	} {
		d, findings := Parse(canonical(t, c.doc), true)
		found := false
		for _, f := range findings {
			found = found || f.Rule == c.rule && f.Severity == Warning
		}
		if d == nil || !found {
			t.Errorf("no warning %s: %+v", c.rule, findings)
		}
	}
}

func TestOnlyCanonicalBytes(t *testing.T) {
	good := string(canonical(t, call(`,"body":{"a":1.5,"b":"\u0001é\n"}`)))
	if _, err := Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"a space":             " " + good,
		"a line break":        good + "\n",
		"a space inside":      strings.Replace(good, ":", ": ", 1),
		"keys out of order":   strings.Replace(good, `"a":1.5,"b":"\u0001é\n"`, `"b":"\u0001é\n","a":1.5`, 1),
		"a key twice":         strings.Replace(good, `"a":1.5,`, `"a":1.5,"a":1.5,`, 1),
		"another number":      strings.Replace(good, "1.5", "1.50", 1),
		"an exponent":         strings.Replace(good, "1.5", "15e-1", 1),
		"a number too long":   strings.Replace(good, "1.5", "9007199254740993", 1),
		"minus zero":          strings.Replace(good, "1.5", "-0", 1),
		"an escape not due":   strings.Replace(good, "é", `\u00e9`, 1),
		"an escape in upper":  strings.Replace(good, `\u0001`, `\u000A`, 1),
		"a lone surrogate":    strings.Replace(good, "é", `\ud800`, 1),
		"not UTF-8":           strings.Replace(good, "é", "\xe9", 1),
		"an escaped slash":    strings.Replace(good, "é", `\/`, 1),
		"a document and more": good + good,
		"nothing":             "",
		"a cut":               good[:len(good)-1],
		"a cut in an escape":  good[:strings.Index(good, `\u`)+1],
	} {
		if _, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Bombs end at a bound on bytes, values or depth, long before they cost anything.
func TestBombs(t *testing.T) {
	keys := make([]string, 90_000)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"k%06d":0`, i)
	}
	for _, c := range []struct{ name, bomb, says string }{
		{"depth", strings.Repeat("[", 500_000), "deeper"},
		{"depth, ended", strings.Repeat("[", 66) + "0" + strings.Repeat("]", 66), "deeper"},
		{"values", "[0" + strings.Repeat(",0", MaxNodes) + "]", "more than"},
		{"bytes", `"` + strings.Repeat("x", MaxBytes) + `"`, "larger"},
	} {
		if _, err := ParseCanonical([]byte(c.bomb)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	start := time.Now()
	if _, err := Decode([]byte("{" + strings.Join(keys, ",") + "}")); err == nil {
		t.Error("an object of 90,000 keys is a definition")
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("90,000 keys took %v", took)
	}
}

// The authority imports this package. Whatever this package imports can be attacked there.
func TestImportsNoInterpreter(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, banned := range []string{"gojq", "yaml", "jsonschema", "cardea/internal/expr", "os/exec", "net/http", "html/template"} {
			if strings.Contains(dep, banned) {
				t.Errorf("it imports %s", dep)
			}
		}
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add(call(`,"body":{"a":1.5,"b":"\u0001é\n"}`))
	f.Add(`{"é":1,"😀":2,"\ufb33":3}`)
	f.Add(`[1e21,1e-7,0.1,-1]`)
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseCanonical([]byte(s))
		var v any
		if err == nil {
			again, err := jcs.Transform([]byte(s))
			if err != nil || string(again) != s {
				t.Fatalf("%q is accepted, and jcs makes it %q, %v", s, again, err)
			}
			if string(n.Raw) != s {
				t.Fatalf("%q is read as %q", s, n.Raw)
			}
		}
		if json.Unmarshal([]byte(s), &v) != nil {
			return
		}
		b, err := Canonical(v)
		if err != nil || len(b) > MaxBytes {
			return
		}
		if _, err := ParseCanonical(b); err != nil && !strings.Contains(err.Error(), "more than") {
			t.Fatalf("%q becomes %q, which is not canonical: %v", s, b, err)
		}
		if theirs, err := jcs.Transform(b); err != nil || string(theirs) != string(b) {
			t.Fatalf("%q becomes %q, and jcs makes that %q, %v", s, b, theirs, err)
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{"https://a.example/v1/{x}?q={y}", "https://[::1]:8443/", "https://127.0.0.1/%C3%A9", "http://a/{b}{c}", "https://a.example/x/../y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseEndpoint(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(s, "\\#@ \t\r\n") && !strings.Contains(e.Path.Source+querySource(e), "@") {
			t.Fatalf("%q is accepted", s)
		}
		again, err := ParseEndpoint(e.Origin + e.Path.Source)
		if err != nil || again.Origin != e.Origin || again.Path.Source != e.Path.Source {
			t.Fatalf("%q gives %+v, which gives %+v, %v", s, e, again, err)
		}
	})
}

func querySource(e Endpoint) string {
	if e.Query == nil {
		return ""
	}
	return e.Query.Source
}
