package cli

import (
	"crypto/ed25519"
	"slices"
	"strings"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/approval"
	"cardea/internal/approval/verify"
)

// VerifiedStatement is what an approval is about, from the bytes that the authority signed. It must be the approval that id, a
// whole id or its beginning, asks for: a hub in between could otherwise put a genuine statement about something else in its place.
func VerifiedStatement(p *cardeav1.Approval, id string, keys []ed25519.PublicKey) (*approval.Statement, error) {
	s, err := verify.VerifyStatement(keys, p.GetStatement(), p.GetAuthoritySignature())
	if err != nil {
		return nil, Fail(Failed, "do not sign; tell the hub's operators", "approval %s: %s", p.GetId(), err.Error()).Because(err)
	}
	if s.ID != p.GetId() || !strings.HasPrefix(s.ID, id) && !strings.HasPrefix(s.ID, "apr_"+id) {
		return nil, Fail(Failed, "do not sign; tell the hub's operators", "asked for approval %s, the hub shows the statement of %s", id, s.ID)
	}
	return s, nil
}

// StatementLines renders a verified statement. Package approval has made everything in it visible.
func StatementLines(s *approval.Statement, v approval.View) []Line {
	var lines []Line
	for _, l := range strings.Split(strings.TrimRight(approval.Render(s, v), "\n"), "\n") {
		lines = append(lines, L(Clean(l)))
	}
	return lines
}

// AskedAs are the groups for which a person of these groups is asked.
func AskedAs(s *approval.Statement, groups []string) []string {
	var as []string
	for _, g := range groups {
		if slices.Contains(s.Rule.Approvers, "group:"+g) {
			as = append(as, g)
		}
	}
	return as
}

// Signed counts the consents so far.
func Signed(p *cardeav1.Approval) int {
	n := 0
	for _, s := range p.GetSignatures() {
		if !s.GetRefused() {
			n++
		}
	}
	return n
}

// ApprovalState says where an approval stands, and who has signed.
func ApprovalState(p *cardeav1.Approval) []Line {
	style := Yellow
	switch p.GetState() {
	case "approved", "used":
		style = Green
	case "refused", "expired", "voided":
		style = Red
	}
	head := L("approval ").Add(Bold, Clean(p.GetId())).Add(Plain, "  ").Add(style, Clean(p.GetState())).
		Add(Plain, F("  %d of %d signed", Signed(p), p.GetQuorum()))
	if p.GetAttempts() > 0 && p.GetUses() > 0 {
		head = head.Add(Plain, F(", used %d of %d times", p.GetUses(), p.GetAttempts()))
	}
	lines := []Line{head}
	if p.GetVoidReason() != "" {
		lines = append(lines, L("  "+Clean(p.GetVoidReason())))
	}
	for _, s := range p.GetSignatures() {
		verb := Safe("signed")
		if s.GetRefused() {
			verb = "refused"
		}
		l := L("  " + verb + F(" by %s with %s", s.GetPerson(), s.GetKey()))
		if s.GetSignedAt() != nil {
			l = l.Add(Dim, "  "+Stamp(s.GetSignedAt().AsTime()))
		}
		lines = append(lines, l.Add(Plain, prefixed(": ", Clean(s.GetReason()))))
	}
	if p.GetState() == "pending" && !p.GetCanSign() && p.GetCannotBecause() != "" {
		lines = append(lines, L("  you cannot sign: "+Clean(p.GetCannotBecause())))
	}
	return lines
}

// ApprovalTable lists approvals. What they are about is told only of statements that verify.
func ApprovalTable(approvals []*cardeav1.Approval, keys []ed25519.PublicKey, now time.Time) []Line {
	if len(approvals) == 0 {
		return []Line{L("nothing waits for approval")}
	}
	rows := make([][]Line, len(approvals))
	for i, p := range approvals {
		until := Safe("")
		if p.GetExpiresAt() != nil && p.GetState() == "pending" {
			until = "in " + Span(p.GetExpiresAt().AsTime().Sub(now))
		}
		you := Safe("")
		if p.GetCanSign() {
			you = "may sign"
		}
		rows[i] = []Line{
			L(Clean(p.GetId())), L(Clean(p.GetState())), L(F("%d of %d", Signed(p), p.GetQuorum())), L(until), L(you), approvalAbout(p, keys),
		}
	}
	return Table([]Safe{"APPROVAL", "STATE", "SIGNED", "EXPIRES", "YOU", "ABOUT"}, rows)
}

func approvalAbout(p *cardeav1.Approval, keys []ed25519.PublicKey) Line {
	s, err := VerifiedStatement(p, p.GetId(), keys)
	switch {
	case err != nil:
		return Line{{"does not verify: do not sign", Red}}
	case s.Plan != nil:
		return L(F("a change, asked by %s", s.Requester))
	case s.Workflow != nil && s.Task != nil:
		return L(F("%s %s, task %s, run %s", s.Workflow.Ref, s.Workflow.Version, s.Task.Name, s.Run))
	}
	return L(Clean(s.Kind))
}
