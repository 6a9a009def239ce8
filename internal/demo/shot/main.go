// Command shot draws terminal output as an SVG, for the README: it reads text with ANSI colours from standard input and writes the lines
// from the first that contains -from up to the last one (or -lines of them).
package main

import (
	"bufio"
	"flag"
	"fmt"
	"html"
	"io"
	"os"
	"regexp"
	"strings"
)

// The SVG's measures, in pixels: a monospaced character is charWidth wide.
const (
	charWidth  = 8.4
	lineHeight = 19
	margin     = 18
)

func main() {
	from := flag.String("from", "", "begin with the first line that contains this")
	lines := flag.Int("lines", 60, "draw at most so many lines")
	columns := flag.Int("columns", 118, "cut lines after so many characters")
	flag.Parse()
	if err := draw(os.Stdin, os.Stdout, *from, *lines, *columns); err != nil {
		fmt.Fprintln(os.Stderr, "shot:", err)
		os.Exit(1)
	}
}

func draw(in io.Reader, out io.Writer, from string, most, columns int) error {
	var picked []string
	scanner := bufio.NewScanner(in)
	for scanner.Scan() && len(picked) < most {
		if len(picked) > 0 || from == "" || strings.Contains(scanner.Text(), from) {
			picked = append(picked, scanner.Text())
		}
	}
	if err := scanner.Err(); err != nil {
		return err
	}
	if len(picked) == 0 {
		return fmt.Errorf("no line contains %q", from)
	}
	width, height := float64(columns)*charWidth+2*margin, len(picked)*lineHeight+2*margin
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="14">`+"\n", width, height)
	fmt.Fprintf(out, `<rect width="100%%" height="100%%" rx="8" fill="#16181d"/>`+"\n")
	for i, line := range picked {
		fmt.Fprintf(out, `<text x="%d" y="%d" xml:space="preserve" fill="#d7dae0">%s</text>`+"\n", margin, margin+(i+1)*lineHeight-5, spans(line, columns))
	}
	_, err := fmt.Fprintln(out, "</svg>")
	return err
}

var escape = regexp.MustCompile("\x1b\\[([0-9;]*)m")

// spans turns one line's colours into tspans, cut after columns characters.
func spans(line string, columns int) string {
	var b strings.Builder
	style, left := "", columns
	for line != "" {
		text, next, found := line, "", false
		if at := escape.FindStringSubmatchIndex(line); at != nil {
			text, next, found = line[:at[0]], line[at[2]:at[3]], true
			line = line[at[1]:]
		} else {
			line = ""
		}
		runes := []rune(text)
		if len(runes) > left {
			runes = append(runes[:max(left-1, 0)], '…')
			line, found = "", false
		}
		left -= len(runes)
		if text := string(runes); text != "" {
			fmt.Fprintf(&b, `<tspan%s>%s</tspan>`, attributes(style), html.EscapeString(text))
		}
		if found {
			style = next
		}
	}
	return b.String()
}

// attributes maps the colours that the demo uses.
func attributes(style string) string {
	colours := map[string]string{"31": "#ff6b68", "32": "#8bd17c", "33": "#e5c07b", "34": "#79b8ff", "2": "#7d8590"}
	out := ""
	for _, code := range strings.Split(style, ";") {
		if code == "1" {
			out += ` font-weight="bold"`
		} else if c := colours[code]; c != "" {
			out += ` fill="` + c + `"`
		}
	}
	return out
}
