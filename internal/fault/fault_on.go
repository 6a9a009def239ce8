//go:build faultpoints

// Package fault names the places at which crash tests kill a role.
package fault

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Enabled says whether this build has fault points.
const Enabled = true

var (
	target, countdown = parse(os.Getenv("CARDEA_FAULT"))
	passed            atomic.Int64
)

// parse reads "name" or "name:n": die the n-th time the point is passed.
func parse(spec string) (string, int64) {
	name, n, found := strings.Cut(spec, ":")
	if !found {
		return name, 1
	}
	count, err := strconv.ParseInt(n, 10, 64)
	if err != nil || count < 1 {
		return name, 1
	}
	return name, count
}

// Point kills the process, as a power cut would, when CARDEA_FAULT names it and its count is reached.
func Point(name string) {
	if name != target || passed.Add(1) != countdown {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
