package secret

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// percentAll encodes every byte, which url.QueryEscape does not.
func percentAll(s string, format string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, format, c)
	}
	return b.String()
}

func jsonAll(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r > 0xffff {
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04X`, 0xd800+r>>10, 0xdc00+r&0x3ff)
			continue
		}
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return b.String()
}

func jsonString(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func wrap(s string) string {
	var lines []string
	for len(s) > 10 {
		lines, s = append(lines, s[:10]), s[10:]
	}
	return strings.Join(append(lines, s), "\r\n")
}

// encodings are the forms of invariant 16 and some more, each as a function of the secret.
func encodings() map[string]func(string) string {
	e := map[string]func(string) string{
		"raw":              func(s string) string { return s },
		"upper case":       strings.ToUpper,
		"hex lower":        func(s string) string { return hex.EncodeToString([]byte(s)) },
		"hex upper":        func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
		"url query":        url.QueryEscape,
		"url path":         url.PathEscape,
		"url all upper":    func(s string) string { return percentAll(s, "%%%02X") },
		"url all lower":    func(s string) string { return percentAll(s, "%%%02x") },
		"url twice":        func(s string) string { return url.QueryEscape(percentAll(s, "%%%02X")) },
		"json":             jsonString,
		"json all":         jsonAll,
		"json slash":       func(s string) string { return strings.ReplaceAll(jsonString(s), "/", `\/`) },
		"json twice":       func(s string) string { return jsonString(jsonString(s)) },
		"url in json":      func(s string) string { return jsonAll(percentAll(s, "%%%02X")) },
		"json in url":      func(s string) string { return url.QueryEscape(jsonAll(s)) },
		"base64 wrapped":   func(s string) string { return wrap(base64.StdEncoding.EncodeToString([]byte(s))) },
		"base64 in json":   func(s string) string { return jsonAll(base64.StdEncoding.EncodeToString([]byte(s))) },
		"base64 json wrap": func(s string) string { return jsonString(wrap(base64.StdEncoding.EncodeToString([]byte(s)))) },
		"base64 in url":    func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) },
		"hex in json":      func(s string) string { return jsonAll(hex.EncodeToString([]byte(s))) },
		"hex in url":       func(s string) string { return percentAll(strings.ToUpper(hex.EncodeToString([]byte(s))), "%%%02x") },
	}
	for name, enc := range map[string]*base64.Encoding{
		"std": base64.StdEncoding, "raw std": base64.RawStdEncoding, "url": base64.URLEncoding, "raw url": base64.RawURLEncoding,
	} {
		for before := range 3 {
			for after := range 3 {
				e[fmt.Sprintf("base64 %s %d+%d", name, before, after)] = func(s string) string {
					return enc.EncodeToString([]byte("pre"[:before] + s + "post"[:after]))
				}
			}
		}
	}
	return e
}

// compressions wrap any text.
func compressions() map[string]func(string) []byte {
	member := func(s string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.Bytes()
	}
	through := func(s string, c codec) []byte {
		var b bytes.Buffer
		w := c.writer(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.Bytes()
	}
	return map[string]func(string) []byte{
		"plain":          func(s string) []byte { return []byte(s) },
		"gzip":           member,
		"second member":  func(s string) []byte { return append(member("innocent"), member(s)...) },
		"first member":   func(s string) []byte { return append(member(s), member("innocent")...) },
		"gzip at offset": func(s string) []byte { return append([]byte("header"), append(member(s), "trailer"...)...) },
		"gzip in gzip":   func(s string) []byte { return member(string(member(s))) },
		"zlib":           func(s string) []byte { return through(s, zlibStream()) },
		"deflate":        func(s string) []byte { return through(s, deflateStream()) },
		"cut gzip":       func(s string) []byte { m := member(s + strings.Repeat("x", 100)); return m[:len(m)-6] },
		"gzip name": func(s string) []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			w.Comment = strings.Map(func(r rune) rune { return max(r, 1) }, s)
			_, _ = io.WriteString(w, "innocent")
			_ = w.Close()
			return b.Bytes()
		},
	}
}

var secrets = map[string]string{
	"token":    "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ0YXNrIn0.c2lnbmF0dXJl-_x9Q",
	"password": `p"ä\s/s w+ö%rd?=&<𝄞>`,
	"short":    "hunter2!",
	"binary":   "\x00\xff\xfe\x1f\x8b\x08\x80secret\x7f",
}

// TestRedactsEveryEncodingInEveryCompression proves the second half of invariant 16 at egress.
func TestRedactsEveryEncodingInEveryCompression(t *testing.T) {
	for sname, s := range secrets {
		r := NewRedactor(Take([]byte(s)))
		for ename, encode := range encodings() {
			if sname == "binary" && (strings.Contains(ename, "json") || ename == "upper case") || sname == "password" && ename == "upper case" {
				continue // JSON cannot carry bytes that are not UTF-8, and case is folded for ASCII only
			}
			for cname, compress := range compressions() {
				if cname == "gzip name" && (sname == "password" || sname == "binary") {
					continue // RFC 1952 names are Latin-1 without NUL
				}
				text := "before " + encode(s) + " after"
				data := compress(text)
				clean, places, err := r.Redact(bytes.Clone(data))
				if err != nil || places == 0 {
					t.Errorf("%s, %s, %s: not found in %q (%v)", sname, ename, cname, text, err)
					continue
				}
				if _, again, err := r.Redact(clean); err != nil || again != 0 {
					t.Errorf("%s, %s, %s: %d places left (%v)", sname, ename, cname, again, err)
				}
			}
		}
	}
}

func TestRedactKeepsTheRest(t *testing.T) {
	const s = "sesame-open-42"
	r := NewRedactor(Take([]byte(s)))
	for _, c := range []struct{ name, in, want string }{
		{"middle", `{"a":"` + s + `","b":1}`, `{"a":"[redacted]","b":1}`},
		{"twice", s + s, "[redacted][redacted]"},
		{"escaped keeps JSON", `{"a":"` + jsonAll(s) + `"}`, `{"a":"[redacted]"}`},
		{"prefix only", s[:10], s[:10]},
		{"nothing", "innocent", "innocent"},
		{"empty", "", ""},
		{"dangling escapes", `%4 %zz \u12 \ %`, `%4 %zz \u12 \ %`},
		{"lone surrogate", `\ud834 \ud834\u0041`, `\ud834 \ud834\u0041`},
	} {
		got, _, err := r.Redact([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.name, got, c.want, err)
		}
		if text := r.Text(c.in); text != c.want {
			t.Errorf("%s: text %q, want %q", c.name, text, c.want)
		}
	}
}

func TestRedactedGzipStillOpens(t *testing.T) {
	const s = "sesame-open-42"
	in := compressions()["first member"]("token=" + s + ";")
	clean, _, err := NewRedactor(Take([]byte(s))).Redact(in)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(clean))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil || string(plain) != "token=[redacted];innocent" {
		t.Fatalf("%q, %v", plain, err)
	}
}

