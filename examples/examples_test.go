// Package examples checks that every example loads, plans, and grants what its golden file says and no more.
package examples

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardea/internal/registry"
	"cardea/internal/registry/load"
)

// -update writes the golden files anew: read their difference as you would read a plan.
var update = flag.Bool("update", false, "rewrite testdata")

func TestExamples(t *testing.T) {
	folders, err := filepath.Glob("*/README.md")
	if err != nil || len(folders) < 2 {
		t.Fatal(folders, err)
	}
	for _, readme := range folders {
		name := filepath.Dir(readme)
		t.Run(name, func(t *testing.T) {
			got := planOf(t, name)
			golden := filepath.Join("testdata", name+".plan")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the plan is\n%s\nand should be\n%s", got, want)
			}
		})
	}
}

// TestReadmesNameWhatExists: each path and workflow in a README's commands is there.
func TestReadmesNameWhatExists(t *testing.T) {
	readmes, err := filepath.Glob("*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, readme := range readmes {
		text, err := os.ReadFile(readme)
		if err != nil {
			t.Fatal(err)
		}
		commands := 0
		for line := range strings.SplitSeq(string(text), "\n") {
			line, ok := strings.CutPrefix(line, "$ ")
			if !ok {
				continue
			}
			commands++
			for _, word := range strings.Fields(line) {
				if strings.HasPrefix(word, "examples/") {
					if _, err := os.Stat(filepath.Join("..", word)); err != nil {
						t.Errorf("%s: %q: %v", readme, line, err)
					}
				}
			}
			if fields := strings.Fields(line); len(fields) > 3 && fields[1] == "run" && fields[2] == "start" {
				workflowExists(t, filepath.Dir(readme), fields[3])
			}
		}
		if commands == 0 {
			t.Errorf("%s gives no command", readme)
		}
	}
}

func workflowExists(t *testing.T, folder, title string) {
	t.Helper()
	b := bundle(t, folder)
	for _, r := range b.Resources {
		if r.Kind == registry.KindWorkflow && strings.HasPrefix(r.Name, title+"@") {
			return
		}
	}
	t.Errorf("%s has no workflow %s", folder, title)
}

func bundle(t *testing.T, folder string) *load.Bundle {
	t.Helper()
	b, err := load.Paths(folder)
	if err != nil || b.Err() != nil {
		t.Fatal(err, b.Err())
	}
	return b
}

func planOf(t *testing.T, folder string) string {
	t.Helper()
	now, err := registry.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	plan, _, err := now.Plan(registry.Change{Apply: bundle(t, folder).Resources})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, l := range plan.Changes {
		fmt.Fprintln(&out, strings.TrimSpace(fmt.Sprint(l.Verb, " ", l.ID, " ", l.Detail)))
	}
	for _, p := range plan.Privileges {
		fmt.Fprintf(&out, "gains %s %s %s, task %s of %s, %s, by %s", p.Access, p.Connection, p.What, p.TaskName, p.Workflow, p.Credential, strings.Join(p.Policies, " "))
		if p.Approval != "" {
			fmt.Fprintf(&out, "; %s", p.Approval)
		}
		fmt.Fprintln(&out)
	}
	for _, e := range plan.Exposures {
		fmt.Fprintf(&out, "%s: strangers can start it %v, reaches production %v, shares connections with %v\n", e.Process, e.StrangersCanStart, e.ReachesProduction, e.SharesWith)
	}
	for _, w := range plan.Warnings {
		fmt.Fprintln(&out, "warning:", w)
	}
	return out.String()
}
