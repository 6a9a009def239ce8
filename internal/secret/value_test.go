package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"text/template"

	"go.yaml.in/yaml/v4"
)

const canary = "canary-9b1f/+7Zq=secret"

// holder hides a Value where fmt cannot call its methods: in an unexported field, behind a pointer, in a slice, map and any.
type holder struct {
	Public  Value
	private Value
	pointer *Value
	slice   []Value
	table   map[string]Value
	any     any
}

func holding() holder {
	v := Take([]byte(canary))
	return holder{v, v, &v, []Value{v}, map[string]Value{"k": v}, v}
}

func mustNotShow(t *testing.T, where, out string) {
	t.Helper()
	b64 := base64.StdEncoding.EncodeToString([]byte(canary))
	for _, form := range []string{canary, canary[:12], hex.EncodeToString([]byte(canary)), b64, fmt.Sprint([]byte(canary)), fmt.Sprintf("%q", canary)} {
		if strings.Contains(strings.ToLower(out), strings.ToLower(form)) {
			t.Errorf("%s shows the secret: %q", where, out)
		}
	}
}

func TestValueIsNeverFormatted(t *testing.T) {
	h := holding()
	for _, subject := range []any{h, &h, h.Public, &h.Public, h.slice, h.table, []any{h}, errors.Join(fmt.Errorf("x %v", h))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%p", "%T", "%b", "%c", "%U", "%t", "%10.3s", "%!"} {
			mustNotShow(t, verb, fmt.Sprintf(verb, subject))
		}
		mustNotShow(t, "Sprint", fmt.Sprint(subject))
		mustNotShow(t, "Sprintln", fmt.Sprintln(subject))
	}
	if got := fmt.Sprintf("%#v|%s|%x", h.Public, h.Public, h.Public); got != "[secret]|[secret]|[secret]" {
		t.Fatalf("format: %q", got)
	}
	if h.Public.String() != Placeholder || h.Public.GoString() != Placeholder {
		t.Fatal("String or GoString is not the placeholder")
	}
}

func TestValueIsNeverLogged(t *testing.T) {
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			h := holding()
			slog.New(handler(&out)).With("bound", h.Public).Info("m", "v", h.Public, "p", &h.Public, "h", h, "hp", &h, "s", h.slice, slog.Group("g", "v", h.Public))
			mustNotShow(t, "slog", out.String())
			if !strings.Contains(out.String(), Placeholder) {
				t.Fatalf("no placeholder: %s", out.String())
			}
		})
	}
}

func TestValueIsNeverMarshalled(t *testing.T) {
	v := Take([]byte(canary))
	for name, marshal := range map[string]func() ([]byte, error){
		"json":           func() ([]byte, error) { return json.Marshal(v) },
		"json in struct": func() ([]byte, error) { return json.Marshal(struct{ V Value }{v}) },
		"json map":       func() ([]byte, error) { return json.Marshal(map[string]Value{"v": v}) },
		"xml":            func() ([]byte, error) { return xml.Marshal(struct{ V Value }{v}) },
		"yaml":           func() ([]byte, error) { return yaml.Marshal(map[string]Value{"v": v}) },
		"text":           v.MarshalText,
		"binary":         v.MarshalBinary,
		"gob": func() ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(struct{ V Value }{v})
			return b.Bytes(), err
		},
		"gob encode": v.GobEncode,
	} {
		t.Run(name, func(t *testing.T) {
			out, err := marshal()
			if err == nil {
				t.Errorf("marshalled to %q", out)
			}
			mustNotShow(t, name, string(out)+fmt.Sprint(err))
		})
	}
}

func TestValueIsNeverUnmarshalled(t *testing.T) {
	var v Value
	for name, err := range map[string]error{
		"json": json.Unmarshal([]byte(`"x"`), &v), "text": v.UnmarshalText([]byte("x")), "binary": v.UnmarshalBinary([]byte("x")),
		"gob": v.GobDecode([]byte("x")), "null": v.UnmarshalJSON([]byte("null")),
	} {
		if !errors.Is(err, ErrMarshal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !v.Empty() {
		t.Fatal("something was read into the value")
	}
}

func TestValueIsNeverCompared(t *testing.T) {
	if reflect.TypeFor[Value]().Comparable() {
		t.Fatal("two values can be compared with ==, which is neither wanted nor in constant time")
	}
	if a, b := Take([]byte("x")), Take([]byte("x")); reflect.DeepEqual(a, b) {
		t.Fatal("reflect.DeepEqual looked inside")
	}
}

// TestReflectionCannotReach walks everything that reflection offers, as a deep printer does, and must not meet the bytes.
func TestReflectionCannotReach(t *testing.T) {
	v := Take([]byte(canary))
	typ := reflect.TypeFor[Value]()
	for i := range typ.NumField() {
		if typ.Field(i).Type.Kind() != reflect.Func {
			t.Fatalf("field %s is a %s, which a walker can open", typ.Field(i).Name, typ.Field(i).Type.Kind())
		}
	}
	mustNotShow(t, "reflect", fmt.Sprint(reflect.ValueOf(v).Field(0)))
	var out strings.Builder
	if err := template.Must(template.New("").Parse("{{.}} {{printf \"%#v\" .}}")).Execute(&out, v); err != nil {
		t.Fatal(err)
	}
	mustNotShow(t, "template", out.String())
}

func TestTakeMovesAndWipeForgets(t *testing.T) {
	source := []byte(canary)
	v := Take(source)
	if !bytes.Equal(source, make([]byte, len(canary))) {
		t.Fatal("Take left a copy in the caller's buffer")
	}
	var seen string
	var inside []byte
	v.ExposeForEgress(func(b []byte) { seen, inside = string(b), b })
	if seen != canary || v.Empty() {
		t.Fatalf("exposed %q", seen)
	}
	other := v
	v.Wipe()
	if !bytes.Equal(inside, make([]byte, len(canary))) {
		t.Fatal("Wipe left the bytes in memory")
	}
	if !other.Empty() {
		t.Fatal("a copy still exposes what was wiped")
	}
	var zero Value
	zero.Wipe()
	if !zero.Empty() {
		t.Fatal("the zero value is not empty")
	}
}

func TestWipeWaitsForExposure(t *testing.T) {
	v := Take([]byte(canary))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				v.ExposeForEgress(func(b []byte) {
					if len(b) > 0 && string(b) != canary {
						t.Errorf("half wiped: %q", b)
					}
				})
			}
		})
	}
	v.Wipe()
	wg.Wait()
}
