package secret

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
)

// codec is one way of compressing. Its reader takes no byte beyond the stream's end from an io.ByteReader.
type codec struct {
	reader func(io.Reader) (io.Reader, error)
	writer func(io.Writer) io.WriteCloser
}

func gzipMember() codec {
	return codec{
		func(r io.Reader) (io.Reader, error) {
			z, err := gzip.NewReader(r)
			if err != nil {
				return nil, err
			}
			z.Multistream(false)
			return z, nil
		},
		func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	}
}

func zlibStream() codec {
	return codec{
		func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) },
		func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	}
}

func deflateStream() codec {
	return codec{
		func(r io.Reader) (io.Reader, error) { return flate.NewReader(r), nil },
		func(w io.Writer) io.WriteCloser {
			z, err := flate.NewWriter(w, flate.DefaultCompression)
			if err != nil {
				panic(err) // the level is a constant that flate knows
			}
			return z
		},
	}
}

// compressed looks into every gzip member, wherever it begins, and into a zlib or deflate stream that is the whole of data.
func (s *search) compressed(data []byte, depth int) ([]edit, error) {
	var edits []edit
	for at := 0; ; {
		i := bytes.Index(data[at:], []byte{0x1f, 0x8b, 0x08}) // RFC 1952 §2.3.1
		if i < 0 {
			break
		}
		e, end, err := s.stream(data, at+i, gzipMember(), depth)
		if err != nil {
			return nil, err
		}
		edits = append(edits, e...)
		at = end
	}
	if isText(data) {
		return edits, nil
	}
	for _, c := range []codec{zlibStream(), deflateStream()} {
		e, _, err := s.stream(data, 0, c, depth)
		if err != nil {
			return nil, err
		}
		edits = append(edits, e...)
	}
	return edits, nil
}

// isText reports whether every byte is printable ASCII or white space, as in most answers and in no stream that a compressor
// made: half of all text begins like a deflate stream, and trying each would cost more than the rest of the search.
func isText(data []byte) bool {
	for _, b := range data {
		if b >= 0x7f || b < ' ' && b != '\t' && b != '\n' && b != '\r' {
			return false
		}
	}
	return true
}

// stream opens one compressed stream at start and returns where to go on. What is no stream costs a few bytes and is passed over.
// One that breaks off is searched as far as it goes; with a secret in it, everything from start on is taken out.
func (s *search) stream(data []byte, start int, c codec, depth int) (edits []edit, end int, err error) {
	if s.streams--; s.streams < 0 {
		return nil, 0, fmt.Errorf("more than %d compressed streams: %w", maxStreams, ErrUnsearchable)
	}
	source := bytes.NewReader(data[start:])
	z, err := c.reader(source)
	if err != nil {
		return nil, start + 1, nil
	}
	plain, readErr := io.ReadAll(io.LimitReader(z, int64(s.inflated)+1))
	if s.inflated -= len(plain); s.inflated < 0 {
		return nil, 0, fmt.Errorf("more than %d decompressed bytes: %w", maxInflated, ErrUnsearchable)
	}
	if len(plain) == 0 {
		return nil, start + 1, nil
	}
	if depth == maxDepth {
		if readErr != nil {
			return nil, start + 1, nil // chance made text look like the beginning of a stream
		}
		return nil, 0, fmt.Errorf("more than %d compressions inside each other: %w", maxDepth, ErrUnsearchable)
	}
	clean, places, err := s.redact(plain, depth+1)
	if err != nil {
		return nil, 0, err
	}
	end = len(data) - source.Len()
	switch {
	case places == 0 && readErr != nil:
		return nil, start + 1, nil
	case places == 0:
		return nil, end, nil
	case readErr != nil:
		return []edit{{span{start, len(data)}, []byte(Redacted)}}, len(data), nil
	}
	return []edit{{span{start, end}, c.compress(clean)}}, end, nil
}

func (c codec) compress(plain []byte) []byte {
	var out bytes.Buffer
	w := c.writer(&out)
	_, err := w.Write(plain)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return []byte(Redacted) // a buffer does not fail; if it did, nothing may leave
	}
	return out.Bytes()
}
