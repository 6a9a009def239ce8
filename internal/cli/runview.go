package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/flow/problem"
)

// mark is the sign of a status and its style. The words of the line say the same.
func mark(status string) (Safe, Style) {
	switch status {
	case "completed":
		return "✔", Green
	case "faulted":
		return "✘", Red
	case "cancelled":
		return "✘", Yellow
	case "waiting":
		return "⏸", Yellow
	case "in_doubt":
		return "?", Red
	case "skipped":
		return "–", Dim
	case "running", "opening":
		return "▸", Cyan
	}
	return "·", Dim
}

// RunEnded says whether nothing more will happen to a run by itself.
func RunEnded(r *cardeav1.Run) bool {
	switch r.GetStatus() {
	case "completed", "faulted", "cancelled":
		return true
	}
	return false
}

// RunExit is what a command that waited for the run tells the shell.
func RunExit(r *cardeav1.Run) Exit {
	switch r.GetStatus() {
	case "completed":
		return OK
	case "faulted", "cancelled":
		for _, t := range r.GetTasks() {
			if t.GetStatus() == "faulted" && t.GetVerdict().GetOutcome() == cardeav1.Outcome_OUTCOME_DENY {
				return Denied
			}
		}
		return Failed
	}
	return Pending
}

// RunHead is the first line about a run. me is the person who reads it.
func RunHead(r *cardeav1.Run, me string) Line {
	l := L("run ").Add(Bold, Clean(r.GetId())).Add(Plain, F("  %s", r.GetWorkflow()))
	if v := r.GetVersion(); v != "" {
		l = l.Add(Plain, F(" %s", v))
	}
	if by := r.GetStartedBy(); by != "" {
		l = l.Add(Dim, "  started by "+starter(by, me))
	}
	if p := r.GetProvenance().GetKind(); p != "" {
		l = l.Add(Dim, F("  (provenance: %s)", p))
	}
	return l
}

// starter is person:ana for people: "you" for the one who reads.
func starter(by, me string) Safe {
	kind, name, found := strings.Cut(by, ":")
	if !found {
		return Clean(by)
	}
	if kind == "person" && name == me && me != "" {
		return "you"
	}
	if kind == "person" {
		return Clean(name)
	}
	return F("%s %s", kind, name)
}

// TaskLabel is how a task of a run is called: its name, and its iteration and visit where it has them.
func TaskLabel(t *cardeav1.TaskState) Safe {
	name := t.GetName()
	if name == "" {
		name = TaskName(t.GetTask())
	}
	return Clean(name) + turns(t.GetIteration(), t.GetVisit())
}

// TaskName is the names in a task's pointer joined by slashes: /do/2/transfer/do/0/one is transfer/one.
func TaskName(pointer string) string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	var names []string
	for i := 2; i < len(parts); i++ {
		if isNumber(parts[i-1]) {
			names = append(names, strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[i]))
		}
	}
	if len(names) == 0 {
		return pointer
	}
	return strings.Join(names, "/")
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func turns(iteration []uint32, visit uint32) Safe {
	var b Safe
	for _, i := range iteration {
		b += F("[%d]", i)
	}
	if visit > 0 {
		b += F(" (again, %d)", visit)
	}
	return b
}

// LeaseNotes says in a few words how the credential of a task ended, by task, iteration and visit.
type LeaseNotes map[string]Safe

// NoteLeases reads them from an explanation. The last attempt of a task speaks for it.
func NoteLeases(e *cardeav1.ExplainResponse) LeaseNotes {
	notes := make(LeaseNotes)
	for _, a := range e.GetAttempts() {
		for _, lease := range a.GetLeases() {
			notes[taskKey(a.GetTask().GetTask(), a.GetTask().GetIteration(), a.GetTask().GetVisit())] = leaseNote(a, lease)
		}
	}
	return notes
}

func taskKey(task string, iteration []uint32, visit uint32) string {
	return fmt.Sprint(task, iteration, visit)
}

func leaseNote(a *cardeav1.AttemptRecord, lease *cardeav1.LeaseRecord) Safe {
	id := ShortID(lease.GetId())
	switch lease.GetState() {
	case "revoked":
		return "lease " + id + " ended" + sinceReturn(a, lease)
	case "expired":
		return "lease " + id + " expired"
	case "issued":
		if lease.GetExpiresAt() != nil {
			return F("lease %s ends by itself at %s", id, Clock(lease.GetExpiresAt().AsTime()))
		}
	}
	return F("lease %s %s", id, lease.GetState())
}

func sinceReturn(a *cardeav1.AttemptRecord, lease *cardeav1.LeaseRecord) Safe {
	if a.GetReturnedAt() == nil || lease.GetEndedAt() == nil {
		return ""
	}
	return " " + Span(lease.GetEndedAt().AsTime().Sub(a.GetReturnedAt().AsTime())) + " after use"
}

