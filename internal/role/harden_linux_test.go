package role

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// TestMain is also the process that the walls are tested in: they cannot be taken down again.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "confined" {
		if err := beConfined(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// errDone ends the confined role when it has tried everything.
var errDone = errors.New("done")

// beConfined runs an origin (which needs no hub) behind its walls, tries what an attacker inside would, and prints what happened.
func beConfined(dir, tcp string) error {
	conf := &OriginConfig{Common: Common{
		Dir: filepath.Join(dir, "own"), Run: filepath.Join(dir, "run"), Name: Origin, TrustDomain: "cardea.local",
		Admin: "unix:" + filepath.Join(dir, "run", "a.sock"), LogFormat: "json", LogLevel: "error", Drain: time.Second, ParentFD: -1,
	}, Listen: "tcp:127.0.0.1:0"}
	err := Run(context.Background(), Spec{Role: Origin, Config: conf, Build: func(_ context.Context, h *Host) error {
		h.Go("attacker", func(context.Context) error {
			if err := json.NewEncoder(os.Stdout).Encode(attack(conf, dir, tcp)); err != nil {
				return err
			}
			return errDone
		})
		return nil
	}})
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

// attack says of each attempt whether it worked.
func attack(c *OriginConfig, dir, tcp string) map[string]bool {
	try := func(f func() error) bool { return f() == nil }
	var core unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &core)
	noNewPrivs, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	return map[string]bool{
		"gain privileges": noNewPrivs != 1,
		"be dumped":       dumpable != 0,
		"leave a core":    core.Cur != 0 || core.Max != 0,
		"write own": try(func() error {
			next := filepath.Join(c.Dir, "x.next")
			return errors.Join(os.WriteFile(next, []byte("x"), 0o666), os.Rename(next, filepath.Join(c.Dir, "x")))
		}),
		"widen mode": func() bool {
			info, err := os.Stat(filepath.Join(c.Dir, "x"))
			return err != nil || info.Mode().Perm()&0o077 != 0
		}(),
		"read other":    try(func() error { _, err := os.ReadFile(filepath.Join(dir, "other", "key.pem")); return err }),
		"list other":    try(func() error { _, err := os.ReadDir(filepath.Join(dir, "other")); return err }),
		"write other":   try(func() error { return os.WriteFile(filepath.Join(dir, "other", "y"), nil, 0o600) }),
		"remove socket": try(func() error { return os.Remove(filepath.Join(c.Run, "a.sock")) }),
		"add socket":    try(func() error { return os.WriteFile(filepath.Join(c.Run, "b.sock"), nil, 0o600) }),
		"read passwd":   try(func() error { _, err := os.ReadFile("/etc/passwd"); return err }),
		"run a program": try(func() error { return exec.Command("/bin/true").Run() }),
		"run own file": try(func() error {
			tool := filepath.Join(c.Dir, "tool")
			return errors.Join(os.WriteFile(tool, []byte("#!/bin/true\n"), 0o700), exec.Command(tool).Run())
		}),
		"connect": try(func() error {
			conn, err := net.Dial("tcp", tcp)
			if err == nil {
				conn.Close()
			}
			return err
		}),
		"bind": try(func() error {
			lc := net.ListenConfig{}
			lc.SetMultipathTCP(false)
			ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
			if err == nil {
				ln.Close()
			}
			return err
		}),
		"signal parent": try(func() error { return unix.Kill(os.Getppid(), 0) }),
	}
}

func TestWalls(t *testing.T) {
	dir := shortDir(t)
	for _, sub := range []string{"own", "run", "other"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "other", "key.pem"), []byte("k"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command(os.Args[0], "confined", dir, ln.Addr().String())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var worked map[string]bool
	if err := json.Unmarshal(out, &worked); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		abi = 0
	}
	needs := map[string]int{ // the Landlock version that refuses it; 0 for those that need none
		"gain privileges": 0, "be dumped": 0, "leave a core": 0, "widen mode": 0,
		"read other": 1, "list other": 1, "write other": 1, "remove socket": 1, "add socket": 1, "read passwd": 1,
		"run a program": 1, "run own file": 1, "connect": 4, "bind": 4, "signal parent": 6,
	}
	for what, version := range needs {
		if worked[what] && abi >= version {
			t.Errorf("behind its walls a role could %s", what)
		}
		if _, tried := worked[what]; !tried {
			t.Errorf("nobody tried to %s", what)
		}
	}
	if !worked["write own"] {
		t.Error("a role cannot write into its own folder")
	}
	if abi == 0 {
		t.Log("this kernel has no Landlock: only the other walls were tested")
	}
}
