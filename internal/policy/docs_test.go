package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

const page = "../../docs/policy.md"

var (
	fence   = regexp.MustCompile("(?ms)^```(cedar|ask)\n(.*?)^```$")
	entity  = regexp.MustCompile(`^(\w+)::"([^"]+)"$`)
	heading = regexp.MustCompile(`(?m)^### .*$`)
)

// Each section's policies are compiled and its questions asked.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	at := heading.FindAllIndex(text, -1)
	asked := 0
	for i, h := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		t.Run(string(text[h[0]+4:h[1]]), func(t *testing.T) {
			var policies, questions string
			for _, m := range fence.FindAllSubmatch(text[h[0]:end], -1) {
				if string(m[1]) == "cedar" {
					policies += string(m[2])
				} else {
					questions += string(m[2])
				}
			}
			s := compile(t, policies)
			lines := strings.Split(strings.TrimSpace(questions), "\n")
			for q := 0; q+1 < len(lines); q += 2 {
				ask(t, s, lines[q], lines[q+1])
				asked++
			}
		})
	}
	if asked < 12 {
		t.Errorf("only %d questions were asked", asked)
	}
}

func ask(t *testing.T, s *Set, question, answer string) {
	t.Helper()
	words := strings.Fields(question)
	p, r := entity.FindStringSubmatch(words[0]), entity.FindStringSubmatch(words[2])
	if p == nil || r == nil {
		t.Fatalf("no question: %s", question)
	}
	var req Request
	if words[1] == "start" {
		req = personRequest("ana", nil, "start", Ref{r[1], r[2]})
	} else {
		req = with(useRequest(p[2], r[2]))
	}
	req.Principal, req.Action, req.Resource = Ref{p[1], p[2]}, words[1], Ref{r[1], r[2]}
	var approved []string
	for _, w := range words[3:] {
		name, value, _ := strings.Cut(w, "=")
		if name == "approved" {
			approved = append(approved, value)
			continue
		}
		req = with(req, change{name, fromJSON(t, name, value)})
	}
	want := strings.Fields(strings.TrimPrefix(answer, "=> "))
	v := s.Decide(req, approved...)
	if v.Outcome.String() != want[0] || !slices.Equal(v.Policies, append([]string{}, want[1:]...)) {
		t.Errorf("%s\n%s\ngot %s %v: %s %v", question, answer, v.Outcome, v.Policies, v.Reason, v.Nearest)
	}
}

func fromJSON(t *testing.T, name, text string) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return typed(t, name, v)
}

func typed(t *testing.T, name string, v any) any {
	switch v := v.(type) {
	case json.Number:
		return Decimal(v)
	case string:
		if name == "now" {
			at, err := time.Parse(time.RFC3339, v)
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
	case []any:
		for i := range v {
			v[i] = Ref{"Connection", fmt.Sprint(v[i])}
		}
	case map[string]any:
		for k := range v {
			v[k] = typed(t, k, v[k])
		}
	}
	return v
}

func TestDocsNameTheWholeBaseline(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range compile(t).IDs() {
		if !bytes.Contains(text, []byte("| `"+id+"` |")) {
			t.Errorf("%s does not explain %s", page, id)
		}
	}
	for _, r := range BuiltinRules() {
		if !bytes.Contains(text, []byte("`"+r.Name+"` (")) {
			t.Errorf("%s does not explain rule %s", page, r.Name)
		}
	}
}
