package policy

import (
	"fmt"
	"strings"
	"unicode"
)

// Bounds of one source. They keep the recursive parser and type checker cheap whatever is fed to them.
const (
	maxSources     = 1000
	maxSourceBytes = 256 << 10
	maxPolicyBytes = 8 << 10
	maxPolicies    = 10_000
	// maxBrackets bounds the nesting of (, [ and {, and the number of ifs in one policy.
	maxBrackets = 24
	// maxUnary is Cedar's own bound on ! and - in a row.
	maxUnary = 4
)

// scan is what one reading of a source found.
type scan struct {
	// ends holds the offset after each statement's semicolon.
	ends []int

	// Of the statement that is being read: where it begins, how deep its brackets are, how many ifs it has, how many ! or -
	// stood last, and the word that is being read.
	start, depth, ifs, unaries int
	word                       []byte
}

// scanText reads a source once, without understanding it: it finds where statements end and refuses what the parser
// should never see. Characters that do not show, or that turn the writing direction, are refused everywhere, comments
// included: with them a reviewer would read another policy than the one that decides.
func scanText(text string) (scan, *fault) {
	var s scan
	for i := 0; i < len(text); {
		n, hidden := skipOpaque(text[i:])
		if hidden >= 0 {
			return s, faultAt(i+hidden, "an invisible or unprintable character")
		}
		if n > 0 {
			s.endWord()
			i += n
			continue
		}
		if why := s.step(text[i], i); why != "" {
			return s, faultAt(i, why)
		}
		i++
	}
	return s, nil
}

// step takes one character of syntax at offset i and says what is wrong with it, or "".
func (s *scan) step(c byte, i int) string {
	if isWord(c) {
		s.word = append(s.word, c)
	} else {
		s.endWord()
	}
	switch c {
	case '(', '[', '{':
		s.depth++
	case ')', ']', '}':
		s.depth--
	case ';':
		s.ends = append(s.ends, i+1)
		s.start, s.depth, s.ifs = i+1, 0, 0
	}
	s.unaries = countUnary(s.unaries, c)
	switch {
	case s.depth > maxBrackets || s.ifs > maxBrackets:
		return "nested too deeply"
	case s.unaries > maxUnary:
		return "more than four ! or - in a row"
	case i-s.start > maxPolicyBytes:
		return fmt.Sprintf("a policy longer than %d bytes", maxPolicyBytes)
	}
	return ""
}

// skipOpaque measures a string, a comment or a character outside ASCII at the beginning of text: nothing in them counts
// as syntax. hidden is the offset of a character in it that a reader would not see, or -1.
func skipOpaque(text string) (n, hidden int) {
	switch {
	case strings.HasPrefix(text, "//"):
		n = strings.IndexByte(text, '\n')
		if n < 0 {
			n = len(text)
		}
	case text[0] == '"':
		n = 1
		for n < len(text) && text[n] != '"' {
			if text[n] == '\\' {
				n++
			}
			n++
		}
		n = min(n+1, len(text))
	case text[0] >= 0x80:
		n = strings.IndexFunc(text, func(r rune) bool { return r < 0x80 })
		if n < 0 {
			n = len(text)
		}
	case text[0] < ' ' && !strings.ContainsRune("\t\r\n", rune(text[0])), text[0] == 0x7f:
		return 0, 0
	}
	return n, strings.IndexFunc(text[:n], isHidden)
}

func isHidden(r rune) bool {
	if r == '\t' || r == '\n' || r == '\r' || r == ' ' {
		return false
	}
	return r == unicode.ReplacementChar || !unicode.IsPrint(r)
}

func isWord(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func (s *scan) endWord() {
	if string(s.word) == "if" {
		s.ifs++
	}
	s.word = s.word[:0]
}

func countUnary(n int, c byte) int {
	switch c {
	case '!', '-':
		return n + 1
	case ' ', '\t', '\r', '\n':
		return n
	}
	return 0
}

// fault is something wrong at a byte offset of a text.
type fault struct {
	offset  int
	message string
}

func faultAt(offset int, message string) *fault { return &fault{offset, message} }

// position counts line and column from 1; columns count characters.
func position(text string, offset int) (line, col int) {
	before := text[:min(offset, len(text))]
	line = 1 + strings.Count(before, "\n")
	return line, 1 + len([]rune(before[strings.LastIndexByte(before, '\n')+1:]))
}
