package runner

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
)

// awayEngine opens no session; lasts is how long it takes to say so.
type awayEngine struct{ lasts atomic.Int64 }

func (e *awayEngine) Session(context.Context) (*connect.BidiStreamForClientSimple[cardeav1.SessionRequest, cardeav1.SessionResponse], error) {
	time.Sleep(time.Duration(e.lasts.Load()))
	return nil, errors.New("nobody is there")
}

// lines counts what is logged.
type lines struct {
	slog.Handler
	n *atomic.Int64
}

func (l lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l lines) Handle(context.Context, slog.Record) error {
	l.n.Add(1)
	return nil
}

// TestAwayEngineIsSaidOnce, and then now and then: a log that fills with one line hides the others.
func TestAwayEngineIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said atomic.Int64
		engine := &awayEngine{}
		r := &Runner{cfg: Config{Work: engine, Log: slog.New(lines{slog.DiscardHandler, &said})}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { r.keepSession(ctx); close(ended) }()
		count := func() int64 {
			synctest.Wait()
			return said.Load()
		}
		time.Sleep(20 * time.Second)
		if n := count(); n != 1 {
			t.Errorf("%d lines within 20 s", n)
		}
		time.Sleep(80 * time.Second)
		if n := count(); n < 3 || n > 4 {
			t.Errorf("%d lines within 100 s", n)
		}
		before := count()
		engine.lasts.Store(int64(10 * time.Second)) // sessions that lasted: each end is news
		time.Sleep(31 * time.Second)
		if n := count() - before; n < 2 {
			t.Errorf("%d lines for three sessions that ended", n)
		}
		stop()
		<-ended
	})
}
