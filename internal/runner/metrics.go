package runner

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	cardeav1 "cardea/api/cardea/v1"
)

type metrics struct {
	attempts *prometheus.CounterVec
	refused  prometheus.Counter
	sessions prometheus.Counter
	redeem   prometheus.Histogram
	act      prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, r *Runner) (*metrics, error) {
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 16) // 0.5 ms to 16 s
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cardea_runner_attempts_total", Help: "Attempts that ended, by how far they came and whether they failed.",
		}, []string{"delivery", "outcome"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cardea_runner_refused_tasks_total", Help: "Tasks that were refused before redeeming: the permit was not for them. An honest engine causes none.",
		}),
		sessions: prometheus.NewCounter(prometheus.CounterOpts{Name: "cardea_runner_sessions_total", Help: "Sessions with the engine that were begun."}),
		redeem: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cardea_runner_redeem_seconds", Help: "Time of a redeem.", Buckets: buckets,
		}),
		act: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cardea_runner_act_seconds", Help: "Time of an action.", Buckets: buckets}),
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.attempts, m.refused, m.sessions, m.redeem, m.act,
		gauge("cardea_runner_slots", "Slots.", func() int { return r.cfg.Slots }),
		gauge("cardea_runner_slots_used", "Slots that are taken: by attempts, untaken results and unconfirmed returns.", r.occupied),
		gauge("cardea_runner_running", "Attempts that have no result yet.", r.running),
	} {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("runner metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) count(out Outcome) {
	outcome := "answer"
	if out.Err != nil {
		outcome = "error"
	}
	word := map[cardeav1.Delivery]string{
		cardeav1.Delivery_DELIVERY_NOT_SENT: "not_sent", cardeav1.Delivery_DELIVERY_SENT: "sent", cardeav1.Delivery_DELIVERY_ANSWERED: "answered",
	}[out.Delivery]
	m.attempts.WithLabelValues(word, outcome).Inc()
}
