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

// askEvery is how often the lister asks: a run is seen completed half of it late on average.
const askEvery = 25 * time.Millisecond

// lister follows many runs with one question for all of them: what are the newest runs?
type lister struct {
	load  *load
	limit uint32
	over  chan struct{} // closed by close
	ended chan struct{} // closed when run has ended

	mu      sync.Mutex
	waiting map[string]chan *cardeav1.Run // closed when the lister ends first
	err     error
}

func newLister(l *load, limit uint32) *lister {
	return &lister{load: l, limit: limit, over: make(chan struct{}), ended: make(chan struct{}), waiting: map[string]chan *cardeav1.Run{}}
}

// await returns a run once it has ended.
func (l *lister) await(ctx context.Context, id string) (*cardeav1.Run, error) {
	l.mu.Lock()
	if l.err != nil {
		defer l.mu.Unlock()
		return nil, l.err
	}
	seen := make(chan *cardeav1.Run, 1)
	l.waiting[id] = seen
	l.mu.Unlock()
	select {
	case run, ok := <-seen:
		if !ok {
			l.mu.Lock()
			defer l.mu.Unlock()
			return nil, l.err
		}
		return run, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run asks until close is called; the first error is everyone's.
func (l *lister) run(ctx context.Context) {
	defer close(l.ended)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	err := errors.New("nobody asks any more")
	for {
		select {
		case <-tick.C:
			if askErr := l.ask(ctx); askErr != nil {
				err = askErr
				break
			}
			continue
		case <-l.over:
		}
		break
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	for _, seen := range l.waiting {
		close(seen)
	}
	l.waiting = nil
}

// ask tells those who wait which of the newest runs have ended. Whoever is too old to be among them is asked about alone.
func (l *lister) ask(ctx context.Context) error {
	var runs []*cardeav1.Run
	err := l.load.patiently(ctx, func() error {
		answer, err := l.load.c.Runs.List(ctx, &cardeav1.ListRunsRequest{Limit: l.limit})
		runs = answer.GetRuns()
		return err
	})
	if err != nil {
		return fmt.Errorf("list the newest runs: %w", err)
	}
	for _, run := range runs {
		l.tell(run)
	}
	for _, id := range l.missing(runs) {
		err := l.load.patiently(ctx, func() error {
			answer, err := l.load.c.Runs.Get(ctx, &cardeav1.GetRunRequest{RunId: id})
			if err == nil {
				l.tell(answer.GetRun())
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("ask for run %s: %w", id, err)
		}
	}
	return nil
}

func (l *lister) tell(run *cardeav1.Run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seen, ok := l.waiting[run.GetId()]; ok && cli.RunEnded(run) {
		seen <- run
		delete(l.waiting, run.GetId())
	}
}

// missing are those who wait for runs older than all that were listed; ids sort by time.
func (l *lister) missing(runs []*cardeav1.Run) []string {
	if len(runs) < int(l.limit) {
		return nil
	}
	oldest := runs[len(runs)-1].GetId()
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []string
	for id := range l.waiting {
		if id < oldest {
			ids = append(ids, id)
		}
	}
	return ids
}

func (l *lister) close() {
	close(l.over)
	<-l.ended
}
