package egress

import (
	"context"
	"errors"
	"fmt"
)

// Kind is why a request failed, for a caller to branch on.
type Kind int

const (
	// Refused means that egress would not make the request: nothing left.
	Refused Kind = iota + 1
	// Unreachable means that no connection came about: name, address, TCP or TLS.
	Unreachable
	// Broken means that the connection failed or the answer was not HTTP.
	Broken
	// Timeout means that the deadline passed.
	Timeout
	// Cancelled means that the caller gave up.
	Cancelled
	// Unusable means that the answer is too large, or cannot be searched for the credential.
	Unusable
)

// String names the kind for metrics and logs.
func (k Kind) String() string {
	switch k {
	case Refused:
		return "refused"
	case Unreachable:
		return "unreachable"
	case Broken:
		return "broken"
	case Timeout:
		return "timeout"
	case Cancelled:
		return "cancelled"
	case Unusable:
		return "unusable"
	}
	return "unknown"
}

// Error is every error of this package. It wraps nothing: what the transport says may quote what the target sent, and so the
// credential; only the redacted text goes on.
type Error struct {
	Kind Kind
	text string
}

// Error is the redacted text.
func (e *Error) Error() string { return e.text }

func fail(kind Kind, format string, args ...any) *Error {
	return &Error{kind, fmt.Sprintf(format, args...)}
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{e.Kind, e.text}
	}
	return fail(Broken, "%v", err)
}

// classify gives the context's end precedence: whatever the transport made of it, the deadline or the caller was the cause.
func classify(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(Timeout, "deadline passed: %v", err)
	case ctx.Err() != nil:
		return fail(Cancelled, "cancelled: %v", err)
	}
	return asError(err)
}
