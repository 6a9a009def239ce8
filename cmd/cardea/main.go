// Command cardea is server and client of a Cardea hub: a role per process, and a noun per family of client commands.
//
// Everything is built in sight here. A command parses, calls, prints and exits with one of the codes that
// `cardea help exit-codes` lists.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cardea/internal/cli"
)

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now}
	os.Exit(int(a.run(context.Background(), os.Args[1:])))
}

// app is what commands use of the process. Tests make their own.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	now      func() time.Time

	// Set by flags of client commands.
	profilePath string
	format      string
}

// run executes one command line and says how it ended.
func (a *app) run(ctx context.Context, args []string) cli.Exit {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return cli.OK
	}
	return a.report(err)
}

// report writes what went wrong to standard error, as JSON if that was asked for.
func (a *app) report(err error) cli.Exit {
	e := cli.Explain(err)
	if e.Shown {
		return e.Exit
	}
	if a.format == formatJSON {
		_ = cli.WriteJSON(a.err, map[string]any{"error": map[string]any{
			"code": e.Exit.Word(), "exit": e.Exit, "message": e.Text, "mend": e.Mend,
		}})
		return e.Exit
	}
	out := cli.NewOut(a.err, a.env)
	lines := []cli.Line{cli.Line{}.Add(cli.Red, "✘ ").Add(cli.Plain, e.Text)}
	if e.Mend != "" {
		lines = append(lines, cli.L("  "+e.Mend))
	}
	_ = out.Print(lines...)
	return e.Exit
}

// root is the whole tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cardea",
		Short: "A workflow engine in which nothing holds standing access",
		Long: "Cardea runs workflows durably. Every attempt of every task gets its own short-lived, least-privilege credential,\n" +
			"decided by policy, approved by people where people must approve, recorded before it is released, and taken back\nwhen the attempt ends.",
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return wantVerb(c, args) },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.Fail(cli.Usage, cli.F("%s --help shows what it takes", c.CommandPath()), "%s", err.Error())
	})
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: groupWork, Title: "Work with a hub:"},
		&cobra.Group{ID: groupProof, Title: "Look into it:"},
		&cobra.Group{ID: groupServe, Title: "Serve:"},
	)
	root.AddCommand(a.applyCommand(), a.workflowCommand(), a.runCommand(), a.approvalCommand(), a.connectionCommand(), a.leaseCommand())
	root.AddCommand(a.ledgerCommand(), a.policyCommand(), a.doctorCommand())
	root.AddCommand(a.devCommand(), a.demoCommand())
	for _, c := range []*cobra.Command{authorityCommand(), engineCommand(), runnerCommand(), consoleCommand(), originCommand()} {
		c.GroupID = groupServe
		root.AddCommand(c)
	}
	root.AddCommand(a.versionCommand(), a.completionCommand(), exitCodesTopic())
	return root
}

const (
	groupWork  = "work"
	groupProof = "proof"
	groupServe = "serve"

	formatText = "text"
	formatJSON = "json"
)

// noun is a command that only groups verbs.
func noun(group, use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, GroupID: group, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return wantVerb(c, args) },
	}
	c.AddCommand(verbs...)
	return c
}

// wantVerb refuses a command line that stops before it says what to do, or says something unknown.
func wantVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		if c.Root() == c {
			return c.Help()
		}
		var verbs []string
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				verbs = append(verbs, sub.Name())
			}
		}
		return cli.Fail(cli.Usage, cli.F("%s --help tells more", c.CommandPath()), "%s needs one of: %s", c.CommandPath(), strings.Join(verbs, ", "))
	}
	mend := cli.F("%s --help lists the commands", c.CommandPath())
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		mend = cli.F("did you mean %s %s?", c.CommandPath(), strings.Join(near, " or "))
	}
	return cli.Fail(cli.Usage, mend, "%s has no command %q", c.CommandPath(), args[0])
}

// exactly refuses any other number of arguments than the names given; a name in brackets is optional.
func exactly(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= len(names) {
			return nil
		}
		takes := "takes no arguments"
		if len(names) > 0 {
			takes = "takes " + strings.Join(names, " ")
		}
		return cli.Fail(cli.Usage, cli.F("%s --help shows how", c.CommandPath()), "%s %s; %d given", c.CommandPath(), takes, len(args))
	}
}

// atLeastOne refuses a command line without arguments.
func atLeastOne(name string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return nil
		}
		return cli.Fail(cli.Usage, cli.F("%s --help shows how", c.CommandPath()), "%s takes at least one %s", c.CommandPath(), name)
	}
}

// interruptible ends ctx at Ctrl-C or SIGTERM. A second signal kills, as everywhere.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// interactive says whether a person can be asked: both what they type and what they see is a terminal.
func (a *app) interactive() bool {
	in, ok := a.in.(*os.File)
	return ok && term.IsTerminal(int(in.Fd())) && cli.NewOut(a.err, a.env).Terminal()
}

// outputFlag adds -o to a command that can answer in JSON.
func (a *app) outputFlag(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&a.format, "output", "o", formatText, "output: text or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formatText, formatJSON}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// checkFormat refuses an output that does not exist, before anything is done.
func (a *app) checkFormat() error {
	if a.format != formatText && a.format != formatJSON {
		given := a.format
		a.format = formatText
		return cli.Fail(cli.Usage, "use text or json", "there is no output %q", given)
	}
	return nil
}

func exitCodesTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString("Every command ends with one of these codes:\n\n")
	for _, row := range cli.ExitTable() {
		fmt.Fprintf(&b, "  %3d  %-12s  %s\n", row.Exit, row.Word, row.Meaning)
	}
	b.WriteString("\nWith -o json, errors go to standard error as {\"error\": {\"code\", \"exit\", \"message\", \"mend\"}}.")
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: b.String()}
}
