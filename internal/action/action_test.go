package action

import (
	"bytes"
	"strings"
	"testing"
)

func post(body []byte) Action {
	return Action{Kind: "http", HTTP: &HTTP{
		Method: "POST", URL: "https://api.bank.example.com/v1/transfers?dry=no",
		Headers: []Header{{"accept", "application/json"}, {"content-type", "application/json"}}, Body: body,
	}}
}

func TestCanonicalRoundTrip(t *testing.T) {
	for name, body := range map[string][]byte{
		"empty": nil, "text": []byte(`{"amount":1204.00}`), "large integer": []byte(`{"n":9007199254740993}`), "binary": {0xff, 0x00, 0xfe},
	} {
		t.Run(name, func(t *testing.T) {
			canonical, err := post(body).Canonical()
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := Parse(canonical)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(parsed.HTTP.Body, body) {
				t.Fatalf("body changed: %q, was %q", parsed.HTTP.Body, body)
			}
		})
	}
}

func TestDigestNamesEveryByte(t *testing.T) {
	a, _ := post([]byte(`{"amount":1204.00}`)).Canonical()
	b, _ := post([]byte(`{"amount":1204.0}`)).Canonical()
	if Digest(a) == Digest(b) {
		t.Fatal("two bodies share a digest")
	}
}

func TestCanonicalRefuses(t *testing.T) {
	cases := map[string]func(*HTTP){
		"lower-case method":     func(h *HTTP) { h.Method = "post" },
		"unknown method":        func(h *HTTP) { h.Method = "CONNECT" },
		"user information":      func(h *HTTP) { h.URL = "https://me@bank.example.com/" },
		"fragment":              func(h *HTTP) { h.URL = "https://bank.example.com/#x" },
		"empty fragment":        func(h *HTTP) { h.URL = "https://bank.example.com/#" },
		"upper-case host":       func(h *HTTP) { h.URL = "https://Bank.example.com/" },
		"no path":               func(h *HTTP) { h.URL = "https://bank.example.com" },
		"dot segment":           func(h *HTTP) { h.URL = "https://bank.example.com/a/../b" },
		"encoded slash":         func(h *HTTP) { h.URL = "https://bank.example.com/a%2Fb" },
		"encoded dot":           func(h *HTTP) { h.URL = "https://bank.example.com/%2e%2e/b" },
		"backslash":             func(h *HTTP) { h.URL = `https://bank.example.com/a\b` },
		"file scheme":           func(h *HTTP) { h.URL = "file:///etc/passwd" },
		"authorization":         func(h *HTTP) { h.Headers = []Header{{"authorization", "Bearer x"}} },
		"method override":       func(h *HTTP) { h.Headers = []Header{{"x-http-method-override", "DELETE"}} },
		"underscore":            func(h *HTTP) { h.Headers = []Header{{"x_http_method_override", "DELETE"}} },
		"content encoding":      func(h *HTTP) { h.Headers = []Header{{"content-encoding", "deflate"}} },
		"header injection":      func(h *HTTP) { h.Headers = []Header{{"accept", "a\r\nx: y"}} },
		"header name":           func(h *HTTP) { h.Headers = []Header{{"a b", "c"}} },
		"header case":           func(h *HTTP) { h.Headers = []Header{{"Accept", "c"}} },
		"repeated header":       func(h *HTTP) { h.Headers = []Header{{"accept", "a"}, {"accept", "b"}} },
		"unsorted headers":      func(h *HTTP) { h.Headers = []Header{{"b", "a"}, {"a", "b"}} },
		"body over the maximum": func(h *HTTP) { h.Body = make([]byte, MaxBody+1) },
		"long url":              func(h *HTTP) { h.URL = "https://bank.example.com/" + strings.Repeat("a", maxURL) },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			a := post(nil)
			change(a.HTTP)
			if _, err := a.Canonical(); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestParseRefusesOtherForms(t *testing.T) {
	canonical, _ := post([]byte("x")).Canonical()
	text := string(canonical)
	for name, other := range map[string]string{
		"leading space":   " " + text,
		"trailing data":   text + "{}",
		"unknown key":     strings.Replace(text, `{"http"`, `{"a":1,"http"`, 1),
		"upper-case key":  strings.Replace(text, `"kind"`, `"Kind"`, 1),
		"duplicate key":   strings.Replace(text, `"v":1`, `"v":1,"v":1`, 1),
		"needless base64": strings.Replace(strings.Replace(text, `"body":"x"`, `"body":"eA=="`, 1), `"text"`, `"base64"`, 1),
		"other version":   strings.Replace(text, `"v":1`, `"v":2`, 1),
		"empty":           "",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(other)); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	seed, _ := post([]byte(`{"amount":1}`)).Canonical()
	f.Add(seed)
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Parse(data)
		if err != nil {
			return
		}
		again, err := a.Canonical()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted %q, which is not its own canonical form", data)
		}
	})
}
