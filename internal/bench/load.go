package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

// done is one run as its client saw it.
type done struct {
	id    string
	took  time.Duration // from asking for it to seeing it completed
	at    time.Time     // when it was seen completed
	steps []time.Duration
}

// follow starts a run and watches it until it has completed, as `cardea run start` and `run watch` do: a ticket and a call for each.
func follow(ctx context.Context, c *cli.Client) (done, error) {
	began := time.Now()
	started, err := c.Runs.Start(ctx, &cardeav1.StartRunRequest{Workflow: workflow, InputJson: []byte(`{}`)})
	if err != nil {
		return done{}, fmt.Errorf("start a run: %w", err)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := c.Runs.Watch(watching, &cardeav1.WatchRunRequest{RunId: started.GetRunId()})
	if err != nil {
		return done{}, fmt.Errorf("watch run %s: %w", started.GetRunId(), err)
	}
	defer stream.Close()
	for stream.Receive() {
		run := stream.Msg().GetRun()
		if !cli.RunEnded(run) {
			continue
		}
		d := done{id: run.GetId(), at: time.Now(), took: time.Since(began)}
		if run.GetStatus() != "completed" {
			return d, fmt.Errorf("run %s is %s: %s", run.GetId(), run.GetStatus(), run.GetErrorJson())
		}
		for _, t := range run.GetTasks() {
			d.steps = append(d.steps, t.GetEndedAt().AsTime().Sub(t.GetStartedAt().AsTime()))
		}
		if len(d.steps) != tasks {
			return d, fmt.Errorf("run %s shows %d steps, not %d", d.id, len(d.steps), tasks)
		}
		return d, nil
	}
	return done{}, fmt.Errorf("watch run %s: ended early: %w", started.GetRunId(), errors.Join(stream.Err(), ctx.Err()))
}

// load keeps n runs going from the call of start until stop; each client begins its next run when it has seen the last one completed.
type load struct {
	c       *cli.Client
	workers sync.WaitGroup
	stop    chan struct{}

	mu   sync.Mutex
	done []done
	err  error
}

func startLoad(ctx context.Context, c *cli.Client, n int) *load {
	l := &load{c: c, stop: make(chan struct{})}
	for range n {
		l.workers.Go(func() {
			for l.more() {
				l.add(follow(ctx, c))
			}
		})
	}
	return l
}

func (l *load) more() bool {
	select {
	case <-l.stop:
		return false
	default:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.err == nil
	}
}

func (l *load) add(d done, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	l.done = append(l.done, d)
}

// finish lets what has begun complete and returns every run that was begun.
func (l *load) finish() ([]done, error) {
	close(l.stop)
	l.workers.Wait()
	return l.done, l.err
}
