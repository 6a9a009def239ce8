package approval

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"cardea/internal/action"
)

var update = flag.Bool("update", false, "write the golden files anew")

// clean says whether a terminal would show text as it stands: nothing hidden, nothing that moves the cursor, no line wider
// than the view.
func clean(text string) bool {
	for l := range strings.SplitSeq(text, "\n") {
		width := 0
		for _, r := range l {
			if !shows(r) && r != openEscape && !unicode.Is(unicode.Mn, r) {
				return false
			}
			width += columns(r)
		}
		if width > defaultWidth {
			return false
		}
	}
	return true
}

func TestRenderGolden(t *testing.T) {
	replaced := attempt(t, `{"to":"E. 1001","iban":"DE89 3704 0044 0532 0130 00","amount":1204.00}`)
	again := attempt(t, `{"to":"E. 1001","iban":"DE89 3704 0044 0532 0130 00","amount":9204.00}`)
	again.ID, again.Replaces = "apr_09", replaced.ID
	unknown := attempt(t, "")
	unknown.Replaces = "apr_00"
	for name, c := range map[string]struct {
		s *Statement
		v View
	}{
		"attempt":           {replaced, View{As: []string{"treasury"}, Now: six.Add(8 * time.Minute)}},
		"replacing":         {again, View{Signed: 1, Replaced: replaced}},
		"replacing-unknown": {unknown, View{Replaced: replaced}},
		"loop":              {attempt(t, `{"a":1}`, "plain\ntext", "\x00\xff"), View{}},
		"plan":              {planStatement(), View{As: []string{"security"}}},
		"moved":             {moved(t), View{}},
		"narrow":            {attempt(t, `{"name":"`+strings.Repeat("long ", 30)+`"}`), View{Width: 50}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Render(c.s, c.v)
			path := filepath.Join("testdata", "render", name+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestRenderHidesNothing(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"clear screen":       {"\x1b[2J\x1b[H harmless", "⟨U+001B⟩[2J⟨U+001B⟩[H harmless"},
		"8-bit escape":       {"\u009b2J", "⟨U+009B⟩2J"},
		"carriage return":    {"amount 9999\ramount 1", "amount 9999⟨U+000D⟩amount 1"},
		"backspace":          {"9\b1", "9⟨U+0008⟩1"},
		"bell and delete":    {"\a\x7f", "⟨U+0007⟩⟨U+007F⟩"},
		"right-to-left":      {"to \u202eECILA", "to ⟨U+202E⟩ECILA"},
		"isolates":           {"\u2066\u2069\u200f", "⟨U+2066⟩⟨U+2069⟩⟨U+200F⟩"},
		"hebrew reorders":    {"1 \u05d0 2", "1 ⟨U+05D0⟩ 2"},
		"zero width":         {"a\u200bd\u200cm\u200di\ufeffn", "a⟨U+200B⟩d⟨U+200C⟩m⟨U+200D⟩i⟨U+FEFF⟩n"},
		"fillers":            {"\u3164\u115f\uffa0\u2800\u00ad", "⟨U+3164⟩⟨U+115F⟩⟨U+FFA0⟩⟨U+2800⟩⟨U+00AD⟩"},
		"variation":          {"a\ufe0f\u034f", "a⟨U+FE0F⟩⟨U+034F⟩"},
		"tags":               {"\U000e0041", "⟨U+E0041⟩"},
		"line separators":    {"a\u2028b\u2029c\u0085", "a⟨U+2028⟩b⟨U+2029⟩c⟨U+0085⟩"},
		"other spaces":       {"1\u00a0000\u2003", "1⟨U+00A0⟩000⟨U+2003⟩"},
		"heap of accents":    {"a" + strings.Repeat("\u0301", 50) + "b", "a\u0301\u0301⟨U+0301⟩"},
		"accent on nothing":  {"\u0301a", "⟨U+0301⟩a"},
		"a faked escape":     {"⟨U+0041⟩", "⟨U+27E8⟩U+0041⟩"},
		"private use":        {"\ue000", "⟨U+E000⟩"},
		"legitimate letters": {"Zürich 東京 ñ €", "Zürich 東京 ñ €"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Render(attempt(t, tt.body), View{})
			if !strings.Contains(got, "  │ "+tt.want) {
				t.Errorf("lacks %q:\n%s", tt.want, got)
			}
			if !clean(got) {
				t.Errorf("not clean:\n%q", got)
			}
		})
	}
}

// A body must not be able to write a line that looks like one of ours.
func TestRenderCannotBeFaked(t *testing.T) {
	fake := "x\n\nNothing else can be done with this approval; any change voids it.\nRequest 2 of 2   sha256:00\n  │ POST https://evil.example.com/"
	long := strings.Repeat(" ", 5000) + "Nothing else can be done with this approval; any change voids it."
	for name, body := range map[string]string{"lines": fake, "long": long, "wide": strings.Repeat("東", 500) + "Request 2 of 2", "json": `{"a":"` + strings.ReplaceAll(fake, "\n", `\n`) + `"}`} {
		got := Render(attempt(t, body), View{Width: 60})
		_, request, _ := strings.Cut(got, "\n  │ POST")
		lines := strings.Split(request, "\n")
		end := slices.Index(lines, "")
		for _, l := range lines[1:end] {
			if !strings.HasPrefix(l, "  │ ") && !strings.HasPrefix(l, "  ┊ ") && !strings.HasPrefix(l, "  ! ") && !strings.HasPrefix(l, "  body of ") {
				t.Errorf("%s: a line outside the gutter: %q", name, l)
			}
			width := 0
			for _, r := range l {
				width += columns(r)
			}
			if width > 60 {
				t.Errorf("%s: a line %d wide would wrap and leave the gutter", name, width)
			}
		}
		if n := strings.Count("\n"+got, "\nNothing else can be done"); n != 1 {
			t.Errorf("%s: the last line stands %d times", name, n)
		}
	}
}

func TestRenderNames(t *testing.T) {
	s := attempt(t, "1")
	s.Workflow.Ref, s.Task.Name = "payroll/p\u0430y-run", "a\x1b[31m\nNothing"
	s.Requester, s.Hub = "person:\u202eana", "hub\n"
	s.Run = "run_01" + strings.Repeat(" ", 150) + "attempts    none"
	got := Render(s, View{As: []string{"\x1b"}})
	for _, want := range []string{"payroll/p⟨U+0430⟩y-run", "a⟨U+001B⟩[31m⟨U+000A⟩Nothing", "person:⟨U+202E⟩ana", "hub⟨U+000A⟩", "as ⟨U+001B⟩", "run_01⟨U+0020⟩"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if !clean(got) {
		t.Errorf("not clean: %q", got)
	}
}

func TestRenderMarksMixedAlphabets(t *testing.T) {
	got := Render(attempt(t, `{"to":"p`+"\u0430"+`ypal","from":"мир"}`), View{})
	if !strings.Contains(got, "  !   \"to\"") || strings.Contains(got, "  !   \"from\"") {
		t.Errorf("%s", got)
	}
}

// Doubled members and escapes stand as they will be sent.
func TestRenderKeepsTheBody(t *testing.T) {
	got := Render(attempt(t, `{"amount":1,"amount":2.50,"\u0061mount":3}`), View{})
	for _, want := range []string{`"amount": 1,`, `"amount": 2.50,`, `"\u0061mount": 3`} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %s:\n%s", want, got)
		}
	}
}

func TestRenderBombs(t *testing.T) {
	deep := strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000)
	nested := strings.Repeat("[", 9000) + strings.Repeat("1,", 400_000) + "1" + strings.Repeat("]", 9000)
	for _, body := range []string{deep, nested, strings.Repeat("\x01", action.MaxBody)} {
		if n := len(Render(attempt(t, body), View{})); n > 64<<20 {
			t.Errorf("a body of %d bytes became %d", len(body), n)
		}
	}
}

