package source

import (
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"

	"cardea/internal/flow"
	"cardea/internal/flow/claims"
)

func TestWhatYAMLMeans(t *testing.T) {
	for in, want := range map[string]string{
		"on: y\noff: n\nyes: no":                         `{"off":"n","on":"y","yes":"no"}`,
		"a: 2001-01-01\nb: 1_000\nc: 12:30:00":           `{"a":"2001-01-01","b":"1_000","c":"12:30:00"}`,
		"a: ~\nb:\nc: null\nd: ''":                       `{"a":null,"b":null,"c":null,"d":""}`,
		"a: 1.0.3\nb: 1.50\nc: 1e3\nd: -0\ne: .5":        `{"a":"1.0.3","b":1.5,"c":1000,"d":0,"e":0.5}`,
		"a: 9007199254740992\nb: '9007199254740993'":     `{"a":9007199254740992,"b":"9007199254740993"}`,
		"a: &x {k: [1]}\nb: *x":                          `{"a":{"k":[1]},"b":{"k":[1]}}`,
		"a: |\n  x\n  y\nb: >\n  x\n  y\nc: \"\\u00e9\"": `{"a":"x\ny\n","b":"x y\n","c":"é"}`,
		`{"b": 1, "a": [true, {}]}`:                      `{"a":[true,{}],"b":1}`,
		"😀: 1\nﬀ: 2":                                     "{\"😀\":1,\"ﬀ\":2}",
		"a: '${ .x | {y: 1} }'":                          `{"a":"${ .x | {y: 1} }"}`,
	} {
		d, _, err := Load("x.yaml", []byte(in))
		if err != nil || string(d.Canonical) != want {
			t.Errorf("%q gives %s, %v; want %s", in, d.Canonical, err, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ in, rule, at string }{
		{"a: !!str 1", "yaml/tag", "x.yaml:1:4:"},
		{"a: !x 1", "yaml/tag", "x.yaml:1:4:"},
		{"a: ! 1", "yaml/tag", "x.yaml:1:4:"},
		{"a: !!binary aGk=", "yaml/tag", "x.yaml:1:4:"},
		{"a: &x {b: 1}\nc:\n  <<: *x", "yaml/merge-key", "x.yaml:3:3:"},
		{"a: 1\n\"a\": 2", "yaml/duplicate-key", "x.yaml:2:1:"},
		{"1: a", "yaml/key", "x.yaml:1:1:"},
		{"true: a", "yaml/key", "x.yaml:1:1:"},
		{"? [a]\n: b", "yaml/key", "x.yaml:1:3:"},
		{"a: 0777", "yaml/number", "x.yaml:1:4:"},
		{"a: 0o17", "yaml/number", "x.yaml:1:4:"},
		{"a: 0x1F", "yaml/number", "x.yaml:1:4:"},
		{"a: .inf", "yaml/number", "x.yaml:1:4:"},
		{"a: .nan", "yaml/number", "x.yaml:1:4:"},
		{"a: 1e999", "yaml/number", "x.yaml:1:4:"},
		{"a: 9007199254740993", "yaml/number", "x.yaml:1:4:"},
		{"a: [1, 2\nb: 3", "yaml/syntax", "x.yaml:2:"},
		{"a: *nope", "yaml/syntax", "x.yaml:1:"},
		{"a: 1\n---\nb: 2", "yaml/documents", "x.yaml:3:1:"},
		{"", "yaml/documents", "x.yaml:"},
		{"a: \xff", "yaml/encoding", "x.yaml:"},
		{"a: &a [*a]", "yaml/size", "x.yaml:1:"},
	} {
		_, findings, err := Load("x.yaml", []byte(c.in))
		if err == nil || len(findings) == 0 {
			t.Errorf("%q is accepted", c.in)
			continue
		}
		if f := findings[0]; f.Rule != c.rule || f.Severity != claims.Error || !strings.HasPrefix(err.Error(), c.at) {
			t.Errorf("%q: %v, want %s at %s", c.in, err, c.rule, c.at)
		}
	}
}

// Bombs are bounded by what they would become, not by what they weigh.
func TestBombs(t *testing.T) {
	laughs := "a0: &a0 {k: v}\n"
	for i := range 30 {
		laughs += strings.NewReplacer("N", string(rune('a'+i))+"x", "P", map[bool]string{true: "a0", false: string(rune('a'+i-1)) + "x"}[i == 0]).Replace("N: &N [*P, *P, *P, *P]\n")
	}
	long := "s: &s " + strings.Repeat("x", 100_000) + "\nl: [" + strings.Repeat("*s, ", 10_000) + "*s]\n"
	for name, bomb := range map[string]string{
		"laughs":        laughs,
		"long aliases":  long,
		"flow depth":    strings.Repeat("[", 100_000),
		"map depth":     strings.Repeat("{a: ", 50_000),
		"block depth":   strings.Repeat("- ", 100_000),
		"values":        "[" + strings.Repeat("0,", 200_000) + "0]",
		"a long scalar": "a: " + strings.Repeat("x", 2<<20),
		"a large file":  strings.Repeat("#", maxFile+1),
		"documents":     strings.Repeat("---\n", maxDocuments+2),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, _, err := Load("x.yaml", []byte(bomb)); err == nil {
				t.Error("it is accepted")
			}
			runtime.ReadMemStats(&after)
			if used := (after.TotalAlloc - before.TotalAlloc) >> 20; used > 400 {
				t.Errorf("%d KiB of text made it allocate %d MiB", len(bomb)>>10, used)
			}
		})
	}
}

