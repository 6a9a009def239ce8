package console

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// localUser names the user at the other end of a Unix socket, as the kernel saw it connect.
func localUser(conn *net.UnixConn) string {
	raw, err := conn.SyscallConn()
	if err != nil {
		return "local"
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || credErr != nil {
		return "local"
	}
	return fmt.Sprintf("uid %d", cred.Uid)
}
