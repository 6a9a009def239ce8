package role

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/identity"
)

// Host is a running role's surroundings: its identity, listeners, clients and workers. Spec.Build uses it; nothing that it
// registers runs before Build has returned and the process is confined.
type Host struct {
	log      *slog.Logger
	clock    func() time.Time
	conf     Config
	source   *identity.Source
	metrics  *prometheus.Registry
	refusals *prometheus.CounterVec
	admin    *admin

	onRefusal []RefusalFunc
	servers   []*server
	// held is what all listeners' requests may take of memory.
	held     *semaphore.Weighted
	workers  []worker
	stops    []worker
	draining chan struct{}
}

type worker struct {
	name string
	run  func(context.Context) error
}

// Log is the role's logger.
func (h *Host) Log() *slog.Logger { return h.log }

// Source is the role's own identity and the newest bundle; nil for a role that has none (the origin).
func (h *Host) Source() *identity.Source { return h.source }

// Metrics is where the role registers its collectors.
func (h *Host) Metrics() prometheus.Registerer { return h.metrics }

// Draining is closed when the role has been told to stop: take no new work.
func (h *Host) Draining() <-chan struct{} { return h.draining }

// Check adds a condition of readiness. It is asked on every /readyz and must answer quickly.
func (h *Host) Check(name string, check func(context.Context) error) { h.admin.add(name, check) }

// OnRefusal adds a recorder of refused callers, beside log and metrics. Call it before Serve.
func (h *Host) OnRefusal(f RefusalFunc) { h.onRefusal = append(h.onRefusal, f) }

// Go adds a worker. Its context ends once the listeners have drained; it is then waited for until the drain's
// deadline. A worker that returns an error ends the role; one that returns nil has finished.
func (h *Host) Go(name string, run func(context.Context) error) {
	h.workers = append(h.workers, worker{name, run})
}

// OnStop adds what must be closed at the end, after all workers; last added, first called.
func (h *Host) OnStop(name string, stop func(context.Context) error) {
	h.stops = append(h.stops, worker{name, stop})
}

// Serve binds addr and serves the services to callers with an SVID, each to the caller that its descriptor names.
func (h *Host) Serve(addr string, mounts ...Mount) error {
	record := h.recorder(addr)
	// VerifyConnection comes before the proof that the peer has the key of what it presents: nobody is proven yet.
	conf := h.source.ServerTLS(func(reason, peer string) {
		record(Refusal{Peer: peer, Reason: identity.Reason(reason)})
	})
	return h.serve(addr, conf, h.forPeers(record, mounts), mounts)
}

// forPeers guards what is for callers with an SVID. The one peer that speaks for many has more.
func (h *Host) forPeers(record RefusalFunc, mounts []Mount) guarded {
	g := guarded{source: h.source, onRefusal: record, bounds: peerBounds(), held: newBudget(listenerBudget, h.held)}
	for _, m := range mounts {
		service, err := ServiceByName(m.Service)
		if err != nil {
			continue // mount says so
		}
		if caller, _ := CallerOf(service); caller == cardeav1.Caller_CALLER_CONSOLE {
			g.bounds = consoleBounds()
		}
	}
	return g
}

// ServeJoiners is Serve for Enroll, whose callers have no SVID yet: everything that they get is small.
func (h *Host) ServeJoiners(addr string, mounts ...Mount) error {
	return h.serve(addr, h.source.ServerTLSWithoutClientSVID(), h.forJoiners(h.recorder(addr)), mounts)
}

// joinsPerSecond is far above what a hub needs: each role joins once.
const joinsPerSecond = 50

func (h *Host) forJoiners(record RefusalFunc) guarded {
	return guarded{source: h.source, onRefusal: record, bounds: joinerBounds(), held: newBudget(joinersBudget, nil),
		joiners: rate.NewLimiter(joinsPerSecond, 2*joinsPerSecond)}
}

func (h *Host) serve(addr string, conf *tls.Config, g guarded, mounts []Mount) error {
	ln, err := openGate(addr, g.bounds, func() { g.onRefusal(Refusal{Reason: Exhausted}) })
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	s := newServer(ln, conf, mux, h.log)
	g.calls, g.log = s.calls, h.log
	for _, m := range mounts {
		if err := g.mount(mux, m); err != nil {
			return errors.Join(err, s.ln.Close())
		}
	}
	h.servers = append(h.servers, s)
	return nil
}

