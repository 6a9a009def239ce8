package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// Config is what a console is made of. Authority and Engine reach the listeners of those roles and no other.
type Config struct {
	Authority http.RoundTripper
	Engine    http.RoundTripper
	Limits    Limits
	Log       *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Console forwards people's calls. It is safe for concurrent use.
type Console struct {
	routes  map[string]route
	limits  Limits
	clients *clients
	// held is the memory for request bodies; each call takes what it announces before a byte of it is read.
	held    *semaphore.Weighted
	errors  *connect.ErrorWriter
	log     *slog.Logger
	metrics metrics
}

// New makes a console. It refuses to exist without both roles, for a missing one would look like a broken network.
func New(c Config) (*Console, error) {
	if c.Authority == nil || c.Engine == nil || c.Log == nil {
		return nil, errors.New("console: authority, engine and log are required")
	}
	limits := c.Limits.withDefaults()
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	return &Console{
		routes: routes(c.Authority, c.Engine), limits: limits, clients: newClients(limits, time.Now),
		held: semaphore.NewWeighted(limits.HeldBytes), errors: connect.NewErrorWriter(), log: c.Log, metrics: m,
	}, nil
}

// refusal is why a request goes no further. word is for metrics and logs; text is for the person.
type refusal struct {
	status int
	code   connect.Code
	word   string
	text   string
}

// ServeHTTP forwards one call or refuses it.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	to, no := c.admit(r)
	if no != nil {
		c.refuse(w, r, no)
		return
	}
	leave, exceeded := c.clients.enter(clientOf(r), to.contentType == streamType)
	if exceeded != "" {
		c.refuse(w, r, &refusal{code: connect.CodeResourceExhausted, word: exceeded, text: "too many requests at once; try again in a moment"})
		return
	}
	defer leave()
	body, release, no := c.read(w, r)
	if no != nil {
		c.refuse(w, r, no)
		return
	}
	defer release()
	status := c.forward(w, r, to, body)
	c.metrics.observe(r.URL.Path, status, time.Since(began))
}

// admit checks all that can be known before the body is read.
func (c *Console) admit(r *http.Request) (route, *refusal) {
	to, known := c.routes[r.URL.Path]
	switch {
	case !known || r.URL.RawPath != "":
		return route{}, &refusal{status: http.StatusNotFound, word: "procedure", text: "no such procedure"}
	case r.Method != http.MethodPost:
		return route{}, &refusal{status: http.StatusMethodNotAllowed, word: "method", text: "only POST is served"}
	case r.URL.RawQuery != "" || r.URL.ForceQuery:
		return route{}, &refusal{status: http.StatusBadRequest, word: "query", text: "a call has no query"}
	case !single(r.Header, "Content-Type", to.contentType):
		return route{}, &refusal{status: http.StatusUnsupportedMediaType, word: "content_type", text: "this procedure takes " + to.contentType}
	case len(r.Header["Content-Encoding"]) > 0 || len(r.Header["Connect-Content-Encoding"]) > 0:
		return route{}, &refusal{status: http.StatusUnsupportedMediaType, word: "encoding", text: "compressed requests are not taken"}
	case len(r.Header[to.evidence]) != 1:
		return route{}, &refusal{code: connect.CodeUnauthenticated, word: "evidence", text: "exactly one " + to.evidence + " header is needed"}
	case r.ContentLength < 0 || len(r.TransferEncoding) > 0:
		return route{}, &refusal{status: http.StatusLengthRequired, word: "length", text: "a call says how long it is"}
	case r.ContentLength > c.limits.BodyBytes:
		return route{}, &refusal{code: connect.CodeResourceExhausted, word: "size", text: "the request is too large"}
	}
	return to, nil
}

func single(h http.Header, name, value string) bool {
	return len(h[name]) == 1 && h[name][0] == value
}

// read takes the whole body before anything is forwarded: a client that sends slowly holds its own slot, never the authority's.
func (c *Console) read(w http.ResponseWriter, r *http.Request) ([]byte, func(), *refusal) {
	n := r.ContentLength
	if !c.held.TryAcquire(n) {
		return nil, nil, &refusal{code: connect.CodeResourceExhausted, word: "memory", text: "too much in flight; try again in a moment"}
	}
	release := func() { c.held.Release(n) }
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(c.limits.BodyTime)) // a connection without deadlines is a test's recorder
	body := make([]byte, n)
	_, err := io.ReadFull(r.Body, body)
	if err == nil {
		err = atEnd(r.Body)
	}
	_ = control.SetReadDeadline(time.Time{})
	if err != nil {
		release()
		return nil, nil, &refusal{code: connect.CodeInvalidArgument, word: "body", text: "the request did not arrive whole and in time"}
	}
	return body, release, nil
}

