package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Style is the colour or weight of a piece of text. Meaning never hangs on it alone.
type Style int

const (
	Plain Style = iota
	Bold
	Dim
	Green
	Red
	Yellow
	Cyan
)

// sgr is the parameter of the escape sequence that selects the style.
func (s Style) sgr() string {
	return [...]string{"0", "1", "2", "32", "31", "33", "36"}[s]
}

// Piece is a part of a line in one style.
type Piece struct {
	Text  Safe
	Style Style
}

// Line is one line of output.
type Line []Piece

// L is a line of one plain piece.
func L(text Safe) Line { return Line{{Text: text}} }

// Add appends a piece.
func (l Line) Add(style Style, text Safe) Line { return append(l[:len(l):len(l)], Piece{text, style}) }

// Width is the number of columns that the line takes.
func (l Line) Width() int {
	n := 0
	for _, p := range l {
		n += p.Text.Width()
	}
	return n
}

// Pad appends spaces up to n columns.
func (l Line) Pad(n int) Line {
	if w := l.Width(); w < n {
		return append(l, Piece{Text: Safe(strings.Repeat(" ", n-w))})
	}
	return l
}

// Cut shortens the line to n columns.
func (l Line) Cut(n int) Line {
	if l.Width() <= n {
		return l
	}
	var out Line
	for _, p := range l {
		if w := p.Text.Width(); w < n {
			out, n = append(out, p), n-w
			continue
		}
		return append(out, Piece{(p.Text + " ").cut(n), p.Style})
	}
	return out
}

// String is the line without styles and without trailing blanks.
func (l Line) String() string {
	var b strings.Builder
	for _, p := range l {
		b.WriteString(string(p.Text))
	}
	return strings.TrimRight(b.String(), " ")
}

// Out is where a command writes for people: a terminal, or a file or pipe that gets the same words without styles.
type Out struct {
	w      io.Writer
	fd     int
	tty    bool
	colour bool
}

// NewOut looks at w and the environment. Styles are used on a terminal only, and not when NO_COLOR is set or TERM is dumb.
func NewOut(w io.Writer, env func(string) string) *Out {
	o := &Out{w: w, fd: -1}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return o
	}
	o.fd = int(f.Fd())
	o.tty = env("TERM") != "dumb"
	o.colour = o.tty && env("NO_COLOR") == ""
	return o
}

// Terminal says whether a person is looking at a screen that can be redrawn.
func (o *Out) Terminal() bool { return o.tty }

// Size is the terminal's columns and rows; without one, lines are not cut.
func (o *Out) Size() (cols, rows int) {
	if o.tty {
		if c, r, err := term.GetSize(o.fd); err == nil && c > 0 && r > 0 {
			return c, r
		}
		return 80, 24
	}
	return 1 << 16, 1 << 16
}

// render turns a line into bytes for this output.
func (o *Out) render(l Line) string {
	if !o.colour {
		return l.String()
	}
	var b strings.Builder
	for i, p := range l {
		text := string(p.Text)
		if i == len(l)-1 {
			text = strings.TrimRight(text, " ")
		}
		if p.Style == Plain || text == "" {
			b.WriteString(text)
			continue
		}
		fmt.Fprintf(&b, "\x1b[%sm%s\x1b[0m", p.Style.sgr(), text)
	}
	return b.String()
}

// Print writes lines in full. A failed write is returned, so that output cut short by a full disk is not called success.
func (o *Out) Print(lines ...Line) error {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(o.render(l))
		b.WriteByte('\n')
	}
	if _, err := io.WriteString(o.w, b.String()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// Fit cuts the lines of a table to the terminal, where a row that wraps is two. Elsewhere nothing is cut.
func (o *Out) Fit(lines []Line) []Line {
	cols, _ := o.Size()
	fitted := make([]Line, len(lines))
	for i, l := range lines {
		fitted[i] = l.Cut(cols)
	}
	return fitted
}

// Say writes one formatted line.
func (o *Out) Say(format Safe, args ...any) error { return o.Print(L(F(format, args...))) }

// widestColumn keeps one long cell from pushing the rest of every row off the screen: beyond it, only its own row gives way.
const widestColumn = 90

// Table lays rows out in columns that are as wide as their widest cell. head may be empty.
func Table(head []Safe, rows [][]Line) []Line {
	all := rows
	if len(head) > 0 {
		first := make([]Line, len(head))
		for i, h := range head {
			first[i] = Line{{h, Dim}}
		}
		all = append([][]Line{first}, rows...)
	}
	var widths []int
	for _, row := range all {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			if w := cell.Width(); w <= widestColumn {
				widths[i] = max(widths[i], w)
			}
		}
	}
	lines := make([]Line, len(all))
	for n, row := range all {
		end := 0
		for i, cell := range row {
			lines[n] = append(lines[n], cell...)
			end += widths[i] + 2
			if i < len(row)-1 {
				lines[n] = lines[n].Pad(max(end, lines[n].Width()+2*min(1, cell.Width())))
			}
		}
	}
	return lines
}

// Indent puts n spaces before each line.
func Indent(n int, lines []Line) []Line {
	out := make([]Line, len(lines))
	for i, l := range lines {
		out[i] = append(Line{{Text: Safe(strings.Repeat(" ", n))}}, l...)
	}
	return out
}

// Meter draws how far something is on one line of a terminal, and wipes it when done. Elsewhere it is silent.
func (o *Out) Meter(what Safe, done, size uint64) {
	if !o.tty {
		return
	}
	line := Line{{F("%s  %d of %d", what, done, size), Dim}}
	if done >= size {
		line = nil
	}
	cols, _ := o.Size()
	_, _ = io.WriteString(o.w, "\r\x1b[K"+o.render(line.Cut(cols-1))) // a decoration: its loss is no failure
}
