package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

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

// load keeps n runs going until finish is called; each begins when the one before it has been seen completed. One run is watched. Many
// are followed with one question for all, as a program that starts many would: a stream for each would measure streams.
type load struct {
	c       *cli.Client
	await   func(ctx context.Context, id string) (*cardeav1.Run, error)
	lister  *lister // nil when runs are watched
	workers sync.WaitGroup
	stop    chan struct{}
	// refused counts calls that the console put off, because one client asked too often: then its limit was measured, not the hub.
	refused atomic.Int64

	mu   sync.Mutex
	done []done
	err  error
}

func startLoad(ctx context.Context, c *cli.Client, n int) *load {
	l := &load{c: c, stop: make(chan struct{})}
	l.await = l.watch
	if n > 1 {
		l.lister = newLister(l, uint32(2*n))
		l.await = l.lister.await
		go l.lister.run(ctx)
	}
	for range n {
		l.workers.Go(func() {
			for l.more() {
				l.add(l.one(ctx))
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
	if l.lister != nil {
		l.lister.close()
	}
	return l.done, l.err
}

// one makes a run from its start to its end.
func (l *load) one(ctx context.Context) (done, error) {
	began := time.Now()
	id, err := l.start(ctx)
	if err != nil {
		return done{}, fmt.Errorf("start a run: %w", err)
	}
	run, err := l.await(ctx, id)
	if err != nil {
		return done{}, fmt.Errorf("follow run %s: %w", id, err)
	}
	d := done{id: id, at: time.Now(), took: time.Since(began)}
	if run.GetStatus() != "completed" {
		return d, fmt.Errorf("run %s is %s: %s", id, run.GetStatus(), run.GetErrorJson())
	}
	if l.lister == nil {
		d.steps, err = stepsOf(run)
	}
	return d, err
}

// start asks for a run.
func (l *load) start(ctx context.Context) (id string, err error) {
	err = l.patiently(ctx, func() error {
		started, err := l.c.Runs.Start(ctx, &cardeav1.StartRunRequest{Workflow: workflow, InputJson: []byte(`{}`)})
		id = started.GetRunId()
		return err
	})
	return id, err
}

// patiently calls again after a moment while the console says that one should.
func (l *load) patiently(ctx context.Context, call func() error) error {
	for {
		err := call()
		if connect.CodeOf(err) != connect.CodeResourceExhausted {
			return err
		}
		l.refused.Add(1)
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// watch follows one run by its stream.
func (l *load) watch(ctx context.Context, id string) (*cardeav1.Run, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := l.c.Runs.Watch(ctx, &cardeav1.WatchRunRequest{RunId: id})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	for stream.Receive() {
		if run := stream.Msg().GetRun(); cli.RunEnded(run) {
			return run, nil
		}
	}
	return nil, errors.Join(errors.New("the stream ended before the run"), stream.Err(), ctx.Err())
}

// stepsOf is how long each step took, by the engine's clock.
func stepsOf(run *cardeav1.Run) ([]time.Duration, error) {
	var steps []time.Duration
	for _, t := range run.GetTasks() {
		steps = append(steps, t.GetEndedAt().AsTime().Sub(t.GetStartedAt().AsTime()))
	}
	if len(steps) != tasks {
		return nil, fmt.Errorf("run %s shows %d steps, not %d", run.GetId(), len(steps), tasks)
	}
	return steps, nil
}

// maxAsked is of how many runs the steps are asked for when their end alone was seen.
const maxAsked = 200

// askSteps asks for the steps of runs spread evenly over the window, once the load is over.
func (l *load) askSteps(ctx context.Context, runs []done) error {
	if l.lister == nil {
		return nil
	}
	n := min(len(runs), maxAsked)
	for i := range n {
		d := &runs[i*len(runs)/n]
		err := l.patiently(ctx, func() error {
			answer, err := l.c.Runs.Get(ctx, &cardeav1.GetRunRequest{RunId: d.id})
			if err == nil {
				d.steps, err = stepsOf(answer.GetRun())
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("ask for the steps of run %s: %w", d.id, err)
		}
	}
	return nil
}
