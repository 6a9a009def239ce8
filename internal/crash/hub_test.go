package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/approval/verify"
	"cardea/internal/cli"
	"cardea/internal/crash/target"
	"cardea/internal/profile"
	"cardea/internal/role"
	"cardea/internal/supervise"
)

// The people of every hub here.
const (
	ana = "ana" // administers, applies, starts
	bo  = "bo"  // signs
)

// standard is the runner that does all work here.
const standard = "runner-standard-1"

// folder is the test binary's own, for as long as it runs; TestMain makes it.
var folder string

// built is the real binary, in which fault points are alive: built when the first test needs it.
var built = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "cardea")
	out, err := exec.Command("go", "build", "-tags", "faultpoints", "-o", path, "cardea/cmd/cardea").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	var err error
	if folder, err = os.MkdirTemp("", "cardea-crash-*"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// hub is a running tree with a target, as people see it.
type hub struct {
	t      *testing.T
	dir    string
	tree   *supervise.Tree
	target *target.Service
	log    *logBuffer
	ana    *cli.Client
	bo     *cli.Client
	keys   profile.Profile // bo's
}

// patience bounds every wait. It is for what hangs: nothing here is right or wrong by its speed.
const patience = 60 * time.Second

func newHub(t *testing.T, logLevel string) *hub {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "crash-*") // short: sockets have paths of at most 104 bytes
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{t: t, dir: dir, log: &logBuffer{}}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h.tree, err = supervise.Start(t.Context(), supervise.Options{
		Binary: path, Dir: filepath.Join(dir, "hub"), Log: h.log, LogLevel: logLevel, Drain: 3 * time.Second,
		Persons: []supervise.Person{{Name: ana, Groups: []string{"admins"}}, {Name: bo, Groups: []string{"security", "treasury"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	h.ready()
	h.target = target.Start(t.Context(), h.tree.OriginURL())
	t.Cleanup(h.target.Close)
	h.ana, _ = h.client(ana)
	h.bo, h.keys = h.client(bo)
	h.apply()
	return h
}

// close stops the tree, and shows what the roles had to say if the test has failed.
func (h *hub) close() {
	if err := h.tree.Close(); err != nil {
		h.t.Errorf("close: %v", err)
	}
	if h.t.Failed() {
		h.t.Logf("the roles' logs:\n%s", h.log.tail(150))
	}
}

func (h *hub) ready() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.tree.WaitReady(ctx); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) client(person string) (*cli.Client, profile.Profile) {
	h.t.Helper()
	p, err := h.tree.Profile(person)
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := cli.NewClient(p)
	if err != nil {
		h.t.Fatal(err)
	}
	return c, p
}

// cardea executes the real command line as a person, in the folder of the hub's resources.
func (h *hub) cardea(person string, args ...string) (out string, exit int) {
	h.t.Helper()
	path, err := built()
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = h.dir
	cmd.Env = []string{"CARDEA_PROFILE=" + h.tree.ProfilePath(person), "HOME=" + h.dir, "NO_COLOR=1", "COLUMNS=160"}
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		h.t.Fatalf("cardea %s: %v", strings.Join(args, " "), err)
	}
	return all.String(), cmd.ProcessState.ExitCode()
}

// apply registers testdata/hub, with its connection bound to the target; bo signs what ana may not grant alone.
func (h *hub) apply() {
	h.t.Helper()
	resources := filepath.Join(h.dir, "crash")
	if err := os.CopyFS(resources, os.DirFS("testdata/hub")); err != nil {
		h.t.Fatal(err)
	}
	binding := fmt.Sprintf("kind: Binding\nname: test\nconnections:\n  target: {address: '%s', rootsFile: target.pem}\n", h.target.Addr())
	for name, text := range map[string]string{"binding.yaml": binding, "target.pem": h.target.RootsPEM()} {
		if err := os.WriteFile(filepath.Join(resources, name), []byte(text), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	args := []string{"apply", "-f", "crash", "--yes"}
	if out, exit := h.cardea(ana, args...); exit != int(cli.Pending) {
		h.t.Fatalf("ana granted alone: exit %d\n%s", exit, out)
	}
	for id := range h.waiting("") {
		if err := h.sign(h.t.Context(), id); err != nil {
			h.t.Fatal(err)
		}
	}
	if out, exit := h.cardea(ana, args...); exit != int(cli.OK) {
		h.t.Fatalf("apply: exit %d\n%s", exit, out)
	}
}

// waiting are the approvals that wait for bo: of one run, or of all.
func (h *hub) waiting(run string) map[string]*cardeav1.Approval {
	h.t.Helper()
	found := map[string]*cardeav1.Approval{}
	h.insist("list approvals", func(ctx context.Context) error {
		answer, err := h.bo.Control.ListApprovals(ctx, &cardeav1.ListApprovalsRequest{RunId: run})
		for _, a := range answer.GetApprovals() {
			if a.GetState() == "pending" {
				found[a.GetId()] = a
			}
		}
		return err
	})
	return found
}

// sign signs an approval as bo, once.
func (h *hub) sign(ctx context.Context, id string) error {
	shown, err := h.bo.Control.GetApproval(ctx, &cardeav1.GetApprovalRequest{Id: id})
	if err != nil {
		return err
	}
	a := shown.GetApproval()
	if _, err := cli.VerifiedStatement(a, id, h.keys.Keys()); err != nil {
		return err
	}
	signer, err := verify.FileSigner(h.keys.SSHKey, nil)
	if err != nil {
		return err
	}
	signature, err := verify.SignApproval(signer, a.GetStatement(), false)
	if err != nil {
		return err
	}
	_, err = h.bo.Control.Sign(ctx, &cardeav1.SignRequest{ApprovalId: id, Signature: signature})
	return err
}

// away says that a call got no answer, or one that means: ask again. Whether it had its effect is unknown.
func away(err error) bool {
	switch cli.Explain(err).Exit {
	case cli.Unavailable, cli.Pending, cli.Interrupted:
		return true
	}
	return false
}

// insist asks until there is an answer, as a person would while roles come and go. An answer that is a refusal fails the test.
func (h *hub) insist(what string, call func(context.Context) error) {
	h.t.Helper()
	if err := h.try(call); err != nil {
		h.t.Errorf("%s: %v", what, err)
	}
}

func (h *hub) try(call func(context.Context) error) error {
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := call(ctx)
		cancel()
		if err == nil || !away(err) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// until waits for something to become true.
func (h *hub) until(what string, ready func() bool) {
	h.t.Helper()
	h.untilOr(what, ready, func() string { return "" })
}

// untilOr waits like until, and says more when it was in vain.
func (h *hub) untilOr(what string, ready func() bool, why func() string) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited %s for %s\n%s", patience, what, why())
		}
	}
}

// logBuffer keeps what the roles write.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.text.Bytes())
}

func (b *logBuffer) tail(lines int) string {
	all := strings.Split(string(b.bytes()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// levels are the engine's gauges, for whoever has to find out why nothing moves.
func (h *hub) levels() string {
	client := role.AdminClient("unix:" + filepath.Join(h.tree.Dir(), "run", "engine-admin.sock"))
	answer, err := client.Get("http://admin/metrics")
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	var out []string
	for _, l := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(l, "cardea_") && !strings.Contains(l, "_bucket") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}
