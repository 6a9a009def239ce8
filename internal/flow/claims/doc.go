// Package claims reads definitions: the one parser that decides what a definition is and which privileges it can exercise.
//
// It promises that Parse and Decode agree, since both are the same code: what the client's lint and the engine's compiler
// accept as structure is what the authority extracts claims from. It reads canonical JSON only (RFC 8785), refuses every
// key that it does not know, at every level, and bounds size, depth and number of values while it reads. The authority
// imports this package and nothing else of the language: no jq, no YAML, no JSON Schema, no regular expressions from a definition.
//
// With the profile, every privilege is a literal: scheme, host and path template, header names, the connection, scopes and
// tier. Refused are inline credentials, computed endpoints and header maps, headers that belong to credentials, connections
// or proxies, and every spelling of a path that two readers could read differently.
//
// Kinds of tasks and keys of the language that this version does not run are refused as such: "comes with a later version".
package claims

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Digest names a definition: sha256:<64 lower hex> of its canonical bytes.
func Digest(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Decode extracts the claims of a canonical definition, with the profile. It is the authority's path.
func Decode(canonical []byte) (Claims, error) {
	d, findings := Parse(canonical, true)
	if d == nil {
		return Claims{}, &Refusal{findings}
	}
	return d.Claims, nil
}

// Refusal is why a definition has no claims.
type Refusal struct{ Findings []Finding }

func (r *Refusal) Error() string {
	var said []string
	for _, f := range r.Findings {
		if f.Severity == Error && len(said) < 5 {
			said = append(said, fmt.Sprintf("%s: %s", orRoot(f.Pointer), f.Message))
		}
	}
	return "the definition is refused: " + strings.Join(said, "; ")
}

func orRoot(pointer string) string {
	if pointer == "" {
		return "/"
	}
	return pointer
}
