package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// refuseMemory keeps figures honest: on a disk that is memory nothing is durable, and syncing costs nothing.
func refuseMemory(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("what disk %s is on: %w", dir, err)
	}
	switch int64(s.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return fmt.Errorf("%s is memory, not a disk: name a folder on one with -dir", dir)
	}
	return nil
}

func datasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
