package registry

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
	"golang.org/x/crypto/ssh"
)

// keyLine gives an authorized_keys line for a key that seed names.
func keyLine(t testing.TB, seed byte) string {
	t.Helper()
	private := ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed%26)), ed25519.SeedSize)))
	key, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " someone"
}

func bankBody(changes ...string) string {
	fields := map[string]json.RawMessage{
		"kind": []byte(`"Connection"`), "name": []byte(`"bank"`), "owner": []byte(`"group:treasury"`), "zone": []byte(`"production"`),
		"tier": []byte(`"privileged"`), "hosts": []byte(`["https://api.bank.example.com"]`), "ttl": []byte(`"2m"`),
		"provider": []byte(`{"jwt":{"audience":"https://api.bank.example.com"}}`),
		"allow":    []byte(`[{"methods":["POST"],"path":"/v1/transfers","facts":{"amount":"/amount"}}]`),
	}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(fields, changes[i])
			continue
		}
		fields[changes[i]] = []byte(changes[i+1])
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func TestDecodeAccepts(t *testing.T) {
	for _, body := range []string{
		`{"kind":"Process","name":"payroll","owner":"group:people-ops","purpose":"Pays employees every month","criticality":"high"}`,
		`{"kind":"Group","name":"treasury"}`,
		`{"kind":"Runner","name":"r1","tier":"privileged","processes":["*"],"zones":["production"]}`,
		`{"kind":"ApprovalRule","name":"one","approvers":["group:treasury","person:ana"],"quorum":1,"expires":"30d"}`,
		`{"kind":"Person","name":"ana","groups":["treasury"],"sshKeys":["` + keyLine(t, 0) + `"]}`,
		bankBody(),
		bankBody("hosts", `["https://10.0.0.7:8443"]`, "address", `"10.0.0.7:8443"`),
		bankBody("hosts", `["http://[fd00::7]:81"]`, "plaintext", `true`),
	} {
		var head struct{ Kind string }
		if err := json.Unmarshal([]byte(body), &head); err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(head.Kind, []byte(body)); err != nil {
			t.Errorf("%s\n%v", body, err)
		}
	}
}

