package supervise

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode"
)

// maxLine bounds one line of a child's log; the rest of a longer one follows as a line of its own.
const maxLine = 64 << 10

// logs merges what the children write, line by line. It is safe for concurrent use.
type logs struct {
	mu     sync.Mutex
	w      io.Writer
	format string
	color  bool
	width  int // of the longest process name
}

// line writes one line of one process; n tells the processes' colours apart.
func (l *logs) line(name string, n int, line []byte) {
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// A log that cannot be written is lost; the ledger is what must not be.
	if l.format == "json" {
		if !json.Valid(line) { // a panic's text, say
			_ = json.NewEncoder(l.w).Encode(map[string]string{
				"time": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "level": "ERROR", "role": name, "msg": string(line),
			})
			return
		}
		_, _ = fmt.Fprintf(l.w, "%s\n", line)
		return
	}
	prefix := fmt.Sprintf("%-*s │", l.width, name)
	if l.color {
		prefix = fmt.Sprintf("\x1b[%dm%s\x1b[0m", 31+n%6, prefix)
	}
	_, _ = fmt.Fprintf(l.w, "%s %s\n", prefix, visible(line))
}

// visible shows control characters instead of sending them to a terminal: a log line may quote what a stranger sent.
func visible(line []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if r != '\t' && unicode.IsControl(r) {
			return '\ufffd'
		}
		return r
	}, line)
}

// lineWriter is a child's standard output and error. Writes do not overlap (exec.Cmd).
type lineWriter struct {
	logs  *logs
	name  string
	index int
	rest  []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			break
		}
		w.logs.line(w.name, w.index, w.rest[:i])
		w.rest = w.rest[i+1:]
	}
	if len(w.rest) > maxLine {
		w.flush()
	}
	return len(b), nil
}

// flush writes what no line's end followed.
func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.logs.line(w.name, w.index, w.rest)
	}
	w.rest = nil
}
