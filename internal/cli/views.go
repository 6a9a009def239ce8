package cli

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	cardeav1 "cardea/api/cardea/v1"
)

// RunTable lists runs.
func RunTable(runs []*cardeav1.Run, me string, now time.Time) []Line {
	if len(runs) == 0 {
		return []Line{L("no runs")}
	}
	rows := make([][]Line, len(runs))
	for i, r := range runs {
		sign, style := mark(r.GetStatus())
		took, started := Safe(""), Safe("")
		if r.GetStartedAt() != nil {
			end := now
			if r.GetEndedAt() != nil {
				end = r.GetEndedAt().AsTime()
			}
			took, started = Span(end.Sub(r.GetStartedAt().AsTime())), Stamp(r.GetStartedAt().AsTime())
		}
		rows[i] = []Line{
			L(Clean(r.GetId())), L(F("%s %s", r.GetWorkflow(), r.GetVersion())), {{sign + " " + Clean(r.GetStatus()), style}},
			L(started), L(took), L(starter(r.GetStartedBy(), me)),
		}
	}
	return Table([]Safe{"RUN", "WORKFLOW", "STATUS", "STARTED", "TOOK", "BY"}, rows)
}

// LeaseTable lists credentials.
func LeaseTable(leases []*cardeav1.LeaseRecord, now time.Time) []Line {
	if len(leases) == 0 {
		return []Line{L("no credentials")}
	}
	rows := make([][]Line, len(leases))
	for i, l := range leases {
		rows[i] = []Line{
			L(Clean(l.GetId())), L(Clean(l.GetConnection())), leaseState(l), L(leaseUntil(l, now)),
			L(Clean(l.GetWorkflow())), L(Clean(TaskName(l.GetTask()))), L(Clean(l.GetRunId())),
		}
	}
	return Table([]Safe{"LEASE", "CONNECTION", "STATE", "UNTIL", "WORKFLOW", "TASK", "RUN"}, rows)
}

func leaseState(l *cardeav1.LeaseRecord) Line {
	style := Plain
	switch l.GetState() {
	case "issued", "intended":
		style = Cyan
	case "revoking":
		style = Yellow
	case "revoked", "expired":
		style = Dim
	}
	text := Clean(l.GetState())
	if l.GetState() == "revoking" && l.GetRevokeTries() > 0 {
		text += F(" (%d tries)", l.GetRevokeTries())
	}
	return Line{{text, style}}
}

func leaseUntil(l *cardeav1.LeaseRecord, now time.Time) Safe {
	switch {
	case l.GetEndedAt() != nil:
		return "ended " + Stamp(l.GetEndedAt().AsTime())
	case l.GetExpiresAt() != nil && l.GetExpiresAt().AsTime().After(now):
		return "in " + Span(l.GetExpiresAt().AsTime().Sub(now))
	case l.GetExpiresAt() != nil:
		return "past"
	}
	return ""
}

// connectionView is what the list shows of a connection.
type connectionView struct {
	Owner    string                     `json:"owner"`
	Zone     string                     `json:"zone"`
	Tier     string                     `json:"tier"`
	Hosts    []string                   `json:"hosts"`
	Provider map[string]json.RawMessage `json:"provider"`
}

// ConnectionTable lists connections.
func ConnectionTable(resources []*cardeav1.Resource) []Line {
	if len(resources) == 0 {
		return []Line{L("no connections")}
	}
	rows := make([][]Line, len(resources))
	for i, r := range resources {
		var v connectionView
		if err := json.Unmarshal(r.GetBody(), &v); err != nil {
			rows[i] = []Line{L(Clean(r.GetName())), {{"unreadable", Red}}}
			continue
		}
		var providers []string
		for p := range v.Provider {
			providers = append(providers, p)
		}
		sort.Strings(providers)
		rows[i] = []Line{
			L(Clean(r.GetName())), L(Clean(v.Owner)), L(Clean(v.Zone)), L(Clean(v.Tier)), L(Join(providers, ", ")),
			L(Join(v.Hosts, ", ")), L(Join(r.GetUsedBy(), ", ")),
		}
	}
	return Table([]Safe{"CONNECTION", "OWNER", "ZONE", "TIER", "PROVIDER", "HOSTS", "USED BY"}, rows)
}

