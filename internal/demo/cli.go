package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// The exit codes of cardea that the story looks for; `cardea help exit-codes` has them all.
const (
	exitOK      = 0
	exitFailed  = 1
	exitDenied  = 3
	exitPending = 4
)

// ran is what one command did.
type ran struct {
	out  string
	exit int
}

// cardea runs the real command line as one person.
func (d *demo) cardea(ctx context.Context, person string, args ...string) (ran, error) {
	binary := d.options.Binary
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return ran{}, err
		}
		binary = self
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = d.dir
	cmd.Env = []string{"CARDEA_PROFILE=" + d.tree.ProfilePath(person), "HOME=" + d.dir, "COLUMNS=" + fmt.Sprint(d.page.columns-4), "NO_COLOR=1", "LANG=C.UTF-8"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		return ran{}, fmt.Errorf("cardea %s: %w", args[0], err)
	}
	return ran{out: out.String(), exit: cmd.ProcessState.ExitCode()}, nil
}

// show runs a command in sight, and demands how it ends.
func (d *demo) show(ctx context.Context, person string, want int, args ...string) (ran, error) {
	d.page.command(person, args)
	r, err := d.cardea(ctx, person, args...)
	if err != nil {
		return r, err
	}
	d.page.output(r.out)
	if r.exit != want {
		return r, fmt.Errorf("cardea %s ended with %d, not %d", strings.Join(args, " "), r.exit, want)
	}
	return r, nil
}

// ask runs a command out of sight and decodes its JSON.
func (d *demo) ask(ctx context.Context, person string, into any, args ...string) error {
	r, err := d.cardea(ctx, person, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if r.exit != exitOK {
		return fmt.Errorf("cardea %s: %s", strings.Join(args, " "), strings.TrimSpace(r.out))
	}
	if err := json.Unmarshal([]byte(r.out), into); err != nil {
		return fmt.Errorf("cardea %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// patience bounds every wait of the story.
const patience = 20 * time.Second

// until asks again until ready says so.
func (d *demo) until(ctx context.Context, what string, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ok, err := ready()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s", patience, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startRun starts a run in sight and returns its id.
func (d *demo) startRun(ctx context.Context, person, workflow, input string) (string, error) {
	args := []string{"run", "start", workflow, "--input", input}
	d.page.command(person, args)
	var started struct {
		RunID string `json:"run_id"`
	}
	if err := d.ask(ctx, person, &started, args...); err != nil {
		return "", err
	}
	if started.RunID == "" {
		return "", errors.New("the hub answered without a run id")
	}
	d.page.output("run " + started.RunID)
	return started.RunID, nil
}

// approvalRow is what the story needs of an approval.
type approvalRow struct {
	ID          string `json:"id"`
	State       string `json:"state"`
	Replaces    string `json:"replaces"`
	Differences []struct {
		Path   string `json:"path"`
		Before string `json:"before"`
		After  string `json:"after"`
	} `json:"differences"`
}

// waitingApproval waits until a run asks for an approval.
func (d *demo) waitingApproval(ctx context.Context, run string) (approvalRow, error) {
	var found approvalRow
	err := d.until(ctx, "the approval", func() (bool, error) {
		var list struct {
			Approvals []approvalRow `json:"approvals"`
		}
		if err := d.ask(ctx, bo, &list, "approval", "list", "--run", run); err != nil {
			return false, err
		}
		for _, a := range list.Approvals {
			if a.State == "pending" {
				found = a
				return true, nil
			}
		}
		return false, nil
	})
	return found, err
}
