package registry

import (
	"errors"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
)

func TestMatchPath(t *testing.T) {
	for _, c := range []struct {
		template, path string
		want           string // "no", an error's part, or the variables as name=value
	}{
		{"/v1/timesheets/{month}", "/v1/timesheets/2026-05", "month=2026-05"},
		{"/v1/timesheets/{month}", "/v1/timesheets/M%C3%A4rz%202026", "month=März 2026"},
		{"/v1/timesheets/{month}", "/v1/timesheets/", "no"},
		{"/v1/timesheets/{month}", "/v1/timesheets", "no"},
		{"/v1/timesheets/{month}", "/v1/timesheets/2026/05", "no"},
		{"/v1/timesheets/{month}", "/V1/timesheets/x", "no"},
		{"/v1/timesheets/{month}", "/v1//x", "empty segment"},
		{"/v1/timesheets/{month}", "/v1/timesheets/.", "dot segment"},
		{"/v1/timesheets/{month}", "/v1/timesheets/..", "dot segment"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%2e%2e", "upper-case"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%2E%2E", "needs no escape"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%41", "needs no escape"},
		{"/v1/timesheets/{month}", "/v1/timesheets/..%2Fadmin", "holds an encoded"},
		{"/v1/timesheets/{month}", "/v1/timesheets/a%5Cb", "holds an encoded"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%252E%252E", "holds an encoded"},
		{"/v1/timesheets/{month}", "/v1/timesheets/..;x=1", "holds an encoded"},
		{"/v1/timesheets/{month}", "/v1/timesheets/..%3Bx", "holds an encoded"},
		{"/v1/timesheets/{month}", `/v1/timesheets/a\b`, "unescaped"},
		{"/v1/timesheets/{month}", "/v1/timesheets/a b", "unescaped"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%C0%AE", "not UTF-8"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%00", "control character"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%0D%0A", "control character"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%EF%BC%8E%EF%BC%8E", "read as a dot"},
		{"/v1/timesheets/{month}", "/v1/timesheets/%", "two upper-case hex"},
		{"/v1/timesheets/{month}", "/v1/timesheets/{month}", "unescaped"},
		{"/", "/", ""},
		{"/", "/a", "no"},
		{"/a/", "/a/", ""},
		{"/a/", "/a", "no"},
		{"/a", "/a/", "no"},
		{"/{x}", "/", "no"},
		{"/a%20b", "/a%20b", ""},
		{"/a", "a", "must begin with /"},
		{"/a", "/" + strings.Repeat("a", maxPath), "bytes"},
		{"/a", strings.Repeat("/a", maxSegments+1), "segments"},
	} {
		template, err := parseTemplate(c.template)
		if err != nil {
			t.Fatalf("%s: %v", c.template, err)
		}
		variables, err := matchPath(template, c.path)
		switch {
		case errors.Is(err, errNoMatch):
			if c.want != "no" {
				t.Errorf("%s under %s does not match, want %q", c.path, c.template, c.want)
			}
		case err != nil:
			if c.want == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s under %s: %v, want %q", c.path, c.template, err, c.want)
			}
		default:
			var got []string
			for _, name := range sortedKeys(variables) {
				got = append(got, name+"="+variables[name])
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%s under %s gives %v, want %q", c.path, c.template, got, c.want)
			}
		}
	}
}

func TestOverlaps(t *testing.T) {
	for _, c := range []struct {
		claim, template string
		want            bool
	}{
		{"/v1/{m}", "/v1/{month}", true},
		{"/v1/{m}?a={b}", "/v1/{month}", true},
		{"/v1/x", "/v1/{month}", true},
		{"/v1/{m}", "/v1/2026", true},
		{"/v1/r-{m}.json", "/v1/r-05.json", true},
		{"/v1/r-{m}.json", "/v1/r-05.xml", false},
		{"/v1/{m}", "/v2/{m}", false},
		{"/v1/{m}/x", "/v1/{m}", false},
		{"/", "/", true},
	} {
		template, err := parseTemplate(c.template)
		if err != nil {
			t.Fatal(err)
		}
		if got := overlaps(c.claim, template); got != c.want {
			t.Errorf("%s and %s: %v", c.claim, c.template, got)
		}
	}
}

// readings are ways in which servers are known to resolve an escaped path, some of them twice over.
func readings(escaped string) []string {
	once, err := url.PathUnescape(escaped)
	if err != nil {
		once = escaped
	}
	twice, err := url.PathUnescape(once)
	if err != nil {
		twice = once
	}
	parameters := regexp.MustCompile(`;[^/]*`)
	var out []string
	for _, p := range []string{escaped, once, twice, parameters.ReplaceAllString(once, ""), parameters.ReplaceAllString(twice, ""), strings.ReplaceAll(twice, `\`, "/")} {
		out = append(out, p, clean(p))
	}
	return out
}

func clean(p string) string {
	c := path.Clean(p)
	if strings.HasSuffix(p, "/") && c != "/" {
		c += "/"
	}
	return c
}

// FuzzMatchPath: a path that matches is read by every server as the same segments, and matching agrees with a naive oracle.
func FuzzMatchPath(f *testing.F) {
	for _, p := range []string{
		"/v1/timesheets/2026-05", "/v1/timesheets/..%2Fx", "/v1/timesheets/%2e%2e", "/v1/timesheets/%252e", "/v1/timesheets/..;a",
		"/v1//x", "/v1/a/", "/v1/timesheets/%EF%BC%8F", `/v1/timesheets/\..\x`, "/v1/timesheets/M%C3%A4rz", "/v1/timesheets/%2E",
	} {
		f.Add("/v1/timesheets/{month}", p)
	}
	f.Add("/{a}/b/{c}/", "/x/b/y/")
	f.Add("/a%20b/{c}", "/a%20b/%25")
	f.Fuzz(func(t *testing.T, template, asked string) {
		segments, err := parseTemplate(template)
		if err != nil {
			return
		}
		_, err = matchPath(segments, asked)
		naive := naiveMatch(segments, asked)
		if err == nil && !naive {
			t.Fatalf("%q matches %q, and a naive matcher says no", asked, template)
		}
		if err != nil && naive && everySegmentPlain(asked) {
			t.Fatalf("%q is plain and should match %q: %v", asked, template, err)
		}
		if err == nil {
			sameEverywhere(t, segments, asked)
		}
	})
}

func naiveMatch(template []segment, asked string) bool {
	pattern := "^"
	for _, s := range template {
		if s.variable != "" {
			pattern += "/[^/]+"
		} else {
			pattern += "/" + regexp.QuoteMeta(s.literal)
		}
	}
	return regexp.MustCompile(pattern + "$").MatchString(asked)
}

func everySegmentPlain(asked string) bool {
	return len(asked) < maxPath && strings.Count(asked, "/") < maxSegments && regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`).MatchString(asked)
}

func sameEverywhere(t *testing.T, template []segment, asked string) {
	t.Helper()
	for _, reading := range readings(asked) {
		parts := strings.Split(reading[1:], "/")
		if len(parts) != len(template) {
			t.Fatalf("%q is %q to some server: another number of segments", asked, reading)
		}
		for i, p := range parts {
			plain, err := url.PathUnescape(p)
			if err != nil {
				plain = p
			}
			literal, _ := url.PathUnescape(template[i].literal)
			if template[i].variable == "" && plain != literal || template[i].variable != "" && (plain == "" || plain == "." || plain == "..") {
				t.Fatalf("%q is %q to some server: segment %d is %q", asked, reading, i, p)
			}
		}
	}
}
