// Package cli is the client half of Cardea: how a person's terminal speaks to a hub and shows what it says.
//
// It promises that every request carries a proof, by the person's own session key, over its exact bytes; that the hub is
// the one the profile pins; and that nothing the hub says reaches the terminal before its control characters have been
// made visible. A hub that lies can withhold and misreport, but it cannot move the cursor, hide text, or pass off one
// ledger for another: the checkpoint key and the highest checkpoint seen stay with the person.
//
// It refuses to read definitions, to evaluate policy, or to decide anything on the hub's behalf.
package cli
