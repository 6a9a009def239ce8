package source

import (
	"strings"

	"cardea/internal/flow"
)

// Position is a place in a file, both from 1.
type Position struct{ Line, Column int }

// Positions knows where each value of a document was written.
type Positions struct{ root *place }

// place is where a value stands. Aliased values stand where the alias is; what is inside them, where the anchor is.
type place struct {
	value, key Position // key: of the member's name; zero for items and the root
	container  bool
	children   map[string]*place
}

// At is the place of the value that a JSON pointer names, or of the nearest value around it: a scalar's own, otherwise its key's.
func (p Positions) At(pointer string) Position { return p.at(pointer, false) }

func (p Positions) at(pointer string, key bool) Position {
	at := p.root
	if at == nil {
		return Position{}
	}
	if pointer != "" {
		for _, token := range strings.Split(pointer, "/")[1:] {
			next := at.children[strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~")]
			if next == nil {
				break
			}
			at = next
		}
	}
	if (key || at.container) && at.key != (Position{}) {
		return at.key
	}
	return at.value
}

// Place gives findings their file, line and column.
func (d Document) Place(findings []flow.Finding) []flow.Finding {
	return annotate(d.Name, d.Positions, findings)
}

// Place gives findings their file, line and column.
func (r RawResource) Place(findings []flow.Finding) []flow.Finding {
	return annotate(r.File, r.Positions, findings)
}

func annotate(file string, positions Positions, findings []flow.Finding) []flow.Finding {
	out := make([]flow.Finding, len(findings))
	for i, f := range findings {
		// These are about the key itself.
		key := f.Rule == "dsl/unknown-key" || f.Rule == "dsl/later" || f.Rule == "dsl/name" || f.Rule == "dsl/duplicate-task"
		at := positions.at(f.Pointer, key)
		f.File, f.Line, f.Column = file, at.Line, at.Column
		out[i] = f
	}
	return out
}
