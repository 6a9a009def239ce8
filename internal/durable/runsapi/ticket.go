package runsapi

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/evidence"
)

// maxRequest bounds a request's body: an input of 1 MiB and what surrounds it.
const maxRequest = 2 << 20

// bodyTime is how long a request's body may take to arrive.
const bodyTime = 10 * time.Second

// Keys are what tickets are verified with: the newest bundle's.
type Keys func() (trustDomain string, keys []ed25519.PublicKey)

// Gate lets only requests with a ticket of the authority through, over exactly their bytes. The console between is not believed: it
// can neither change a request nor make one. A ticket for a change is for one use.
type Gate struct {
	keys Keys
	now  func() time.Time
	log  *slog.Logger
	used used
}

// NewGate verifies with the keys given.
func NewGate(keys Keys, now func() time.Time, log *slog.Logger) *Gate {
	return &Gate{keys: keys, now: now, log: log}
}

type ticketKey struct{}

type ticketed struct {
	evidence.Ticket
	token string
}

// ticketOf is the ticket that a request came with. Handlers behind the Gate always have one.
func ticketOf(ctx context.Context) (ticketed, error) {
	t, ok := ctx.Value(ticketKey{}).(ticketed)
	if !ok {
		return ticketed{}, connect.NewError(connect.CodeUnauthenticated, errors.New("no ticket has been verified"))
	}
	return t, nil
}

// Wrap verifies before anything is parsed.
func (g *Gate) Wrap(next http.Handler) http.Handler {
	refuse := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, t, err := g.admit(w, r)
		if err != nil {
			g.log.WarnContext(r.Context(), "refused a request", "procedure", r.URL.Path, "error", err)
			_ = refuse.Write(w, r, err) // the caller is gone, or has been told
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), ticketKey{}, t))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		next.ServeHTTP(w, r)
	})
}

func (g *Gate) admit(w http.ResponseWriter, r *http.Request) ([]byte, ticketed, error) {
	tokens := r.Header.Values(evidence.TicketHeader)
	if len(tokens) != 1 {
		return nil, ticketed{}, connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("exactly one header %s is needed", evidence.TicketHeader))
	}
	body, err := readBody(w, r)
	if err != nil {
		return nil, ticketed{}, err
	}
	domain, keys := g.keys()
	now := g.now()
	t, err := evidence.VerifyTicket(tokens[0], keys, domain, r.URL.Path, body, now)
	if err != nil {
		return nil, ticketed{}, connect.NewError(connect.CodeUnauthenticated, err)
	}
	if changes(r.URL.Path) && !g.used.first(t.ID, time.Unix(t.Expires, 0), now) {
		return nil, ticketed{}, connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("ticket %s has been used", t.ID))
	}
	return body, ticketed{Ticket: t, token: tokens[0]}, nil
}

// readBody reads the whole body, and no body forever: a stream's request has no deadline of its own.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	limited := control.SetReadDeadline(time.Now().Add(bodyTime)) == nil
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if limited {
		_ = control.SetReadDeadline(time.Time{})
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("the request has more than %d bytes", maxRequest))
	case err != nil:
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("read the request: %w", err))
	}
	return body, nil
}

// changes says whether a ticket for the procedure is for one use that only the Gate can keep. Start is not among them: its ticket is
// kept by the journal, for ever, and a repetition answers with the run that it started.
func changes(procedure string) bool {
	switch procedure {
	case cardeav1connect.RunsStartProcedure, cardeav1connect.RunsGetProcedure, cardeav1connect.RunsListProcedure, cardeav1connect.RunsWatchProcedure:
		return false
	}
	return true
}

// used remembers tickets until they expire. After a restart an unexpired one could be used again; every change that it can be for
// has no effect the second time.
type used struct {
	mu    sync.Mutex
	until map[string]time.Time
	sweep time.Time
}

// first notes a use and says whether it was the first.
func (u *used) first(id string, expires, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = map[string]time.Time{}
	}
	if now.After(u.sweep) {
		for known, until := range u.until {
			if now.After(until) {
				delete(u.until, known)
			}
		}
		u.sweep = now.Add(evidence.TicketLife)
	}
	if _, again := u.until[id]; again {
		return false
	}
	u.until[id] = expires
	return true
}
