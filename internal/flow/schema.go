package flow

import "errors"

// Schema is a compiled JSON Schema that loads nothing from anywhere.
type Schema struct{}

// Validate says whether a value fits. The error is a *Problem of the standard validation type, and names the place, not the value.
func (s *Schema) Validate(v any) error { return errors.New("flow: not built") }
