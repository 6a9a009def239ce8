// Package registry is desired state: what processes, connections, rules, people, runners, workflows and policies exist, and what
// a change to them would grant or take away.
//
// It is pure: no clock, no store, no network. Decode reads one resource strictly or says how to mend it; Build makes an immutable,
// cross-checked State; State.Plan says in the words of process owners what a change gains and loses, whether it adds privilege,
// and binds that to the state it was computed from. Connection.Match decides whether one exact request is among those that a
// connection may ever be asked; it reads paths and bodies so narrowly that no server can find another meaning in them.
//
// It refuses: JSON that two readers could read differently (duplicate or misspelt keys, lone surrogates), references that lead
// nowhere, schemas that load from elsewhere or whose cost is not bounded by their size, providers that this build does not have.
// It reads no YAML and runs no expression: what writes those is the client (see package load).
package registry
