package cli

import (
	"sort"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
)

// Timeline is all that is known of a run: what the engine says of its course, and what the authority decided, issued, saw
// signed and was told. Where the two disagree both are shown; the ledger index leads to the authority's record.
func Timeline(r *cardeav1.Run, e *cardeav1.ExplainResponse, me string) []Line {
	lines := []Line{RunHead(r, me)}
	lines = append(lines, runSpan(r, e))
	if v := e.GetStartVerdict(); v != nil {
		lines = append(lines, verdictLine("start ", v))
	}
	byTask := make(map[string][]*cardeav1.AttemptRecord)
	for _, a := range e.GetAttempts() {
		ref := a.GetTask()
		key := taskKey(ref.GetTask(), ref.GetIteration(), ref.GetVisit())
		byTask[key] = append(byTask[key], a)
	}
	for _, t := range r.GetTasks() {
		key := taskKey(t.GetTask(), t.GetIteration(), t.GetVisit())
		lines = append(lines, Line{}, taskHead(t))
		lines = append(lines, attempts(byTask[key])...)
		delete(byTask, key)
	}
	for _, a := range e.GetAttempts() { // what the authority decided for a task that the engine does not mention
		ref := a.GetTask()
		key := taskKey(ref.GetTask(), ref.GetIteration(), ref.GetVisit())
		if records, left := byTask[key]; left {
			lines = append(lines, Line{}, Line{{F("? %s", TaskName(ref.GetTask())) + turns(ref.GetIteration(), ref.GetVisit()), Red}}.
				Add(Plain, "  decided by the authority, not reported by the engine"))
			lines = append(lines, attempts(records)...)
			delete(byTask, key)
		}
	}
	if out := outputLines(r, 1<<20); len(out) > 0 {
		lines = append(append(lines, Line{}), out...)
	}
	if tail := closing(r, e); len(tail) > 0 {
		lines = append(append(lines, Line{}), tail...)
	}
	return lines
}

func runSpan(r *cardeav1.Run, e *cardeav1.ExplainResponse) Line {
	sign, style := mark(r.GetStatus())
	l := Line{{sign + " " + Clean(r.GetStatus()), style}}
	if r.GetStartedAt() != nil {
		start := r.GetStartedAt().AsTime()
		if r.GetEndedAt() != nil {
			end := r.GetEndedAt().AsTime()
			l = l.Add(Plain, " in "+Span(end.Sub(start))+"  "+Stamp(start)+" → "+Stamp(end))
		} else {
			l = l.Add(Plain, " since "+Stamp(start))
		}
	}
	if text := problemText(r.GetErrorJson()); text != "" {
		l = l.Add(Plain, ": "+Clean(text))
	}
	return l.Add(Dim, ledgerNote("  ", e.GetStartLeaf()))
}

// ledgerNote is where a record stands in the ledger; its leaf's id until it has an index.
func ledgerNote(before Safe, ref *cardeav1.LedgerRef) Safe {
	switch {
	case ref.GetLeafId() == "":
		return ""
	case ref.GetSequenced():
		return before + F("ledger #%d", ref.GetIndex())
	}
	return before + F("ledger %s", ref.GetLeafId())
}

func taskHead(t *cardeav1.TaskState) Line {
	sign, style := mark(t.GetStatus())
	l := Line{{sign + " ", style}}.Add(Bold, TaskLabel(t)).Add(Plain, F("  %s", t.GetStatus()))
	if t.GetStartedAt() != nil && t.GetEndedAt() != nil {
		l = l.Add(Dim, "  "+taskTime(t, time.Time{}))
	}
	if text := problemText(t.GetErrorJson()); text != "" {
		l = l.Add(Red, "  "+Clean(text))
	}
	return l
}

// event is one thing that happened to an attempt.
type event struct {
	at   *timestamppb.Timestamp
	what Safe
	text Line
	leaf *cardeav1.LedgerRef
}

func attempts(records []*cardeav1.AttemptRecord) []Line {
	var lines []Line
	for i, a := range records {
		if len(records) > 1 || a.GetAttempt() > 1 {
			head := F("    attempt %d", a.GetAttempt())
			if a.GetEpoch() > 0 { // none is issued before the action is allowed
				head += F(", epoch %d", a.GetEpoch())
			}
			lines = append(lines, L(head))
		}
		// One approval's signatures stand once: with the verdict that they led to, or with the question while it waits.
		answered := i < len(records)-1 && a.GetVerdict().GetOutcome() == cardeav1.Outcome_OUTCOME_PENDING
		events := attemptEvents(a, !answered)
		sort.SliceStable(events, func(i, j int) bool { return before(events[i].at, events[j].at) })
		rows := make([][]Line, len(events))
		for j, e := range events {
			at := Safe("")
			if e.at != nil {
				at = Clock(e.at.AsTime())
			}
			rows[j] = []Line{{{at, Dim}}, L(e.what).Pad(8), e.text, {{ledgerNote("", e.leaf), Dim}}}
		}
		lines = append(lines, Indent(4, Table(nil, rows))...)
		for _, n := range a.GetNearest() {
			lines = append(lines, L("      nearest: "+Clean(n)))
		}
		if mend := a.GetVerdict().GetMend(); mend != "" {
			lines = append(lines, L("      "+Clean(mend)))
		}
	}
	return lines
}

// before orders by time; what has none, such as a state that is not reached yet, comes last.
func before(a, b *timestamppb.Timestamp) bool {
	if a == nil || b == nil {
		return a != nil
	}
	return a.AsTime().Before(b.AsTime())
}

