package cli

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// checkKernel looks for what roles and sandboxes confine themselves with.
func checkKernel() []Finding {
	return []Finding{checkLandlock(), checkSeccomp(), checkUserNamespaces()}
}

func checkLandlock() Finding {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno == unix.EOPNOTSUPP:
		return Finding{"landlock", Weak, "built in but switched off: roles can reach each other's files", "boot with landlock in the lsm= list"}
	case errno != 0:
		return Finding{"landlock", Weak, "missing: roles can reach each other's files", "use Linux 5.13 or newer, or one user id per role"}
	}
	return Finding{Name: "landlock", Health: Good, Text: F("ABI %d", uint64(abi))}
}

func checkSeccomp() Finding {
	actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil || !strings.Contains(string(actions), "kill_process") {
		return Finding{"seccomp", Weak, "missing: sandboxed tasks cannot be limited to the system calls they need", "use a kernel with CONFIG_SECCOMP_FILTER"}
	}
	return Finding{Name: "seccomp", Health: Good, Text: "filters available"}
}

func checkUserNamespaces() Finding {
	const name = "user namespaces"
	if readTrim("/proc/sys/user/max_user_namespaces") == "0" {
		return Finding{name, Weak, "switched off: sandboxed tasks cannot run", "sysctl user.max_user_namespaces=15000"}
	}
	if os.Geteuid() != 0 {
		if readTrim("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
			return Finding{name, Weak, "only for root: sandboxed tasks cannot run", "sysctl kernel.unprivileged_userns_clone=1"}
		}
		if readTrim("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
			return Finding{name, Weak, "restricted by AppArmor: sandboxed tasks may not run", "give the cardea binary an AppArmor profile that allows userns"}
		}
	}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return Finding{name, Weak, "missing: sandboxed tasks cannot run", "use a kernel with CONFIG_USER_NS"}
	}
	return Finding{Name: name, Health: Good, Text: "available"}
}

// readTrim is the text of a kernel setting, empty where it does not exist.
func readTrim(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
