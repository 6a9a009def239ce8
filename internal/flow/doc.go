// Package flow compiles a canonical definition into an immutable Plan: the state machine's view of the language.
//
// It promises that a Plan has nothing left to parse: expressions, templates, schemas and flow directives are compiled, every
// `then` has its target, every task its pointer. What it accepts, package claims accepts, with the same claims: structure,
// names and privileges are decided there, by code that the authority runs too; this package adds what needs jq and JSON Schema.
//
// It refuses, with a finding that names the place, the reason and where possible the mend: every key and kind that this
// version does not run, expressions whose cost nothing bounds, schemas from elsewhere, and, with the profile, whatever would
// make a privilege depend on data. The Plan's shape is that of the whole language; further kinds add a field and a case.
//
// The text that people write is package source's business: findings carry JSON pointers here, and lines and columns there.
package flow
