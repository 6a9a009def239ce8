package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
)

// pretendTerminal is an Out that believes in a screen; without a descriptor its size is 80 by 24.
func pretendTerminal(b *bytes.Buffer) *Out { return &Out{w: b, fd: -1, tty: true, colour: true} }

func bigRun(tasks int) *cardeav1.Run {
	r := &cardeav1.Run{Id: "run_1", Workflow: "a/b", Status: "running", StartedAt: at(0)}
	for i := range tasks {
		status := "completed"
		if i%3 == 2 {
			status = "running"
		}
		r.Tasks = append(r.Tasks, &cardeav1.TaskState{Task: fmt.Sprintf("/do/%d/%s", i, strings.Repeat("long", 40)), Status: status, StartedAt: at(i)})
	}
	return r
}

var (
	styles = regexp.MustCompile("\x1b\\[[0-9]*m")
	moves  = regexp.MustCompile("\x1b\\[([0-9]+)A")
)

func TestTheLivePageStaysInItsPlace(t *testing.T) {
	var b bytes.Buffer
	p := &livePage{w: &Watcher{Out: pretendTerminal(&b), Now: func() time.Time { return at(60000).AsTime() }}}
	drawn := 0
	for _, tasks := range []int{1, 5, 100, 2} {
		b.Reset()
		p.show(bigRun(tasks), nil)
		frame := b.String()
		up := 0
		if m := moves.FindStringSubmatch(frame); m != nil {
			up, _ = strconv.Atoi(m[1])
		}
		if up != drawn {
			t.Fatalf("%d tasks: went up %d lines, %d had been drawn", tasks, up, drawn)
		}
		_, block, found := strings.Cut(frame, "\x1b[J")
		if !found {
			t.Fatalf("%d tasks: the old block is not wiped", tasks)
		}
		lines := strings.Split(strings.TrimSuffix(styles.ReplaceAllString(block, ""), "\n"), "\n")
		for _, l := range lines {
			if Safe(l).Width() > 79 {
				t.Fatalf("%d tasks: a line of %d columns wraps: %q", tasks, Safe(l).Width(), l)
			}
		}
		if drawn = len(lines); drawn > 23 {
			t.Fatalf("%d tasks: %d lines do not fit the screen", tasks, drawn)
		}
	}
	b.Reset()
	if err := p.end(bigRun(2), nil); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), fmt.Sprintf("\x1b[%dA\r\x1b[J", drawn)) {
		t.Fatalf("the last lines do not replace the block: %q", b.String())
	}
	b.Reset()
	p.close()
	if b.String() != "\x1b[?25h" {
		t.Fatalf("the cursor stays hidden: %q", b.String())
	}
}

func TestWatchingGivesUpOnAHubThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		tries := 0
		w := &Watcher{
			Out: NewOut(&b, func(string) string { return "" }), Now: time.Now,
			Open: func(context.Context) (Stream, error) {
				tries++
				return nil, connect.NewError(connect.CodeUnavailable, errors.New("away"))
			},
		}
		began := time.Now()
		_, err := w.Run(t.Context())
		if Explain(err).Exit != Unavailable || tries < 5 {
			t.Fatalf("%v after %d tries", err, tries)
		}
		if took := time.Since(began); took < retryFor || took > retryFor+2*retryMost {
			t.Fatalf("gave up after %v", took)
		}
	})
}

func TestTheClosureIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, closesAfter := range map[string]int{"soon": 3, "never": 1 << 30} {
			var b bytes.Buffer
			asked := 0
			w := &Watcher{
				Out: NewOut(&b, func(string) string { return "" }), Now: time.Now,
				Open: func(context.Context) (Stream, error) {
					return &script{runs: []*cardeav1.Run{{Id: "run_1", Status: "completed"}}}, nil
				},
				Explain: func(ctx context.Context) (*cardeav1.ExplainResponse, error) {
					if asked++; asked >= closesAfter {
						return &cardeav1.ExplainResponse{Closure: &cardeav1.Closure{Issued: 2, Ended: 2}}, nil
					}
					return &cardeav1.ExplainResponse{}, ctx.Err()
				},
			}
			began := time.Now()
			if _, err := w.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if has := strings.Contains(b.String(), "closure: 2 credentials issued"); has != (name == "soon") {
				t.Errorf("%s: %s", name, b.String())
			}
			if took := time.Since(began); took > 2*settleFor {
				t.Errorf("%s: took %v", name, took)
			}
		}
	})
}
