package services

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// maxSeen bounds what a service remembers of single requests; counters go on.
const maxSeen = 1 << 20

// Seen is one request as the service saw it. It never holds the token.
type Seen struct {
	At             time.Time `json:"at"`
	Method         string    `json:"method"`
	Path           string    `json:"path"`
	Status         int       `json:"status"`
	Subject        string    `json:"subject,omitempty"`
	Run            string    `json:"run,omitempty"`
	Permit         string    `json:"permit,omitempty"`
	Lease          string    `json:"lease,omitempty"`
	Scope          string    `json:"scope,omitempty"`
	IdempotencyKey string    `json:"idempotency_key,omitempty"`
	// Body is the digest of the request's body, sha256:<hex>, where the service reads one.
	Body string `json:"body,omitempty"`
	// Transferred: money moved because of this request. Replayed: it had moved before. Conflict: the key was another body's.
	Transferred bool `json:"transferred,omitempty"`
	Replayed    bool `json:"replayed,omitempty"`
	Conflict    bool `json:"conflict,omitempty"`
}

// Stats are the service's own counts, which a benchmark compares with the ledger's and a crash test with the engine's.
type Stats struct {
	Requests int `json:"requests"`
	// Accepted were answered below 400.
	Accepted     int `json:"accepted"`
	Unauthorized int `json:"unauthorized"`
	Forbidden    int `json:"forbidden"`
	Transfers    int `json:"transfers"`
	Replays      int `json:"replays"`
	Conflicts    int `json:"conflicts"`
	// Deliveries counts accepted requests per idempotency key: a `once` action must never have two.
	Deliveries map[string]int `json:"deliveries"`
}

type journal struct {
	mu    sync.Mutex
	seen  []Seen
	count Stats
}

func newJournal() *journal { return &journal{count: Stats{Deliveries: map[string]int{}}} }

func (j *journal) add(s Seen) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.seen) < maxSeen {
		j.seen = append(j.seen, s)
	}
	j.count.Requests++
	switch {
	case s.Status < 400:
		j.count.Accepted++
		if s.IdempotencyKey != "" {
			j.count.Deliveries[s.IdempotencyKey]++
		}
	case s.Status == http.StatusUnauthorized:
		j.count.Unauthorized++
	case s.Status == http.StatusForbidden:
		j.count.Forbidden++
	}
	switch {
	case s.Transferred:
		j.count.Transfers++
	case s.Replayed:
		j.count.Replays++
	case s.Conflict:
		j.count.Conflicts++
	}
}

func (j *journal) all() []Seen {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]Seen(nil), j.seen...)
}

func (j *journal) stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	copied := j.count
	copied.Deliveries = make(map[string]int, len(j.count.Deliveries))
	for key, n := range j.count.Deliveries {
		copied.Deliveries[key] = n
	}
	return copied
}

// serveStats answers anyone: it is for a harness on the same machine, and counts hold no secret.
func (s *Service) serveStats(w http.ResponseWriter, _ *http.Request) {
	body, err := json.Marshal(s.Stats())
	if err != nil {
		problem(w, http.StatusInternalServerError, "Cannot write", "")
		return
	}
	answer(w, http.StatusOK, body)
}
