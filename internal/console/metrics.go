package console

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count calls by procedure and refusals by reason. Both are closed sets: nothing a client sends becomes a label.
type metrics struct {
	seconds  *prometheus.HistogramVec
	refusals *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (metrics, error) {
	m := metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cardea_console_call_seconds", Help: "Time of forwarded calls, streams included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"procedure", "status"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cardea_console_refusals_total", Help: "Requests that the console did not forward, or whose answer it cut short, by reason.",
		}, []string{"reason"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.seconds, m.refusals} {
		if err := reg.Register(c); err != nil {
			return metrics{}, fmt.Errorf("console metrics: %w", err)
		}
	}
	return m, nil
}

func (m metrics) observe(procedure string, status int, took time.Duration) {
	m.seconds.WithLabelValues(procedure, strconv.Itoa(status)).Observe(took.Seconds())
}

func (m metrics) refused(reason string) { m.refusals.WithLabelValues(reason).Inc() }
