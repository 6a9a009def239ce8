// Command bench measures a whole hub: real processes, a target that is a process of its own, everything durable on a real disk.
//
// It promises that a figure is printed only beside counts that agree: every step that it counts as done has a verdict, an issuance and an
// action in a ledger that verifies, a result in the engine's journal, and a request that the target accepted. It refuses a disk that is
// memory. docs/benchmarks.md says what each figure means.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// run is main without the process: its arguments are those of the command.
func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == targetCommand {
		return serveTarget(ctx, args[1:], os.Stdin, out)
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	figures, err := measure(ctx, o, out)
	if err != nil {
		return err
	}
	if o.json == "" {
		return nil
	}
	return figures.write(o.json)
}

// options say what to measure and for how long.
type options struct {
	binary string
	dir    string
	json   string
	plan   plan
}

// plan is how much is measured: a quick look needs less than a figure that is quoted.
type plan struct {
	syncs    int // writes with fdatasync
	starts   int // of a whole hub
	leaves   int // appended in process
	warm     time.Duration
	alone    time.Duration // the window with one run at a time
	together time.Duration // the window with many
	settle   time.Duration // before memory is read as idle
	many     int
}

func parse(args []string) (options, error) {
	o := options{}
	short := false
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.binary, "binary", "bin/cardea", "the cardea executable")
	flags.StringVar(&o.dir, "dir", "", "where to make the hub's folder; by default the user's cache folder")
	flags.StringVar(&o.json, "json", os.Getenv("BENCH_JSON"), "also write the figures to this file")
	flags.BoolVar(&short, "short", false, "a quick look: the counts must agree, the figures mean little")
	alone := flags.Duration("alone", 10*time.Second, "how long to measure one run at a time")
	together := flags.Duration("together", 15*time.Second, "how long to measure many at once")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	o.plan = plan{syncs: 400, starts: 5, leaves: 20_000, warm: 3 * time.Second, alone: *alone, together: *together, settle: 2 * time.Second, many: 50}
	if short {
		o.plan = plan{syncs: 200, starts: 1, leaves: 1000, warm: 200 * time.Millisecond, alone: 500 * time.Millisecond, together: time.Second, settle: 100 * time.Millisecond, many: 50}
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return o, err
	}
	o.binary = binary
	if o.dir == "" {
		if o.dir, err = os.UserCacheDir(); err != nil {
			o.dir = "."
		}
	}
	return o, nil
}

// measure makes a folder, measures in it and removes it.
func measure(ctx context.Context, o options, out io.Writer) (f figures, err error) {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.dir, "cardea-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := refuseMemory(dir); err != nil {
		return nil, err
	}
	b := &bench{plan: o.plan, binary: o.binary, dir: dir, out: out, figures: figures{}}
	for _, part := range []func(context.Context) error{b.disk, b.leaf, b.ready, b.steps} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	return b.figures, nil
}
