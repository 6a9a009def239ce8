package engine

import (
	"bytes"

	"cardea/internal/expr"
)

// Value is a JSON value as package expr makes them: integers stay exact across a state's own encoding. It is shared and never
// changed. The zero Value is null.
type Value struct{ V any }

// MarshalJSON writes the value deterministically.
func (v Value) MarshalJSON() ([]byte, error) { return expr.Encode(v.V) }

// UnmarshalJSON reads one value.
func (v *Value) UnmarshalJSON(data []byte) error {
	got, err := expr.Decode(bytes.TrimSpace(data))
	if err != nil {
		return err
	}
	v.V = got
	return nil
}
