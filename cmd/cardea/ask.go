package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"cardea/internal/cli"
)

// confirm asks a person, and takes silence for no. Without a terminal it refuses, and names the flag that says yes instead:
// a script that did not think of the question must not answer it.
func (a *app) confirm(ctx context.Context, question cli.Safe) (bool, error) {
	if !a.interactive() {
		return false, cli.Fail(cli.Usage, "--yes answers beforehand", "there is no terminal to ask at: %s", question)
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // a read from a terminal cannot be cancelled; the process ends with the command
		line, err := bufio.NewReader(a.in).ReadString('\n')
		if err != nil {
			line = ""
			fmt.Fprintln(a.err)
		}
		answer <- line
	}()
	select {
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return true, nil
		}
		return false, nil
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return false, ctx.Err()
	}
}

// passphrase asks for the passphrase of a key without echo.
func (a *app) passphrase(path string) ([]byte, error) {
	in, ok := a.in.(*os.File)
	if !ok || !a.interactive() {
		return nil, cli.Fail(cli.Usage, "add the key to ssh-agent", "there is no terminal to ask for the passphrase of %s at", path)
	}
	fmt.Fprintf(a.err, "passphrase of %s: ", cli.Clean(path))
	pass, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(a.err)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	return pass, nil
}
