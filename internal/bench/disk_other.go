//go:build !linux

package main

import "os"

// refuseMemory does not know the kinds of disks of this system: whoever measures must see to it that the folder is on a real one.
func refuseMemory(string) error { return nil }

// datasync is the whole fsync where there is no fdatasync.
func datasync(f *os.File) error { return f.Sync() }
