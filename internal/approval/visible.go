package approval

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Everything in a statement may have been written by an attacker who wants the signer to read something else than what
// will be sent. visible lets through only characters that show, stay in their place and take no other's; all others
// stand as ⟨U+202E⟩. The bracket itself is written that way too, so that no text can pretend to be an escape.

const openEscape = '⟨'

// visible writes s so that it occupies one line, from left to right, with nothing in it unseen.
func visible(s string) string {
	var b strings.Builder
	marks := maxMarks // a mark needs a letter before it
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, "⟨x%02X⟩", s[i])
			marks = maxMarks
		case unicode.Is(unicode.Mn, r) && marks < maxMarks && !ignorable(r):
			marks++
			b.WriteRune(r)
		case shows(r):
			if marks = maxMarks; unicode.IsLetter(r) {
				marks = 0
			}
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
			marks = maxMarks
		}
		i += n
	}
	return b.String()
}

// maxMarks is how many accents may stand on one letter. More of them would spill over other lines.
const maxMarks = 2

// ascii is visible for what machines read, such as header values: anything outside ASCII there may be a letter that looks
// like another.
func ascii(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if ' ' <= r && r <= '~' {
			b.WriteRune(r)
		} else if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, "⟨x%02X⟩", s[i])
		} else {
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		}
		i += n
	}
	return b.String()
}

// token is ascii for one word, such as a name, an id or a URL: with a space in it, it could pad itself to the next line and
// write a line of its own there.
func token(s string) string { return strings.ReplaceAll(ascii(s), " ", "⟨U+0020⟩") }

func tokens(list []string, between string) string {
	out := make([]string, len(list))
	for i := range list {
		out[i] = token(list[i])
	}
	return strings.Join(out, between)
}

// shows says whether a character that is no mark can stand as it is.
func shows(r rune) bool {
	return unicode.IsPrint(r) && !unicode.Is(unicode.M, r) && r != openEscape && r != utf8.RuneError && !ignorable(r) && !rightToLeft(r)
}

// ignorable are letters, marks and symbols that Unicode calls printable and that show nothing: fillers, variation selectors,
// joiners, blank patterns.
func ignorable(r rune) bool {
	switch {
	case unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r), unicode.Is(unicode.Variation_Selector, r):
		return true
	case r == 0x115F, r == 0x1160, r == 0x3164, r == 0xFFA0, r == 0x2800, r == 0x034F, r == 0x17B4, r == 0x17B5:
		return true
	}
	return false
}

// rightToLeft are the blocks whose letters make a terminal reorder the line they stand in: Hebrew to Arabic Extended, their
// presentation forms, and the historic scripts of planes 1 (Unicode Bidirectional Algorithm, UAX #9).
func rightToLeft(r rune) bool {
	return 0x0590 <= r && r <= 0x08FF || 0xFB1D <= r && r <= 0xFDFF || 0xFE70 <= r && r <= 0xFEFF ||
		0x10800 <= r && r <= 0x10FFF || 0x1E800 <= r && r <= 0x1EFFF
}

// columns is how wide a character may be on a terminal, at most.
func columns(r rune) int {
	if r <= '~' || r == '│' || r == '┊' {
		return 1
	}
	return 2
}

// mixed says whether one word of s has letters of alphabets that look alike.
func mixed(s string) bool {
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return !unicode.IsLetter(r) }) {
		latin, alike := false, false
		for _, r := range word {
			latin = latin || unicode.Is(unicode.Latin, r)
			alike = alike || unicode.In(r, unicode.Cyrillic, unicode.Greek, unicode.Armenian, unicode.Cherokee)
		}
		if latin && alike {
			return true
		}
	}
	return false
}
