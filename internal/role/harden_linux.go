package role

import (
	"fmt"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// hardenProcess drops, before any secret is read, what no role needs: privileges by exec, being traced or read by
// processes of the same user, and core files, which would hold keys.
func hardenProcess() (walls, error) {
	if err := ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return walls{}, fmt.Errorf("harden: no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return walls{}, fmt.Errorf("harden: not dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return walls{}, fmt.Errorf("harden: no core files: %w", err)
	}
	return walls{Has: []string{"no_new_privs", "not dumpable", "no core files"}}, nil
}

// confine leaves the process its own folder, its sockets and a few system files, as far as the kernel has Landlock. Listeners
// must be bound before. What the kernel lacks is said, not fatal: the other walls stand without it.
func confine(c Config, n Needs, w walls) (walls, error) {
	rules := []landlock.Rule{
		// No right to files there: a role cannot remove or replace another's socket.
		landlock.PathAccess(ll.AccessFSResolveUnix, c.common().Run),
		landlock.PathAccess(ll.AccessFSReadFile|ll.AccessFSWriteFile, "/dev/null").IgnoreIfMissing(),
	}
	rules = append(rules, grant(readWrite, append([]string{c.common().Dir}, n.ReadWrite...))...)
	rules = append(rules, grant(readOnly, append(systemFiles(), n.ReadOnly...))...)
	if n.RunPrograms {
		self, err := os.Executable()
		if err != nil {
			return w, fmt.Errorf("harden: %w", err)
		}
		rules = append(rules, grant(runnable, []string{self, "/lib", "/lib64", "/usr/lib", "/usr/lib64"})...)
		rules = append(rules, grant(readOnly, []string{"/etc/ld.so.cache"})...)
	}
	conf := landlock.V9
	conf.HandledAccessNet = ll.AccessNetBindTCP
	if !n.ConnectAnywhere {
		conf.HandledAccessNet |= ll.AccessNetConnectTCP
		for _, port := range dialledPorts(c) {
			rules = append(rules, landlock.ConnectTCP(port))
		}
	}
	if err := conf.BestEffort().Restrict(rules...); err != nil {
		return w, fmt.Errorf("harden: landlock: %w", err)
	}
	return w.landlock(), nil
}

// Rights that a role may have to a folder. None but runnable lets it execute what it could have written itself.
const (
	readOnly  = ll.AccessFSReadFile | ll.AccessFSReadDir
	runnable  = readOnly | ll.AccessFSExecute
	readWrite = readOnly | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSMakeDir |
		ll.AccessFSRemoveFile | ll.AccessFSRemoveDir | ll.AccessFSMakeSym | ll.AccessFSMakeSock | ll.AccessFSMakeFifo
	// ofFiles are the rights that a file can have; the kernel refuses a rule with others for one.
	ofFiles = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSExecute
)

// grant gives rights to the paths that exist.
func grant(rights landlock.AccessFSSet, paths []string) []landlock.Rule {
	var rules []landlock.Rule
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			continue // what is not there needs no right, and gets none later
		}
		access := rights
		if !info.IsDir() {
			access &= ofFiles
		}
		rules = append(rules, landlock.PathAccess(access, p).IgnoreIfMissing())
	}
	return rules
}

// landlock adds what the running kernel's version of Landlock confines, and what it does not.
func (w walls) landlock() walls {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		abi = 0
	}
	for _, feature := range []struct {
		abi  int
		what string
	}{
		{1, "files by landlock"}, {4, "TCP by landlock"}, {6, "signals by landlock"}, {9, "sockets of others by landlock"},
	} {
		if abi >= feature.abi {
			w.Has = append(w.Has, feature.what)
		} else {
			w.Missing = append(w.Missing, feature.what)
		}
	}
	return w
}
