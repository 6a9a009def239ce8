package main

import (
	"fmt"
	"runtime"
	"slices"
	"time"
)

// report sets the figures of a window and prints them.
func (b *bench) report(n int, inside []done, before, after sample) {
	var steps, runs []time.Duration
	for _, d := range inside {
		steps, runs = append(steps, d.steps...), append(runs, d.took)
	}
	sorted(steps)
	sorted(runs)
	length := after.at.Sub(before.at)
	rate := float64(len(runs)*tasks) / length.Seconds()
	b.figures.set(fmt.Sprintf("governed_steps_per_s_c%d", n), rate)
	for name, d := range map[string]time.Duration{"governed_step_p50": quantile(steps, .5), "governed_step_p99": quantile(steps, .99),
		"run_p50": quantile(runs, .5), "run_p99": quantile(runs, .99)} {
		b.figures.set(fmt.Sprintf("%s_ms_c%d", name, n), millis(d))
	}
	b.say("%-9s %.0f governed steps/s; a step %.1f ms, p99 %.1f ms; a run of %d, as its client sees it, %.1f ms, p99 %.1f ms (%d runs in %.1f s)",
		fmt.Sprintf("%d at once", n), rate, millis(quantile(steps, .5)), millis(quantile(steps, .99)), tasks, millis(quantile(runs, .5)),
		millis(quantile(runs, .99)), len(runs), length.Seconds())
}

// reportTimings prints what the roles' own histograms gained in the window. One that gained nothing was renamed, or is no longer on the path.
func (b *bench) reportTimings(n int, before, after sample) error {
	gained := func(of func(sample) map[string]timing, name string) (timing, error) {
		t := of(after)[name].since(of(before)[name])
		if t.count == 0 {
			return t, fmt.Errorf("the hub has counted no %s under load", name)
		}
		return t, nil
	}
	authority := func(s sample) map[string]timing { return s.authority }
	engine := func(s sample) map[string]timing { return s.engine }
	all := map[string]timing{}
	for _, h := range []struct {
		of   func(sample) map[string]timing
		name string
	}{
		{authority, "cardea_authority_authorize_seconds"}, {authority, "cardea_authority_redeem_seconds"},
		{engine, "cardea_engine_journal_commit_seconds"}, {engine, "cardea_engine_authorize_batch_intents"},
	} {
		t, err := gained(h.of, h.name)
		if err != nil {
			return err
		}
		all[h.name] = t
	}
	authorize, redeem := 1000*all["cardea_authority_authorize_seconds"].mean(), 1000*all["cardea_authority_redeem_seconds"].mean()
	b.say("          at the authority: Authorize %.2f ms, Redeem %.2f ms; the engine: an event durable in %.2f ms, %.1f intents to a question",
		authorize, redeem, 1000*all["cardea_engine_journal_commit_seconds"].mean(), all["cardea_engine_authorize_batch_intents"].mean())
	b.figures.set(fmt.Sprintf("authorize_ms_c%d", n), authorize)
	b.figures.set(fmt.Sprintf("redeem_ms_c%d", n), redeem)
	if n == 1 {
		b.figures.set("authorize_ms", authorize)
		b.figures.set("redeem_ms", redeem)
	}
	return nil
}

// reportProcessors says who used the processors, so that one sees where the time goes.
func (b *bench) reportProcessors(n, steps int, before, after sample) {
	var names []string
	for name := range after.cpu {
		names = append(names, name)
	}
	slices.Sort(names)
	line, together := "", time.Duration(0)
	for _, name := range names {
		used := after.cpu[name] - before.cpu[name]
		together += used
		each := used / time.Duration(steps)
		b.figures.set(fmt.Sprintf("cpu_us_%s_c%d", name, n), float64(each.Microseconds()))
		line += fmt.Sprintf(" %s %d,", name, each.Microseconds())
	}
	length := after.at.Sub(before.at).Seconds()
	others := max(0, (after.machine-before.machine-together).Seconds()/length)
	b.figures.set(fmt.Sprintf("others_processors_c%d", n), others)
	b.say("          processor µs a step:%s together %d; of %d processors %.2f were busy with this and %.2f with whatever else runs here", line,
		(together / time.Duration(steps)).Microseconds(), runtime.NumCPU(), together.Seconds()/length, others)
}
