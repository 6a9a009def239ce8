package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Safe is text that may be written to a terminal. A string constant in the source converts by itself; anything else,
// above all what a hub or a file said, becomes Safe through Clean or F alone.
type Safe string

// Clean makes everything visible that could steer a terminal or deceive a reader: control characters, escape sequences,
// bidirectional overrides, invisible and blank-looking characters, and bytes that are not UTF-8. The result is one line.
func Clean(s string) Safe {
	if plain(s) {
		return Safe(s)
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case visible(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		i += size
	}
	return Safe(b.String())
}

func plain(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !visible(r) {
			return false
		}
	}
	return true
}

// visible says whether a character shows itself. Those listed are letters or symbols to Unicode, and blank to a reader.
func visible(r rune) bool {
	switch r {
	case '\u115f', '\u1160', '\u3164', '\uffa0', '\u2800', '\u034f', '\u17b4', '\u17b5':
		return false
	}
	if r >= 0xfe00 && r <= 0xfe0f || r >= 0xe0100 && r <= 0xe01ef { // variation selectors
		return false
	}
	return unicode.IsPrint(r)
}

// F formats with fmt's verbs. Every argument that is not a number, a boolean or already Safe is cleaned.
func F(format Safe, args ...any) Safe {
	cleaned := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case bool, int, int32, int64, uint, uint32, uint64, float64, Safe:
			cleaned[i] = v
		case string:
			cleaned[i] = Clean(v)
		default:
			cleaned[i] = Clean(fmt.Sprint(v))
		}
	}
	return Safe(fmt.Sprintf(string(format), cleaned...))
}

// Join cleans the parts and puts sep between them.
func Join(parts []string, sep Safe) Safe {
	clean := make([]string, len(parts))
	for i, p := range parts {
		clean[i] = string(Clean(p))
	}
	return Safe(strings.Join(clean, string(sep)))
}

// width is the number of terminal columns that r takes.
func width(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r < 0x1100:
		return 1
	case r <= 0x115f, r >= 0x2e80 && r <= 0x303e, r >= 0x3041 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3,
		r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f900 && r <= 0x1f9ff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// Width is the number of terminal columns that s takes.
func (s Safe) Width() int {
	n := 0
	for _, r := range s {
		n += width(r)
	}
	return n
}

// cut shortens s to at most n columns, the last of them an ellipsis.
func (s Safe) cut(n int) Safe {
	if s.Width() <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	used := 0
	for i, r := range s {
		w := width(r)
		if used+w > n-1 {
			return s[:i] + "…"
		}
		used += w
	}
	return s
}

// Plural is "1 lease", "2 leases".
func Plural(n int, one Safe) Safe {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(string(one), "y") {
		return F("%d %sies", n, one[:len(one)-1])
	}
	return F("%d %ss", n, one)
}

// Span is how long something took, for people: 0.21 s, 12.4 s, 3 min 5 s, 2 h 4 min, 3 d 2 h.
func Span(d time.Duration) Safe {
	if d < 0 {
		d = 0
	}
	switch {
	case d < 10*time.Second:
		return F("%.2f s", d.Seconds())
	case d < time.Minute:
		return F("%.1f s", d.Seconds())
	case d < time.Hour:
		return F("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return F("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return F("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// Clock is the time of day in UTC to the millisecond.
func Clock(t time.Time) Safe { return Safe(t.UTC().Format("15:04:05.000")) }

// Stamp is date and time in UTC to the second.
func Stamp(t time.Time) Safe { return Safe(t.UTC().Format("2006-01-02 15:04:05Z")) }

// ShortID is the end of an id, the part that tells two apart at a glance: lse_…5f2c9k. It is for reading only.
func ShortID(id string) Safe {
	_, tail, found := strings.Cut(id, "_")
	if !found {
		tail = id
	}
	if len(tail) > 6 {
		tail = tail[len(tail)-6:]
	}
	return Clean(tail)
}
