package durable

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cardea/internal/dispatch"
)

// metrics stand beside what they count. Labels have few values: a status, a tier.
type metrics struct {
	started, held, denied, lost, stale, away prometheus.Counter
	finished, dispatched                     *prometheus.CounterVec
	batch, commits, authorize                prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, d *Driver) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "cardea", Subsystem: "engine", Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "cardea", Subsystem: "engine", Name: name, Help: help}, []string{label})
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "cardea", Subsystem: "engine", Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	seconds := prometheus.ExponentialBuckets(0.0001, 2, 16)
	reg.MustRegister(levels{d})
	return &metrics{
		started:    counter("runs_started_total", "Runs whose start was journalled."),
		held:       counter("runs_held_total", "Runs that are not driven because their journal does not replay."),
		denied:     counter("attempts_denied_total", "Attempts that the authority denied."),
		lost:       counter("attempts_lost_total", "Attempts whose runner was lost."),
		stale:      counter("results_stale_total", "Results that were refused because they are not of the current epoch and runner."),
		away:       counter("authority_away_total", "Calls to the authority that were not answered and were made again."),
		finished:   vec("runs_finished_total", "Runs that ended.", "status"),
		dispatched: vec("attempts_dispatched_total", "Attempts given to runners.", "tier"),
		batch:      histogram("authorize_batch_intents", "Intents of one call to the authority.", prometheus.ExponentialBuckets(1, 2, 8)),
		commits:    histogram("journal_commit_seconds", "Time until an event was durable.", seconds),
		authorize:  histogram("authorize_seconds", "Time until the authority answered a batch, retries included.", seconds),
	}
}

func (m *metrics) commit(d time.Duration) { m.commits.Observe(d.Seconds()) }

// levels reads the pool when somebody looks.
type levels struct{ d *Driver }

// Describe implements prometheus.Collector. The metrics depend on which tiers there are, so none is described: an unchecked collector.
func (levels) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (l levels) Collect(out chan<- prometheus.Metric) {
	gauge := func(name, help string, of func(dispatch.Level) int) func(tier string, level dispatch.Level) {
		desc := prometheus.NewDesc("cardea_engine_"+name, help, []string{"tier"}, nil)
		return func(tier string, level dispatch.Level) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(of(level)), tier)
		}
	}
	gauges := []func(string, dispatch.Level){
		gauge("attempts_queued", "Attempts that wait for credit.", func(l dispatch.Level) int { return l.Queued }),
		gauge("attempts_held", "Attempts that runners hold.", func(l dispatch.Level) int { return l.Held }),
		gauge("credit", "Attempts that connected runners would take.", func(l dispatch.Level) int { return l.Credit }),
		gauge("sessions", "Runners' sessions.", func(l dispatch.Level) int { return l.Sessions }),
	}
	for tier, level := range l.d.pool.Levels() {
		for _, g := range gauges {
			g(tier, level)
		}
	}
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("cardea_engine_runs_in_memory", "Runs held in memory.", nil, nil),
		prometheus.GaugeValue, float64(l.d.runs.size()))
}
