package approval

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// full is an attempt, and fullPlan a plan, in which every field is set that may be.
func full(t testing.TB) *Statement {
	s := moved(t)
	s.Dev, s.Replaces, s.Visit = true, "apr_00", 1
	return s
}

func fullPlan() *Statement {
	s := planStatement()
	s.Dev, s.Replaces, s.Process = true, "apr_00", &Process{Name: "payroll", Owner: "group:people-ops"}
	return s
}

// everyField calls f once for each value in a statement, with its path and a copy that differs there alone.
func everyField(t *testing.T, s *Statement, f func(path string, changed *Statement)) {
	t.Helper()
	for i := 0; ; i++ {
		c, n := clone(t, s), i
		path := alter(reflect.ValueOf(c).Elem(), "", &n)
		if path == "" {
			return
		}
		f(path, c)
	}
}

func clone(t *testing.T, s *Statement) *Statement {
	t.Helper()
	c, err := Decode(canonical(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// alter changes the n-th value within v and returns its path; "" when there are fewer.
func alter(v reflect.Value, path string, n *int) string {
	if v.Type() == reflect.TypeFor[Instant]() {
		return here(path, n, func() { v.Set(reflect.ValueOf(At(v.Interface().(Instant).Add(time.Millisecond)))) })
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return ""
		}
		return alter(v.Elem(), path, n)
	case reflect.Struct:
		for i := range v.NumField() {
			name := strings.TrimPrefix(path+"."+v.Type().Field(i).Name, ".")
			if found := alter(v.Field(i), name, n); found != "" {
				return found
			}
		}
		return ""
	case reflect.Slice:
		return alterSlice(v, path, n)
	case reflect.Map:
		if v.Len() == 0 {
			return ""
		}
		return here(path, n, func() {
			for _, k := range v.MapKeys() {
				v.SetMapIndex(k, reflect.ValueOf(v.MapIndex(k).String()+"x"))
			}
		})
	}
	return here(path, n, func() { alterScalar(v, path) })
}

func alterSlice(v reflect.Value, path string, n *int) string {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return here(path, n, func() { v.SetBytes(append(slices.Clone(v.Bytes()), ' ')) })
	}
	if v.Len() > 1 {
		if found := here(path, n, func() { v.Set(v.Slice(1, v.Len())) }); found != "" {
			return found
		}
	}
	for i := range v.Len() {
		if found := alter(v.Index(i), fmt.Sprintf("%s.%d", path, i), n); found != "" {
			return found
		}
	}
	return ""
}

func here(path string, n *int, change func()) string {
	if *n--; *n >= 0 {
		return ""
	}
	change()
	return path
}

func alterScalar(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int:
		v.SetInt(v.Int() + 1)
	case reflect.Uint32:
		v.SetUint(v.Uint() + 1)
	case reflect.String:
		v.SetString(otherText(v.String(), path))
	default:
		panic(path + " is of a type that the test does not know")
	}
}

// otherText is another valid text of the same form.
func otherText(s, path string) string {
	hex, isDigest := strings.CutPrefix(s, "sha256:")
	switch {
	case isDigest:
		return "sha256:" + strings.NewReplacer("0", "1", "1", "2").Replace(hex)
	case strings.HasSuffix(path, ".Body"):
		return zeros
	case strings.HasSuffix(path, ".Address"):
		return "6.6.6.7:443"
	case (strings.HasSuffix(path, ".Before") || strings.HasSuffix(path, ".After")) && strings.HasPrefix(s, "{"):
		return `{"a":` + s + `}`
	}
	return s + "x"
}

// Values that cannot change alone: a statement with another is refused.
var (
	boundOfAttempt = regexp.MustCompile(`^(V|Kind|Actions\.0\.(Digest|Action))$`)
	boundOfPlan    = regexp.MustCompile(`^(V|Kind|Attempts|Run|Visit|Plan\.Changes\.(.\.Verb|1\.After|[23]\.Kind|[34]\.Before))$`)
)

func boundIn(s *Statement) *regexp.Regexp {
	if s.Kind == KindPlan {
		return boundOfPlan
	}
	return boundOfAttempt
}

var identity = []string{"ID", "Nonce", "CreatedAt", "ExpiresAt", "Replaces"}

