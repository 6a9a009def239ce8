package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"cardea/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cardea": main})
}

// TestScripts are commands that need no hub, through the real binary.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"CARDEA_PROFILE", "SSH_AUTH_SOCK", "XDG_CONFIG_HOME"} {
				e.Setenv(name, "")
			}
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}

// result is what a command left behind.
type result struct {
	exit     cli.Exit
	out, err string
}

// command runs one command line in this process, as a script would: without a terminal.
func command(t *testing.T, env map[string]string, in string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(in), out: &out, err: &errs, env: func(k string) string { return env[k] }, now: time.Now}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit := a.run(ctx, args)
	return result{exit, out.String(), errs.String()}
}

func (r result) want(t *testing.T, exit cli.Exit, out ...string) {
	t.Helper()
	if r.exit != exit {
		t.Fatalf("exit %d, want %d\nout: %s\nerr: %s", r.exit, exit, r.out, r.err)
	}
	for _, o := range out {
		if !strings.Contains(r.out+r.err, o) {
			t.Fatalf("%q is missing\nout: %s\nerr: %s", o, r.out, r.err)
		}
	}
}

func TestEveryCommandIsDescribed(t *testing.T) {
	a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}, env: func(string) string { return "" }, now: time.Now}
	walk(a.root(), func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short help %q", c.CommandPath(), c.Short)
		}
		if c.Runnable() && c.Args == nil {
			t.Errorf("%s takes any arguments", c.CommandPath())
		}
	})
}
