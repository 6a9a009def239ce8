//go:build !linux

package supervise

import "syscall"

// childAttr puts a child in its own process group, so that a terminal's Ctrl-C reaches the supervisor alone, which
// stops the roles in order. If the supervisor is killed, a child learns it from its parent-fd alone: this system has no Pdeathsig.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
