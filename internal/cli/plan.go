package cli

import (
	"slices"
	"strings"

	cardeav1 "cardea/api/cardea/v1"
)

// PlanLines shows what a change grants and takes away, process by process, and then what else it touches.
func PlanLines(p *cardeav1.PlanResponse) []Line {
	var lines []Line
	versions := workflowVerbs(p.GetChanges())
	for _, process := range processes(p) {
		if len(lines) > 0 {
			lines = append(lines, Line{})
		}
		lines = append(lines, processLines(p, process, versions)...)
	}
	if other := otherChanges(p.GetChanges(), p.GetPrivileges()); len(other) > 0 {
		if len(lines) > 0 {
			lines = append(lines, Line{})
		}
		lines = append(lines, other...)
	}
	for _, w := range p.GetWarnings() {
		lines = append(lines, Line{{"! ", Yellow}}.Add(Plain, Clean(w)))
	}
	for _, e := range p.GetErrors() {
		lines = append(lines, Line{{"✘ ", Red}}.Add(Plain, Clean(e)))
	}
	return append(lines, planSum(p))
}

// processes lists the processes that gain or lose, or whose exposure is told, in the order of the plan.
func processes(p *cardeav1.PlanResponse) []string {
	var names []string
	seen := make(map[string]bool)
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, v := range p.GetPrivileges() {
		add(v.GetProcess())
	}
	for _, e := range p.GetExposures() {
		add(e.GetProcess())
	}
	return names
}

// workflowVerbs finds which version of a workflow a change is about: payroll/pay-run → " 1.2.0 (new)".
func workflowVerbs(changes []*cardeav1.Change) map[string]Safe {
	verbs := make(map[string]Safe)
	for _, c := range changes {
		if c.GetKind() == "Workflow" {
			name, version, _ := strings.Cut(c.GetName(), "@")
			verbs[name] = F(" %s (%s)", version, c.GetVerb())
		}
	}
	return verbs
}

func processLines(p *cardeav1.PlanResponse, process string, versions map[string]Safe) []Line {
	var lines []Line
	done := make(map[string]bool)
	for _, v := range p.GetPrivileges() {
		if v.GetProcess() != process || done[v.GetWorkflow()] {
			continue
		}
		done[v.GetWorkflow()] = true
		name, _, _ := strings.Cut(v.GetWorkflow(), "@")
		head := Line{{Clean(name), Bold}}.Add(Plain, versions[name])
		lines = append(append(lines, head), privilegeTable(p.GetPrivileges(), process, v.GetWorkflow())...)
	}
	for _, e := range p.GetExposures() {
		if e.GetProcess() == process {
			if len(lines) == 0 {
				lines = append(lines, Line{{Clean(process), Bold}})
			}
			lines = append(lines, exposureLine(e))
		}
	}
	return lines
}

// privilegeTable is one line per privilege, and under it who must approve each use. The approvals do not widen the columns.
func privilegeTable(privileges []*cardeav1.Privilege, process, workflow string) []Line {
	var rows [][]Line
	var approvals []Safe
	for _, v := range privileges {
		if v.GetProcess() != process || v.GetWorkflow() != workflow {
			continue
		}
		verb := Line{{"gains", Green}}
		if v.GetLost() {
			verb = Line{{"loses", Yellow}}
		}
		task := v.GetTaskName()
		if task == "" {
			task = TaskName(v.GetTask())
		}
		rows = append(rows, []Line{
			verb, L(Clean(v.GetAccess())), {{Clean(v.GetConnection()), Bold}}, L(Clean(v.GetWhat())),
			{{F("task %s", task), Dim}}, L(Clean(v.GetCredential())),
		})
		approvals = append(approvals, Clean(v.GetApproval()))
	}
	var lines []Line
	for i, l := range Indent(2, Table(nil, rows)) {
		lines = append(lines, l)
		if approvals[i] != "" {
			lines = append(lines, Line{{"         " + approvals[i], Cyan}})
		}
	}
	return lines
}

