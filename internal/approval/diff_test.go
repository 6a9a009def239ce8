package approval

import (
	"slices"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	tests := []struct {
		name          string
		before, after []string
		change        func(*Statement)
		want          []Difference
	}{
		{name: "nothing", before: []string{`{"a":1}`}, after: []string{`{"a":1}`}},
		{name: "amount", before: []string{`{"amount":"1204.00","to":"E. 1001"}`}, after: []string{`{"amount":"9204.00","to":"E. 1001"}`},
			want: []Difference{{"/action/http/body/amount", `"1204.00"`, `"9204.00"`}}},
		{name: "added and removed", before: []string{`{"a":null,"b":[1,2]}`}, after: []string{`{"b":[1],"c":{"d":true}}`},
			want: []Difference{{"/action/http/body/a", "null", ""}, {"/action/http/body/b/1", "2", ""}, {"/action/http/body/c", "", `{"d":true}`}}},
		{name: "null is not nothing", before: []string{`{"a":null}`}, after: []string{`{"a":1}`},
			want: []Difference{{"/action/http/body/a", "null", "1"}}},
		{name: "type", before: []string{`{"a":"1"}`}, after: []string{`{"a":1}`}, want: []Difference{{"/action/http/body/a", `"1"`, "1"}}},
		{name: "precision", before: []string{`{"a":1.0}`}, after: []string{`{"a":1.00}`}, want: []Difference{{"/action/http/body/a", "1.0", "1.00"}}},
		{name: "spelling only", before: []string{`{"a":1}`}, after: []string{`{"a": 1}`},
			want: []Difference{{"/action/http/body", `"{\"a\":1}"`, `"{\"a\": 1}"`}}},
		{name: "double keys have no one reading", before: []string{`{"a":1,"a":2}`}, after: []string{`{"a":2}`},
			want: []Difference{{"/action/http/body", `"{\"a\":1,\"a\":2}"`, `{"a":2}`}}},
		{name: "broken escapes do not look alike", before: []string{`{"a":"\ud800","b":1}`}, after: []string{`{"a":"\ud801","b":2}`},
			want: []Difference{{"/action/http/body", `"{\"a\":\"\\ud800\",\"b\":1}"`, `"{\"a\":\"\\ud801\",\"b\":2}"`}}},
		{name: "pointer escapes", before: []string{`{"a/b~c":1}`}, after: []string{`{"a/b~c":2}`}, want: []Difference{{"/action/http/body/a~1b~0c", "1", "2"}}},
		{name: "second of several", before: []string{"1", "2"}, after: []string{"1", "3"}, want: []Difference{{"/actions/1/http/body", "2", "3"}}},
		{name: "statement", before: []string{"1"}, after: []string{"1"}, change: func(s *Statement) { s.Workflow.Version = "1.3.0"; s.Connections[0].TTL = "5m" },
			want: []Difference{{"/connections/0/ttl", `"2m"`, `"5m"`}, {"/workflow/version", `"1.2.0"`, `"1.3.0"`}}},
		{name: "same request under another key", before: []string{"1"}, after: []string{"1"}, change: func(s *Statement) { s.Actions[0].IdempotencyKey = "z-key" },
			want: []Difference{{"/action/idempotencyKey", `"a-key"`, `"z-key"`}}},
		{name: "what always differs", before: []string{"1"}, after: []string{"1"}, change: func(s *Statement) {
			s.ID, s.Nonce, s.Replaces = "apr_09", "fedcba9876543210", "apr_01"
			s.CreatedAt, s.ExpiresAt = At(six.AddDate(0, 0, 1)), At(six.AddDate(0, 0, 2))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := attempt(t, tt.before...), attempt(t, tt.after...)
			if tt.change != nil {
				tt.change(b)
			}
			if got := Diff(a, b); !slices.Equal(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDiffAddedAction(t *testing.T) {
	d := Diff(attempt(t, "1"), attempt(t, "1", "2"))
	if len(d) != 1 || d[0].Path != "/actions/1" || d[0].Before != "" || !strings.Contains(d[0].After, `"body":2`) {
		t.Errorf("%+v", d)
	}
}

// A change must not hide behind a long beginning, nor in a crowd.
func TestDiffIsBounded(t *testing.T) {
	long := strings.Repeat("ä", 5000)
	d := Diff(attempt(t, `{"a":"`+long+`1"}`), attempt(t, `{"a":"`+long+`2`+long+`"}`))
	if len(d) != 1 || !strings.Contains(d[0].Before, `ä1"`) || !strings.Contains(d[0].After, `ä2ä`) || len(d[0].After) > 1000 {
		t.Errorf("%+v", d)
	}
	var a, b []string
	for range 300 {
		a, b = append(a, "1"), append(b, "2")
	}
	d = Diff(attempt(t, "["+strings.Join(a, ",")+"]"), attempt(t, "["+strings.Join(b, ",")+"]"))
	if len(d) != maxDifferences+1 || d[maxDifferences].After != "and 100 more differences" {
		t.Errorf("%d differences, the last %+v", len(d), d[len(d)-1])
	}
}
