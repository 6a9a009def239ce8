package approval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// plan writes a change of desired state: what it gives and takes first, then each resource as it will be.
func (p *page) plan(plan *Plan) {
	p.blank()
	p.line("", "The change, as it was planned ("+token(plan.Digest)+"):")
	for _, privilege := range plan.Privileges {
		p.quoted(privilege)
	}
	if len(plan.Privileges) == 0 {
		p.line("  ", "no privilege is gained or lost")
	}
	if len(plan.Changes) == 0 { // never for a decoded statement; told rather than hidden
		p.line("  ", "what it changes does not stand in it by value")
	}
	for i, c := range plan.Changes {
		p.change(i, len(plan.Changes), c)
	}
}

// change writes a resource whole: a line that stays may say what a line that changes belongs to.
func (p *page) change(i, n int, c Change) {
	p.blank()
	before, after := pretty(c, c.Before), pretty(c, c.After)
	heading := fmt.Sprintf("Change %d of %d   %s %s %s", i+1, n, token(c.Verb), token(c.Kind), token(c.Name))
	switch c.Verb {
	case VerbNew:
		p.line("", heading)
		p.quoted(after)
	case VerbRemoved:
		p.line("", heading)
		for l := range strings.SplitSeq(before, "\n") {
			p.quote(l, "- ")
		}
	default:
		lines := lineDiff(strings.Split(before, "\n"), strings.Split(after, "\n"))
		p.line("", heading+", "+tally(lines))
		for _, l := range lines {
			p.quote(l.text, string(l.op)+" ")
		}
	}
}

func tally(lines []edit) string {
	gone, added := 0, 0
	for _, l := range lines {
		switch l.op {
		case opGone:
			gone++
		case opAdded:
			added++
		}
	}
	return fmt.Sprintf("lines gone: %d, added: %d", gone, added)
}

// maxIndented bounds depth times length, and so what indenting can add. What the registry takes is below it.
const maxIndented = 8 << 20

// pretty is a resource in lines that people can read. Indenting moves white space alone.
func pretty(c Change, text string) string {
	var b bytes.Buffer
	if c.Kind == kindPolicy || depth([]byte(text))*len(text) > maxIndented || json.Indent(&b, []byte(text), "", "  ") != nil {
		return text
	}
	return b.String()
}
