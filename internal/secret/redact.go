package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// Redacted is what stands where a secret was found.
const Redacted = "[redacted]"

// Bounds of a search, so that what a target sends decides over neither time nor memory.
const (
	// maxInflated is how many decompressed bytes one search looks at.
	maxInflated = 16 << 20
	// maxStreams is how many beginnings of a compressed stream one search tries.
	maxStreams = 1024
	// maxDepth is how many compressions inside each other are opened.
	maxDepth = 4
)

// ErrUnsearchable says that data could hold a secret which the search's bounds do not let it find. The data must not be used.
var ErrUnsearchable = errors.New("cannot be searched for the credential within bounds")

// Redactor finds secrets and takes them out: raw, in hex, in base64 (either alphabet, any alignment, with or without padding,
// wrapped or not), with any characters percent-encoded or JSON-escaped, also twice, and each of those inside gzip members,
// zlib and deflate streams. It is safe for concurrent use. It holds the forms of the secrets as a Value holds its bytes.
//
// It does not find a secret that a target cut in pieces, enciphered or encoded otherwise: a target that has the credential
// can always leak it; the Redactor keeps honest reflection out of journals and logs (invariant 16).
type Redactor struct {
	open func() []needle
}

// NewRedactor returns a Redactor for values; empty ones are ignored.
func NewRedactor(values ...Value) *Redactor {
	var all []needle
	for _, v := range values {
		v.ExposeForEgress(func(b []byte) { all = append(all, forms(b)...) })
	}
	return &Redactor{open: func() []needle { return all }}
}

// Format, String and LogValue keep the forms from being shown.

// Format answers every verb with the placeholder.
func (*Redactor) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Placeholder) }

// String is the placeholder.
func (*Redactor) String() string { return Placeholder }

// LogValue is the placeholder.
func (*Redactor) LogValue() slog.Value { return slog.StringValue(Placeholder) }

// Wipe overwrites the forms. The Redactor then finds nothing and must not be used.
func (r *Redactor) Wipe() {
	for _, n := range r.open() {
		clear(n.text)
	}
	r.open = func() []needle { return nil }
}

// Redact returns data with every secret replaced by Redacted, and how many places it replaced. Data without one is returned as it
// is, not copied. A compressed stream with a secret inside is decompressed, redacted and compressed again.
func (r *Redactor) Redact(data []byte) (clean []byte, places int, err error) {
	s := search{needles: r.open(), inflated: maxInflated, streams: maxStreams}
	if len(s.needles) == 0 {
		return data, 0, nil
	}
	return s.redact(data, 0)
}

// Text redacts what is surely not compressed, such as a header or an error's text.
func (r *Redactor) Text(text string) string {
	s := search{needles: r.open()}
	clean, _ := splice([]byte(text), s.plain([]byte(text)))
	return string(clean)
}

// search is the budget of one Redact.
type search struct {
	needles  []needle
	inflated int
	streams  int
}

// edit replaces a span.
type edit struct {
	span
	by []byte
}

func (s *search) redact(data []byte, depth int) ([]byte, int, error) {
	edits := s.plain(data)
	inner, err := s.compressed(data, depth)
	if err != nil {
		return nil, 0, err
	}
	clean, places := splice(data, append(edits, inner...))
	return clean, places, nil
}

func (s *search) plain(data []byte) []edit {
	spans := find(s.needles, data)
	edits := make([]edit, len(spans))
	for i, sp := range spans {
		edits[i] = edit{sp, []byte(Redacted)}
	}
	return edits
}

// splice applies edits to data. Where two overlap, all that either covers becomes Redacted.
func splice(data []byte, edits []edit) (clean []byte, places int) {
	if len(edits) == 0 {
		return data, 0
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	merged := edits[:1]
	for _, e := range edits[1:] {
		last := &merged[len(merged)-1]
		if e.start < last.end {
			last.end, last.by = max(last.end, e.end), []byte(Redacted)
			continue
		}
		merged = append(merged, e)
	}
	var out bytes.Buffer
	at := 0
	for _, e := range merged {
		out.Write(data[at:e.start])
		out.Write(e.by)
		at = e.end
	}
	out.Write(data[at:])
	return out.Bytes(), len(merged)
}
