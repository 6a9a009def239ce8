package supervise

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// buffer is a log that a test can read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func hubDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dev") // 0700, and short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, o Options) (*Tree, *buffer) {
	t.Helper()
	log := &buffer{}
	o.Log = log
	if o.Dir == "" {
		o.Dir = hubDir(t)
	}
	tree, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil {
			t.Errorf("close: %v\n%s", err, log)
		}
	})
	waitReady(t, tree, log)
	return tree, log
}

func waitReady(t *testing.T, tree *Tree, log *buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := tree.WaitReady(ctx); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
}

func TestTreeStartsServesAndLeavesNothing(t *testing.T) {
	dir := hubDir(t)
	log := &buffer{}
	tree, err := Start(t.Context(), Options{Dir: dir, Log: log, Persons: []Person{{"ada", []string{"admins"}}, {"bob", nil}}})
	if err != nil {
		t.Fatal(err)
	}
	waitReady(t, tree, log)
	t.Logf("ready after %s", tree.Age())
	for _, person := range []string{"ada", "bob"} {
		p, err := tree.Profile(person)
		if err != nil {
			t.Fatal(err)
		}
		if p.Person != person || len(p.PermitKeys) != 1 || !p.Dev || p.Origin != tree.OriginURL() {
			t.Errorf("profile of %s: %+v", person, p)
		}
		if _, err := os.Stat(filepath.Join(dir, Authority, "person-"+person)); err != nil {
			t.Errorf("the authority was not told of %s: %v", person, err)
		}
	}
	resp, err := http.Get(tree.OriginURL() + "/hello.json")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the origin answers %s", resp.Status)
	}
	pids := map[string]int{}
	for _, name := range tree.Names() {
		pids[name] = tree.PID(name)
	}
	if err := tree.Close(); err != nil {
		t.Errorf("close: %v\n%s", err, log)
	}
	for name, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s (%d) still runs: %v", name, pid, err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, "run"))
	if err != nil || len(entries) > 0 {
		t.Errorf("left in run: %v %v", entries, err)
	}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestWhatDiesIsStartedAgain(t *testing.T) {
	tree, log := start(t, Options{})
	for _, name := range []string{Engine, "runner-standard-1", Authority} {
		before := tree.PID(name)
		if err := tree.Kill(name); err != nil {
			t.Fatal(err)
		}
		waitReady(t, tree, log)
		if after := tree.PID(name); after == before || after == 0 {
			t.Errorf("%s: process %d before it was killed, %d after", name, before, after)
		}
		if got := tree.Starts(name); got != 2 {
			t.Errorf("%s was started %d times", name, got)
		}
	}
}

func TestStopStartRestart(t *testing.T) {
	tree, log := start(t, Options{})
	if err := tree.Stop(Console); err != nil {
		t.Fatal(err)
	}
	if pid := tree.PID(Console); pid != 0 {
		t.Errorf("the stopped console runs as %d", pid)
	}
	waitReady(t, tree, log) // what is stopped is not waited for
	if err := tree.StartRole(Console); err != nil {
		t.Fatal(err)
	}
	waitReady(t, tree, log)
	before := tree.PID(Console)
	if err := tree.Restart(t.Context(), Console); err != nil {
		t.Fatal(err)
	}
	if after := tree.PID(Console); after == 0 || after == before {
		t.Errorf("restarted console: %d, was %d", after, before)
	}
}

func TestBackoff(t *testing.T) {
	tree, log := start(t, Options{})
	tree.SetEnv(Console, "STUB_DIES=1")
	if err := tree.Kill(Console); err != nil {
		t.Fatal(err)
	}
	wants := []string{"in 100ms", "in 200ms", "in 400ms"}
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(log.String(), wants[2]) {
		if time.Now().After(deadline) {
			t.Fatalf("no growing backoff:\n%s", log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, w := range wants {
		if !strings.Contains(log.String(), w) {
			t.Errorf("no %q in\n%s", w, log)
		}
	}
	tree.SetEnv(Console)
	waitReady(t, tree, log)
}

func TestChildrenEndWithTheirSupervisor(t *testing.T) {
	dir := hubDir(t)
	cmd := exec.Command(os.Args[0], "supervise-and-hang", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if len(pids) != 6 {
		t.Fatalf("the supervisor told of processes %v", pids)
	}
	deadline := time.Now().Add(30 * time.Second)
	for _, pid := range pids {
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d has outlived its supervisor", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// alive is false also for a process that has ended and that nobody has waited for.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !errors.Is(err, fs.ErrNotExist)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	tree, _ := start(t, Options{})
	if second, err := Start(t.Context(), Options{Dir: tree.Dir()}); err == nil {
		second.Close()
		t.Error("a second supervisor took the same folder")
	}
}

func TestOptionsAreRefused(t *testing.T) {
	open := hubDir(t)
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"no folder":         {},
		"folder of others":  {Dir: open},
		"folder too long":   {Dir: filepath.Join(t.TempDir(), strings.Repeat("x", 100))},
		"person outside":    {Dir: hubDir(t), Persons: []Person{{Name: "../ada"}}},
		"person twice":      {Dir: hubDir(t), Persons: []Person{{Name: "ada"}, {Name: "ada"}}},
		"group with spaces": {Dir: hubDir(t), Persons: []Person{{Name: "ada", Groups: []string{"a b"}}}},
		"runner twice":      {Dir: hubDir(t), Runners: []Runner{{"a", "standard"}, {"a", "privileged"}}},
	} {
		if tree, err := Start(t.Context(), o); err == nil {
			tree.Close()
			t.Errorf("%s: started", name)
		}
	}
}

func TestEnvironmentIsMinimal(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-supervisor")
	tree, _ := start(t, Options{Env: map[string][]string{Engine: {"CARDEA_LOG_LEVEL=info"}}})
	for _, name := range tree.Names() {
		env, err := os.ReadFile("/proc/" + strconv.Itoa(tree.PID(name)) + "/environ")
		if err != nil {
			t.Skipf("cannot read the environment of a process that is not dumpable: %v", err)
		}
		if bytes.Contains(env, []byte("canary")) {
			t.Errorf("%s has the supervisor's environment", name)
		}
	}
}
