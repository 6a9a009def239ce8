//go:build !linux

package role

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hardenProcess forbids core files, which would hold keys. This system has neither no_new_privs nor Landlock.
func hardenProcess() (walls, error) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return walls{}, fmt.Errorf("harden: no core files: %w", err)
	}
	return walls{
		Has:     []string{"no core files"},
		Missing: []string{"no_new_privs", "not dumpable", "files, TCP and signals by landlock (Linux only)"},
	}, nil
}

// confine can do nothing here; hardenProcess has said so.
func confine(_ Config, _ Needs, w walls) (walls, error) { return w, nil }
