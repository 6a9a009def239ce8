package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
)

func TestClean(t *testing.T) {
	for given, want := range map[string]Safe{
		"plain":                 "plain",
		"Zürich 東京 37 × €":      "Zürich 東京 37 × €",
		"a\x1b[2Jb":             `a\x1b[2Jb`,
		"one\ntwo\tthree\r":     `one\ntwo\tthree\r`,
		"\u009b31m":             `\u009b31m`,
		"evil\u202egnp.exe":     `evil\u202egnp.exe`,
		"zero\u200bwidth\ufeff": `zero\u200bwidth\ufeff`,
		"blank\u3164here":       `blank\u3164here`,
		"no\u00a0break":         `no\u00a0break`,
		"bad\xffbyte":           `bad\xffbyte`,
		"tag\U000e0041":         `tag\U000e0041`,
		"private\ue000":         `private\ue000`,
	} {
		if got := Clean(given); got != want {
			t.Errorf("Clean(%q) = %q, want %q", given, got, want)
		}
	}
}

func TestFCleansEveryArgument(t *testing.T) {
	got := F("%s %v %d", "a\x1b", []string{"b\x1b"}, 3)
	if got != `a\x1b [b\x1b] 3` {
		t.Fatalf("%q", got)
	}
	if got := Join([]string{"a\n", "b"}, ", "); got != `a\n, b` {
		t.Fatalf("%q", got)
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b]0;title\a", "\xc2", "\u202e", "日本"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(Clean(s))
		if !utf8.ValidString(got) {
			t.Fatalf("%q is not UTF-8", got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
				t.Fatalf("%q got through", r)
			}
		}
		line := L(Clean(s)).Cut(10)
		if line.Width() > 10 {
			t.Fatalf("%q is %d columns wide", line.String(), line.Width())
		}
	})
}

func TestCutAndTable(t *testing.T) {
	if got := L("12345").Cut(5).String(); got != "12345" {
		t.Errorf("%q", got)
	}
	if got := L("123456").Cut(5).String(); got != "1234…" {
		t.Errorf("%q", got)
	}
	if got := L("日本語").Cut(5).String(); got != "日本…" {
		t.Errorf("%q", got)
	}
	if got := (Line{{"123", Bold}, {"456", Red}}).Cut(4).String(); got != "123…" {
		t.Errorf("%q", got)
	}
	lines := Table([]Safe{"A", "LONG"}, [][]Line{{L("日本"), L("x")}, {L("1"), L("yy")}})
	want := []string{"A     LONG", "日本  x", "1     yy"}
	for i, l := range lines {
		if l.String() != want[i] {
			t.Errorf("line %d: %q, want %q", i, l.String(), want[i])
		}
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]Safe{
		-time.Second: "0.00 s", 210 * time.Millisecond: "0.21 s", 12400 * time.Millisecond: "12.4 s", 185 * time.Second: "3 min 5 s",
		2*time.Hour + 4*time.Minute: "2 h 4 min", 74 * time.Hour: "3 d 2 h",
	} {
		if got := Span(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestNoStylesWithoutATerminal(t *testing.T) {
	var b bytes.Buffer
	o := NewOut(&b, func(string) string { return "" })
	if err := o.Print(Line{{"red", Red}, {" plain", Plain}}); err != nil {
		t.Fatal(err)
	}
	if b.String() != "red plain\n" {
		t.Fatalf("%q", b.String())
	}
	o = &Out{w: &b, tty: true, colour: true}
	b.Reset()
	if err := o.Print(Line{{"red", Red}, {" plain  ", Plain}}); err != nil {
		t.Fatal(err)
	}
	if b.String() != "\x1b[31mred\x1b[0m plain\n" {
		t.Fatalf("%q", b.String())
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, bytes.ErrTooLarge }

func TestAFailedWriteIsAnError(t *testing.T) {
	if NewOut(fullDisk{}, func(string) string { return "" }).Say("x") == nil {
		t.Error("Print swallowed it")
	}
	if WriteJSON(fullDisk{}, 1) == nil {
		t.Error("WriteJSON swallowed it")
	}
}

func TestDocuments(t *testing.T) {
	var b bytes.Buffer
	err := WriteMessage(&b, &cardeav1.ExplainResponse{
		StartVerdict: &cardeav1.Verdict{Outcome: cardeav1.Outcome_OUTCOME_IN_DOUBT, Reason: "<a & b>\u202e\u009b\U000e0041"},
		StartLeaf:    &cardeav1.LedgerRef{Index: 1 << 60, Sequenced: true},
		Attempts: []*cardeav1.AttemptRecord{{
			Action: []byte(`{"kind":"http"}`), DecidedAt: timestamppb.New(time.Date(2026, 5, 1, 6, 0, 3, 112e6, time.UTC)), Delivery: cardeav1.Delivery_DELIVERY_NOT_SENT,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Attempts []struct {
			Action    map[string]string `json:"action"`
			DecidedAt string            `json:"decided_at"`
			Delivery  string            `json:"delivery"`
			Leases    []any             `json:"leases"`
		} `json:"attempts"`
		StartVerdict struct{ Outcome, Reason string } `json:"start_verdict"`
		StartLeaf    struct{ Index uint64 }           `json:"start_leaf"`
		Closure      *struct{}                        `json:"closure"`
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	a := got.Attempts[0]
	if a.Action["kind"] != "http" || a.DecidedAt != "2026-05-01T06:00:03.112Z" || a.Delivery != "not_sent" || a.Leases == nil {
		t.Errorf("attempt %+v", a)
	}
	if got.StartVerdict.Outcome != "in_doubt" || got.StartVerdict.Reason != "<a & b>\u202e\u009b\U000e0041" || got.StartLeaf.Index != 1<<60 {
		t.Errorf("%+v", got)
	}
	if strings.ContainsAny(b.String(), "\u202e\u009b\U000e0041") || !strings.Contains(b.String(), "<a & b>") {
		t.Errorf("the document can steer a terminal, or is escaped for HTML:\n%s", &b)
	}
	if !strings.Contains(b.String(), `"closure": null`) {
		t.Errorf("a field that is not set is left out:\n%s", &b)
	}
}

func TestTaskNames(t *testing.T) {
	for pointer, want := range map[string]string{
		"/do/0/timesheets":           "timesheets",
		"/do/2/transfer/do/0/one":    "transfer/one",
		"/do/1/a~1b":                 "a/b",
		"":                           "",
		"/do/0/7":                    "7",
		"/do/3/do/do/0/inner~0tilde": "do/inner~tilde",
	} {
		if got := TaskName(pointer); got != want {
			t.Errorf("%s: %q, want %q", pointer, got, want)
		}
	}
}
