package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"

	"cardea/internal/demo/services"
)

// targetCommand makes this program the target: a process of its own, so that what verifying costs is paid, and seen, outside the hub.
const targetCommand = "target"

// announcement is the one line that a target writes: where it is and whom to trust there.
type announcement struct {
	Addr     string `json:"addr"`
	Host     string `json:"host"`
	Audience string `json:"audience"`
	Roots    string `json:"roots"`
}

// serveTarget serves until its standard input ends, as it does when whoever started it is gone; then it writes its counts.
func serveTarget(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet(targetCommand, flag.ContinueOnError)
	issuer := flags.String("issuer", "", "whose tokens are accepted")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := services.Start(ctx, services.Options{Kind: services.Bank, Issuer: *issuer})
	if err != nil {
		return err
	}
	defer s.Close()
	encoder := json.NewEncoder(out)
	if err := encoder.Encode(announcement{Addr: s.Addr(), Host: s.Host(), Audience: s.Audience(), Roots: s.RootsPEM()}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	return encoder.Encode(s.Stats())
}

// target is the running process.
type target struct {
	announcement
	cmd   *exec.Cmd
	stdin io.Closer
	out   *json.Decoder
}

// startTarget runs this very program as the target.
func startTarget(ctx context.Context, issuer string) (*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	t := &target{cmd: exec.CommandContext(ctx, self, targetCommand, "-issuer", issuer)}
	t.cmd.Stderr = os.Stderr
	stdin, err := t.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	t.stdin, t.out = stdin, json.NewDecoder(stdout)
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the target: %w", err)
	}
	if err := t.out.Decode(&t.announcement); err != nil {
		_, stopErr := t.stop()
		return nil, errors.Join(fmt.Errorf("the target does not say where it is: %w", err), stopErr)
	}
	return t, nil
}

func (t *target) pid() int { return t.cmd.Process.Pid }

// stop ends the target and returns what it has counted.
func (t *target) stop() (services.Stats, error) {
	var counted services.Stats
	closing := t.stdin.Close()
	reading := t.out.Decode(&counted)
	return counted, errors.Join(closing, reading, t.cmd.Wait())
}
