package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cardea/internal/cli"
	"cardea/internal/supervise"
)

// devStart bounds how long a hub may take until all its roles are ready. A second is usual.
const devStart = time.Minute

// devFlags are what `cardea dev` is told.
type devFlags struct {
	dir       string
	persons   []string
	logFormat string
	logLevel  string
	drain     time.Duration
}

func (a *app) devCommand() *cobra.Command {
	var f devFlags
	c := &cobra.Command{
		Use: "dev", Short: "Start a whole hub on this machine, one process per role", Args: exactly(), GroupID: groupServe,
		Long: "Starts authority, engine, two runners, console and origin as child processes, keeps them running and stops them at Ctrl-C.\n" +
			"The hub's folder keeps everything: start it again in the same folder to go on. It is for one evaluator: all roles share your\n" +
			"user, rules that ask for several people warn, and every leaf of the ledger says dev.",
	}
	c.Flags().StringVar(&f.dir, "dir", ".cardea", "the hub's folder")
	c.Flags().StringArrayVar(&f.persons, "person", []string{"dev=admins"}, "person to know from the start, as NAME or NAME=group,group; may be repeated")
	c.Flags().StringVar(&f.logFormat, "log-format", formatText, "log of the roles: text or json")
	c.Flags().StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
	c.Flags().DurationVar(&f.drain, "drain", 10*time.Second, "how long each role may take to stop")
	_ = c.MarkFlagDirname("dir")
	c.RunE = func(c *cobra.Command, _ []string) error { return a.dev(c.Context(), f) }
	return c
}

// dev runs a hub until it is told to stop.
func (a *app) dev(ctx context.Context, f devFlags) error {
	if f.logFormat != formatText && f.logFormat != formatJSON {
		return cli.Fail(cli.Usage, "use text or json", "there is no log format %q", f.logFormat)
	}
	opts := supervise.Options{
		Dir: f.dir, Log: a.err, LogFormat: f.logFormat, LogLevel: f.logLevel, Drain: f.drain,
		Color: cli.NewOut(a.err, a.env).Terminal() && a.env("NO_COLOR") == "",
	}
	for _, p := range f.persons {
		person, err := supervise.ParsePerson(p)
		if err != nil {
			return cli.Fail(cli.Usage, "", "--person: %s", err.Error())
		}
		opts.Persons = append(opts.Persons, person)
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	tree, err := supervise.Start(ctx, opts)
	if err != nil {
		return err
	}
	err = a.serveDev(ctx, tree, f)
	if closeErr := tree.Close(); err == nil {
		err = closeErr
	}
	return err
}

func (a *app) serveDev(ctx context.Context, tree *supervise.Tree, f devFlags) error {
	starting, cancel := context.WithTimeout(ctx, devStart)
	defer cancel()
	if err := tree.WaitReady(starting); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while starting
		}
		return fmt.Errorf("the hub did not become ready within %s: %w", devStart, err)
	}
	if f.logFormat == formatText {
		if err := cli.NewOut(a.out, a.env).Print(devBanner(tree, tree.Age(), os.Getenv("HOME"))...); err != nil {
			return err
		}
	}
	<-ctx.Done()
	if f.logFormat == formatText {
		return cli.NewOut(a.out, a.env).Say("stopping …")
	}
	return nil
}

// devBanner is what one needs to know of a hub that has just started.
func devBanner(tree *supervise.Tree, took time.Duration, home string) []cli.Line {
	dir := tree.Dir()
	show := func(label cli.Safe, value cli.Safe) cli.Line {
		return cli.Line{}.Add(cli.Dim, cli.F("  %-10s", label)).Add(cli.Plain, value)
	}
	lines := []cli.Line{
		{},
		cli.Line{}.Add(cli.Bold, "  Cardea").Add(cli.Plain, cli.F(" %s  ", readBuild().Version)).Add(cli.Green, cli.F("ready in %d ms", took.Milliseconds())),
		{},
		show("folder", cli.Clean(tildeOf(dir, home))),
		show("processes", cli.F("%d: %s", len(tree.Names()), cli.Join(tree.Names(), " "))),
		show("origin", cli.Clean(tree.OriginURL())),
	}
	for _, p := range tree.Persons() {
		lines = append(lines, show("person", cli.F("%s  (%s)", p.Name, cli.Join(p.Groups, ", "))))
	}
	profile := filepath.Join(dir, "profile.json")
	lines = append(lines, show("profile", cli.Clean(tildeOf(profile, home))), cli.Line{},
		cli.Line{}.Add(cli.Yellow, "  dev: one person may approve alone, and every leaf of the ledger says so."),
		cli.Line{}.Add(cli.Yellow, "  All roles share one user id here: the walls are processes, not users."),
	)
	for _, f := range cli.CheckPlatform() {
		if f.Health != cli.Good {
			lines = append(lines, cli.Line{}.Add(cli.Yellow, cli.F("  %s: %s", f.Name, f.Text)))
		}
	}
	lines = append(lines, cli.Line{}, cli.L("  In another terminal:"))
	if wd, err := os.Getwd(); err != nil || dir != filepath.Join(wd, ".cardea") {
		lines = append(lines, cli.L(cli.F("    export CARDEA_PROFILE=%s", profile)))
	}
	return append(lines,
		cli.L("    cardea doctor"),
		cli.L("    cardea apply -f examples/hello"),
		cli.L("    cardea run start hello/greet --input examples/hello/inputs/ana.json --wait"), cli.Line{},
		cli.Line{}.Add(cli.Dim, "  Ctrl-C stops everything; the folder keeps it."), cli.Line{})
}

// tildeOf shortens a path in the user's home.
func tildeOf(path, home string) string {
	if rel, err := filepath.Rel(home, path); home != "" && err == nil && filepath.IsLocal(rel) {
		return filepath.Join("~", rel)
	}
	return path
}