// TestMembersAreReplacedOneByOne: what stands around a member that held the secret stays to the byte.
func TestMembersAreReplacedOneByOne(t *testing.T) {
	const s = "sesame-open-42"
	innocent := compressions()["gzip"]("innocent")
	data := slices.Concat([]byte("head"), compressions()["gzip"](s), innocent, []byte("tail"))
	clean, places, err := NewRedactor(Take([]byte(s))).Redact(data)
	if err != nil || places != 1 || !bytes.HasPrefix(clean, []byte("head\x1f\x8b")) || !bytes.HasSuffix(clean, append(innocent, "tail"...)) {
		t.Fatalf("%d places, %q, %v", places, clean, err)
	}
}

// TestBombsAreRefused shows that bytes and counts bound the search, and that what cannot be searched cannot be used.
func TestBombsAreRefused(t *testing.T) {
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	gz := compressions()["gzip"]
	deep := "x"
	for range maxDepth + 1 {
		deep = string(gz(deep))
	}
	for name, data := range map[string][]byte{
		"gzip bomb":     gz(zeros(maxInflated + 1)),
		"many bombs":    bytes.Repeat(gz(zeros(maxInflated/8)), 9),
		"zlib bomb":     compressions()["zlib"](zeros(maxInflated + 1)),
		"deflate bomb":  compressions()["deflate"](zeros(maxInflated + 1)),
		"too deep":      []byte(deep),
		"many streams":  bytes.Repeat([]byte{0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0}, maxStreams+1),
		"bomb in cover": append([]byte("innocent "), gz(zeros(maxInflated+1))...),
	} {
		clean, _, err := NewRedactor(Take([]byte("sesame-open-42"))).Redact(data)
		if !errors.Is(err, ErrUnsearchable) || clean != nil {
			t.Errorf("%s: %d bytes came through, %v", name, len(clean), err)
		}
	}
}

