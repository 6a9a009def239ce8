package approval

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cardea/internal/action"
)

// View is what a rendering may add to the statement. Nothing in it is signed, so nothing in it says what will happen.
type View struct {
	// As names the groups for which the person is asked.
	As []string
	// Signed is how many have signed so far.
	Signed int
	// Now is the signer's clock; the zero time leaves out how long is left.
	Now time.Time
	// Replaced is the statement that this one replaces, verified by the caller like the statement itself.
	Replaced *Statement
	// Width is the terminal's; 100 when 0.
	Width int
}

const (
	defaultWidth = 100
	minWidth     = 40
)

// Render writes a statement for a person who is asked to sign it: every request exactly as it will be sent, and what is
// different from the approval that it replaces. Nothing is left out for length. What others wrote stands behind a gutter
// (│, ┊ where a long line goes on, ! where a word mixes alphabets) that no text can write into, because no line is longer
// than the view is wide.
func Render(s *Statement, v View) string {
	p := &page{width: max(minWidth, v.Width)}
	if v.Width == 0 {
		p.width = defaultWidth
	}
	p.head(s, v)
	if s.Replaces != "" {
		p.differences(s, v.Replaced)
	}
	for i, a := range s.Actions {
		p.request(i, len(s.Actions), a)
	}
	if s.Plan != nil {
		p.plan(s.Plan)
	}
	p.blank()
	p.line("", "Nothing else can be done with this approval; any change voids it.")
	return p.b.String()
}

// page writes lines that are never wider than itself.
type page struct {
	b     strings.Builder
	width int
}

func (p *page) blank() { p.b.WriteByte('\n') }

// line writes text that is already visible, broken between words. Where it goes on it stands deeper, so that no part of
// it can begin a line.
func (p *page) line(indent, text string) { p.flow(indent, indent+"    ", text) }

func (p *page) flow(first, next, text string) {
	for indent := first; ; indent = next {
		cut := fits(text, p.width-len(indent))
		p.b.WriteString(indent + strings.TrimRight(text[:cut], " ") + "\n")
		if text = strings.TrimLeft(text[cut:], " "); text == "" {
			return
		}
	}
}

// fits is how much of text goes into the room, ending between words if it can.
func fits(text string, room int) int {
	space := 0
	for i, r := range text {
		if room -= columns(r); room < 0 {
			if space > 0 {
				return space
			}
			return max(i, 1)
		}
		if r == ' ' {
			space = i
		}
	}
	return len(text)
}

// quoted writes what others wrote, line by line, behind the gutter.
func (p *page) quoted(text string) {
	for l := range strings.SplitSeq(text, "\n") {
		p.quote(l, "")
	}
}

// quote writes one line behind the gutter and a mark, such as + for a line that is added; where it goes on it keeps the mark.
func (p *page) quote(l, mark string) {
	gutter := "  │ "
	if mixed(l) {
		gutter = "  ! "
	}
	p.wrap(gutter+mark, "  ┊ "+mark, visible(l))
}

func (p *page) wrap(first, next, text string) {
	p.b.WriteString(first)
	room := p.width - len([]rune(first))
	for _, r := range text {
		if c := columns(r); c > room {
			p.b.WriteString("\n" + next)
			room = p.width - len([]rune(next))
		}
		room -= columns(r)
		p.b.WriteRune(r)
	}
	p.b.WriteByte('\n')
}

func (p *page) field(name, text string) {
	if text != "" {
		p.flow(fmt.Sprintf("  %-12s", name), strings.Repeat(" ", 16), text)
	}
}

func (p *page) head(s *Statement, v View) {
	p.line("", "You are asked to approve"+as(v.As)+", "+subject(s)+":")
	for _, g := range summary(s.Actions) {
		p.line("  ", g+"   listed below, exactly as sent, but for the credential")
	}
	for _, c := range s.Connections {
		p.connection(c)
	}
	if s.Task != nil {
		p.field("task", visible(s.Task.Name)+"  "+token(s.Task.Pointer)+iteration(s))
	}
	p.field("asked by", token(s.Requester)+appliers(s))
	p.field("rule", fmt.Sprintf("%s: %d of %s, %d signed", token(s.Rule.Name), s.Rule.Quorum, tokens(s.Rule.Approvers, ", "), v.Signed))
	p.field("because of", policies(s.Policies))
	p.field("attempts", fmt.Sprintf("at most %d of each", s.Attempts))
	p.field("expires", s.ExpiresAt.UTC().Format("2006-01-02 15:04:05 MST")+left(s.ExpiresAt.Time, v.Now))
	p.field("approval", token(s.ID)+" of hub "+token(s.Hub))
	if s.Dev {
		p.field("dev", "this hub runs in dev mode")
	}
}

