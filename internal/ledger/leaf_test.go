package ledger

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"
)

func sampleLeaf() Leaf {
	return Leaf{
		V: 1, ID: "lf_01jd0000000000000000000000", Kind: KindIssuance, Event: "issued",
		Time: time.Date(2026, 11, 21, 20, 36, 0, 7e6, time.UTC), Hub: "hub-1",
		Refs:    Refs{Run: "run_1", Task: "/do/0/one", Attempt: "3", Subject: "spiffe://cardea.local/wf/p/w/task/do/0/one", Target: "bank", Lease: "lse_1", Verdict: "lf_v"},
		Payload: "sha256:" + strings.Repeat("0a", 32),
	}
}

// The bytes of a leaf are a promise to everyone who holds an old one: this text never changes.
func TestLeafBytes(t *testing.T) {
	const want = `{"dev":false,"event":"issued","hub":"hub-1","id":"lf_01jd0000000000000000000000","kind":"issuance",` +
		`"payload":"sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",` +
		`"refs":{"attempt":"3","lease":"lse_1","run":"run_1","subject":"spiffe://cardea.local/wf/p/w/task/do/0/one","target":"bank","task":"/do/0/one","verdict":"lf_v"},` +
		`"time":"2026-11-21T20:36:00.007Z","v":1}`
	got, err := sampleLeaf().canonical()
	if err != nil || string(got) != want {
		t.Errorf("leaf is\n%s\n%v", got, err)
	}
	back, err := ParseLeaf([]byte(want))
	if err != nil || back != sampleLeaf() {
		t.Errorf("read back as %+v: %v", back, err)
	}
}

// TestLeafIsRFC8785 compares with another implementation, over references of any content.
func TestLeafIsRFC8785(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := sampleLeaf()
		l.Refs.Task = rapid.StringN(0, 100, 400).Draw(t, "task")
		l.Refs.Target = string(rapid.SliceOfN(rapid.ByteRange(0, 127), 0, 50).Draw(t, "target"))
		l.Dev = rapid.Bool().Draw(t, "dev")
		b, err := l.canonical()
		if err != nil {
			t.Fatal(err)
		}
		other, err := jcs.Transform(b)
		if err != nil || !bytes.Equal(other, b) {
			t.Fatalf("ours  %s\ntheirs %s\n%v", b, other, err)
		}
		back, err := ParseLeaf(b)
		if err != nil || back != l {
			t.Fatalf("%s was read back as %+v: %v", b, back, err)
		}
	})
}

func TestParseLeafRefuses(t *testing.T) {
	good, err := sampleLeaf().canonical()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		s := strings.Replace(string(good), old, new, 1)
		if s == string(good) {
			t.Fatalf("%q is not in the leaf", old)
		}
		return s
	}
	cases := map[string]string{
		"space":            replace(`:1}`, `: 1}`),
		"trailing":         string(good) + " ",
		"second document":  string(good) + string(good),
		"newer version":    replace(`"v":1`, `"v":2`),
		"unknown kind":     replace(`"issuance"`, `"gossip"`),
		"unknown member":   replace(`"v":1`, `"v":1,"x":1`),
		"unknown ref":      replace(`"run":`, `"ran":`),
		"another case":     replace(`"hub"`, `"Hub"`),
		"duplicate":        replace(`"hub":"hub-1"`, `"hub":"hub-0","hub":"hub-1"`),
		"order":            replace(`"dev":false,"event":"issued"`, `"event":"issued","dev":false`),
		"escape":           replace(`hub-1`, `hub\u002d1`),
		"empty ref":        replace(`"run_1"`, `""`),
		"no hub":           replace(`"hub-1"`, `""`),
		"id":               replace(`lf_01jd`, `lf_81jd`),
		"id in capitals":   replace(`lf_01jd`, `lf_01JD`),
		"short digest":     replace(`sha256:0a`, `sha256:`),
		"digest capitals":  replace(`sha256:0a`, `sha256:0A`),
		"time with offset": replace(`07Z`, `07+00:00`),
		"time in seconds":  replace(`00.007Z`, `00Z`),
		"time too fine":    replace(`00.007Z`, `00.0071Z`),
		"year 0":           replace(`"2026`, `"0000`),
		"event":            replace(`"issued"`, `"Issued!"`),
		"null":             "null",
		"nothing":          "",
		"not UTF-8":        replace(`run_1`, "run_\xff"),
		"too long":         replace(`run_1`, strings.Repeat("r", MaxLeaf)),
	}
	for name, text := range cases {
		if l, err := ParseLeaf([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v", name, l)
		}
	}
}