func attemptEvents(a *cardeav1.AttemptRecord, signatures bool) []event {
	decided := verdictLine("", a.GetVerdict())
	if id := a.GetApprovalId(); id != "" {
		decided = decided.Add(Plain, F(", approval %s", id))
	}
	events := []event{{a.GetDecidedAt(), "verdict", decided, a.GetLeaf()}}
	if signatures {
		for _, s := range a.GetSignatures() {
			events = append(events, signatureEvent(s))
		}
	}
	for _, lease := range a.GetLeases() {
		events = append(events, leaseEvents(lease)...)
	}
	for _, r := range a.GetActions() {
		events = append(events, actionEvent(r))
	}
	switch a.GetPermitState() {
	case "returned":
		text := Line{{Text: delivered(a.GetDelivery())}}
		if a.GetRunner() != "" {
			text = text.Add(Dim, "  by "+runnerName(a.GetRunner()))
		}
		events = append(events, event{a.GetReturnedAt(), "returned", text, nil})
	case "voided":
		events = append(events, event{nil, "permit", Line{{"voided", Yellow}}, nil})
	case "minted", "redeemed":
		events = append(events, event{nil, "permit", L(Clean(a.GetPermitState()) + prefixed(", held by ", runnerName(a.GetRunner()))), nil})
	}
	return events
}

// runnerName is spiffe://cardea.local/runner/standard/one as people say it: runner standard/one.
func runnerName(id string) Safe {
	if _, name, found := strings.Cut(id, "/runner/"); found {
		return F("runner %s", name)
	}
	return Clean(id)
}

func verdictLine(before Safe, v *cardeav1.Verdict) Line {
	by := Join(v.GetPolicies(), ", ")
	switch v.GetOutcome() {
	case cardeav1.Outcome_OUTCOME_ALLOW:
		return L(before).Add(Green, "allowed").Add(Plain, prefixed(" by ", by))
	case cardeav1.Outcome_OUTCOME_DENY:
		return L(before).Add(Red, "denied").Add(Plain, prefixed(" by ", by)+prefixed(": ", reason(v)))
	case cardeav1.Outcome_OUTCOME_PENDING:
		return L(before).Add(Yellow, "pending").Add(Plain, prefixed(": ", reason(v)))
	case cardeav1.Outcome_OUTCOME_IN_DOUBT:
		return L(before).Add(Red, "in doubt").Add(Plain, prefixed(": ", Clean(v.GetReason())))
	}
	return L(before + "not decided")
}

// prefixed is text with something before it, or nothing at all.
func prefixed(before, text Safe) Safe {
	if text == "" {
		return ""
	}
	return before + text
}

func signatureEvent(s *cardeav1.SignatureRecord) event {
	if s.GetRefused() {
		return event{s.GetSignedAt(), "refused", L(F("by %s with %s", s.GetPerson(), s.GetKey()) + prefixed(": ", Clean(s.GetReason()))), nil}
	}
	return event{s.GetSignedAt(), "signed", L(F("by %s with %s", s.GetPerson(), s.GetKey())), nil}
}

func leaseEvents(lease *cardeav1.LeaseRecord) []event {
	text := L(ShortID(lease.GetId()) + F(" at %s", lease.GetConnection()) + prefixed(", ", Join(lease.GetScopes(), " ")))
	issued := lease.GetIssuedAt()
	text = text.Add(Plain, F(" %s", lease.GetState()))
	if issued != nil {
		text = L(ShortID(lease.GetId()) + F(" at %s", lease.GetConnection()) + prefixed(", ", Join(lease.GetScopes(), " ")) +
			" issued " + Clock(issued.AsTime()) + leaseEnd(lease))
	}
	if lease.GetLastError() != "" {
		text = text.Add(Red, F("  %d tries to revoke, last: %s", lease.GetRevokeTries(), lease.GetLastError()))
	}
	return []event{{issued, "lease", text, lease.GetLeaf()}}
}

func leaseEnd(lease *cardeav1.LeaseRecord) Safe {
	switch {
	case lease.GetEndedAt() != nil:
		return F(" → %s %s", lease.GetState(), Clock(lease.GetEndedAt().AsTime()))
	case lease.GetExpiresAt() != nil && lease.GetState() == "issued":
		return " → lives until " + Clock(lease.GetExpiresAt().AsTime())
	case lease.GetExpiresAt() != nil:
		return F(" → %s, expires %s", lease.GetState(), Clock(lease.GetExpiresAt().AsTime()))
	}
	return F(" → %s", lease.GetState())
}

func actionEvent(r *cardeav1.ActionReport) event {
	text := F("%s %s", r.GetMethod(), r.GetUrl())
	if r.GetStatus() != 0 {
		text += F(" → %d", r.GetStatus())
	}
	if r.GetStartedAt() != nil && r.GetEndedAt() != nil {
		text += F(" in %d ms", r.GetEndedAt().AsTime().Sub(r.GetStartedAt().AsTime()).Milliseconds())
	}
	l := L(text)
	if r.GetError() != "" {
		l = l.Add(Red, F("  %s", r.GetError()))
	}
	return event{r.GetStartedAt(), "request", l, nil}
}

func delivered(d cardeav1.Delivery) Safe {
	switch d {
	case cardeav1.Delivery_DELIVERY_NOT_SENT:
		return "nothing was sent"
	case cardeav1.Delivery_DELIVERY_SENT:
		return "sent, no answer"
	case cardeav1.Delivery_DELIVERY_ANSWERED:
		return "answered"
	}
	return "not reported"
}

func closing(r *cardeav1.Run, e *cardeav1.ExplainResponse) []Line {
	c := e.GetClosure()
	if c == nil {
		c = r.GetClosure()
	}
	if c == nil {
		return nil
	}
	return []Line{ClosureLine(c).Add(Dim, ledgerNote("  ", e.GetClosureLeaf()))}
}