func TestDecodeReadsConnection(t *testing.T) {
	object, err := Decode(KindConnection, []byte(bankBody("ttl", "", "tier", "")))
	if err != nil {
		t.Fatal(err)
	}
	c := object.(*Connection)
	if c.TTL != 5*time.Minute || c.Tier != "standard" || c.Present != "bearer" || c.Deliver != "egress" || c.Provider.Name() != "jwt" {
		t.Errorf("defaults: %+v", c)
	}
	if c.Allow[0].Facts["amount"] != "/amount" || c.Hosts[0] != "https://api.bank.example.com" || c.Owner != "group:treasury" {
		t.Errorf("fields: %+v", c)
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	rsa := "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCqGKukO1De7zhZj6+H0qtjTkVxwTCpvKe4eCZ0FPqri0cb2JZfXJ/DgYSF6vUpwmJG8wVQZKjeGcjDOL5UlsuusFncCzWBQ7RKNUSesmQRMSGkVb1/3j+skZ6UtW+5u09lHNsj6tQ51s1SPrCBkedbNf0Tp0GbMJDyR4e9T04ZZw== x"
	for _, c := range []struct{ name, kind, body, want string }{
		{"unknown kind", "Pod", `{}`, `kind "Pod" is not known`},
		{"kind of a later version", "Route", `{}`, "later version"},
		{"binding", "Binding", `{}`, "applied by the client"},
		{"not JSON", "Group", `{"kind":`, "not JSON"},
		{"trailing text", "Group", `{"kind":"Group","name":"a"} {}`, "not JSON"},
		{"not an object", "Group", `[]`, "must be an object, not a list"},
		{"misspelt case", "Group", `{"kind":"Group","Name":"a"}`, "/Name: is not a field here"},
		{"unknown key", "Group", `{"kind":"Group","name":"a","x":1}`, "/x: is not a field here; these are: kind, name, purpose"},
		{"duplicate", "Group", `{"kind":"Group","name":"a","name":"b"}`, `key "name" stands twice`},
		{"escaped duplicate", "Group", `{"kind":"Group","name":"a","n\u0061me":"b"}`, `key "name" stands twice`},
		{"lone surrogate", "Group", `{"kind":"Group","name":"a","purpose":"\ud800"}`, "half a surrogate pair"},
		{"not UTF-8", "Group", "{\"kind\":\"Group\",\"name\":\"a\",\"purpose\":\"\xff\"}", "not valid UTF-8"},
		{"deep", "Group", `{"kind":"Group","name":"a","purpose":` + deep + `}`, "nested deeper than 32"},
		{"large", "Group", `{"kind":"Group","name":"a"` + strings.Repeat(" ", MaxResource) + `}`, "at most 262144"},
		{"many", "Group", `{"kind":"Group","name":"a","purpose":[` + strings.Repeat("1,", MaxNodes) + `1]}`, "too many values"},
		{"number bomb", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","quorum":1e999999999}`, "exponent"},
		{"other kind inside", "Group", `{"kind":"Person","name":"a"}`, `says "Person"`},
		{"kind missing", "Group", `{"name":"a"}`, "/kind: is missing"},
		{"name", "Group", `{"kind":"Group","name":"A"}`, "is not a name"},
		{"name length", "Group", `{"kind":"Group","name":"` + strings.Repeat("a", 64) + `"}`, "is not a name"},
		{"turned text", "Group", `{"kind":"Group","name":"a","purpose":"a\u202eb"}`, "control character"},
		{"wrong type", "Group", `{"kind":"Group","name":"a","purpose":1}`, "must be a string, not a number"},
		{"empty text", "Group", `{"kind":"Group","name":"a","purpose":""}`, "must not be empty"},

		{"criticality", "Process", `{"kind":"Process","name":"a","owner":"group:x","purpose":"p","criticality":"huge"}`, "not one of low, medium"},
		{"owner", "Process", `{"kind":"Process","name":"a","owner":"x","purpose":"p","criticality":"low"}`, "must be group:<name> or person:<name>"},

		{"quorum 0", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["group:x"],"quorum":0,"expires":"1h"}`, "/quorum: must be a whole number from 1"},
		{"quorum absent", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["group:x"],"expires":"1h"}`, "/quorum: is missing"},
		{"quorum fraction", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["group:x"],"quorum":1.5,"expires":"1h"}`, "/quorum: must be a whole number"},
		{"quorum beyond people", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["person:x"],"quorum":2,"expires":"1h"}`, "could never sign enough"},
		{"no approvers", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":[],"quorum":1,"expires":"1h"}`, "at least one"},
		{"approver", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["agent:x"],"quorum":1,"expires":"1h"}`, "group:<name> or person:<name>"},
		{"approver twice", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["person:x","person:x"],"quorum":2,"expires":"1h"}`, "stands twice"},
		{"expires", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["group:x"],"quorum":1,"expires":"31d"}`, "at most 30 d"},
		{"expires 0", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["group:x"],"quorum":1,"expires":"0s"}`, "is not a duration"},
		{"attempts 0", "ApprovalRule", `{"kind":"ApprovalRule","name":"a","approvers":["group:x"],"quorum":1,"expires":"1h","attempts":0}`, "/attempts: must be"},

		{"key", "Person", `{"kind":"Person","name":"a","sshKeys":["ssh-ed25519 nonsense"]}`, "is not an SSH public key"},
		{"key options", "Person", `{"kind":"Person","name":"a","sshKeys":["command=\"x\" ` + keyLine(t, 0) + `"]}`, "has options"},
		{"key lines", "Person", `{"kind":"Person","name":"a","sshKeys":["` + keyLine(t, 0) + `\n` + keyLine(t, 1) + `"]}`, "more than one line"},
		{"key twice", "Person", `{"kind":"Person","name":"a","sshKeys":["` + keyLine(t, 0) + `","` + keyLine(t, 0) + `x"]}`, "stands twice"},
		{"weak key", "Person", `{"kind":"Person","name":"a","sshKeys":["` + rsa + `"]}`, "RSA key of 1024 bits"},

		{"runner without bounds", "Runner", `{"kind":"Runner","name":"a","tier":"standard"}`, "/processes: is missing"},

		{"provider oauth2", "Connection", bankBody("provider", `{"oauth2":{}}`), "this build has no provider oauth2"},
		{"provider unknown", "Connection", bankBody("provider", `{"magic":{}}`), "/provider/magic: is not a field here"},
		{"providers", "Connection", bankBody("provider", `{"jwt":{"audience":"a"},"static":{}}`), "exactly one provider"},
		{"no provider", "Connection", bankBody("provider", `{}`), "exactly one provider"},
		{"audience", "Connection", bankBody("provider", `{"jwt":{"audience":"a b"}}`), "printable ASCII"},
		{"no audience", "Connection", bankBody("provider", `{"jwt":{}}`), "/provider/jwt/audience: is missing"},
		{"no hosts", "Connection", bankBody("hosts", `[]`), "at least one origin"},
		{"http", "Connection", bankBody("hosts", `["http://a.example"]`), "in the clear"},
		{"host upper", "Connection", bankBody("hosts", `["https://A.example"]`), "must be lower-case"},
		{"host path", "Connection", bankBody("hosts", `["https://a.example/"]`), "scheme and host only"},
		{"host user", "Connection", bankBody("hosts", `["https://u@a.example"]`), "scheme and host only"},
		{"host port", "Connection", bankBody("hosts", `["https://a.example:443"]`), "scheme's own port"},
		{"host port 0", "Connection", bankBody("hosts", `["https://a.example:08443"]`), "no valid port"},
		{"host dot", "Connection", bankBody("hosts", `["https://a.example."]`), "without a final dot"},
		{"host number", "Connection", bankBody("hosts", `["https://127.1"]`), "ends in a number"},
		{"host v6 form", "Connection", bankBody("hosts", `["https://[0:0:0:0:0:0:0:1]"]`), "canonical form"},
		{"host scheme", "Connection", bankBody("hosts", `["ftp://a.example"]`), "must begin with https://"},
		{"address", "Connection", bankBody("address", `"localhost:1"`), "is not ip:port"},
		{"address any", "Connection", bankBody("address", `"0.0.0.0:1"`), "is not ip:port"},
		{"address of two", "Connection", bankBody("address", `"10.0.0.1:1"`, "hosts", `["https://a.example","https://b.example"]`), "stands for one host"},
		{"roots", "Connection", bankBody("roots", `"x"`), "is not PEM"},
		{"roots key", "Connection", bankBody("roots", `"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"`), "only CERTIFICATE"},
		{"roots garbage", "Connection", bankBody("roots", `"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"`), "does not parse"},
		{"ttl", "Connection", bankBody("ttl", `"61m"`), "at most 1 h"},
		{"ttl form", "Connection", bankBody("ttl", `"1h30m"`), "a whole number and one of"},
		{"no zone", "Connection", bankBody("zone", ""), "/zone: is missing"},
		{"present", "Connection", bankBody("present", `"sigv4"`), `this build has no "sigv4"`},
		{"deliver", "Connection", bankBody("deliver", `"env"`), `this build has no "env"`},
		{"deliver unknown", "Connection", bankBody("deliver", `"mail"`), "is not known"},
		{"scope", "Connection", bankBody("grants", `{"scopes":["a b"]}`), "is not a scope"},
		{"no allow", "Connection", bankBody("allow", ""), "/allow: is missing"},
		{"method", "Connection", bankBody("allow", `[{"methods":["post"],"path":"/a"}]`), "(upper-case)"},
		{"no methods", "Connection", bankBody("allow", `[{"methods":[],"path":"/a"}]`), "at least one of GET"},
		{"path relative", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"a"}]`), "must begin with /"},
		{"path dots", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"/a/../b"}]`), "dot segment"},
		{"path wildcard", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"/a/*"}]`), "no wildcards"},
		{"path part", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"/a/x{b}"}]`), "whole segment"},
		{"path twice", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"/{b}/{b}"}]`), "stands twice"},
		{"path query", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"/a?b"}]`), "under query"},
		{"query star", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"/a","query":["*","b"]}]`), "write it alone"},
		{"facts pointer", "Connection", bankBody("allow", `[{"methods":["POST"],"path":"/a","facts":{"a":"amount"}}]`), "is not a JSON pointer"},
		{"facts escape", "Connection", bankBody("allow", `[{"methods":["POST"],"path":"/a","facts":{"a":"/a~2"}}]`), "write ~0 for ~"},
		{"facts name", "Connection", bankBody("allow", `[{"methods":["POST"],"path":"/a","facts":{"a-b":"/a"}}]`), "is not a fact's name"},
		{"facts of GET", "Connection", bankBody("allow", `[{"methods":["GET"],"path":"/a","facts":{"a":"/a"}}]`), "have no body"},
		{"body file", "Connection", bankBody("allow", `[{"methods":["POST"],"path":"/a","body":"schemas/a.json"}]`), "looks like a file's name"},
		{"body object", "Connection", bankBody("allow", `[{"methods":["POST"],"path":"/a","body":{}}]`), "must be a string"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Decode(c.kind, []byte(c.body))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestDecodeReportsEverything(t *testing.T) {
	_, err := Decode(KindConnection, []byte(bankBody("zone", "", "ttl", `"9d"`, "hots", `[]`)))
	for _, want := range []string{"Connection bank: ", "/zone: is missing", "/ttl: is 9d", "/hots: is not a field here"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
}

func TestNewResourceIsCanonical(t *testing.T) {
	a, _, err := NewResource(KindGroup, "", []byte(`{ "name": "a", "kind": "Group" }`))
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := NewResource(KindGroup, "a", []byte(`{"kind":"Group","name":"\u0061"}`))
	if err != nil {
		t.Fatal(err)
	}
	if string(a.Body) != `{"kind":"Group","name":"a"}` || a.Digest != b.Digest || !strings.HasPrefix(a.Digest, "sha256:") {
		t.Errorf("%s %s, %s %s", a.Body, a.Digest, b.Body, b.Digest)
	}
	if _, _, err := NewResource(KindGroup, "b", a.Body); err == nil || !strings.Contains(err.Error(), `called "a"`) {
		t.Errorf("a resource may not go by another name than it says: %v", err)
	}
}

func TestDecodePolicy(t *testing.T) {
	for name, want := range map[string]string{
		"payroll/policy": "", "hub": "", "a/b/c": "<process>/<file>", "A": "is not a name", "": "is not a name", "a/": "is not a name",
	} {
		_, err := DecodePolicy(name, []byte("// nothing\n"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := DecodePolicy("a", []byte("// \u202e")); err == nil {
		t.Error("text that reads otherwise than it counts was accepted")
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		5 * time.Minute: "5 min", 4 * time.Hour: "4 h", 90 * time.Second: "90 s", 48 * time.Hour: "2 d", 1500 * time.Millisecond: "1500 ms", 60 * time.Minute: "1 h",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

// TestCanonical: the canonical form is that of another implementation of RFC 8785.
func TestCanonical(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"b":1,"a":[true,false,null,{}],"":""}`, `{"n":[0,-0,1.0,1e3,1E-7,0.1,123456789012345678901234567890,5e-64,-1.5e21,9007199254740993]}`,
		"{\"\u20ac\":1,\"\\r\":2,\"\ufb33\":3,\"1\":4,\"\U0001f600\":5,\"\u0080\":6,\"\u00f6\":7}", `{"s":"\u001f\u007f\u2028\"\\\/\b\f\n\r\t<>&"}`, `{"b":{"b":1,"a":2},"a b":"é"}`,
	} {
		agreesWithJCS(t, text)
	}
}

