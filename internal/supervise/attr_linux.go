package supervise

import "syscall"

// childAttr puts a child in its own process group, so that a terminal's Ctrl-C reaches the supervisor alone, which
// stops the roles in order; and has the kernel end it if the supervisor is killed.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
