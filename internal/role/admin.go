package role

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// checkTimeout bounds one readiness check.
const checkTimeout = 2 * time.Second

// admin answers an operator's questions on a local socket: is it alive, is it ready, what has it counted.
type admin struct {
	started atomic.Bool // Build is over and everything is served
	closing atomic.Bool

	mu     sync.Mutex
	checks []worker
}

func (a *admin) add(name string, check func(context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checks = append(a.checks, worker{name, check})
}

func (a *admin) handler(metrics *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

// readyz answers 200 while the role does its work, 503 with the reasons otherwise.
func (a *admin) readyz(w http.ResponseWriter, r *http.Request) {
	reasons := a.unready(r.Context())
	if len(reasons) == 0 {
		fmt.Fprintln(w, "ready")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, reason := range reasons {
		fmt.Fprintln(w, reason)
	}
}

func (a *admin) unready(ctx context.Context) []string {
	var reasons []string
	if !a.started.Load() {
		reasons = append(reasons, "starting")
	}
	if a.closing.Load() {
		reasons = append(reasons, "stopping")
	}
	a.mu.Lock()
	checks := append([]worker(nil), a.checks...)
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for _, c := range checks {
		if err := c.run(ctx); err != nil {
			reasons = append(reasons, c.name+": "+err.Error())
		}
	}
	return reasons
}

// AdminClient is a client of a role's admin socket; its base URL is http://admin.
func AdminClient(addr string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialAddress(ctx, addr) },
		DisableKeepAlives: true,
	}}
}

// Ready asks a role's admin socket whether it is ready; the error says why it is not.
func Ready(ctx context.Context, addr string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := AdminClient(addr).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}

// notify tells systemd, or whoever set NOTIFY_SOCKET, of a change of state (sd_notify(3)). It is a courtesy: failure changes nothing.
func (h *Host) notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err == nil {
		_, err = conn.Write([]byte(state))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		h.log.Debug("cannot notify", "state", state, "error", err)
	}
}
