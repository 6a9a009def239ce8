package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	cardeav1 "cardea/api/cardea/v1"
)

// Stream is what Watch reads: a Connect server stream, or a test's.
type Stream interface {
	Receive() bool
	Msg() *cardeav1.WatchRunResponse
	Err() error
	Close() error
}

// Watcher shows a run while it goes on: redrawn in place on a terminal, a line per change elsewhere.
type Watcher struct {
	Out *Out
	// Me is the person who watches.
	Me string
	// Open starts the stream. It is called again when the stream breaks before the run has ended.
	Open func(ctx context.Context) (Stream, error)
	// Explain fills in what became of the credentials; it may be nil. Its failure costs that column and nothing else.
	Explain func(ctx context.Context) (*cardeav1.ExplainResponse, error)
	Now     func() time.Time
}

const (
	frameEvery = 100 * time.Millisecond
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
	// retryFor is how long a hub may be away before watching gives up. The run itself does not depend on it.
	retryFor = 60 * time.Second
)

// Run shows the run until it has ended or ctx has, and returns the last state seen, which is nil when none was.
func (w *Watcher) Run(ctx context.Context) (*cardeav1.Run, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	updates, failed := make(chan *cardeav1.Run, 1), make(chan error, 1)
	go func() { failed <- w.follow(ctx, updates) }()
	screen := w.newScreen()
	defer screen.close()
	tick := time.NewTicker(frameEvery)
	defer tick.Stop()
	var last *cardeav1.Run
	for {
		select {
		case last = <-updates:
			screen.show(last, nil)
			if RunEnded(last) {
				return last, screen.end(w.settle(last))
			}
		case <-tick.C:
			screen.tick(last)
		case err := <-failed:
			select { // follow may have passed on the last state just before it ended
			case last = <-updates:
				screen.show(last, nil)
			default:
			}
			if last != nil && RunEnded(last) {
				return last, screen.end(w.settle(last))
			}
			if ctxErr := ctx.Err(); ctxErr != nil {
				return last, ctxErr
			}
			return last, err
		}
	}
}

const (
	settleFor   = 2 * time.Second
	settleEvery = 100 * time.Millisecond
)

// settle waits a moment for the authority to close the run's books, and tells what became of its credentials. The run has
// ended: nobody should wait long for a decoration, and without an answer the last lines just say less.
func (w *Watcher) settle(r *cardeav1.Run) (*cardeav1.Run, LeaseNotes) {
	if w.Explain == nil {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleFor)
	defer cancel()
	var notes LeaseNotes
	for {
		e, err := w.Explain(ctx)
		if err != nil {
			return r, notes
		}
		notes = NoteLeases(e)
		if e.GetClosure() != nil {
			r.Closure = e.GetClosure()
			return r, notes
		}
		select {
		case <-ctx.Done():
			return r, notes
		case <-time.After(settleEvery):
		}
	}
}

// follow passes on every state, newest first when the reader lags, and opens the stream again after it breaks.
func (w *Watcher) follow(ctx context.Context, updates chan *cardeav1.Run) error {
	wait, since := retryFirst, w.Now()
	for {
		ended, got, err := w.once(ctx, updates)
		if ended || ctx.Err() != nil {
			return ctx.Err()
		}
		if got {
			wait, since = retryFirst, w.Now()
		}
		if err != nil && Explain(err).Exit != Unavailable || w.Now().Sub(since) > retryFor {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMost)
	}
}

func (w *Watcher) once(ctx context.Context, updates chan *cardeav1.Run) (ended, got bool, err error) {
	stream, err := w.Open(ctx)
	if err != nil {
		return false, false, err
	}
	defer stream.Close()
	for stream.Receive() {
		r := stream.Msg().GetRun()
		got = true
		select {
		case <-updates: // a state that nobody has drawn yet is worth nothing beside a newer one
		default:
		}
		select {
		case updates <- r:
		case <-ctx.Done():
			return false, got, ctx.Err()
		}
		if RunEnded(r) {
			return true, got, nil
		}
	}
	if err := stream.Err(); err != nil && !errors.Is(err, io.EOF) {
		return false, got, err
	}
	return false, got, nil
}

// screen is how a run's states become output.
type screen interface {
	show(r *cardeav1.Run, notes LeaseNotes)
	tick(r *cardeav1.Run)
	end(r *cardeav1.Run, notes LeaseNotes) error
	close()
}

func (w *Watcher) newScreen() screen {
	if w.Out.Terminal() {
		return &livePage{w: w}
	}
	return &plainLog{w: w, seen: make(map[string]string)}
}

// livePage redraws a block of lines in place. It owns the lines it drew last; nothing else may write meanwhile.
type livePage struct {
	w      *Watcher
	drawn  int
	frame  int
	hidden bool
}

