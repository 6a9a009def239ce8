// Package problem is the error of the language: RFC 7807 problem details, with the standard types of the Open Workflow
// Specification.
//
// It promises that every error that a definition can observe has one of the standard types or the type that the
// definition itself raised, and that two spellings of one standard type compare as the same error. It holds no secret:
// whoever writes a Detail writes for the run's readers.
package problem

import (
	"fmt"
	"strings"
)

// Problem is one error (RFC 7807, section 3.1).
type Problem struct {
	Type   string `json:"type"`             // URI reference; one of the standard ones unless a definition raised its own
	Status int    `json:"status"`           // HTTP status code
	Title  string `json:"title,omitempty"`  // the same for every problem of a type
	Detail string `json:"detail,omitempty"` // this occurrence, for people
	// Instance is the JSON pointer of the task that raised it, such as /do/0/timesheets. The engine fills it.
	Instance string `json:"instance,omitempty"`
}

// Kind is the last segment of a standard type URI.
type Kind string

// The standard kinds. Their statuses are fixed, except communication, which carries the peer's.
const (
	Configuration  Kind = "configuration"
	Validation     Kind = "validation"
	Expression     Kind = "expression"
	Authentication Kind = "authentication"
	Authorization  Kind = "authorization"
	Timeout        Kind = "timeout"
	Communication  Kind = "communication"
	Runtime        Kind = "runtime"
)

const base = "https://serverlessworkflow.io/spec/1.0.0/errors/"

// New is a standard problem.
func New(k Kind, detail string) *Problem {
	return &Problem{Type: base + string(k), Status: k.status(), Title: k.title(), Detail: detail}
}

// Newf is New with a formatted detail.
func Newf(k Kind, format string, args ...any) *Problem { return New(k, fmt.Sprintf(format, args...)) }

// Error makes a Problem a Go error.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// At is a copy whose Instance is the pointer given, unless it has one: the innermost task that raised it stands.
func (p *Problem) At(pointer string) *Problem {
	c := *p
	if c.Instance == "" {
		c.Instance = pointer
	}
	return &c
}

// Of says whether p is of a standard kind, in any of its official spellings.
func (p *Problem) Of(k Kind) bool { return SameType(p.Type, base+string(k)) }

// SameType compares two type URIs. The specification's error types exist in four official families
// ({serverlessworkflow.io, open-workflow-specification.org} × {spec/1.0.0/errors, dsl/errors/types}), which name the same errors.
func SameType(a, b string) bool { return a == b || canonicalType(a) == canonicalType(b) }

func canonicalType(uri string) string {
	for _, host := range []string{"https://serverlessworkflow.io/", "https://open-workflow-specification.org/"} {
		for _, path := range []string{"spec/1.0.0/errors/", "dsl/errors/types/"} {
			if name, ok := strings.CutPrefix(uri, host+path); ok {
				return base + name
			}
		}
	}
	return uri
}

func (k Kind) status() int {
	switch k {
	case Authentication:
		return 401
	case Authorization:
		return 403
	case Timeout:
		return 408
	case Communication:
		return 502
	case Runtime:
		return 500
	default:
		return 400
	}
}

func (k Kind) title() string {
	return strings.ToUpper(string(k[:1])) + string(k[1:]) + " error"
}
