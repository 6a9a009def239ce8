// Package supervise starts a whole hub as child processes of one binary, keeps them running, and stops them.
//
// It promises: each role is its own process with a minimal environment; a role gets its join token over a descriptor that only it
// inherits, a fresh one at each start; what dies is started again, ever more slowly while it keeps dying; children end when
// the supervisor does, however it ends; after Close no process and no socket is left.
//
// It refuses a folder that others can read, one that another supervisor runs, and one whose sockets' paths would not fit. All roles
// share the supervisor's user: the walls are processes, not users.
package supervise
