package runner

import (
	"context"
	"errors"

	cardeav1 "cardea/api/cardea/v1"
)

// family is one of the language's standard errors, with its status.
type family struct {
	name   string
	title  string
	status int32
}

func configuration() family { return family{"configuration", "The runner cannot do this", 400} }
func authorization() family { return family{"authorization", "Not permitted", 403} }
func timeout() family       { return family{"timeout", "The deadline passed", 408} }
func communication() family { return family{"communication", "The target could not be asked", 502} }
func internal() family      { return family{"runtime", "The runner failed", 500} }
func cancelled() family     { return family{"runtime", "Cancelled", 499} }

// unavailable says that nothing was done and that the same attempt may be given to another runner.
func unavailable() family { return family{"runtime", "The runner did not begin", 503} }

// taskError is an RFC 7807 problem of the standard's families. detail must not hold a secret.
func taskError(f func() family, detail string) *cardeav1.TaskError {
	e := f()
	return &cardeav1.TaskError{Type: "https://serverlessworkflow.io/spec/1.0.0/errors/" + e.name, Status: e.status, Title: e.title, Detail: utf8Only(detail)}
}

// refusal is an error before anything left.
func refusal(f func() family, detail string) Outcome {
	return Outcome{Delivery: cardeav1.Delivery_DELIVERY_NOT_SENT, Err: taskError(f, detail)}
}

// ended is for an attempt whose context ended before it acted.
func ended(ctx context.Context) Outcome {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, context.DeadlineExceeded):
		return refusal(timeout, "the deadline passed before the request was made")
	case errors.Is(cause, errDraining):
		return refusal(unavailable, "the runner is stopping")
	}
	return refusal(cancelled, cause.Error())
}
