package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cardea/internal/cli"
	"cardea/internal/demo/services"
)

// shell is a folder in which people use the command line, and a hub that one of them has started in it.
type shell struct {
	t    *testing.T
	dir  string
	dev  *exec.Cmd
	out  *logBuffer
	gone chan error
}

const dev = "dev" // the folder of the hub

func newShell(t *testing.T) *shell {
	dir, err := os.MkdirTemp("", "people-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.CopyFS(dir, os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	return &shell{t: t, dir: dir}
}

// start runs `cardea dev` and waits until it says that it is ready.
func (s *shell) start() {
	s.t.Helper()
	path, err := built()
	if err != nil {
		s.t.Fatal(err)
	}
	s.out, s.gone = &logBuffer{}, make(chan error, 1)
	s.dev = exec.Command(path, "dev", "--dir", dev, "--drain", "3s", "--person", "ana=admins", "--person", "bo=treasury", "--person", "eve=security")
	s.dev.Dir, s.dev.Env = s.dir, []string{"HOME=" + s.dir, "NO_COLOR=1"}
	s.dev.Stdout, s.dev.Stderr = s.out, s.out
	if err := s.dev.Start(); err != nil {
		s.t.Fatal(err)
	}
	gone, cmd := s.gone, s.dev
	go func() { gone <- cmd.Wait() }()
	s.t.Cleanup(func() { _ = cmd.Process.Kill() })
	s.until("the hub to be ready", func() bool { return strings.Contains(string(s.out.bytes()), "ready in") })
}

// stop interrupts the hub as Ctrl-C does, and looks at what is left.
func (s *shell) stop() {
	s.t.Helper()
	if err := s.dev.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.gone:
		if err != nil {
			s.t.Errorf("cardea dev ended with %v\n%s", err, s.out.bytes())
		}
	case <-time.After(patience):
		s.t.Fatalf("cardea dev does not stop\n%s", s.out.bytes())
	}
	if left := s.processes(); len(left) != 0 {
		s.t.Errorf("it left processes: %v", left)
	}
	sockets, err := os.ReadDir(filepath.Join(s.dir, dev, "run"))
	if err != nil || len(sockets) != 0 {
		s.t.Errorf("it left sockets: %v %v", sockets, err)
	}
}

// processes are those whose command line names this test's folder.
func (s *shell) processes() (left []string) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range found {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(s.dir)) {
			left = append(left, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return left
}

func (s *shell) until(what string, ready func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %s for %s\n%s", patience, what, s.out.bytes())
		}
	}
}

// cardea is what a person types.
func (s *shell) cardea(person string, args ...string) (string, cli.Exit) {
	s.t.Helper()
	path, err := built()
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"CARDEA_PROFILE=" + filepath.Join(dev, "profile-"+person+".json"), "HOME=" + s.dir, "NO_COLOR=1", "COLUMNS=160"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		s.t.Fatal(err)
	}
	return out.String(), cli.Exit(cmd.ProcessState.ExitCode())
}

// want demands how a command ends, and words that it says.
func (s *shell) want(exit cli.Exit, person string, words []string, args ...string) string {
	s.t.Helper()
	out, got := s.cardea(person, args...)
	if got != exit {
		s.t.Fatalf("%s: cardea %s: exit %d, not %d\n%s", person, strings.Join(args, " "), got, exit, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			s.t.Errorf("%s: cardea %s does not say %q:\n%s", person, strings.Join(args, " "), w, out)
		}
	}
	return out
}