// Whatever stands in a statement is its matter, but for what names the approval: a field that is added is seen as well.
func TestSameMatterEveryField(t *testing.T) {
	for name, s := range map[string]*Statement{"attempt": full(t), "plan": fullPlan()} {
		t.Run(name, func(t *testing.T) {
			if !s.SameMatter(clone(t, s)) {
				t.Fatal("differs from its copy")
			}
			everyField(t, s, func(path string, changed *Statement) {
				_, err := changed.Canonical()
				if valid := err == nil; valid == boundIn(s).MatchString(path) {
					t.Errorf("%s: the changed statement is not what the test wants: %v", path, err)
				}
				if same := s.SameMatter(changed) || changed.SameMatter(s); same != slices.Contains(identity, path) {
					t.Errorf("%s: same matter: %v", path, same)
				}
				if err != nil {
					return
				}
				if told := len(Diff(s, changed)) > 0; told == slices.Contains(identity, path) {
					t.Errorf("%s: told as a difference: %v", path, told)
				}
			})
		})
	}
}

// The two fixtures together set every field; without that the test above would say nothing of a new one.
func TestFixturesSetEveryField(t *testing.T) {
	set := map[string]bool{}
	for _, s := range []*Statement{full(t), fullPlan()} {
		note(reflect.ValueOf(*s), set)
	}
	wanted(reflect.TypeFor[Statement](), func(field string) {
		if !set[field] {
			t.Errorf("%s is set in neither fixture", field)
		}
	})
	for _, field := range []string{"Connection.Address", "Allow.Query", "Change.Before", "Policy.ID"} {
		if !set[field] {
			t.Errorf("%s was not walked", field)
		}
	}
}

func note(v reflect.Value, set map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			note(v.Elem(), set)
		}
	case reflect.Slice:
		for i := range v.Len() {
			note(v.Index(i), set)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Instant]() {
			return
		}
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				set[v.Type().Name()+"."+v.Type().Field(i).Name] = true
			}
			note(v.Field(i), set)
		}
	}
}

func wanted(of reflect.Type, f func(field string)) {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice:
		wanted(of.Elem(), f)
	case reflect.Struct:
		if of == reflect.TypeFor[Instant]() {
			return
		}
		for i := range of.NumField() {
			f(of.Name() + "." + of.Field(i).Name)
			wanted(of.Field(i).Type, f)
		}
	}
}

func TestSameMatter(t *testing.T) {
	for name, change := range map[string]func(c *Connection){
		"address": func(c *Connection) { c.Address = "" }, "hosts": func(c *Connection) { c.Hosts = append(c.Hosts, "https://evil.example.com") },
		"audience": func(c *Connection) { c.Audience = "" }, "zone": func(c *Connection) { c.Zone = "staging" }, "ttl": func(c *Connection) { c.TTL = "1h" },
		"scope": func(c *Connection) { c.Scopes = nil }, "allow": func(c *Connection) { c.Allow = append(c.Allow, c.Allow[0]) },
		"roots": func(c *Connection) { c.Roots = "" }, "plaintext": func(c *Connection) { c.Plaintext = false }, "query": func(c *Connection) { c.Allow[0].Query = nil },
	} {
		s, other := full(t), full(t)
		change(&other.Connections[0])
		canonical(t, other)
		if s.SameMatter(other) {
			t.Errorf("another %s is the same matter", name)
		}
	}
	other := attempt(t, "1", "2")
	if attempt(t, "1").SameMatter(other) || !attempt(t, "1", "2").SameMatter(other) {
		t.Error("actions are not its matter")
	}
	unnamed := attempt(t, "1")
	unnamed.ID, unnamed.Nonce, unnamed.CreatedAt, unnamed.ExpiresAt = "", "", Instant{}, Instant{}
	if !attempt(t, "1").SameMatter(unnamed) {
		t.Error("what would happen now needs no name")
	}
	if full(t).SameMatter(nil) || (*Statement)(nil).SameMatter(nil) {
		t.Error("nothing has a matter")
	}
}

// JSON writes strings that are not UTF-8 alike; a statement that may not be written agrees with none, itself included.
func TestSameMatterRefusesBroken(t *testing.T) {
	s, broken := attempt(t, "1"), attempt(t, "1")
	s.Requester, broken.Requester = "person:\ufffd", "person:\xff"
	if s.SameMatter(broken) || broken.SameMatter(broken) {
		t.Error("a broken name passed for another")
	}
}

func TestSameMatterChangesNothing(t *testing.T) {
	s := full(t)
	before := canonical(t, s)
	s.SameMatter(s)
	if string(canonical(t, s)) != string(before) {
		t.Error("comparing changed the statement")
	}
}
