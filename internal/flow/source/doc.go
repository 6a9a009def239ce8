// Package source reads what people write, YAML or JSON, on the client: into canonical JSON, with the place of every value,
// so that a finding about the canonical document can point into the file.
//
// It promises that the canonical document says what the file says to a reader of YAML 1.2's core schema: `on`, `y` and
// dates are strings, numbers are exact or refused, keys are strings and unique. It refuses whatever reads differently elsewhere or
// hides something: tags, merge keys, keys that are not strings, octal and hexadecimal numbers, numbers that JSON readers
// round, several documents where one is meant. Aliases are expanded and counted: size, depth and the number of values are
// bounded as they are for canonical documents.
//
// Engine and authority never import it.
package source