// RunLines is the run as it stands: a line per task, and why it stopped if it did.
func RunLines(r *cardeav1.Run, notes LeaseNotes, now time.Time) []Line {
	rows := make([][]Line, 0, len(r.GetTasks()))
	for _, t := range r.GetTasks() {
		sign, style := mark(t.GetStatus())
		row := []Line{
			Line{{sign, style}}.Add(Plain, " "+TaskLabel(t)),
			L(taskTime(t, now)),
			L(Join(t.GetConnections(), ", ")),
			taskSays(t),
			{{notes[taskKey(t.GetTask(), t.GetIteration(), t.GetVisit())], Dim}},
		}
		rows = append(rows, row)
	}
	return Indent(2, Table(nil, rows))
}

func taskTime(t *cardeav1.TaskState, now time.Time) Safe {
	if t.GetStartedAt() == nil {
		return ""
	}
	end := now
	if t.GetEndedAt() != nil {
		end = t.GetEndedAt().AsTime()
	}
	return Span(end.Sub(t.GetStartedAt().AsTime()))
}

// taskSays is the column that explains a task's state.
func taskSays(t *cardeav1.TaskState) Line {
	v := t.GetVerdict()
	switch {
	case t.GetStatus() == "waiting" && t.GetApprovalId() != "":
		// The id comes first: a narrow screen cuts the end, and the id is what the reader needs.
		return Line{{F("approval %s", t.GetApprovalId()) + prefixed("  ", reason(v)), Yellow}}
	case t.GetStatus() == "in_doubt":
		return Line{{"in doubt: it may have been delivered; a person must decide", Red}}
	case v.GetOutcome() == cardeav1.Outcome_OUTCOME_DENY:
		return Line{{"denied: " + reason(v), Red}}
	case t.GetStatus() == "faulted":
		return Line{{Clean(problemText(t.GetErrorJson())), Red}}
	case v.GetOutcome() == cardeav1.Outcome_OUTCOME_ALLOW && len(v.GetPolicies()) > 0:
		return Line{{"allowed by " + Join(v.GetPolicies(), ", "), Dim}}
	case t.GetStatus() == "skipped":
		return Line{{"skipped", Dim}}
	}
	return nil
}

// reason is why a verdict is what it is, without the word that stands before it anyway.
func reason(v *cardeav1.Verdict) Safe {
	return Clean(strings.TrimPrefix(strings.TrimPrefix(v.GetReason(), "denied: "), "pending: "))
}

// problemText is the sentence of an RFC 7807 problem.
func problemText(raw []byte) string {
	if len(raw) == 0 {
		return ""
	}
	var p problem.Problem
	if err := json.Unmarshal(raw, &p); err != nil || p.Title+p.Detail == "" {
		return string(raw)
	}
	if p.Detail == "" {
		return p.Title
	}
	return p.Detail
}

// RunTail is what stands under an ended run: its status, time, output or error, the mend of a denial, and the closure.
func RunTail(r *cardeav1.Run) []Line {
	if !RunEnded(r) {
		return nil
	}
	sign, style := mark(r.GetStatus())
	head := Line{{sign + " " + Clean(r.GetStatus()), style}}
	if r.GetStartedAt() != nil && r.GetEndedAt() != nil {
		head = head.Add(Plain, " in "+Span(r.GetEndedAt().AsTime().Sub(r.GetStartedAt().AsTime())))
	}
	if text := problemText(r.GetErrorJson()); text != "" {
		head = head.Add(Plain, ": "+Clean(text))
	}
	lines := []Line{head}
	for _, t := range r.GetTasks() {
		if v := t.GetVerdict(); v.GetOutcome() == cardeav1.Outcome_OUTCOME_DENY {
			if v.GetMend() != "" {
				lines = append(lines, L("  "+Clean(v.GetMend())))
			}
			lines = append(lines, L(F("  why: cardea policy explain %s %s", r.GetId(), TaskName(t.GetTask()))))
		}
	}
	lines = append(lines, outputLines(r, 400)...)
	if c := r.GetClosure(); c != nil {
		lines = append(lines, ClosureLine(c))
	}
	return lines
}

// outputLines is the run's output when it is worth reading here: at most so many bytes.
func outputLines(r *cardeav1.Run, most int) []Line {
	out := r.GetOutputJson()
	switch {
	case len(out) == 0 || string(out) == "null":
		return nil
	case len(out) <= 60:
		return []Line{L(F("output: %s", string(out)))}
	case len(out) > most:
		return []Line{L(F("output: %d bytes; cardea run show %s shows it", len(out), r.GetId()))}
	}
	return append([]Line{L("output:")}, Indent(2, BodyLines(out))...)
}

// ClosureLine counts what a run was given and what has ended.
func ClosureLine(c *cardeav1.Closure) Line {
	alive := len(c.GetLive())
	l := L("closure: " + Plural(int(c.GetIssued()), "credential") + F(" issued, %d ended, ", c.GetEnded()))
	if alive == 0 {
		return l.Add(Green, "0 alive")
	}
	l = l.Add(Yellow, F("%d alive", alive))
	for i, live := range c.GetLive() {
		sep := Safe(", ")
		if i == 0 {
			sep = ": "
		}
		if i == 3 {
			return l.Add(Plain, ", …")
		}
		l = l.Add(Plain, sep+ShortID(live.GetLeaseId())+F(" at %s", live.GetConnection()))
		if live.GetUntil() != nil {
			l = l.Add(Plain, " until "+Clock(live.GetUntil().AsTime()))
		}
	}
	return l
}
