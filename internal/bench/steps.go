package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cardea/internal/cli"
	"cardea/internal/supervise"
)

// world is the hub that is measured, its target and its client.
type world struct {
	tree   *supervise.Tree
	target *target
	client *cli.Client
	runs   int // completed, as clients saw them
}

// steps measures governed steps: first one run at a time, then many; then every count is taken and compared.
func (b *bench) steps(ctx context.Context) (err error) {
	w := &world{}
	if w.tree, err = b.start(ctx, "hub"); err != nil {
		return err
	}
	open := true
	defer func() {
		if open {
			err = errors.Join(err, w.tree.Close())
		}
	}()
	if w.target, err = startTarget(ctx, w.tree.OriginURL()); err != nil {
		return err
	}
	if err := b.loads(ctx, w); err != nil {
		_, stopErr := w.target.stop()
		return errors.Join(err, stopErr, fmt.Errorf("the hub's log ends with\n%s", b.logTail("hub")))
	}
	got, err := b.count(ctx, w)
	if err != nil {
		return err
	}
	open = false
	if err := w.tree.Close(); err != nil {
		return fmt.Errorf("stop the hub: %w", err)
	}
	if got.journalled, got.ended, err = journalled(ctx, filepath.Join(w.tree.Dir(), supervise.Engine, "journal.db")); err != nil {
		return err
	}
	return b.agree(got, w.runs)
}

func (b *bench) loads(ctx context.Context, w *world) error {
	if err := b.apply(ctx, w.tree, w.target); err != nil {
		return err
	}
	var err error
	if w.client, err = client(w.tree); err != nil {
		return err
	}
	if err := pause(ctx, b.plan.settle); err != nil {
		return err
	}
	idle, err := w.memory()
	if err != nil {
		return err
	}
	b.figures.set("pss_idle_mb", sum(idle))
	if err := b.window(ctx, w, 1, b.plan.alone); err != nil {
		return err
	}
	return b.window(ctx, w, b.plan.many, b.plan.together)
}

// window measures a while of a steady load: what clients see completed between its two ends counts.
func (b *bench) window(ctx context.Context, w *world, n int, length time.Duration) error {
	l := startLoad(ctx, w.client, n)
	before, after, peak, err := b.watchWindow(ctx, w, length)
	all, loadErr := l.finish()
	w.runs += len(all)
	if err := errors.Join(loadErr, err); err != nil {
		return err
	}
	inside := slices.DeleteFunc(slices.Clone(all), func(d done) bool { return d.at.Before(before.at) || d.at.After(after.at) })
	if len(inside) == 0 {
		return fmt.Errorf("no run completed in %s with %d at a time", length, n)
	}
	if err := l.askSteps(ctx, inside); err != nil {
		return err
	}
	b.report(n, inside, before, after)
	if refused := l.refused.Load(); refused > 0 {
		b.say("          the console put %d calls off: a client may not ask more often, so this measures its limit", refused)
	}
	if err := b.reportTimings(n, before, after); err != nil {
		return err
	}
	b.reportProcessors(n, len(inside)*tasks, before, after)
	if n > 1 {
		b.figures.set("pss_mb", sum(peak))
		line := ""
		for _, name := range w.tree.Names() {
			line += fmt.Sprintf(" %s %.0f", name, peak[name])
		}
		b.say("memory    %.0f MB under that load, %.0f MB idle: proportional set sizes, summed;%s", sum(peak), b.figures["pss_idle_mb"], line)
	}
	return nil
}

// watchWindow waits out the warm-up and the window; peak is the memory of the moment at which the hub had most.
func (b *bench) watchWindow(ctx context.Context, w *world, length time.Duration) (before, after sample, peak map[string]float64, err error) {
	if err = pause(ctx, b.plan.warm); err != nil {
		return
	}
	if before, err = w.sample(ctx); err != nil {
		return
	}
	for end := before.at.Add(length); time.Now().Before(end); {
		if err = pause(ctx, min(time.Second, time.Until(end))); err != nil {
			return
		}
		var now map[string]float64
		if now, err = w.memory(); err != nil {
			return
		}
		if sum(now) > sum(peak) {
			peak = now
		}
	}
	after, err = w.sample(ctx)
	return
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// sample is what has been used up to a moment.
type sample struct {
	at        time.Time
	cpu       map[string]time.Duration // by process; "target" and "clients" are no part of the hub
	machine   time.Duration            // processor time of everybody
	authority map[string]timing
	engine    map[string]timing
}

func (w *world) sample(ctx context.Context) (sample, error) {
	s := sample{at: time.Now(), cpu: map[string]time.Duration{}}
	pids := map[string]int{"target": w.target.pid(), "clients": os.Getpid()}
	for _, name := range w.tree.Names() {
		pids[name] = w.tree.PID(name)
	}
	for name, pid := range pids {
		used, err := cpu(pid)
		if err != nil {
			return s, err
		}
		s.cpu[name] = used
	}
	var err error
	if s.machine, err = machine(); err != nil {
		return s, err
	}
	if s.authority, err = timings(ctx, w.tree, supervise.Authority); err != nil {
		return s, err
	}
	s.engine, err = timings(ctx, w.tree, supervise.Engine)
	return s, err
}

// memory is the hub's by process, in MB (10^6 bytes).
func (w *world) memory() (map[string]float64, error) {
	all := map[string]float64{}
	for _, name := range w.tree.Names() {
		bytes, err := pss(w.tree.PID(name))
		if err != nil {
			return nil, err
		}
		all[name] = float64(bytes) / 1e6
	}
	return all, nil
}

func sum(by map[string]float64) float64 {
	var all float64
	for _, v := range by {
		all += v
	}
	return all
}
