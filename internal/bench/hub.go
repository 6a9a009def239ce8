package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cardea/internal/cli"
	"cardea/internal/role"
	"cardea/internal/supervise"
)

// bench is one measurement of one build on one disk.
type bench struct {
	plan    plan
	binary  string
	dir     string
	out     io.Writer
	figures figures
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

// person asks for everything here; as the only one of a dev hub, dev may.
const person = "dev"

// patience bounds what should take a moment.
const patience = 30 * time.Second

// start starts a hub with its own folder and waits until every role is ready.
func (b *bench) start(ctx context.Context, name string) (*supervise.Tree, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	log, err := os.OpenFile(filepath.Join(b.dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	tree, err := supervise.Start(ctx, supervise.Options{Binary: b.binary, Dir: filepath.Join(b.dir, name), Log: log, LogLevel: "warn",
		Persons: []supervise.Person{{Name: person, Groups: []string{"admins"}}}})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := tree.WaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the hub is not ready: %w; its log ends with\n%s", err, b.logTail(name)), tree.Close())
	}
	return tree, nil
}

// logTail is what a failed hub said last.
func (b *bench) logTail(name string) string {
	text, err := os.ReadFile(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(text[max(0, len(text)-most):])
}

// ready measures from the first process's start to the last one's readiness, each time in a new folder: keys and stores are made too.
func (b *bench) ready(ctx context.Context) error {
	took := make([]time.Duration, b.plan.starts)
	for i := range took {
		began := time.Now()
		name := fmt.Sprintf("ready-%d", i)
		tree, err := b.start(ctx, name)
		if err != nil {
			return err
		}
		took[i] = time.Since(began)
		if err := tree.Close(); err != nil {
			return fmt.Errorf("stop the hub: %w", err)
		}
		if err := os.RemoveAll(filepath.Join(b.dir, name)); err != nil {
			return err
		}
	}
	sorted(took)
	median := quantile(took, .5)
	b.figures.set("ready_ms", millis(median))
	b.say("ready     %.0f ms from nothing to six processes that work (median of %d; slowest %.0f ms)", millis(median), len(took), millis(took[len(took)-1]))
	return nil
}

const workflow = "bench/three-steps"

// tasks is how many governed steps one run has.
const tasks = 3

// apply gives the hub the process, the connection to the target, the policy and the workflow, by the command line as a person would.
func (b *bench) apply(ctx context.Context, tree *supervise.Tree, t *target) error {
	folder := filepath.Join(b.dir, "bench")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"process.yaml":  fmt.Sprintf(processYAML, t.Host, t.Audience, t.Addr, t.Roots),
		"policy.cedar":  policyCedar,
		"workflow.yaml": workflowYAML(t.Host),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.binary, "apply", "-f", folder, "--yes")
	cmd.Env = []string{"CARDEA_PROFILE=" + tree.ProfilePath(person), "HOME=" + b.dir, "NO_COLOR=1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the workflow: %w\n%s", err, out)
	}
	return nil
}

const processYAML = `kind: Process
name: bench
owner: group:admins
purpose: Is measured
criticality: low
---
kind: Connection
name: target
owner: group:admins
zone: internal
hosts: ['https://%s']
provider: {jwt: {audience: '%s'}}
address: '%s'
roots: %q
ttl: 60s
allow:
  - {methods: [GET], path: /v1/transfers}
`

const policyCedar = `@id("bench-reads-target")
permit (
  principal in Workflow::"bench/three-steps",
  action == Action::"use",
  resource == Connection::"target"
);
`

func workflowYAML(host string) string {
	var text strings.Builder
	text.WriteString(`document: {dsl: '1.0.3', namespace: bench, name: three-steps, version: '1.0.0'}
use:
  secrets: [target]
  authentications:
    target: {bearer: {use: target}}
do:
`)
	for i := range tasks {
		fmt.Fprintf(&text, "  - read%d:\n      call: http\n      with: {method: get, endpoint: {uri: 'https://%s/v1/transfers', authentication: {use: target}}}\n", i+1, host)
	}
	return text.String()
}

// client speaks to the hub as the person.
func client(tree *supervise.Tree) (*cli.Client, error) {
	profile, err := tree.Profile(person)
	if err != nil {
		return nil, err
	}
	return cli.NewClient(profile)
}

// timing is what a role's histogram has counted since it started.
type timing struct{ sum, count float64 }

func (t timing) since(before timing) timing {
	return timing{t.sum - before.sum, t.count - before.count}
}

// mean is of at least one.
func (t timing) mean() float64 { return t.sum / t.count }

// timings reads a role's histograms from its admin socket, in the text format of Prometheus.
func timings(ctx context.Context, tree *supervise.Tree, process string) (map[string]timing, error) {
	socket := "unix:" + filepath.Join(tree.Dir(), "run", process+"-admin.sock")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := role.AdminClient(socket).Do(request)
	if err != nil {
		return nil, fmt.Errorf("metrics of %s: %w", process, err)
	}
	defer answer.Body.Close()
	all := map[string]timing{}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		if base, ok := strings.CutSuffix(name, "_sum"); ok {
			all[base] = timing{value, all[base].count}
		} else if base, ok := strings.CutSuffix(name, "_count"); ok {
			all[base] = timing{all[base].sum, value}
		}
	}
	return all, lines.Err()
}
