package console

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bound what all people together, and each client alone, can make the hub do. The zero value of a field means the default.
type Limits struct {
	// BodyBytes is the largest request.
	BodyBytes int64
	// HeldBytes is how much of all requests' bodies is in memory at one time.
	HeldBytes int64
	// AnswerBytes is the largest answer to a call that does not stream.
	AnswerBytes int64
	// BodyTime is how long a request's body may take to arrive.
	BodyTime time.Duration
	// CallTime is how long a call that does not stream may take; StreamTime is the same for one that does.
	CallTime, StreamTime time.Duration
	// WriteTime is how long a client may take to accept what is sent to it.
	WriteTime time.Duration
	// Rate and Burst are calls per second of one client.
	Rate  rate.Limit
	Burst int
	// ClientCalls and ClientStreams are how many of each one client may have open; Calls and Streams, all clients together.
	ClientCalls, ClientStreams int
	Calls, Streams             int
}

// withDefaults fills what is zero. The numbers fit one process that serves a few hundred people.
func (l Limits) withDefaults() Limits {
	set(&l.BodyBytes, 4<<20)
	set(&l.HeldBytes, 64<<20)
	set(&l.AnswerBytes, 64<<20)
	set(&l.BodyTime, 10*time.Second)
	set(&l.CallTime, 60*time.Second)
	set(&l.StreamTime, 6*time.Hour)
	set(&l.WriteTime, 30*time.Second)
	set(&l.Rate, 500)
	set(&l.Burst, 1000)
	set(&l.ClientCalls, 128)
	set(&l.ClientStreams, 64)
	set(&l.Calls, 512)
	set(&l.Streams, 1024)
	return l
}

func set[T int | int64 | time.Duration | rate.Limit](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// maxClients bounds the table of clients. When it is full of busy ones, newcomers share one entry.
const maxClients = 4096

// clients counts what each client does. A client is a network address: the console does not know persons.
type clients struct {
	limits Limits
	now    func() time.Time

	mu     sync.Mutex
	byName map[string]*client
	total  use
}

type client struct {
	rate *rate.Limiter
	use  use
	seen time.Time
}

// use counts open calls and streams.
type use struct{ calls, streams int }

func newClients(l Limits, now func() time.Time) *clients {
	return &clients{limits: l, now: now, byName: make(map[string]*client)}
}

// enter admits one call, or says what it exceeded. The caller must call leave when it was admitted.
func (c *clients) enter(name string, stream bool) (leave func(), refused string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	who := c.find(name, now)
	who.seen = now
	mine, all, perClient, overall := &who.use.calls, &c.total.calls, c.limits.ClientCalls, c.limits.Calls
	if stream {
		mine, all, perClient, overall = &who.use.streams, &c.total.streams, c.limits.ClientStreams, c.limits.Streams
	}
	switch {
	case !who.rate.AllowN(now, 1):
		return nil, "rate"
	case *mine >= perClient:
		return nil, "client_concurrency"
	case *all >= overall:
		return nil, "concurrency"
	}
	*mine++
	*all++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		*mine--
		*all--
	}, ""
}

// find returns the client's entry, forgetting an idle one when the table is full.
func (c *clients) find(name string, now time.Time) *client {
	if who, ok := c.byName[name]; ok {
		return who
	}
	if len(c.byName) >= maxClients && !c.forgetIdle(now) {
		name = "" // shared by all who come while the table is full
		if who, ok := c.byName[name]; ok {
			return who
		}
	}
	who := &client{rate: rate.NewLimiter(c.limits.Rate, c.limits.Burst)}
	c.byName[name] = who
	return who
}

// forgetIdle drops clients whose allowance has filled up again, so that forgetting them gives nobody more.
func (c *clients) forgetIdle(now time.Time) bool {
	refill := time.Duration(float64(c.limits.Burst) / float64(c.limits.Rate) * float64(time.Second))
	before := len(c.byName)
	for name, who := range c.byName {
		if who.use == (use{}) && now.Sub(who.seen) > refill {
			delete(c.byName, name)
		}
	}
	return len(c.byName) < before
}

// clientOf names the client of a request: the network address that the server saw, and for IPv6 its /64, which one machine owns
// whole. A Unix socket's callers share one name: the socket's file mode already says who they are.
func clientOf(r *http.Request) string {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "local"
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return "local"
	}
	return prefix.String()
}
