package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// page writes the story. What comes from commands is indented, so that it can be told from the telling.
type page struct {
	out     io.Writer
	columns int
	color   bool
	number  int
}

func newPage(o Options) *page {
	p := &page{out: o.Out, columns: o.Columns, color: o.Color}
	if p.columns < 60 {
		p.columns = 100
	}
	p.line(plain, "")
	p.line(bold, "Cardea: a workflow engine in which nothing holds standing access")
	return p
}

const (
	plain  = ""
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
)

func (p *page) line(style, text string) {
	if p.color && style != plain {
		text = "\x1b[" + style + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(p.out, text)
}

func (p *page) chapter(title string) {
	p.number++
	p.line(plain, "")
	p.line(bold+";"+blue, fmt.Sprintf("%d  %s", p.number, title))
}

func (p *page) say(format string, args ...any) { p.line(plain, "   "+fmt.Sprintf(format, args...)) }

// command shows what a person types. Long ids and inputs are as they are: it can be repeated.
func (p *page) command(person string, args []string) {
	quoted := make([]string, len(args))
	for i, a := range args {
		if strings.ContainsAny(a, " \"'{}") {
			a = "'" + a + "'"
		}
		quoted[i] = a
	}
	p.line(yellow, fmt.Sprintf("   %s$ cardea %s", person, strings.Join(quoted, " ")))
}

// mostLines of one command's output are shown; the rest is counted.
const mostLines = 32

func (p *page) output(text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range lines {
		if i == mostLines {
			p.line(dim, fmt.Sprintf("     … %d lines more", len(lines)-i))
			return
		}
		p.line(plain, strings.TrimRight("     "+l, " "))
	}
}

func (p *page) holds(claim string) { p.line(green, "   ✔ "+claim) }

func (p *page) failed(err error) { p.line(bold+";"+red, "   ✘ "+err.Error()) }

func (p *page) report(held []string, took time.Duration) {
	p.line(plain, "")
	p.line(bold, fmt.Sprintf("All of this held, in %.1f s:", took.Seconds()))
	for _, claim := range held {
		p.line(green, "  ✔ "+claim)
	}
	p.line(plain, "\nNext:  cardea dev     then  cardea apply -f examples/hello     and read docs/.")
}