// ResourceLines is one resource in full.
func ResourceLines(r *cardeav1.Resource) []Line {
	lines := []Line{L(F("%s ", r.GetKind())).Add(Bold, Clean(r.GetName()))}
	if r.GetAppliedAt() != nil {
		lines = append(lines, L(F("applied %s by %s", Stamp(r.GetAppliedAt().AsTime()), r.GetAppliedBy())))
	}
	lines = append(lines, Line{{F("digest  %s", r.GetDigest()), Dim}})
	if len(r.GetUsedBy()) > 0 {
		lines = append(lines, L("used by "+Join(r.GetUsedBy(), ", ")))
	}
	return append(append(lines, Line{}), TreeLines(r.GetBody())...)
}

// BodyLines is a body for reading: JSON indented, other text as it is.
func BodyLines(body []byte) []Line {
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") == nil {
		body = indented.Bytes()
	}
	return textLines(string(body))
}

// TreeLines is a JSON document as an outline, strings that hold JSON themselves unfolded. It is for reading, not for parsing.
func TreeLines(body []byte) []Line {
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if d.Decode(&v) != nil || d.More() {
		return textLines(string(body))
	}
	return tree("", v, 0)
}

// maxTree bounds what unfolding can add.
const maxTree = 32

func tree(label Safe, v any, depth int) []Line {
	switch v := v.(type) {
	case map[string]any:
		return branch(label, objectLines(v, depth))
	case []any:
		if words, short := wordList(v); short {
			return []Line{{{label, Dim}, {Text: words}}}
		}
		return branch(label, listLines(v, depth))
	case string:
		var inner map[string]any
		if depth < maxTree && strings.HasPrefix(v, "{") && json.Unmarshal([]byte(v), &inner) == nil {
			return branch(label, objectLines(inner, depth))
		}
		return []Line{{{label, Dim}, {Text: Clean(v)}}}
	}
	return []Line{{{label, Dim}, {Text: F("%v", v)}}}
}

func branch(label Safe, lines []Line) []Line {
	if label == "" {
		return lines
	}
	if len(lines) == 0 {
		return []Line{{{label, Dim}, {Text: "none"}}}
	}
	return append([]Line{{{label, Dim}}}, Indent(2, lines)...)
}

func objectLines(o map[string]any, depth int) []Line {
	var lines []Line
	for _, name := range slices.Sorted(maps.Keys(o)) {
		lines = append(lines, tree(Clean(name)+": ", o[name], depth+1)...)
	}
	return lines
}

// wordList is a list of strings on one line, if it fits there.
func wordList(items []any) (Safe, bool) {
	var words []string
	for _, item := range items {
		s, ok := item.(string)
		if !ok || strings.HasPrefix(s, "{") {
			return "", false
		}
		words = append(words, s)
	}
	one := Join(words, ", ")
	return one, len(items) > 0 && one.Width() <= widestColumn
}

// listLines marks each item.
func listLines(items []any, depth int) []Line {
	var lines []Line
	for _, item := range items {
		for i, l := range tree("", item, depth+1) {
			mark := Safe("  ")
			if i == 0 {
				mark = "- "
			}
			lines = append(lines, append(Line{{mark, Dim}}, l...))
		}
	}
	return lines
}

// textLines cleans text line by line; tabs become spaces.
func textLines(text string) []Line {
	var lines []Line
	for _, l := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		lines = append(lines, L(Clean(strings.ReplaceAll(l, "\t", "    "))))
	}
	return lines
}