// atEnd makes sure that nothing follows the announced length.
func atEnd(r io.Reader) error {
	var one [1]byte
	if n, err := io.ReadFull(r, one[:]); n != 0 || err != io.EOF {
		return errors.New("trailing bytes")
	}
	return nil
}

// forward sends the call on and copies the answer. It returns the status for the metrics.
func (c *Console) forward(w http.ResponseWriter, r *http.Request, to route, body []byte) int {
	limit := c.limits.CallTime
	if to.contentType == streamType {
		limit = c.limits.StreamTime
	}
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	answer, err := to.to.RoundTrip(c.outgoing(ctx, r, to, body))
	if err != nil {
		// The person learns that the role is away; why is for the operator, and the log has neither body nor proof.
		c.log.WarnContext(ctx, "forwarding failed", "procedure", r.URL.Path, "error", err)
		no := &refusal{code: connect.CodeUnavailable, word: "upstream", text: strings.ToLower(to.service) + " is not available"}
		if ctx.Err() != nil {
			no = &refusal{code: connect.CodeDeadlineExceeded, word: "timeout", text: "no answer in time"}
		}
		return c.refuse(w, r, no)
	}
	defer answer.Body.Close()
	copyHeaders(w.Header(), answer.Header, answerHeader)
	w.WriteHeader(answer.StatusCode)
	if err := c.copyBody(w, answer, to.contentType == streamType); err != nil {
		// The answer is cut short. Ending the response as if it were whole would pass off a part for all of it.
		c.log.InfoContext(ctx, "answer cut short", "procedure", r.URL.Path, "error", err)
		c.metrics.refused("cut_short")
		panic(http.ErrAbortHandler)
	}
	return answer.StatusCode
}

// outgoing builds the forwarded request from nothing: a header that is not copied here does not exist behind the console.
func (c *Console) outgoing(ctx context.Context, r *http.Request, to route, body []byte) *http.Request {
	out := (&http.Request{
		Method: http.MethodPost, URL: r.URL.JoinPath(), Host: "cardea", Header: make(http.Header),
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Proto: "HTTP/2.0", ProtoMajor: 2,
	}).WithContext(ctx)
	out.URL.Scheme, out.URL.Host = "https", "cardea"
	if len(body) == 0 {
		out.Body = http.NoBody
	}
	copyHeaders(out.Header, r.Header, requestHeader)
	out.Header.Set(to.evidence, r.Header.Get(to.evidence))
	out.Header.Set("User-Agent", "cardea-console")
	return out
}

// requestHeader says which headers of a person's request travel on, beside the one of evidence.
func requestHeader(name string) bool {
	return name == "Content-Type" || name == "Connect-Protocol-Version" || name == "Connect-Timeout-Ms"
}

// answerHeader says which headers of an answer reach the person.
func answerHeader(name string) bool {
	return name == "Content-Type" || name == "Retry-After" || strings.HasPrefix(name, "Connect-")
}

func copyHeaders(to, from http.Header, allowed func(string) bool) {
	for name, values := range from {
		if allowed(name) && len(values) == 1 {
			to[name] = []string{values[0]}
		}
	}
}

// A call's buffer is as large as its answer, within these bounds: most answers are small, and many calls wait at a time.
const (
	leastBuffer = 4 << 10
	mostBuffer  = 32 << 10
)

// copyBody passes the answer on as it comes. A client that does not read loses its call after WriteTime.
func (c *Console) copyBody(w http.ResponseWriter, answer *http.Response, stream bool) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{}) // the server's own would end a stream that says nothing for a while
	left := c.limits.AnswerBytes
	buf := make([]byte, min(max(answer.ContentLength, leastBuffer), mostBuffer)) // an unknown length is -1
	for {
		n, err := answer.Body.Read(buf)
		if left -= int64(n); left < 0 && !stream {
			return errors.New("the answer is too large")
		}
		if n > 0 {
			_ = control.SetWriteDeadline(time.Now().Add(c.limits.WriteTime))
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if stream {
				if err := control.Flush(); err != nil {
					return err
				}
			}
			_ = control.SetWriteDeadline(time.Time{}) // left standing, it would end a stream that is merely quiet
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// refuse answers in the protocol that the client speaks, as far as it speaks one, and counts the refusal.
func (c *Console) refuse(w http.ResponseWriter, r *http.Request, no *refusal) int {
	c.metrics.refused(no.word)
	c.log.DebugContext(r.Context(), "refused", "why", no.word, "client", clientOf(r))
	if no.status != 0 {
		http.Error(w, no.text, no.status)
		return no.status
	}
	err := connect.NewError(no.code, errors.New(no.text))
	if writeErr := c.errors.Write(w, r, err); writeErr != nil {
		c.log.DebugContext(r.Context(), "refusal not delivered", "error", writeErr)
	}
	return 0
}