func TestRedactorShowsNothing(t *testing.T) {
	r := NewRedactor(Take([]byte(canary)))
	for _, subject := range []any{r, struct{ r *Redactor }{r}, *r, r.String(), r.LogValue()} {
		mustNotShow(t, "redactor", fmt.Sprintf("%v %+v %#v %s %x", subject, subject, subject, subject, subject))
	}
	n := r.open()
	r.Wipe()
	for _, form := range n {
		if !bytes.Equal(form.text, make([]byte, len(form.text))) {
			t.Fatal("a form outlived Wipe")
		}
	}
}

func TestNoSecretNoWork(t *testing.T) {
	data := compressions()["gzip"](strings.Repeat("\x00", maxInflated+1))
	clean, places, err := NewRedactor(Value{}, Take(nil)).Redact(data)
	if err != nil || places != 0 || !bytes.Equal(clean, data) {
		t.Fatalf("%d places, %v", places, err)
	}
}

func TestPropertyAnySecretAnywhere(t *testing.T) {
	codecs := encodings()
	names := make([]string, 0, len(codecs))
	for name := range codecs {
		names = append(names, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[!-~]{8,40}`).Draw(t, "secret")
		before := rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "before")
		after := rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "after")
		name := rapid.SampledFrom(names).Draw(t, "encoding")
		_, places, err := NewRedactor(Take([]byte(s))).Redact([]byte(before + " " + codecs[name](s) + " " + after))
		if err != nil || places == 0 {
			t.Fatalf("%s of %q not found: %v", name, s, err)
		}
	})
}

func FuzzRedact(f *testing.F) {
	f.Add([]byte("sesame-open-42"), []byte(`{"a":"\u0073esame%2Dopen-42"}`))
	f.Add([]byte("x"), compressions()["gzip in gzip"]("x"))
	f.Add([]byte("ab"), []byte(`%%\\\u\ud800\udc00%`))
	f.Fuzz(func(t *testing.T, s, data []byte) {
		r := NewRedactor(Take(bytes.Clone(s)))
		clean, places, err := r.Redact(bytes.Clone(data))
		switch {
		case err != nil && !errors.Is(err, ErrUnsearchable):
			t.Fatalf("unexpected error %v", err)
		case err == nil && places == 0 && !bytes.Equal(clean, data):
			t.Fatal("data changed though nothing was found")
		case err == nil && len(s) > 0 && places == 0 && bytes.Contains(data, s):
			t.Fatal("the secret came through")
		}
	})
}

func BenchmarkRedact(b *testing.B) {
	r := NewRedactor(Take([]byte(strings.Repeat(secrets["token"], 10))))
	for name, line := range map[string]string{"escapes": `{"id":1204,"text":"line\nline"},`, "plain": `{"id":1204,"text":"line line"}, `} {
		for _, size := range []int{1 << 10, 1 << 20} {
			body := bytes.Repeat([]byte(line), size/len(line))
			b.Run(fmt.Sprint(name, size), func(b *testing.B) {
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					if _, _, err := r.Redact(body); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
