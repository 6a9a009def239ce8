package crash_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
)

// needle is one form of a secret.
type needle struct {
	what string // which secret, in which form; never the secret
	form []byte
}

// scanner finds secrets in all encodings of invariant 16. It looks at every place of its input, so that alignment and surroundings do
// not matter.
type scanner struct {
	byStart map[uint64][]needle
	likely  [1 << 16]bool
}

const startLen = 8

// add takes a secret. Forms with less than 12 bytes that are certain are left out: they would be found by chance.
func (s *scanner) add(what string, secret []byte) {
	if s.byStart == nil {
		s.byStart = map[uint64][]needle{}
	}
	for form, text := range forms(secret) {
		if len(text) < 12 {
			continue
		}
		start := binary.LittleEndian.Uint64(text)
		s.byStart[start] = append(s.byStart[start], needle{what + " as " + form, text})
		s.likely[bucket(start)] = true
	}
}

func bucket(start uint64) uint16 { return uint16((start * 0x9e3779b97f4a7c15) >> 48) }

// forms are the encodings. Of base64 at some alignment only the characters are certain that no neighbour has a part in.
func forms(secret []byte) map[string][]byte {
	all := map[string][]byte{
		"it is": secret, "hex": []byte(hex.EncodeToString(secret)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(secret))),
		"url": []byte(url.QueryEscape(string(secret))),
	}
	var escaped, percent strings.Builder
	for _, c := range secret {
		fmt.Fprintf(&escaped, `\u%04x`, c)
		fmt.Fprintf(&percent, "%%%02X", c)
	}
	all["json escapes"], all["percent escapes"] = []byte(escaped.String()), []byte(percent.String())
	for align := range 3 {
		padded := append(bytes.Repeat([]byte{'x'}, align), secret...)
		from, to := (align*8+5)/6, (align+len(secret))*8/6
		all[fmt.Sprintf("base64 at %d", align)] = []byte(base64.StdEncoding.EncodeToString(padded)[from:to])
		all[fmt.Sprintf("base64url at %d", align)] = []byte(base64.RawURLEncoding.EncodeToString(padded)[from:to])
	}
	return all
}

// find tells what is in data, and in every gzip member inside it.
func (s *scanner) find(data []byte) []string { return s.deep(data, 3) }

func (s *scanner) deep(data []byte, depth int) []string {
	var found []string
	for i := 0; i+startLen <= len(data); i++ {
		start := binary.LittleEndian.Uint64(data[i:])
		if s.likely[bucket(start)] {
			for _, n := range s.byStart[start] {
				if bytes.HasPrefix(data[i:], n.form) {
					found = append(found, n.what)
				}
			}
		}
		if depth > 0 && data[i] == 0x1f && data[i+1] == 0x8b && data[i+2] == 8 {
			for _, f := range s.deep(unzipped(data[i:]), depth-1) {
				found = append(found, f+" in gzip")
			}
		}
	}
	return found
}

// unzipped is what one member holds, as far as it can be read.
func unzipped(data []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	r.Multistream(false)
	text, _ := io.ReadAll(io.LimitReader(r, 16<<20))
	return text
}

// TestScanner: a hunt that finds nothing proves something only if the hunter finds what is there.
func TestScanner(t *testing.T) {
	secret := []byte("MEYCIQDyZ-f3_0aZqk8Jw2vLr5TtUuXxYy")
	var s scanner
	s.add("canary", secret)
	zip := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		return b.String()
	}
	text := string(secret)
	for name, hidden := range map[string]string{
		"raw": text, "hex": hex.EncodeToString(secret), "HEX": strings.ToUpper(hex.EncodeToString(secret)),
		"base64": base64.StdEncoding.EncodeToString(secret), "base64 behind one": base64.StdEncoding.EncodeToString([]byte("?" + text)),
		"base64 behind two":     base64.StdEncoding.EncodeToString([]byte("\xff\xff" + text + "\xff")),
		"base64url of a header": base64.RawURLEncoding.EncodeToString([]byte("Bearer eyJ." + text)),
		"json":                  string(forms(secret)["json escapes"]),
		"gzip":                  zip("a" + text), "gzip of gzip": zip("b" + zip(text)), "gzip of base64": zip(base64.StdEncoding.EncodeToString(secret)),
	} {
		if found := s.find([]byte("some text " + hidden + " and more")); len(found) == 0 {
			t.Errorf("%s was not found", name)
		}
	}
	if found := s.find([]byte(strings.Repeat("nothing to be found here ", 100))); len(found) != 0 {
		t.Errorf("found %v in nothing", found)
	}
}
