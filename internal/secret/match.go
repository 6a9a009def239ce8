package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"math/bits"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// needle is one form of a secret and how a byte of the haystack is read before it is compared.
type needle struct {
	text []byte
	fold fold
}

type fold uint8

const (
	// caseFold reads ASCII letters of both cases as lower: a field name is returned in another case than it came in, and a key in
	// hexadecimal is the same key in capitals.
	caseFold fold = iota
	// base64Fold reads the URL alphabet as the standard one and skips white space, as wrapped base64 has it.
	base64Fold
)

// layer is an escaping that is taken off before bytes are compared.
type layer uint8

const (
	percent layer = iota // RFC 3986 §2.1, any subset of characters, either case
	jsonEsc              // RFC 8259 §7
)

// maxLayers is how many escapings on top of each other are taken off.
const maxLayers = 2

// minCore is the shortest base64 core that is sought: shorter ones would match by chance everywhere.
const minCore = 4

// forms lists what to look for: the secret itself, as a form field writes it, in hex, and the three ways in which base64 of
// any text around it must look. Escaped forms are found by reading through the escapes.
func forms(secret []byte) []needle {
	if len(secret) == 0 {
		return nil
	}
	all := []needle{{lower(secret), caseFold}, {[]byte(hex.EncodeToString(secret)), caseFold}}
	if bytes.IndexByte(secret, ' ') >= 0 {
		all = append(all, needle{bytes.ReplaceAll(lower(secret), []byte(" "), []byte("+")), caseFold})
	}
	for shift := range 3 {
		if core := base64Core(secret, shift); len(core) >= minCore {
			all = append(all, needle{core, base64Fold})
		}
	}
	return all
}

// base64Core returns those characters of the encoding of shift unknown bytes followed by secret that depend on secret alone,
// whatever stands before and after it, and so with padding or without.
func base64Core(secret []byte, shift int) []byte {
	padded := append(make([]byte, shift, shift+len(secret)), secret...)
	text := base64.RawStdEncoding.AppendEncode(nil, padded)
	first := (shift*8 + 5) / 6
	last := len(padded) * 8 / 6
	return text[min(first, last):last]
}

// span is a half-open range of the haystack.
type span struct{ start, end int }

// find returns every place in data where one of needles stands under any combination of escapes.
func find(needles []needle, data []byte) []span {
	var spans []span
	for _, layers := range layerings(data) {
		for group := range slices.Chunk(needles, 64) {
			spans = findUnder(group, data, layers, spans)
		}
	}
	return spans
}

// layerings lists the escapings that data can hold; text without an escape character has only the plain one.
func layerings(data []byte) [][]layer {
	all := [][]layer{nil}
	if bytes.IndexByte(data, '%') >= 0 {
		all = append(all, []layer{percent}, []layer{percent, percent}, []layer{percent, jsonEsc})
	}
	if bytes.IndexByte(data, '\\') >= 0 {
		all = append(all, []layer{jsonEsc}, []layer{jsonEsc, jsonEsc}, []layer{jsonEsc, percent})
	}
	return all
}

// findUnder passes over data once for up to 64 needles: almost every byte begins none of them, and one look at a table says so.
func findUnder(needles []needle, data []byte, layers []layer, spans []span) []span {
	var begins [256]uint64 // a bit for each needle that the byte may begin
	for k, n := range needles {
		bit := uint64(1) << k
		for _, b := range n.fold.spellings(n.text[0]) {
			begins[b] |= bit
		}
		if len(layers) > 0 {
			begins['%'] |= bit
			begins['\\'] |= bit
		}
	}
	next := make([]int, len(needles)) // where the last match of each ended
	for at, b := range data {
		for mask := begins[b]; mask != 0; mask &= mask - 1 {
			k := bits.TrailingZeros64(mask)
			if at < next[k] {
				continue
			}
			if end, ok := needles[k].matchAt(data, at, layers); ok {
				spans = append(spans, span{at, end})
				next[k] = end
			}
		}
	}
	return spans
}

// matchAt reads plainly up to the first escape, which is nearly always far enough to know that nothing is here, and only then
// through the layers.
func (n needle) matchAt(data []byte, start int, layers []layer) (end int, ok bool) {
	i, pos := 0, start
	for i < len(n.text) {
		if pos == len(data) {
			return 0, false
		}
		b := data[pos]
		if len(layers) > 0 && isEscape(b) {
			return n.matchEscaped(i, cursor{data: data, pos: pos, layers: layers})
		}
		if n.fold.read(b) == n.text[i] {
			i++
		} else if i == 0 || !n.fold.skips(b) {
			return 0, false
		}
		pos++
	}
	return pos, true
}

