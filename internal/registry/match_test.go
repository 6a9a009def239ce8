package registry

import (
	"errors"
	"strings"
	"testing"

	"cardea/internal/policy"
)

func decodeConnection(t testing.TB, body string) *Connection {
	t.Helper()
	object, err := Decode(KindConnection, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return object.(*Connection)
}

const transferSchema = `{\"type\":\"object\",\"required\":[\"amount\"],\"additionalProperties\":false,\"properties\":{\"amount\":{\"type\":\"number\"},\"to\":{\"$ref\":\"#/$defs/iban\"}},\"$defs\":{\"iban\":{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}[0-9]+$\"}}}`

func TestMatch(t *testing.T) {
	c := decodeConnection(t, bankBody("allow", `[
		{"methods":["GET","HEAD"],"path":"/v1/transfers/{id}","query":["limit","sort by"]},
		{"methods":["GET"],"path":"/v1/search","query":["*"]},
		{"methods":["POST"],"path":"/v1/transfers","body":"`+transferSchema+`","facts":{"amount":"/amount"}},
		{"methods":["POST"],"path":"/v1/notes"},
		{"methods":["POST"],"path":"/v1/notes2","facts":{"amount":"/amount"}},
		{"methods":["DELETE"],"path":"/v1/transfers/{id}"}]`))
	const origin = "https://api.bank.example.com"
	for _, k := range []struct {
		name, method, url, body string
		index                   int
		refused                 string
	}{
		{"get", "GET", origin + "/v1/transfers/7", "", 0, ""},
		{"head", "HEAD", origin + "/v1/transfers/7", "", 0, ""},
		{"second method of a path", "DELETE", origin + "/v1/transfers/7", "", 5, ""},
		{"query listed", "GET", origin + "/v1/transfers/7?limit=1&sort+by=x", "", 0, ""},
		{"query not listed", "GET", origin + "/v1/transfers/7?admin=1", "", 0, `"admin" is not allowed`},
		{"query twice", "GET", origin + "/v1/transfers/7?limit=1&limit=2", "", 0, "stands twice"},
		{"query twice by escape", "GET", origin + "/v1/transfers/7?limit=1&%6Cimit=2", "", 0, "stands twice"},
		{"query separator", "GET", origin + "/v1/transfers/7?limit=1;admin=1", "", 0, "holds a ;"},
		{"query escape", "GET", origin + "/v1/transfers/7?limit=%zz", "", 0, "does not parse"},
		{"query empty", "GET", origin + "/v1/transfers/7?", "", 0, "empty query"},
		{"query without name", "GET", origin + "/v1/transfers/7?=1", "", 0, "does not parse"},
		{"query where none is allowed", "POST", origin + "/v1/notes?a=1", "", 0, "none is allowed"},
		{"query star", "GET", origin + "/v1/search?anything=1&else", "", 1, ""},
		{"body of a get", "GET", origin + "/v1/transfers/7", "x", 0, "a GET has no body"},
		{"other method", "PUT", origin + "/v1/transfers/7", "", 0, "is not among what it allows"},
		{"lower method", "get", origin + "/v1/transfers/7", "", 0, "is not among"},
		{"other path", "GET", origin + "/v1/accounts", "", 0, "is not among"},
		{"other host", "GET", "https://evil.example/v1/transfers/7", "", 0, "not one of its hosts"},
		{"other port", "GET", origin + ":8443/v1/transfers/7", "", 0, "not one of its hosts"},
		{"other scheme", "GET", "http://api.bank.example.com/v1/transfers/7", "", 0, "not one of its hosts"},
		{"upper host", "GET", "https://API.bank.example.com/v1/transfers/7", "", 0, "not one of its hosts"},
		{"user information", "GET", "https://a@api.bank.example.com/v1/transfers/7", "", 0, "user information"},
		{"fragment", "GET", origin + "/v1/transfers/7#x", "", 0, "fragment"},
		{"empty fragment", "GET", origin + "/v1/transfers/7#", "", 0, "fragment"},
		{"no path", "GET", origin, "", 0, "not one of its hosts"},
		{"dot segment", "GET", origin + "/v1/transfers/..", "", 0, "dot segment"},
		{"encoded slash", "GET", origin + "/v1/transfers/a%2Fb", "", 0, "encoded"},
		{"any body", "POST", origin + "/v1/notes", "not JSON", 3, ""},
		{"body", "POST", origin + "/v1/transfers", `{"amount":19999.99,"to":"DE89"}`, 2, ""},
		{"body schema", "POST", origin + "/v1/transfers", `{"amount":1,"to":"secret stuff"}`, 0, "at /to (pattern)"},
		{"body missing", "POST", origin + "/v1/transfers", "", 0, "cannot be read"},
		{"body more", "POST", origin + "/v1/transfers", `{"amount":1,"x":2}`, 0, "at its root (additionalProperties)"},
		{"body duplicate", "POST", origin + "/v1/transfers", `{"amount":1,"amount":99999}`, 0, "stands twice"},
		{"body duplicate by escape", "POST", origin + "/v1/transfers", `{"amount":1,"\u0061mount":99999}`, 0, "stands twice"},
		{"body other case", "POST", origin + "/v1/notes2", `{"x":1,"amount":1,"AMOUNT":99999}`, 0, "stands twice"},
		{"body other sign", "POST", origin + "/v1/notes2", `{"x":1,"amount":1,"marK":1,"mar\u212a":2}`, 0, "stands twice"},
		{"body cut off", "POST", origin + "/v1/notes2", `{"x":1,"amount":1,"amount\u0000":99999}`, 0, "U+0000"},
		{"path unescaped", "GET", origin + "/v1/transfers/a b", "", 0, "unescaped"},
		{"body trailing", "POST", origin + "/v1/transfers", `{"amount":1} {"amount":2}`, 0, "not JSON"},
		{"body mark", "POST", origin + "/v1/transfers", "\ufeff" + `{"amount":1}`, 0, "not JSON"},
		{"body number bomb", "POST", origin + "/v1/transfers", `{"amount":1e999999999}`, 0, "exponent"},
		{"body deep", "POST", origin + "/v1/transfers", strings.Repeat("[", 40), 0, "nested deeper"},
		{"fact too fine", "POST", origin + "/v1/transfers", `{"amount":0.00001}`, 0, "more than four digits"},
		{"fact too large", "POST", origin + "/v1/transfers", `{"amount":1e30}`, 0, "too large"},
	} {
		t.Run(k.name, func(t *testing.T) {
			m, err := c.Match(k.method, k.url, []byte(k.body))
			var no *NoMatchError
			switch {
			case k.refused == "" && (err != nil || m.Index != k.index):
				t.Errorf("got %d, %v; want %d", m.Index, err, k.index)
			case k.refused != "" && (!errors.As(err, &no) || !strings.Contains(err.Error(), k.refused)):
				t.Errorf("got %v, want a refusal that says %q", err, k.refused)
			case err != nil && strings.Contains(err.Error(), "secret stuff"):
				t.Errorf("the refusal repeats the body: %v", err)
			}
		})
	}
}

func TestMatchNothingAllowed(t *testing.T) {
	c := decodeConnection(t, bankBody("allow", `[]`))
	if _, err := c.Match("GET", "https://api.bank.example.com/", nil); err == nil {
		t.Error("an empty allow lets something through")
	}
}

func TestMatchTriesTheNextEntry(t *testing.T) {
	c := decodeConnection(t, bankBody("allow", `[
		{"methods":["POST"],"path":"/v1/transfers","body":"{\"required\":[\"amount\"]}","facts":{"amount":"/amount"}},
		{"methods":["POST"],"path":"/v1/{kind}","facts":{"kind":"/kind"}}]`))
	m, err := c.Match("POST", "https://api.bank.example.com/v1/transfers", []byte(`{"kind":"x"}`))
	if err != nil || m.Index != 1 || m.Params["kind"] != "transfers" || m.Facts["kind"] != "x" {
		t.Errorf("%+v %v", m, err)
	}
}

func TestFacts(t *testing.T) {
	c := decodeConnection(t, bankBody("allow", `[{"methods":["POST"],"path":"/a","facts":{"f":"/x~1y/0/~0"}}]`))
	for value, want := range map[string]any{
		`"text"`: "text", `true`: true, `20000`: policy.Decimal("20000.0000"), `20000.00`: policy.Decimal("20000.0000"),
		`2e4`: policy.Decimal("20000.0000"), `-0.5`: policy.Decimal("-0.5000"), `0.1`: policy.Decimal("0.1000"),
		`922337203685477.5807`: policy.Decimal("922337203685477.5807"), `1234567890123.4567`: policy.Decimal("1234567890123.4567"),
		`0.10000000000000001`: nil, `922337203685477.5808`: nil, `null`: nil, `{}`: nil, `[]`: nil, `1e-9`: nil,
	} {
		m, err := c.Match("POST", "https://api.bank.example.com/a", []byte(`{"x/y":[{"~":`+value+`}]}`))
		if want == nil && err == nil || want != nil && (err != nil || m.Facts["f"] != want) {
			t.Errorf("%s: %v %v, want %v", value, m.Facts, err, want)
		}
	}
	for _, body := range []string{`{}`, `{"x/y":[]}`, `{"x/y":{"0":1}}`, `{"x/y":{"00":{"~":1}}}`} {
		if _, err := c.Match("POST", "https://api.bank.example.com/a", []byte(body)); err == nil || !strings.Contains(err.Error(), "nothing at") {
			t.Errorf("%s: %v: a body without its facts may not pass", body, err)
		}
	}
}

func TestCheckContentType(t *testing.T) {
	for value, ok := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "Application/JSON": true,
		"application/json; charset=UTF-8": true,
		"application/json;charset=utf-8":  false, "application/json;  charset=utf-8": false, "application/json; charset=\"utf-8\"": false,
		"application/json; charset=utf-7": false, "application/json; charset=utf-16": false, "application/json; charset=utf-8; charset=utf-16": false,
		"application/json; profile=x": false, "application/json;": false, " application/json": false, "application/json ": false,
		"application/vnd.api+json": false, "application/problem+json": false, "application/json, text/plain": false,
		"applicat\u0131on/json": false, "application/\u017fson": false, // what folds to ASCII elsewhere does not here
		"application/x-www-form-urlencoded": false, "text/plain, application/json": false, "": false, "application/jsonp": false,
	} {
		if err := CheckContentType(value); (err == nil) != ok {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestBodySchemaRefuses(t *testing.T) {
	chain := `{"$defs":{"a0":{}`
	for i := 1; i < 20; i++ {
		n, m := string(rune('a'+i)), string(rune('a'+i-1))
		if i == 1 {
			m = "a0"
		}
		chain += `,"` + n + `":{"allOf":[{"$ref":"#/$defs/` + m + `"},{"$ref":"#/$defs/` + m + `"}]}`
	}
	chain += `},"$ref":"#/$defs/t"}`
	for schema, want := range map[string]string{
		`{"$ref":"file:///etc/passwd"}`:                          "must be #/$defs/<name>",
		`{"$ref":"https://example.com/s.json"}`:                  "must be #/$defs/<name>",
		`{"$ref":"#/$defs/x"}`:                                   "there is no",
		`{"$id":"https://example.com/"}`:                         "not a keyword",
		`{"$schema":"http://json-schema.org/draft-07/schema#"}`:  "must be https://json-schema.org/draft/2020-12/schema",
		`{"maximun":3}`:                                          "#/maximun is not a keyword",
		`{"properties":{"a":{"typ":"string"}}}`:                  "#/properties/a/typ",
		`{"type":"strin"}`:                                       "not a JSON Schema",
		`{"pattern":"("}`:                                        "not a JSON Schema",
		`{"format":"iri"}`:                                       "not checked by this build",
		`{"$defs":{"a":{"items":{"$ref":"#/$defs/a"}}}}`:         "contains itself",
		`{"$dynamicRef":"#a"}`:                                   "not a keyword",
		`{"contentSchema":{}}`:                                   "not a keyword",
		`[]`:                                                     "object or a boolean",
		`{"type":"object","type":"array"}`:                       "stands twice",
		`{"multipleOf":1e-999999}`:                               "exponent",
		chain:                                                    "unfolds to more than",
		`{"enum":["` + strings.Repeat("a", maxSchema) + `"]}`:    "at most 65536",
		`{"properties":{"a":{"$ref":"#/$defs/a/properties/b"}}}`: "must be #/$defs/<name>",
		`{"not":` + strings.Repeat(`{"not":`, 40) + `{}` + strings.Repeat("}", 41): "nested deeper",
	} {
		if _, err := compileSchema(schema); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", schema, err, want)
		}
	}
	for _, schema := range []string{`true`, `{"type":"string","format":"uuid"}`, `{"$schema":"` + draft2020 + `","if":{},"then":{},"else":false}`} {
		if _, err := compileSchema(schema); err != nil {
			t.Errorf("%s: %v", schema, err)
		}
	}
}

func TestBodySchemaAssertsFormats(t *testing.T) {
	s, err := compileSchema(`{"format":"uuid"}`)
	if err != nil {
		t.Fatal(err)
	}
	if validateBody(s, "not-a-uuid") == nil {
		t.Error("format was not checked")
	}
}

// FuzzMatch: nothing that a request holds makes Match do other than answer, and what matches stays on the connection's hosts.
func FuzzMatch(f *testing.F) {
	c := decodeConnection(f, bankBody("allow", `[{"methods":["GET"],"path":"/v1/{a}","query":["q"]},{"methods":["POST"],"path":"/v1/{a}","body":"`+transferSchema+`","facts":{"amount":"/amount"}}]`))
	f.Add("GET", "https://api.bank.example.com/v1/x?q=1", "")
	f.Add("POST", "https://api.bank.example.com/v1/x", `{"amount":1.5,"to":"DE1"}`)
	f.Add("POST", "https://api.bank.example.com/v1/%2e%2e", `{"amount":1e9}`)
	f.Fuzz(func(t *testing.T, method, url, body string) {
		m, err := c.Match(method, url, []byte(body))
		if err != nil {
			return
		}
		if !strings.HasPrefix(url, "https://api.bank.example.com/v1/") || method != c.Allow[m.Index].Methods[0] {
			t.Fatalf("%s %s matched", method, url)
		}
		if amount, ok := m.Facts["amount"].(policy.Decimal); m.Index == 1 && (!ok || amount == "") {
			t.Fatalf("%s matched without its fact", body)
		}
	})
}
