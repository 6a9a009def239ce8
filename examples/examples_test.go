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

	"cardea/internal/expr"
	"cardea/internal/flow"
	"cardea/internal/policy"
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
	for _, a := range plan.Adds {
		fmt.Fprintln(&out, "adds privilege:", a)
	}
	for _, w := range plan.Warnings {
		fmt.Fprintln(&out, "warning:", w)
	}
	return out.String()
}

// TestPayrollPaysWhatItAddedUp follows one month's data through the definition to the request that the bank's connection is asked.
func TestPayrollPaysWhatItAddedUp(t *testing.T) {
	now, err := registry.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, state, err := now.Plan(registry.Change{Apply: bundle(t, "payroll").Resources})
	if err != nil {
		t.Fatal(err)
	}
	w, ok := state.Latest("payroll/pay-run")
	if !ok {
		t.Fatal("there is no pay run")
	}
	plan, findings := flow.Compile(w.Definition, flow.Options{Profile: true})
	if plan == nil || len(findings) > 0 {
		t.Fatal(findings)
	}
	// Amounts whose sum in binary is not what people add up.
	sheets := value(t, `[{"employee":"E. 1001","month":"2026-05","hours":160,"amount":0.1,"currency":"EUR","iban":"DE89370400440532013000"},
		{"employee":"E. 1002","month":"2026-05","hours":151,"amount":0.2,"currency":"EUR","iban":"DE62370400440532013001"},
		{"employee":"E. 1003","month":"2026-05","hours":152,"amount":61203.8,"currency":"EUR","iban":"DE35370400440532013002"}]`)
	scope := expr.Scope{Data: sheets, Workflow: map[string]any{"input": value(t, `{"month":"2026-05"}`)}}
	batch, err := taskOf(t, plan, "/do/1/total").Set.Eval(scope)
	if err != nil {
		t.Fatal(err)
	}
	request, err := taskOf(t, plan, "/do/2/transfer").HTTP.Request(expr.Scope{Data: batch})
	if err != nil {
		t.Fatal(err)
	}
	bank, _ := state.Connection("bank")
	match, err := bank.Match(request.Method, request.URL, request.Body)
	if err != nil {
		t.Fatalf("%v\n%s", err, request.Body)
	}
	if match.Facts["total"] != policy.Decimal("61204.1000") || match.Facts["currency"] != "EUR" || !match.JSON {
		t.Errorf("facts: %v", match.Facts)
	}
	tampered := bytes.Replace(request.Body, []byte(`"amount":0.1`), []byte(`"amount":0.1,"Amount":99999`), 1)
	if _, err := bank.Match(request.Method, request.URL, tampered); err == nil {
		t.Error("a second amount passed")
	}
}

func taskOf(t *testing.T, plan *flow.Plan, pointer string) *flow.Task {
	t.Helper()
	task, ok := plan.Task(pointer)
	if !ok {
		t.Fatalf("there is no task %s", pointer)
	}
	return task
}

func value(t *testing.T, text string) any {
	t.Helper()
	v, err := expr.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
