// Package secret holds credentials so that they cannot get out by accident.
//
// It promises that a Value is never printed, formatted, marshalled or compared by a mistake: the bytes live behind a
// closure, which neither fmt nor any walker by reflection can open, and every marshaller that could ask is answered with an
// error. The one way to the bytes has a long name, so that a reviewer finds every use by searching for it. A Redactor finds
// a Value in what comes back from a target, in every encoding of invariant 16, and takes it out.
// It refuses to be a store: sealing is another package's.
package secret

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// Placeholder is what stands where a secret would have been shown.
const Placeholder = "[secret]"

// ErrMarshal is what every marshaller of a Value gets. A placeholder would be worse: it would be stored as if it were the secret.
var ErrMarshal = errors.New("a secret cannot be marshalled or unmarshalled")

// Value is a credential. The zero Value is empty. Copies share the bytes: wiping one wipes all.
//
// It is a closure and nothing else: a func field makes == between two Values an error of the compiler, reflection cannot read
// what a closure holds, and so neither %#v nor a deep printer nor gob can.
type Value struct {
	open func() *sealed
}

type sealed struct {
	mu    sync.RWMutex
	bytes []byte
}

// Take moves b into a Value: it copies the bytes and overwrites b with zeroes, so that the caller's buffer holds no second copy.
func Take(b []byte) Value {
	s := &sealed{bytes: append([]byte(nil), b...)}
	clear(b)
	return Value{open: func() *sealed { return s }}
}

// ExposeForEgress lends the bytes to use. They are valid only while it runs; it must neither keep nor change them. Its only
// callers are those that put the credential on the wire to its target, and the Redactor.
func (v Value) ExposeForEgress(use func(credential []byte)) {
	if v.open == nil {
		use(nil)
		return
	}
	s := v.open()
	s.mu.RLock()
	defer s.mu.RUnlock()
	use(s.bytes)
}

// Empty reports whether there is nothing to expose: a zero, empty or wiped Value.
func (v Value) Empty() bool {
	empty := true
	v.ExposeForEgress(func(b []byte) { empty = len(b) == 0 })
	return empty
}

// Wipe overwrites the bytes and forgets them. It is best effort: Go may have copied them when the stack or a string was made, so
// that the wall is the process (not dumpable, short-lived credentials), not this call.
func (v Value) Wipe() {
	if v.open == nil {
		return
	}
	s := v.open()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.bytes)
	s.bytes = nil
}

// Format answers every verb of fmt, also %#v, %x and %p, with the placeholder.
func (Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Placeholder) }

// String is for those who build text without fmt.
func (Value) String() string { return Placeholder }

// GoString is for those who ask for %#v without fmt.
func (Value) GoString() string { return Placeholder }

// LogValue keeps slog from looking inside.
func (Value) LogValue() slog.Value { return slog.StringValue(Placeholder) }

// The marshallers that the standard library and the YAML package look for: all refuse, in both directions, so that no
// struct with a Value in it can be stored, sent or read from a file by mistake.

// MarshalJSON refuses.
func (Value) MarshalJSON() ([]byte, error) { return nil, ErrMarshal }

// UnmarshalJSON refuses.
func (*Value) UnmarshalJSON([]byte) error { return ErrMarshal }

// MarshalText refuses; encoding/xml and map keys of JSON ask for it.
func (Value) MarshalText() ([]byte, error) { return nil, ErrMarshal }

// UnmarshalText refuses.
func (*Value) UnmarshalText([]byte) error { return ErrMarshal }

// MarshalBinary refuses.
func (Value) MarshalBinary() ([]byte, error) { return nil, ErrMarshal }

// UnmarshalBinary refuses.
func (*Value) UnmarshalBinary([]byte) error { return ErrMarshal }

// GobEncode refuses.
func (Value) GobEncode() ([]byte, error) { return nil, ErrMarshal }

// GobDecode refuses.
func (*Value) GobDecode([]byte) error { return ErrMarshal }

// MarshalYAML refuses.
func (Value) MarshalYAML() (any, error) { return nil, ErrMarshal }
