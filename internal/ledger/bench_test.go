package ledger

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"cardea/internal/store"
)

// BenchmarkAppend is the cost of one leaf to the transaction that carries it, apart from the commit.
func BenchmarkAppend(b *testing.B) {
	f := newFixture(b, nil)
	e := testEntry(1)
	e.Payload = bytes.Repeat([]byte("x"), 600)
	const each = 100
	b.ReportAllocs()
	for n := 0; n < b.N; n += each {
		err := f.db.Commit(context.Background(), func(tx store.Tx) error {
			for range each {
				if _, err := f.Append(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSequence is the sequencer's throughput, and how long one batch holds the writer.
func BenchmarkSequence(b *testing.B) {
	f := newFixture(b, nil)
	e := testEntry(1)
	e.Payload = bytes.Repeat([]byte("x"), 600)
	var spent time.Duration
	leaves, batches := 0, 0
	for b.Loop() {
		f.append(slices.Repeat([]Entry{e}, 4*maxBatch)...)
		start := time.Now()
		for {
			n, err := f.sequence(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if n == 0 {
				break
			}
			leaves, batches = leaves+n, batches+1
		}
		spent += time.Since(start)
	}
	b.ReportMetric(float64(leaves)/spent.Seconds(), "leaves/s")
	b.ReportMetric(float64(spent.Microseconds())/float64(batches), "µs/batch")
}

// BenchmarkProve includes checking every tile on the way against the signed root.
func BenchmarkProve(b *testing.B) {
	f := newFixture(b, nil)
	for range 100 {
		f.append(slices.Repeat([]Entry{testEntry(1)}, 1000)...)
	}
	f.sequenceNow()
	i := int64(0)
	for b.Loop() {
		if _, err := f.ProveIndex(b.Context(), i*7919%100000); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
