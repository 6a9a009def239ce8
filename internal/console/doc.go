// Package console is the door between people and the hub: it forwards their calls, byte for byte, and understands none of them.
//
// It promises that only the procedures of Control, Ledger and Runs get through, each to the one role that serves it; that only
// the headers those calls need travel, in either direction; and that body sizes, rates, concurrency and times are bounded, so
// that whoever reaches the door cannot exhaust what is behind it.
//
// It refuses to hold anything: no session, no key of a person, no cache. Authority and engine check the person's proof or ticket
// over the exact bytes, so a console in an attacker's hands can drop calls and read answers, and change or invent nothing.
package console