// ServePeople binds addr for people's clients: TLS with the role's SVID, no SVID asked of them. The handler has its own
// limits; connContext may be nil. When the role drains, unary calls are waited for and streams (Connect's content type) end.
func (h *Host) ServePeople(addr string, handler http.Handler, connContext func(context.Context, net.Conn) context.Context) error {
	return h.serveRaw(addr, peopleBounds(), h.source.ServerTLSWithoutClientSVID(), handler, connContext)
}

// ServePublic binds addr for anybody, in plain HTTP: for the origin.
func (h *Host) ServePublic(addr string, handler http.Handler) error {
	return h.serveRaw(addr, publicBounds(), nil, handler, nil)
}

func (h *Host) serveRaw(addr string, b bounds, conf *tls.Config, handler http.Handler, connContext func(context.Context, net.Conn) context.Context) error {
	record := h.recorder(addr)
	full := func() { record(Refusal{Reason: Exhausted}) }
	ln, err := openGate(addr, b, full)
	if err != nil {
		return err
	}
	s := newServer(ln, conf, nil, h.log)
	s.http.Handler, s.http.ConnContext = s.calls.wrap(handler, full), connContext
	h.servers = append(h.servers, s)
	return nil
}

// Dial returns a client for another role's listener, which must present that role's SVID.
func (h *Host) Dial(addr, roleName string) *http.Client {
	return Dial(addr, h.source.ClientTLS(identity.WantRole(roleName)))
}

// recorder counts, logs and passes on the refusals of one listener. Only a peer that is proven is passed on.
func (h *Host) recorder(addr string) RefusalFunc {
	said := &rate.Sometimes{First: 20, Interval: time.Second}
	return func(r Refusal) {
		r.Listener, r.Procedure = clean(addr), clean(r.Procedure)
		if !r.Proven {
			r.Peer = clean(r.Peer)
		}
		h.refusals.WithLabelValues(string(r.Reason)).Inc()
		said.Do(func() { // callers choose how often they are refused; the metrics have the number
			h.log.Warn("refused a caller", "listener", r.Listener, "procedure", r.Procedure, "peer", r.Peer, "proven", r.Proven, "reason", r.Reason)
		})
		if !r.Proven {
			r.Peer = ""
		}
		for _, f := range h.onRefusal {
			f(r)
		}
	}
}

// UseCA gives the authority its own SVID, by its own CA, keeps it renewed, and keeps the newest bundle in bundle.json
// of its folder, from where a supervisor takes the roots that it pins for others. Call it first in Build.
func (h *Host) UseCA(ca *identity.CA, bundle identity.Bundle) error {
	c := h.conf.common()
	id, err := c.ID(Authority, "")
	if err != nil {
		return err
	}
	key, err := identity.LoadOrCreateKey(filepath.Join(c.Dir, keyFile))
	if err != nil {
		return err
	}
	chain, err := selfIssue(ca, key, id)
	if err != nil {
		return err
	}
	if h.source, err = identity.NewSource(key, chain, bundle, h.clock); err != nil {
		return err
	}
	path := filepath.Join(c.Dir, bundleFile)
	if err := SaveBundle(path, bundle); err != nil {
		return err
	}
	h.admin.add("identity", func(context.Context) error { return h.source.Valid() })
	h.Go("renew own SVID", func(ctx context.Context) error {
		return keepRenewed(ctx, h, func(context.Context) ([][]byte, error) { return selfIssue(ca, key, id) }, func() error { return nil })
	})
	h.Go("keep bundle", func(ctx context.Context) error { return h.followOwn(ctx, path) })
	return nil
}

func selfIssue(ca *identity.CA, key *ecdsa.PrivateKey, id spiffeid.ID) ([][]byte, error) {
	csr, err := identity.NewCSR(key)
	if err != nil {
		return nil, err
	}
	return ca.Issue(csr, id, identity.SVIDTTL, identity.SANs{})
}

// followOwn reacts to each new bundle: streams of peers that it bans end, and path (if any) keeps it.
func (h *Host) followOwn(ctx context.Context, path string) error {
	changes := h.source.Watch()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-changes:
			for _, s := range h.servers {
				s.calls.cutInvalid(h.source)
			}
			if path == "" {
				continue
			}
			if err := SaveBundle(path, b); err != nil {
				h.log.Error("cannot keep the bundle", "error", err)
			}
		}
	}
}