// ask reads a command's one JSON document.
func (s *shell) ask(into any, person string, args ...string) {
	s.t.Helper()
	out := s.want(cli.OK, person, nil, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		s.t.Fatalf("cardea %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// apply has ana apply folders and eve sign what ana may not grant alone.
func (s *shell) apply(paths ...string) {
	s.t.Helper()
	args := []string{"apply", "--yes"}
	for _, p := range paths {
		args = append(args, "-f", p)
	}
	s.want(cli.Pending, "ana", []string{"others must sign first"}, args...)
	s.want(cli.OK, "eve", nil, "approval", "sign", s.waiting("eve"), "--yes")
	s.want(cli.OK, "ana", []string{"applied"}, args...)
	s.want(cli.OK, "ana", []string{"Nothing changes"}, args...)
}

// waiting is the one approval that waits for a person.
func (s *shell) waiting(person string) string {
	s.t.Helper()
	var list struct{ Approvals []struct{ ID string } }
	s.until("an approval for "+person, func() bool {
		s.ask(&list, person, "approval", "list")
		return len(list.Approvals) > 0
	})
	if len(list.Approvals) != 1 {
		s.t.Fatalf("%d approvals wait for %s", len(list.Approvals), person)
	}
	return list.Approvals[0].ID
}

// started starts a run.
func (s *shell) started(workflow, input string) string {
	s.t.Helper()
	var run struct {
		RunID string `json:"run_id"`
	}
	s.ask(&run, "ana", "run", "start", workflow, "--input", input)
	return run.RunID
}

// size verifies the ledger and tells how many leaves it has.
func (s *shell) size() int64 {
	s.t.Helper()
	var report struct {
		OK     bool
		Leaves json.Number
	}
	s.ask(&report, "ana", "ledger", "verify")
	n, err := strconv.ParseInt(string(report.Leaves), 10, 64)
	if err != nil || !report.OK {
		s.t.Fatalf("the ledger does not verify: %+v %v", report, err)
	}
	return n
}

// services starts what payroll talks to, and a binding that says where.
func (s *shell) services() (bank *services.Service) {
	s.t.Helper()
	var profile struct{ Origin string }
	text, err := os.ReadFile(filepath.Join(s.dir, dev, "profile.json"))
	if err == nil {
		err = json.Unmarshal(text, &profile)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	binding := "kind: Binding\nname: test\nconnections:\n"
	for _, kind := range []services.Kind{services.HR, services.Bank} {
		service, err := services.Start(s.t.Context(), services.Options{Kind: kind, Issuer: profile.Origin})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(service.Close)
		if err := os.WriteFile(filepath.Join(s.dir, string(kind)+".pem"), []byte(service.RootsPEM()), 0o600); err != nil {
			s.t.Fatal(err)
		}
		binding += fmt.Sprintf("  %s: {address: '%s', rootsFile: %s.pem}\n", kind, service.Addr(), kind)
		bank = service
	}
	if err := os.WriteFile(filepath.Join(s.dir, "binding.yaml"), []byte(binding), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return bank
}

// TestEndToEnd is a week of three people with one hub: it is started, used, stopped, started again, killed, and started again.
func TestEndToEnd(t *testing.T) {
	s := newShell(t)
	s.want(cli.Identity, "ana", nil, "run", "list") // there is no hub and no profile yet
	s.start()
	s.want(cli.OK, "ana", nil, "doctor")
	s.want(cli.Usage, "ana", nil, "run", "start")
	s.want(cli.NotFound, "ana", nil, "run", "show", "run_01j00000000000000000000000")
	s.want(cli.Usage, "ana", nil, "workflow", "lint", "not-there.yaml")
	s.want(cli.OK, "ana", nil, "workflow", "lint", "payroll/pay-run.yaml")

	s.apply("hello")
	s.want(cli.OK, "ana", []string{"Hello, Ana!"}, "run", "start", "hello/greet", "--input", `{"name":"Ana"}`, "--wait")
	bank := s.services()
	s.apply("payroll", "binding.yaml")
	s.want(cli.Denied, "ana", []string{"denied"}, "run", "start", "payroll/pay-run-test", "--input", "payroll/inputs/may.json", "--wait")
	s.want(cli.Denied, "bo", nil, "run", "start", "payroll/pay-run", "--input", "payroll/inputs/may.json")

	first := s.started("payroll/pay-run", "payroll/inputs/may.json")
	question := s.waiting("bo")
	s.want(cli.Pending, "ana", nil, "run", "watch", first, "--timeout", "200ms")
	s.want(cli.Denied, "ana", nil, "approval", "sign", question, "--yes")
	if n := bank.Stats().Transfers; n != 0 {
		t.Fatalf("%d transfers before anybody signed", n)
	}
	s.want(cli.OK, "bo", nil, "approval", "sign", question, "--yes")
	s.want(cli.OK, "ana", []string{"completed", "2 credentials issued"}, "run", "watch", first)
	s.want(cli.OK, "ana", []string{"signed", "by bo", question}, "run", "show", first)
	refused := s.started("payroll/pay-run", "payroll/inputs/may.json")
	s.want(cli.OK, "bo", nil, "approval", "refuse", s.waiting("bo"), "--yes", "--reason", "twice in May")
	s.want(cli.Denied, "ana", nil, "run", "watch", refused)

	waits := s.started("payroll/pay-run", "payroll/inputs/may.json")
	question = s.waiting("bo")
	seen := s.known(first, refused, waits)
	size := s.size()
	s.stop()
	s.want(cli.Unavailable, "ana", nil, "run", "list")

	s.start()
	s.same(seen, size)
	if got := s.waiting("bo"); got != question {
		t.Errorf("approval %s waits, not %s", got, question)
	}
	s.want(cli.OK, "bo", nil, "approval", "sign", question, "--yes")
	s.want(cli.OK, "ana", nil, "run", "watch", waits)
	seen, size = s.known(first, refused, waits), s.size()

	// The machine loses power, as far as processes can tell: the supervisor is killed, and nobody is left behind.
	if err := s.dev.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.gone
	s.until("the roles to end with their supervisor", func() bool { return len(s.processes()) == 0 })
	s.start()
	s.same(seen, size)
	if n := bank.Stats(); n.Transfers != 2 || n.Conflicts != 0 {
		t.Errorf("the bank saw %+v; two pay runs were signed", n)
	}
	s.want(cli.OK, "ana", nil, "doctor")
	s.stop()
}

// known is what a person has seen of runs.
func (s *shell) known(ids ...string) map[string]string {
	s.t.Helper()
	seen := map[string]string{}
	for _, id := range ids {
		var shown struct {
			Run struct {
				Status string
				Output json.RawMessage
				Tasks  []struct{ Name, Status string }
			}
		}
		s.ask(&shown, "ana", "run", "show", id)
		seen[id] = fmt.Sprintf("%s %s %v", shown.Run.Status, shown.Run.Output, shown.Run.Tasks)
	}
	return seen
}

// same demands that nothing which was seen is unseen now, and that the ledger is no shorter (invariants 13 and 14).
func (s *shell) same(seen map[string]string, size int64) {
	s.t.Helper()
	for id, before := range seen {
		if after := s.known(id)[id]; after != before {
			s.t.Errorf("run %s was %q and is %q", id, before, after)
		}
	}
	if now := s.size(); now < size {
		s.t.Errorf("the ledger had %d leaves and has %d", size, now)
	}
}