const lint = `document: {dsl: '1.0.3', namespace: payroll, name: pay-run, version: '1.2.0'}
do:
  - one:
      call: http
      with:
        method: get
        endpoint: https://{host}/x
      thn: two
  - two:
      if: .x |
      set:
        a: ${ range(10) }
  - two:
      wait: PT1S
`

func TestFindingsPointIntoTheFile(t *testing.T) {
	plan, findings := Compile("pay.yaml", []byte(lint), flow.Options{Profile: true})
	if plan != nil {
		t.Fatal("it compiles")
	}
	want := `pay.yaml:7:19: error: the endpoint https://{host}/x cannot be used: host and port must be literal (profile/literal-host)
pay.yaml:8:7: error: a task of kind call has no key "thn" (dsl/unknown-key)
    did you mean then?
pay.yaml:13:5: error: the task list has two tasks with the name two (dsl/duplicate-task)
    rename one of them
pay.yaml:14:7: error: tasks of kind wait come with a later version (dsl/later)
`
	if got := Format(findings); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	// Structure is right now: what is left is for the expressions' compiler.
	text := strings.NewReplacer("{host}", "h.example", "thn: two", "then: two", "- two:\n      wait: PT1S", "- three:\n      set: {b: 1}").Replace(lint)
	_, findings = Compile("pay.yaml", []byte(text), flow.Options{Profile: true})
	want = "pay.yaml:10:11: error: not a jq expression: unexpected EOF at character 5 (expr/syntax)\n" +
		"pay.yaml:12:12: error: nothing in the data bounds the cost of range/1, so it cannot be evaluated in process; evaluation in a limited child comes with a later version (expr/costly)\n" +
		"    iterate over the data itself\n"
	if got := Format(findings); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	b, err := json.Marshal(findings[0])
	if err != nil || !strings.Contains(string(b), `"pointer":"/do/1/two/if"`) || !strings.Contains(string(b), `"line":10`) {
		t.Errorf("as JSON: %s, %v", b, err)
	}
}

func TestFormatCannotSteerATerminal(t *testing.T) {
	out := Format([]flow.Finding{{Severity: claims.Error, Rule: "x", File: "a\x1b[2J", Message: "b\r\n\u202ec\u009b"}})
	if strings.ContainsAny(strings.TrimSuffix(out, "\n"), "\x1b\r\n\u202e\u009b") {
		t.Errorf("%q", out)
	}
}

func TestResources(t *testing.T) {
	list, findings, err := LoadResources("p.yaml", []byte("# head\nkind: Process\nname: payroll\n---\n---\n\nkind: Connection\nname: hr\n---\ndocument: {}\ndo: []\n---\nname: x\n"))
	if err != nil || len(findings) > 0 {
		t.Fatal(err, findings)
	}
	var got []string
	for _, r := range list {
		got = append(got, r.Kind+" "+string(r.Canonical)+" "+string(rune('0'+r.Line/10))+string(rune('0'+r.Line%10)))
	}
	want := `Process {"kind":"Process","name":"payroll"} 02|Connection {"kind":"Connection","name":"hr"} 07|Workflow {"do":[],"document":{}} 10| {"name":"x"} 13`
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	if at := list[1].Positions.At("/name"); at != (Position{8, 7}) {
		t.Errorf("the name stands at %v", at)
	}
	list, _, err = LoadResources("p.yaml", []byte("kind: A\n---\nb: !x 1\n---\nkind: C\n"))
	if err == nil || len(list) != 2 {
		t.Errorf("one bad document of three: %v, %v", list, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(lint))
	f.Add([]byte("a: &x {k: [1, .5, 0x1, ~]}\nb: *x\n? c\n: |\n  x\n"))
	f.Add([]byte(`{"a":"\u00e9","b":[1e3,-0]}`))
	f.Add([]byte("a: &a [*a]\n---\n<<: *a"))
	if files, err := os.ReadDir("testdata"); err == nil {
		for _, file := range files {
			if b, err := os.ReadFile("testdata/" + file.Name()); err == nil {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, findings, err := Load("x", text)
		if (err == nil) != (len(findings) == 0) {
			t.Fatalf("%v and %v", err, findings)
		}
		if err != nil {
			return
		}
		if again, err := jcs.Transform(d.Canonical); err != nil || string(again) != string(d.Canonical) {
			t.Fatalf("%s is not canonical: %s, %v", d.Canonical, again, err)
		}
		// Canonical JSON is YAML for the same document.
		if twice, _, err := Load("x", d.Canonical); err == nil && string(twice.Canonical) != string(d.Canonical) {
			t.Fatalf("%s becomes %s", d.Canonical, twice.Canonical)
		}
		plan, found := flow.Compile(d.Canonical, flow.Options{Profile: true})
		d.Place(found)
		_, err = claims.Decode(d.Canonical)
		if plan != nil && err != nil {
			t.Fatalf("it compiles, and the authority refuses it: %v", err)
		}
	})
}