// WorkflowTable lists workflow versions.
func WorkflowTable(resources []*cardeav1.Resource) []Line {
	if len(resources) == 0 {
		return []Line{L("no workflows")}
	}
	resources = slices.SortedStableFunc(slices.Values(resources), func(a, b *cardeav1.Resource) int {
		nameA, _, _ := strings.Cut(a.GetName(), "@")
		nameB, _, _ := strings.Cut(b.GetName(), "@")
		return strings.Compare(nameA, nameB)
	})
	rows := make([][]Line, len(resources))
	for i, r := range resources {
		name, version, _ := strings.Cut(r.GetName(), "@")
		applied := Safe("")
		if r.GetAppliedAt() != nil {
			applied = Stamp(r.GetAppliedAt().AsTime())
		}
		rows[i] = []Line{L(Clean(name)), L(Clean(version)), L(applied), L(Clean(r.GetAppliedBy())), {{ShortDigest(r.GetDigest()), Dim}}}
	}
	return Table([]Safe{"WORKFLOW", "VERSION", "APPLIED", "BY", "DIGEST"}, rows)
}

// ShortDigest is enough of a digest to tell two apart at a glance. It proves nothing.
func ShortDigest(d string) Safe {
	algorithm, hex, found := strings.Cut(d, ":")
	if !found || len(hex) < 12 {
		return Clean(d)
	}
	return F("%s:%s…", algorithm, hex[:12])
}

// VerdictLines is a verdict with what would have changed it.
func VerdictLines(v *cardeav1.Verdict, nearest []string) []Line {
	lines := []Line{verdictLine("", v)}
	for _, n := range nearest {
		lines = append(lines, L("  nearest: "+Clean(n)))
	}
	if v.GetMend() != "" {
		lines = append(lines, L("  "+Clean(v.GetMend())))
	}
	return lines
}

// PolicyExplanation is every verdict of an explanation, with the text of the policies that made it.
func PolicyExplanation(e *cardeav1.ExplainResponse, text func(id string) string) []Line {
	var lines []Line
	shown := make(map[string]bool)
	if v := e.GetStartVerdict(); v != nil {
		lines = append(lines, verdictLine("start  ", v))
		lines = append(lines, policyTexts(v.GetPolicies(), text, shown)...)
	}
	for _, a := range e.GetAttempts() {
		ref := a.GetTask()
		head := Line{{Clean(TaskName(ref.GetTask())) + turns(ref.GetIteration(), ref.GetVisit()), Bold}}.
			Add(Plain, F("  attempt %d  ", a.GetAttempt()))
		if a.GetDecidedAt() != nil {
			head = head.Add(Dim, Stamp(a.GetDecidedAt().AsTime())+ledgerNote("  ", a.GetLeaf()))
		}
		if len(lines) > 0 {
			lines = append(lines, Line{})
		}
		lines = append(lines, head)
		lines = append(lines, Indent(2, VerdictLines(a.GetVerdict(), a.GetNearest()))...)
		lines = append(lines, policyTexts(a.GetVerdict().GetPolicies(), text, shown)...)
	}
	if len(lines) == 0 {
		lines = append(lines, L("nothing was decided for this run yet"))
	}
	return lines
}

// policyTexts shows each policy once.
func policyTexts(ids []string, text func(id string) string, shown map[string]bool) []Line {
	var lines []Line
	for _, id := range ids {
		if shown[id] {
			continue
		}
		shown[id] = true
		if t := text(id); t != "" {
			lines = append(lines, Indent(4, textLines(t))...)
		}
	}
	return lines
}

// PolicyExcerpt is the statement with this id in a file of Cedar, with the comments above it; empty if it is not there.
func PolicyExcerpt(file, id string) string {
	for _, statement := range cedarStatements(file) {
		if strings.Contains(statement, "@id("+strconv.Quote(id)+")") {
			return strings.TrimSpace(statement)
		}
	}
	return ""
}

// cedarStatements cuts a file after each semicolon that stands outside strings and comments. It serves reading alone.
func cedarStatements(file string) []string {
	var statements []string
	start := 0
	for i := 0; i < len(file); i++ {
		switch {
		case file[i] == '"':
			for i++; i < len(file) && file[i] != '"'; i++ {
				if file[i] == '\\' {
					i++
				}
			}
		case strings.HasPrefix(file[i:], "//"):
			for i < len(file) && file[i] != '\n' {
				i++
			}
		case file[i] == ';':
			statements = append(statements, file[start:i+1])
			start = i + 1
		}
	}
	return statements
}
