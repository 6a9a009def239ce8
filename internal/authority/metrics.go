package authority

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are counted where the thing happens.
type metrics struct {
	verdicts    *prometheus.CounterVec
	decideTime  prometheus.Histogram
	redeemTime  prometheus.Histogram
	leases      prometheus.Counter
	leasesEnded prometheus.Counter
	refusals    *prometheus.CounterVec
}

func newMetrics() *metrics {
	buckets := []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .5, 1}
	return &metrics{
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cardea_authority_verdicts_total", Help: "Verdicts recorded, by outcome."}, []string{"outcome"}),
		decideTime: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cardea_authority_authorize_seconds", Buckets: buckets,
			Help: "Time to decide, record and mint one intent, durable."}),
		redeemTime: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cardea_authority_redeem_seconds", Buckets: buckets,
			Help: "Time to check, record and mint one permit's credentials, durable."}),
		leases:      prometheus.NewCounter(prometheus.CounterOpts{Name: "cardea_authority_leases_issued_total", Help: "Credentials issued."}),
		leasesEnded: prometheus.NewCounter(prometheus.CounterOpts{Name: "cardea_authority_leases_ended_total", Help: "Credentials confirmed revoked or expired."}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cardea_authority_refusals_total",
			Help: "Callers turned away before anything was decided, by listener."}, []string{"listener"}),
	}
}

// Collectors are for the role's registry.
func (a *Authority) Collectors() []prometheus.Collector {
	m := a.metrics
	return []prometheus.Collector{m.verdicts, m.decideTime, m.redeemTime, m.leases, m.leasesEnded, m.refusals}
}

func (m *metrics) verdict(outcome string, took time.Duration) {
	m.verdicts.WithLabelValues(outcome).Inc()
	m.decideTime.Observe(took.Seconds())
}

func (m *metrics) redeemed(took time.Duration, leases int) {
	m.redeemTime.Observe(took.Seconds())
	m.leases.Add(float64(leases))
}

func (m *metrics) refused(listener string) { m.refusals.WithLabelValues(listener).Inc() }
