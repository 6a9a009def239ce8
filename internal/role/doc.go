// Package role is what all roles have in common: configuration, joining, listening, and ending.
//
// It promises: a request reaches a handler only from the one kind of caller that the service's descriptor names, whose
// SVID is valid at that moment; every other is refused and recorded. A role is ready only while its own SVID is valid. When told to
// stop it takes no new work, lets what it has finish until a deadline, and ends.
//
// It refuses: a service whose descriptor names no caller, a socket that something else still serves, configuration keys that it
// does not know, and a join token in an argument or environment variable, where other processes could read it.
package role
