package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"cardea/internal/store"
)

// benchDDL is shaped like what a verdict writes: a row keyed by a text id and a record with a payload.
const benchDDL = `
CREATE TABLE attempt (id TEXT PRIMARY KEY, run TEXT NOT NULL, epoch INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE leaf (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, body BLOB NOT NULL) STRICT;`

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkCommit(b *testing.B) {
	body := make([]byte, 500)
	for _, callers := range []int{1, 50, 500} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			db, err := Open(b.Context(), filepath.Join(b.TempDir(), "bench.db"), fstest.MapFS{"0001_bench.sql": {Data: []byte(benchDDL)}})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			var n atomic.Int64
			b.SetParallelism((callers + 1) / 2)
			if callers == 1 {
				b.SetParallelism(1)
			}
			before := cpuTime()
			b.ResetTimer()
			work := func() {
				i := n.Add(1)
				err := db.Commit(context.Background(), func(t store.Tx) error {
					id := fmt.Sprintf("att_%020d", i)
					if _, err := t.Exec("INSERT INTO attempt (id, run, epoch, body) VALUES ($1, $2, $3, $4)", id, "run", i, "{}"); err != nil {
						return err
					}
					_, err := t.Exec("INSERT INTO leaf (id, body) VALUES ($1, $2)", id, body)
					return err
				})
				if err != nil {
					b.Error(err)
				}
			}
			if callers == 1 {
				for b.Loop() {
					work()
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						work()
					}
				})
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
			b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(db.stats.calls.Load())/float64(db.stats.commits.Load()), "fns/group")
		})
	}
}
