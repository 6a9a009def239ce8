package approval

import (
	"slices"
	"strings"
	"testing"
)

func text(edits []edit) string {
	var b strings.Builder
	for _, e := range edits {
		b.WriteString(string(e.op) + e.text + "\n")
	}
	return b.String()
}

// sides gives back what a comparison says stood before and stands after.
func sides(edits []edit) (before, after []string) {
	for _, e := range edits {
		if e.op != opAdded {
			before = append(before, e.text)
		}
		if e.op != opGone {
			after = append(after, e.text)
		}
	}
	return before, after
}

func TestLineDiff(t *testing.T) {
	for _, tt := range []struct{ before, after, want string }{
		{"a b c", "a b c", " a\n b\n c\n"},
		{"a b c", "a x c", " a\n-b\n+x\n c\n"},
		{"a", "a b", " a\n+b\n"},
		{"a b", "b", "-a\n b\n"},
		{"a b c d e", "a x c d y", " a\n-b\n+x\n c\n d\n-e\n+y\n"},
		{"a b", "c d", "-a\n-b\n+c\n+d\n"},
		{"a a a", "a a", " a\n a\n-a\n"},
		{"b a", "a b", "-b\n a\n+b\n"},
	} {
		if got := text(lineDiff(strings.Fields(tt.before), strings.Fields(tt.after))); got != tt.want {
			t.Errorf("%q to %q: got\n%swant\n%s", tt.before, tt.after, got, tt.want)
		}
	}
}

// Too much to compare is still told whole.
func TestLineDiffIsBounded(t *testing.T) {
	var a, b []string
	for i := range 50_000 {
		a, b = append(a, "a"+string(rune('a'+i%7))), append(b, "b"+string(rune('a'+i%5)))
	}
	before, after := sides(lineDiff(a, b))
	if !slices.Equal(before, a) || !slices.Equal(after, b) {
		t.Error("lines are missing")
	}
}

func FuzzLineDiff(f *testing.F) {
	f.Add("a\nb\nc", "a\nx\nc")
	f.Add("", "\n\n")
	f.Add("a\nb\na\nb\nb", "b\na\nb\na")
	f.Fuzz(func(t *testing.T, before, after string) {
		a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
		edits := lineDiff(a, b)
		gotA, gotB := sides(edits)
		if !slices.Equal(gotA, a) || !slices.Equal(gotB, b) {
			t.Fatalf("before %q after %q: %q", before, after, text(edits))
		}
		changed := slices.ContainsFunc(edits, func(e edit) bool { return e.op != opStays })
		if changed == (before == after) {
			t.Errorf("changed: %v", changed)
		}
	})
}
