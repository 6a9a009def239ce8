//go:build unix

package identity

import "golang.org/x/sys/unix"

// noFollow refuses a symbolic link where a secret should be: whoever planted it
// could make a role read, and trust, another's file.
const noFollow = unix.O_NOFOLLOW | unix.O_CLOEXEC
