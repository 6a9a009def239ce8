package durable_test

import (
	"fmt"
	"sync"
	"testing"

	cardeav1 "cardea/api/cardea/v1"
)

// BenchmarkSteps drives three-step runs, 50 at a time, with everybody else in process: what remains is the engine's own share of a step.
func BenchmarkSteps(b *testing.B) {
	for _, concurrent := range []int{1, 50} {
		b.Run(fmt.Sprintf("concurrent=%d", concurrent), func(b *testing.B) {
			w := newWorld(b)
			w.runner("a", "standard", 64)
			digest := w.define(get3)
			slots := make(chan struct{}, concurrent)
			var group sync.WaitGroup
			b.ResetTimer()
			for range b.N {
				slots <- struct{}{}
				group.Go(func() {
					defer func() { <-slots }()
					id := w.start(digest, `{"id":"7"}`)
					w.until(id, "closed", func(r *cardeav1.Run) bool { return r.GetClosure() != nil })
				})
			}
			group.Wait()
			b.ReportMetric(float64(3*b.N)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}