func (n needle) matchEscaped(i int, c cursor) (end int, ok bool) {
	for i < len(n.text) {
		b, more := c.pull(len(c.layers))
		if !more {
			return 0, false
		}
		if n.fold.read(b) == n.text[i] {
			i++
		} else if i == 0 || !n.fold.skips(b) {
			return 0, false
		}
	}
	return c.pos, true
}

func isEscape(b byte) bool { return b == '%' || b == '\\' }

// spellings lists the bytes that read returns as b.
func (f fold) spellings(b byte) []byte {
	switch {
	case f == caseFold && 'a' <= b && b <= 'z':
		return []byte{b, b + 'A' - 'a'}
	case f == base64Fold && b == '+':
		return []byte("+-")
	case f == base64Fold && b == '/':
		return []byte("/_")
	}
	return []byte{b}
}

// skips reports whether b may stand inside an encoding without meaning anything.
func (f fold) skips(b byte) bool {
	return f == base64Fold && (b == ' ' || b == '\t' || b == '\r' || b == '\n')
}

func (f fold) read(b byte) byte {
	switch {
	case f == caseFold && 'A' <= b && b <= 'Z':
		return b + 'a' - 'A'
	case f == base64Fold && b == '-':
		return '+'
	case f == base64Fold && b == '_':
		return '/'
	}
	return b
}

// cursor reads data from pos with layers taken off, the outermost first. It is a small value: a copy is a place to return to.
type cursor struct {
	data   []byte
	pos    int
	layers []layer
	// ready holds bytes that a layer has decoded beyond the first, when \u named a character of several.
	ready  [maxLayers][utf8.UTFMax - 1]byte
	nReady [maxLayers]int
}

// pull returns the next byte with the first level layers taken off.
func (c *cursor) pull(level int) (byte, bool) {
	if level == 0 {
		if c.pos >= len(c.data) {
			return 0, false
		}
		c.pos++
		return c.data[c.pos-1], true
	}
	k := level - 1
	if n := c.nReady[k]; n > 0 {
		b := c.ready[k][0]
		copy(c.ready[k][:], c.ready[k][1:n])
		c.nReady[k]--
		return b, true
	}
	b, ok := c.pull(k)
	if !ok {
		return 0, false
	}
	mark := *c
	switch {
	case c.layers[k] == percent && b == '%':
		if v, ok := c.hexDigits(k, 2); ok {
			return byte(v), true
		}
	case c.layers[k] == jsonEsc && b == '\\':
		if v, ok := c.jsonEscape(k); ok {
			return v, true
		}
	default:
		return b, true
	}
	*c = mark
	return b, true
}

func (c *cursor) hexDigits(level, n int) (rune, bool) {
	var v rune
	for range n {
		b, ok := c.pull(level)
		d := bytes.IndexByte([]byte("0123456789abcdef"), caseFold.read(b))
		if !ok || d < 0 {
			return 0, false
		}
		v = v<<4 | rune(d)
	}
	return v, true
}

// lower is bytes.ToLower for ASCII alone: a secret is bytes, not text.
func lower(secret []byte) []byte {
	out := make([]byte, len(secret))
	for i, b := range secret {
		out[i] = caseFold.read(b)
	}
	return out
}

// jsonEscape decodes what follows a backslash.
func (c *cursor) jsonEscape(level int) (byte, bool) {
	b, ok := c.pull(level)
	if !ok {
		return 0, false
	}
	if i := bytes.IndexByte([]byte(`"\/bfnrt`), b); i >= 0 {
		return "\"\\/\b\f\n\r\t"[i], true
	}
	if b != 'u' {
		return 0, false
	}
	r, ok := c.hexDigits(level, 4)
	if !ok {
		return 0, false
	}
	if utf16.IsSurrogate(r) {
		if r, ok = c.lowSurrogate(level, r); !ok {
			return 0, false
		}
	}
	var text [utf8.UTFMax]byte
	n := utf8.EncodeRune(text[:], r)
	c.nReady[level] = copy(c.ready[level][:], text[1:n])
	return text[0], true
}

func (c *cursor) lowSurrogate(level int, high rune) (rune, bool) {
	for _, want := range []byte(`\u`) {
		if b, ok := c.pull(level); !ok || b != want {
			return 0, false
		}
	}
	low, ok := c.hexDigits(level, 4)
	r := utf16.DecodeRune(high, low)
	return r, ok && r != utf8.RuneError
}
