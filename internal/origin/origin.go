// Package origin serves the hub's public files: discovery, keys, and the ledger's tiles.
//
// It promises that a request can read what the authority wrote into one folder, under names that the authority uses, and
// nothing else on the machine: no listing, no symbolic link, no hidden or unfinished file, no method but GET and HEAD.
// It holds no secret and writes nothing.
//
// It refuses a folder it cannot open when it starts, and every name that is not plainly one of a public file.
package origin

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxFile is more than any file of the authority's; something larger is a mistake, and is not served.
	maxFile = 16 << 20
	// maxParallel bounds open files and memory of sockets.
	maxParallel = 256
	maxPath     = 256
	maxDepth    = 12
)

// Origin serves one folder. It is safe for concurrent use.
type Origin struct {
	root     *os.Root
	log      *slog.Logger
	slots    chan struct{}
	requests *prometheus.CounterVec
}

// New opens the folder. metrics may be nil. The caller must Close.
func New(folder string, log *slog.Logger, metrics prometheus.Registerer) (*Origin, error) {
	if log == nil {
		return nil, errors.New("origin: a log is required")
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("origin: open public folder: %w", err)
	}
	o := &Origin{root: root, log: log, slots: make(chan struct{}, maxParallel), requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cardea_origin_requests_total", Help: "Requests for public files by kind of file and outcome.",
	}, []string{"kind", "outcome"})}
	if metrics != nil {
		if err := metrics.Register(o.requests); err != nil {
			root.Close()
			return nil, fmt.Errorf("origin metrics: %w", err)
		}
	}
	return o, nil
}

// Close closes the folder.
func (o *Origin) Close() error { return o.root.Close() }

// kind is how one sort of public file is served.
type kind struct {
	name        string
	contentType string
	cache       string
}

// segment is one part of a public file's path. It cannot begin with a dot, so neither parent folders nor hidden files nor the
// authority's unfinished ones have a name here.
var segment = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// classify names the kind of file that a path asks for; false when no public file could have that path.
func classify(name string) (kind, bool) {
	parts := strings.Split(name, "/")
	if len(name) > maxPath || len(parts) > maxDepth {
		return kind{}, false
	}
	for i, p := range parts {
		if !segment.MatchString(p) && !(i == 0 && p == ".well-known") {
			return kind{}, false
		}
	}
	last := parts[len(parts)-1]
	switch {
	case last == "checkpoint":
		return kind{"checkpoint", "text/plain; charset=utf-8", "no-cache"}, true
	case isTile(parts):
		return kind{"tile", "application/octet-stream", "public, max-age=31536000, immutable"}, true
	case strings.Contains(last, "jwks"):
		return kind{"keys", "application/jwk-set+json", "public, max-age=60"}, true
	case parts[0] == ".well-known" && len(parts) == 2:
		return kind{"discovery", "application/json", "public, max-age=300"}, true
	case path.Ext(last) == ".json":
		return kind{"document", "application/json", "public, max-age=60"}, true
	}
	return kind{}, false
}

// isTile recognises tile/<level>/<index…> wherever the ledger's folder is. A tile's content never changes, and a partial one
// says in its name how far it goes.
func isTile(parts []string) bool {
	for i, p := range parts {
		if p == "tile" && i < len(parts)-2 {
			return true
		}
	}
	return false
}

// ServeHTTP answers GET and HEAD of public files.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("Referrer-Policy", "no-referrer")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		o.refuse(w, "none", "method", http.StatusMethodNotAllowed)
		return
	}
	if r.ContentLength != 0 || r.URL.RawQuery != "" {
		o.refuse(w, "none", "body_or_query", http.StatusBadRequest)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	k, ok := classify(name)
	if !ok || r.URL.RawPath != "" {
		o.refuse(w, "none", "name", http.StatusNotFound)
		return
	}
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	default:
		h.Set("Retry-After", "1")
		o.refuse(w, k.name, "busy", http.StatusServiceUnavailable)
		return
	}
	o.serve(w, r, name, k)
}

func (o *Origin) refuse(w http.ResponseWriter, kind, why string, status int) {
	o.requests.WithLabelValues(kind, why).Inc()
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(status), status)
}

func (o *Origin) serve(w http.ResponseWriter, r *http.Request, name string, k kind) {
	f, info, err := o.open(name)
	if err != nil {
		status, why := http.StatusNotFound, "missing"
		if !errors.Is(err, fs.ErrNotExist) {
			// What is wrong with the folder is for the operator; outside, an odd file does not exist.
			o.log.WarnContext(r.Context(), "public file not served", "name", name, "error", err)
			why = "unfit"
		}
		o.refuse(w, k.name, why, status)
		return
	}
	defer f.Close()
	o.requests.WithLabelValues(k.name, "served").Inc()
	w.Header().Set("Content-Type", k.contentType)
	w.Header().Set("Cache-Control", k.cache)
	var modified time.Time
	if k.name == "tile" {
		modified = info.ModTime() // never for what changes: HTTP dates have seconds, and two checkpoints fit into one
	}
	http.ServeContent(w, r, "", modified, f)
}

// open walks to the file one folder at a time. os.Root alone would follow a link that stays inside the folder; here every part
// must be what it says, and must still be the same thing once it is open.
func (o *Origin) open(name string) (*os.File, fs.FileInfo, error) {
	at, opened := o.root, []*os.Root(nil)
	defer func() {
		for _, r := range opened {
			r.Close()
		}
	}()
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		next, err := enter(at, part)
		if err != nil {
			return nil, nil, err
		}
		opened, at = append(opened, next), next
	}
	return openRegular(at, parts[len(parts)-1])
}

func enter(at *os.Root, part string) (*os.Root, error) {
	seen, err := at.Lstat(part)
	if err != nil {
		return nil, err
	}
	if !seen.IsDir() {
		return nil, fs.ErrNotExist
	}
	next, err := at.OpenRoot(part)
	if err != nil {
		return nil, err
	}
	if now, err := next.Stat("."); err != nil || !os.SameFile(seen, now) {
		next.Close()
		return nil, fmt.Errorf("folder %s changed while it was opened", part)
	}
	return next, nil
}

func openRegular(at *os.Root, part string) (*os.File, fs.FileInfo, error) {
	seen, err := at.Lstat(part)
	if err != nil {
		return nil, nil, err
	}
	if seen.IsDir() {
		return nil, nil, fs.ErrNotExist
	}
	if !seen.Mode().IsRegular() || seen.Size() > maxFile {
		return nil, nil, fmt.Errorf("not a regular file of at most %d bytes: %s", maxFile, seen.Mode())
	}
	f, err := at.Open(part)
	if err != nil {
		return nil, nil, err
	}
	now, err := f.Stat()
	if err != nil || !os.SameFile(seen, now) {
		f.Close()
		return nil, nil, errors.New("file changed while it was opened")
	}
	return f, now, nil
}