func agreesWithJCS(t *testing.T, text string) {
	t.Helper()
	tree, err := parseJSON([]byte(text), limits{MaxResource, MaxDepth, MaxNodes})
	if err != nil {
		t.Fatal(err)
	}
	got, err := canonical(tree)
	want, wantErr := jcs.Transform([]byte(text))
	if err != nil || wantErr != nil || string(got) != string(want) {
		t.Errorf("%s\n%s (%v)\nwant\n%s (%v)", text, got, err, want, wantErr)
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add(`{"b":[1e3,"x"],"a":{"\u00e9":null}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if tree, err := parseJSON([]byte(text), limits{4096, MaxDepth, MaxNodes}); err == nil {
			if _, object := tree.(map[string]any); object {
				agreesWithJCS(t, text)
			}
		}
	})
}

// TestFewProblems: an answer is bounded whatever it answers.
func TestFewProblems(t *testing.T) {
	var body strings.Builder
	body.WriteString(`{"kind":"Group","name":"a"`)
	for i := range 10_000 {
		fmt.Fprintf(&body, `,"x%d":0`, i)
	}
	_, err := Decode(KindGroup, []byte(body.String()+"}"))
	var refused *DecodeError
	if !errors.As(err, &refused) || len(refused.Problems) != maxProblems {
		t.Errorf("%.200v", err)
	}
}

// FuzzDecode: whatever is accepted has one canonical form, which is accepted as the same thing.
func FuzzDecode(f *testing.F) {
	for _, kind := range []string{KindProcess, KindConnection, KindApprovalRule, KindPerson, KindGroup, KindRunner, KindWorkflow} {
		f.Add(kind, `{"kind":"`+kind+`","name":"a"}`)
	}
	f.Add(KindConnection, bankBody())
	f.Add(KindConnection, bankBody("allow", `[{"methods":["PUT"],"path":"/{a}/b%20c","query":["*"],"body":"{\"type\":\"object\"}"}]`))
	f.Add(KindApprovalRule, `{"kind":"ApprovalRule","name":"one","approvers":["group:treasury"],"quorum":1,"expires":"30d","attempts":3}`)
	f.Add(KindProcess, `{"kind":"Process","name":"p","owner":"group:o","purpose":"x","criticality":"low"}`)
	f.Add(KindRunner, `{"kind":"Runner","name":"r1","tier":"privileged","processes":["*"],"zones":["production"]}`)
	f.Add(KindPerson, `{"kind":"Person","name":"ana","groups":["x"],"sshKeys":["`+keyLine(f, 1)+`"]}`)
	f.Fuzz(func(t *testing.T, kind, body string) {
		r, object, err := NewResource(kind, "", []byte(body))
		if err != nil {
			return
		}
		again, same, err := NewResource(kind, r.Name, r.Body)
		if err != nil || again.Digest != r.Digest || same.ID() != object.ID() {
			t.Fatalf("%s: canonical form %s: %v", body, r.Body, err)
		}
		if kind != KindWorkflow && fmt.Sprintf("%+v", stripParsed(object)) != fmt.Sprintf("%+v", stripParsed(same)) {
			t.Fatalf("%s: another object after its canonical form", body)
		}
	})
}

// stripParsed removes pointers, which never print alike.
func stripParsed(o Object) any {
	switch o := o.(type) {
	case *Connection:
		c := *o
		c.Allow = nil
		jwt := *c.Provider.JWT
		c.Provider.JWT = nil
		text := fmt.Sprintf("%+v %+v", c, jwt)
		for _, a := range o.Allow {
			a.schema = nil
			text += fmt.Sprintf("%+v", a)
		}
		return text
	case *Person:
		p := *o
		p.keys = nil
		return p
	}
	return o
}
