// Package dispatch matches attempts that wait with runners that have credit, in memory.
//
// It promises that within a tier attempts go out in the order in which they came, in turns between runs, so that a run with a
// thousand attempts does not starve one with a single one; that no runner is given more than its credit; and that an
// attempt that was given out is settled, cancelled, or reported lost. It decides nothing: a match is a question to the
// authority, and everything here can be rebuilt from the attempts that are outstanding.
//
// It refuses to believe a runner about itself: name, tier and key are its SVID's. A runner that reconnects with the same key is the same
// process and keeps what it holds; one that comes with another key has lost it all.
package dispatch