func (p *livePage) show(r *cardeav1.Run, notes LeaseNotes) { p.draw(p.lines(r, notes)) }

func (p *livePage) tick(r *cardeav1.Run) {
	p.frame++
	if r == nil {
		return
	}
	p.show(r, nil)
}

func (p *livePage) end(r *cardeav1.Run, notes LeaseNotes) error {
	p.draw(nil)
	lines := append([]Line{RunHead(r, p.w.Me)}, RunLines(r, notes, p.w.Now())...)
	return p.w.Out.Print(append(lines, RunTail(r)...)...)
}

func (p *livePage) close() {
	if p.hidden {
		fmt.Fprint(p.w.Out.w, "\x1b[?25h")
	}
}

// spinner turns while a task runs.
var spinner = [...]Safe{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

func (p *livePage) lines(r *cardeav1.Run, notes LeaseNotes) []Line {
	now := p.w.Now()
	tasks := RunLines(r, notes, now)
	for i, t := range r.GetTasks() {
		if t.GetStatus() == "running" {
			tasks[i][1] = Piece{spinner[p.frame%len(spinner)], Cyan}
		}
	}
	_, rows := p.w.Out.Size()
	tasks = fold(r, tasks, rows-4)
	lines := append([]Line{RunHead(r, p.w.Me)}, tasks...)
	for _, t := range r.GetTasks() {
		if t.GetStatus() == "waiting" && t.GetApprovalId() != "" && len(lines) < rows-2 {
			lines = append(lines, Line{{F("→ cardea approval show %s", t.GetApprovalId()), Yellow}})
		}
	}
	if r.GetStartedAt() != nil && !RunEnded(r) {
		lines = append(lines, Line{{Clean(r.GetStatus()) + " " + Span(now.Sub(r.GetStartedAt().AsTime())) + "   Ctrl-C stops watching; the run goes on", Dim}})
	}
	return lines
}

// fold keeps the block within the screen's height: what has ended longest ago gives way first.
func fold(r *cardeav1.Run, tasks []Line, most int) []Line {
	most = max(most, 3)
	if len(tasks) <= most {
		return tasks
	}
	drop := len(tasks) - most + 1
	var kept []Line
	folded := 0
	for i, t := range r.GetTasks() {
		if drop > 0 && (t.GetStatus() == "completed" || t.GetStatus() == "skipped") {
			drop--
			folded++
			continue
		}
		kept = append(kept, tasks[i])
	}
	if cut := len(kept) - most + 1; cut > 0 {
		kept = append(kept[:len(kept)-cut:len(kept)-cut], Line{{F("  … %d more", cut), Dim}})
	}
	return append([]Line{{{F("  … %d done", folded), Dim}}}, kept...)
}

// draw replaces the block with lines. Each is cut to the screen, for a line that wraps would be two when going back up.
func (p *livePage) draw(lines []Line) {
	cols, _ := p.w.Out.Size()
	var b strings.Builder
	if !p.hidden {
		b.WriteString("\x1b[?25l")
		p.hidden = true
	}
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, l := range lines {
		b.WriteString(p.w.Out.render(l.Cut(cols - 1)))
		b.WriteByte('\n')
	}
	p.drawn = len(lines)
	_, _ = io.WriteString(p.w.Out.w, b.String()) // a frame that is lost is drawn again; the last lines go through Print
}

// plainLog writes one line per change, for pipes and logs.
type plainLog struct {
	w    *Watcher
	seen map[string]string
	head bool
}

func (p *plainLog) show(r *cardeav1.Run, _ LeaseNotes) {
	if !p.head {
		_ = p.w.Out.Print(RunHead(r, p.w.Me))
		p.head = true
	}
	for _, t := range r.GetTasks() {
		key := taskKey(t.GetTask(), t.GetIteration(), t.GetVisit())
		state := fmt.Sprint(t.GetStatus(), t.GetAttempt(), t.GetApprovalId())
		if p.seen[key] == state || t.GetStatus() == "pending" {
			continue
		}
		p.seen[key] = state
		sign, style := mark(t.GetStatus())
		l := Line{{Clock(p.w.Now()), Dim}}.Add(style, " "+sign).Add(Plain, " "+TaskLabel(t)+F("  %s", t.GetStatus()))
		if t.GetEndedAt() != nil {
			l = l.Add(Plain, "  "+taskTime(t, p.w.Now()))
		}
		if says := taskSays(t); len(says) > 0 {
			l = append(l.Add(Plain, "  "), says...)
		}
		_ = p.w.Out.Print(l)
	}
}

func (p *plainLog) tick(*cardeav1.Run) {}

func (p *plainLog) end(r *cardeav1.Run, _ LeaseNotes) error { return p.w.Out.Print(RunTail(r)...) }

func (p *plainLog) close() {}
