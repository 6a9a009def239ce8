package supervise

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestLogLines(t *testing.T) {
	for name, test := range map[string]struct {
		format string
		color  bool
		writes []string
		want   string
	}{
		"whole lines":  {"text", false, []string{"a\nb\n"}, "engine │ a\nengine │ b\n"},
		"pieces":       {"text", false, []string{"a", "b\nc", "\n"}, "engine │ ab\nengine │ c\n"},
		"no last end":  {"text", false, []string{"a\nb"}, "engine │ a\nengine │ b\n"},
		"colour":       {"text", true, []string{"a\n"}, "\x1b[32mengine │\x1b[0m a\n"},
		"escapes":      {"text", false, []string{"\x1b]0;x\x07\u009b1m\r\n"}, "engine │ \ufffd]0;x\ufffd\ufffd1m\n"},
		"json":         {"json", false, []string{`{"a":1}` + "\n"}, `{"a":1}` + "\n"},
		"endless line": {"text", false, []string{strings.Repeat("x", maxLine+1)}, "engine │ " + strings.Repeat("x", maxLine+1) + "\n"},
	} {
		var out strings.Builder
		w := &lineWriter{logs: &logs{w: &out, format: test.format, color: test.color, width: 6}, name: "engine", index: 1}
		for _, text := range test.writes {
			if n, err := w.Write([]byte(text)); err != nil || n != len(text) {
				t.Errorf("%s: wrote %d, %v", name, n, err)
			}
		}
		w.flush()
		if out.String() != test.want {
			t.Errorf("%s: %q, want %q", name, out.String(), test.want)
		}
	}
}

func TestPanicInJSONLogIsJSON(t *testing.T) {
	var out strings.Builder
	(&logs{w: &out, format: "json"}).line("engine", 1, []byte("panic: \x1b boom"))
	var line map[string]string
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil || line["role"] != "engine" || line["msg"] == "" {
		t.Errorf("%q: %v", &out, err)
	}
}

func TestParsePerson(t *testing.T) {
	for in, want := range map[string]string{"ada": "ada:", "ada=": "ada:", "ada=a,b": "ada:a b"} {
		p, err := ParsePerson(in)
		if got := p.Name + ":" + strings.Join(p.Groups, " "); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "=a", "a/b", "ada=a,", "ada=a b", "ADA"} {
		if p, err := ParsePerson(in); err == nil {
			t.Errorf("%q: %+v", in, p)
		}
	}
}
