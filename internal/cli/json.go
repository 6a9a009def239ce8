package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// WriteJSON writes one indented document. Field order and spacing are fixed, so that outputs can be compared. Characters that
// Clean would not let through are escaped, since documents end up on terminals too.
func WriteJSON(w io.Writer, v any) error { return writeJSON(w, v, "  ") }

func writeJSON(w io.Writer, v any, indent string) error {
	text, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	var b bytes.Buffer
	if indent == "" {
		b.Write(text)
	} else if err := json.Indent(&b, text, "", indent); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	b.WriteByte('\n')
	if _, err := w.Write(escape(b.Bytes())); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// encode is json.Marshal without escapes for HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// escape rewrites invisible characters in a JSON text; outside ASCII they can only stand in its strings.
func escape(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '\n' || r != utf8.RuneError && visible(r):
			out = append(out, text[:size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[size:]
	}
	return out
}

// WriteMessage writes a message of the contracts as JSON for scripts: the contract's own field names, every field present,
// enumerations as plain words, times as RFC 3339, integers as numbers, JSON inside bytes as JSON.
func WriteMessage(w io.Writer, m proto.Message) error { return WriteJSON(w, Document(m)) }

// Document is the message as WriteMessage writes it, for building larger documents.
func Document(m proto.Message) any { return message(m.ProtoReflect()) }

// object keeps the contract's order of fields, which a Go map would lose.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON writes the members in their order.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := encode(m.name)
		if err != nil {
			return nil, err
		}
		value, err := encode(m.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func message(m protoreflect.Message) any {
	if !m.IsValid() {
		return nil
	}
	if t, ok := m.Interface().(*timestamppb.Timestamp); ok {
		return t.AsTime().Format("2006-01-02T15:04:05.000Z07:00")
	}
	fields := m.Descriptor().Fields()
	out := make(object, 0, fields.Len())
	for i := range fields.Len() {
		f := fields.Get(i)
		out = append(out, member{strings.TrimSuffix(string(f.Name()), "_json"), field(m, f)})
	}
	return out
}

func field(m protoreflect.Message, f protoreflect.FieldDescriptor) any {
	value := m.Get(f)
	if !f.IsList() {
		return scalar(f, value)
	}
	list := value.List()
	out := make([]any, list.Len())
	for i := range list.Len() {
		out[i] = scalar(f, list.Get(i))
	}
	return out
}

func scalar(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return message(v.Message())
	case protoreflect.EnumKind:
		return enumWord(f.Enum(), v.Enum())
	case protoreflect.BytesKind:
		return bytesValue(f, v.Bytes())
	}
	return v.Interface()
}

// enumWord is OUTCOME_ALLOW of enum Outcome as "allow", and the unspecified value as "".
func enumWord(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	value := e.Values().ByNumber(n)
	if value == nil {
		return fmt.Sprint(n)
	}
	if n == 0 {
		return ""
	}
	prefix := string(e.Values().ByNumber(0).Name())
	prefix = strings.TrimSuffix(prefix, "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(value.Name()), prefix))
}

// bytesValue decides by the field, never by the content: whoever fills the field must not choose its type.
func bytesValue(f protoreflect.FieldDescriptor, b []byte) any {
	switch name := string(f.Name()); {
	case strings.HasSuffix(name, "_json"), name == "action", name == "statement", name == "leaf", name == "payload":
		if len(b) == 0 {
			return nil
		}
		if json.Valid(b) && utf8.Valid(b) {
			return json.RawMessage(b)
		}
		return string(b)
	case name == "body", name == "checkpoint":
		return string(b) // exact text: canonical JSON or Cedar, and a signed note
	}
	return base64.StdEncoding.EncodeToString(b)
}

// Time writes t as every JSON document here does.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// WriteMessageLine writes a message as one line, for streams of documents.
func WriteMessageLine(w io.Writer, m proto.Message) error { return writeJSON(w, Document(m), "") }