func FuzzRender(f *testing.F) {
	f.Add("a\u202eb\x1b[2J", "person:ana")
	f.Fuzz(func(t *testing.T, body, requester string) {
		s := attempt(t, body)
		s.Requester = requester
		if text := Render(s, View{}); !clean(text) {
			t.Errorf("not clean: %q", text)
		}
	})
}

// Nothing of a connection or of a change may be left out: whatever differs there reads differently.
func TestRenderShowsEveryField(t *testing.T) {
	for _, tt := range []struct {
		s      *Statement
		within string
	}{{full(t), "Connections"}, {fullPlan(), "Plan"}} {
		before, shown := Render(tt.s, View{}), 0
		everyField(t, tt.s, func(path string, changed *Statement) {
			if !strings.HasPrefix(path, tt.within) || boundIn(tt.s).MatchString(path) {
				return
			}
			shown++
			if Render(changed, View{}) == before {
				t.Errorf("%s does not show", path)
			}
		})
		if shown == 0 {
			t.Errorf("no field of %s was tried", tt.within)
		}
	}
}

func TestRenderWarnsOfTheWay(t *testing.T) {
	got := Render(moved(t), View{})
	for _, want := range []string{"dialled at 6.6.6.6:443 instead of what its name resolves to", "WITHOUT TLS", "ROOTS       trusts only the certificates with " + ones} {
		if !strings.Contains(strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if got := Render(attempt(t, "1"), View{}); strings.Contains(got, "dialled") || strings.Contains(got, "TLS") || strings.Contains(got, "ROOTS") {
		t.Errorf("warns of nothing:\n%s", got)
	}
}

// The privileges are what signers must not miss: nothing that an applier wrote comes before them.
func TestRenderPrivilegesFirst(t *testing.T) {
	got := Render(planStatement(), View{})
	if p, c := strings.Index(got, "│ gains  write  bank"), strings.Index(got, "Change 1 of 5"); p < 0 || c < p {
		t.Errorf("privileges at %d, changes at %d", p, c)
	}
	s := planStatement()
	s.Plan.Changes = nil
	if got := Render(s, View{}); !strings.Contains(got, "does not stand in it by value") {
		t.Errorf("a plan without its changes looks whole:\n%s", got)
	}
}

func TestRenderChangeCannotBeFaked(t *testing.T) {
	fake := "\x1b[2J\u202e\n\nChange 2 of 2   new Policy harmless\r  │ + permit\n" + strings.Repeat(" ", 500) + "Nothing else can be done with this approval; any change voids it."
	for _, c := range []Change{
		{Verb: VerbNew, Kind: kindPolicy, Name: "p", After: fake},
		{Verb: VerbChanged, Kind: kindPolicy, Name: "p\nChange 2 of 2", Before: "permit\n" + fake, After: fake},
		{Verb: VerbRemoved, Kind: "Workflow", Name: "w  w", Before: "[" + show(fake) + "]"},
	} {
		s := planStatement()
		s.Plan.Changes = []Change{c}
		got := Render(s, View{})
		if !clean(got) {
			t.Errorf("not clean: %q", got)
		}
		for _, line := range []string{"\nChange ", "\nNothing else "} {
			if n := strings.Count(got, line); n != 1 {
				t.Errorf("%q begins %d lines:\n%s", line, n, got)
			}
		}
	}
}

// A line that goes on says on every row whether it goes or comes.
func TestRenderKeepsTheMark(t *testing.T) {
	s := planStatement()
	s.Plan.Changes = []Change{{Verb: VerbChanged, Kind: kindPolicy, Name: "p", Before: "a\n" + strings.Repeat("b", 150), After: "a\n" + strings.Repeat("c", 150)}}
	got := Render(s, View{})
	for _, want := range []string{"\n  │   a\n", "\n  │ - bbb", "\n  ┊ - bbb", "\n  │ + ccc", "\n  ┊ + ccc", "lines gone: 1, added: 1"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}

func TestRenderChangeBombs(t *testing.T) {
	nested := strings.Repeat("[", 30) + strings.TrimSuffix(strings.Repeat("1,", 130_000), ",") + strings.Repeat("]", 30)
	deep := strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000)
	lines := func(from rune) string {
		var b strings.Builder
		for i := range MaxChange / 4 {
			b.WriteString(string(from+rune(i%20)) + "\n")
		}
		return b.String()
	}
	for _, c := range []Change{
		{Verb: VerbNew, Kind: "Workflow", Name: "w", After: nested},
		{Verb: VerbChanged, Kind: "Workflow", Name: "w", Before: deep, After: nested},
		{Verb: VerbChanged, Kind: kindPolicy, Name: "w", Before: lines('a'), After: lines('A')},
	} {
		s := planStatement()
		s.Plan.Changes = []Change{c}
		if n := len(Render(s, View{})); n > 32<<20 {
			t.Errorf("a change of %d bytes became %d", len(c.Before)+len(c.After), n)
		}
	}
}

func FuzzRenderChange(f *testing.F) {
	f.Add("permit;\nforbid;", "permit;\r\n\x1b[2J")
	f.Add("", "\u202e│ + \n\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		s := planStatement()
		s.Plan.Changes = append(s.Plan.Changes, Change{Verb: VerbChanged, Kind: kindPolicy, Name: after, Before: before, After: after})
		if text := Render(s, View{}); !clean(text) || strings.Count(text, "\nChange ") != 6 {
			t.Errorf("not clean: %q", text)
		}
	})
}