func exposureLine(e *cardeav1.Exposure) Line {
	yesNo := func(b bool, bad Style) Piece {
		if b {
			return Piece{"yes", bad}
		}
		return Piece{"no", Plain}
	}
	shares := Piece{"nobody", Plain}
	if with := e.GetSharesWith(); len(with) > 0 {
		shares = Piece{Join(with, ", "), Yellow}
	}
	return Line{{Text: "  strangers can start it: "}, yesNo(e.GetStrangersCanStart(), Red), {Text: "        reaches production: "},
		yesNo(e.GetReachesProduction(), Yellow), {Text: "        shares connections with: "}, shares}
}

// otherChanges are those that no privilege line has shown. What stays as it is is only counted.
func otherChanges(changes []*cardeav1.Change, privileges []*cardeav1.Privilege) []Line {
	shown := make(map[string]bool)
	for _, v := range privileges {
		name, _, _ := strings.Cut(v.GetWorkflow(), "@")
		shown[name] = true
	}
	var rows [][]Line
	for _, c := range changes {
		name, _, _ := strings.Cut(c.GetName(), "@")
		if c.GetVerb() == "unchanged" || c.GetKind() == "Workflow" && shown[name] {
			continue
		}
		style := Green
		switch c.GetVerb() {
		case "changed":
			style = Yellow
		case "removed":
			style = Red
		}
		rows = append(rows, []Line{{{Clean(c.GetVerb()), style}}, L(Clean(c.GetKind())), L(Clean(c.GetName())), {{Clean(c.GetDetail()), Dim}}})
	}
	return Table(nil, rows)
}

// planSum counts the change and says whether it needs others.
func planSum(p *cardeav1.PlanResponse) Line {
	order := []struct {
		kind string
		word Safe
	}{
		{"Process", "process"}, {"Workflow", "workflow"}, {"Connection", "connection"}, {"Policy", "policy"}, {"ApprovalRule", "approval rule"},
		{"Person", "person"}, {"Group", "group"}, {"Runner", "runner"},
	}
	counts := make(map[string]int)
	unchanged := 0
	for _, c := range p.GetChanges() {
		if c.GetVerb() == "unchanged" {
			unchanged++
			continue
		}
		counts[c.GetKind()]++
	}
	var parts []Safe
	for _, o := range order {
		if n := counts[o.kind]; n > 0 {
			parts = append(parts, plural(n, o.word))
		}
	}
	if unchanged > 0 {
		parts = append(parts, F("%d unchanged", unchanged))
	}
	if len(parts) == 0 || len(counts) == 0 {
		return L("Nothing changes.")
	}
	text := parts[0]
	for _, part := range parts[1:] {
		text += ", " + part
	}
	l := L(text + ".")
	if p.GetAddsPrivilege() {
		return l.Add(Yellow, " This adds privilege.")
	}
	return l.Add(Plain, " No privilege is added.")
}

// plural knows the words that are not regular.
func plural(n int, one Safe) Safe {
	switch {
	case one == "process" && n != 1:
		return F("%d processes", n)
	case one == "person" && n != 1:
		return F("%d people", n)
	}
	return Plural(n, one)
}

// Changes says whether a plan would do anything.
func Changes(p *cardeav1.PlanResponse) bool {
	for _, c := range p.GetChanges() {
		if c.GetVerb() != "unchanged" {
			return true
		}
	}
	return false
}

// AppliedLines is the outcome of applying, with what the hub warns of beyond what the plan has said.
func AppliedLines(p *cardeav1.PlanResponse, a *cardeav1.ApplyResponse) []Line {
	var lines []Line
	for _, w := range a.GetWarnings() {
		if slices.Contains(p.GetWarnings(), w) {
			continue
		}
		lines = append(lines, Line{{"! ", Yellow}, {Text: Clean(w)}})
	}
	if a.GetApplied() {
		leaf := &cardeav1.LedgerRef{LeafId: a.GetVerdict().GetLeafId()}
		lines = append(lines, Line{{"✔ ", Green}, {Text: "applied"}, {ledgerNote("  ", leaf), Dim}})
	}
	return lines
}