func as(groups []string) string {
	if len(groups) == 0 {
		return ""
	}
	return ", as " + tokens(groups, ", ")
}

func subject(s *Statement) string {
	if s.Kind == KindPlan {
		return "for a change of what the hub allows" + owner(s.Process)
	}
	return fmt.Sprintf("for run %s of %s %s%s", token(s.Run), token(s.Workflow.Ref), token(s.Workflow.Version), owner(s.Process))
}

func owner(p *Process) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf(" (process %s, owner %s)", token(p.Name), token(p.Owner))
}

func appliers(s *Statement) string {
	if len(s.Appliers) == 0 {
		return ""
	}
	return "; applied by " + tokens(s.Appliers, ", ")
}

func iteration(s *Statement) string {
	var b strings.Builder
	if len(s.Iteration) > 0 {
		fmt.Fprintf(&b, ", iteration %v", s.Iteration)
	}
	if s.Visit > 0 {
		fmt.Fprintf(&b, ", visit %d", s.Visit)
	}
	return b.String()
}

func policies(list []Policy) string {
	var ids []string
	for _, p := range list {
		ids = append(ids, p.ID)
	}
	return tokens(ids, ", ")
}

func left(until, now time.Time) string {
	if now.IsZero() {
		return ""
	}
	d := until.Sub(now).Truncate(time.Minute)
	if d <= 0 {
		return " (now, or already)"
	}
	return fmt.Sprintf(" (in %d h %02d min)", int(d.Hours()), int(d.Minutes())%60)
}

// summary groups requests by method and URL: "37 × POST https://…", in the order in which they first stand.
func summary(actions []Action) []string {
	var order []string
	counts := map[string]int{}
	for _, a := range actions {
		what := "an action that cannot be read"
		if parsed, err := action.Parse(a.Action); err == nil {
			what = token(parsed.HTTP.Method) + " " + token(parsed.HTTP.URL)
		}
		if counts[what] == 0 {
			order = append(order, what)
		}
		counts[what]++
	}
	for i, what := range order {
		order[i] = fmt.Sprintf("%d × %s", counts[what], what)
	}
	return order
}

func (p *page) request(i, n int, a Action) {
	p.blank()
	p.line("", fmt.Sprintf("Request %d of %d   %s", i+1, n, token(a.Digest)))
	parsed, err := action.Parse(a.Action)
	if err != nil { // never for a decoded statement; told rather than hidden
		p.line("  ", "it cannot be read: "+ascii(err.Error()))
		return
	}
	p.wrap("  │ ", "  ┊ ", token(parsed.HTTP.Method)+" "+token(parsed.HTTP.URL))
	for _, h := range parsed.HTTP.Headers {
		p.wrap("  │ ", "  ┊ ", token(h.Name)+": "+ascii(h.Value))
	}
	p.body(parsed.HTTP.Body)
}

// body writes JSON indented, other text as it is, anything else in base64. Indenting moves white space alone: members,
// their order, doubles and escapes stay as they will be sent.
func (p *page) body(body []byte) {
	if len(body) == 0 {
		p.line("  ", "no body")
		return
	}
	p.line("  ", fmt.Sprintf("body of %d bytes:", len(body)))
	var pretty bytes.Buffer
	switch {
	case !utf8.Valid(body):
		p.line("  ", "not text; in base64:")
		p.quoted(base64.StdEncoding.EncodeToString(body))
	case depth(body) <= maxIndent && json.Indent(&pretty, body, "", "  ") == nil:
		p.quoted(pretty.String())
	default:
		p.quoted(string(body))
	}
}

// maxIndent bounds what indenting can add: a body of a megabyte of brackets would otherwise fill the signer's memory.
const maxIndent = 24

// depth is how deeply brackets nest in a body that may be JSON.
func depth(body []byte) int {
	deepest, now, inString := 0, 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			now++
			deepest = max(deepest, now)
		case c == ']' || c == '}':
			now--
		}
	}
	return deepest
}

func (p *page) differences(s, replaced *Statement) {
	p.blank()
	if replaced == nil || replaced.ID != s.Replaces {
		p.line("", "It replaces "+token(s.Replaces)+", which is not at hand: what is different cannot be shown.")
		return
	}
	found := Diff(replaced, s)
	p.line("", fmt.Sprintf("It replaces %s. Different (%d):", token(s.Replaces), len(found)))
	if len(found) == 0 {
		p.line("  ", "nothing but its times")
	}
	for _, d := range found {
		p.wrap("  │ ", "  ┊ ", visible(d.Path))
		for _, side := range slices.Compact([]string{"- " + d.Before, "+ " + d.After}) {
			if len(side) > 2 {
				p.quoted("    " + side)
			}
		}
	}
}
