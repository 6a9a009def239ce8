//go:build !linux

package cli

// checkKernel says what is missing outside Linux.
func checkKernel() []Finding {
	return []Finding{
		{"landlock", Weak, "not on this system: roles can reach each other's files", "use it for evaluation; serve from Linux"},
		{"sandbox", Weak, "not on this system: scripts, shells and containers cannot run as tasks", "run such tasks on a Linux runner"},
	}
}
