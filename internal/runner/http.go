package runner

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/egress"
)

// HTTP executes actions of kind http through egress.
type HTTP struct {
	Egress *egress.Egress
}

// Execute makes the request. Every status is an answer; what it means is the engine's to say.
func (h HTTP) Execute(ctx context.Context, a Attempt) Outcome {
	resp, report, err := h.Egress.Do(ctx, egress.Request{
		Action: *a.Action.HTTP, Grants: a.Grants, IdempotencyKey: a.Permit.Context.IdempotencyKey, Deadline: a.Deadline,
		// Whatever is not surely idempotent is never sent twice.
		Once: a.Permit.Context.Effect != "idempotent",
	})
	out := Outcome{Delivery: delivery(report.Delivery), Actions: []*cardeav1.ActionReport{actionReport(report)}}
	if err != nil {
		out.Err = httpError(ctx, out.Delivery, err)
		return out
	}
	out.HTTP = &cardeav1.HttpResponse{Status: int32(resp.Status), Body: resp.Body}
	for _, f := range resp.Headers {
		out.HTTP.Headers = append(out.HTTP.Headers, &cardeav1.HeaderField{Name: utf8Only(f.Name), Value: utf8Only(f.Value)})
	}
	return out
}

// utf8Only makes text fit for a protobuf string. A header may hold any byte above 0x7f (RFC 9110 §5.5): one that could not be
// encoded would end the session whenever the result is sent, for ever.
func utf8Only(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func delivery(d egress.Delivery) cardeav1.Delivery {
	switch d {
	case egress.NotSent:
		return cardeav1.Delivery_DELIVERY_NOT_SENT
	case egress.Answered:
		return cardeav1.Delivery_DELIVERY_ANSWERED
	}
	return cardeav1.Delivery_DELIVERY_SENT
}

func httpError(ctx context.Context, d cardeav1.Delivery, err error) *cardeav1.TaskError {
	var failed *egress.Error
	if !errors.As(err, &failed) {
		return taskError(communication, "the request failed")
	}
	switch failed.Kind {
	case egress.Refused:
		// Not an authorization error: the authority permitted it, and asking again would not change what egress refuses.
		return taskError(configuration, failed.Error())
	case egress.Timeout:
		return taskError(timeout, failed.Error())
	case egress.Cancelled:
		if d == cardeav1.Delivery_DELIVERY_NOT_SENT {
			return ended(ctx).Err
		}
		return taskError(cancelled, context.Cause(ctx).Error())
	}
	return taskError(communication, failed.Error())
}

func actionReport(r egress.Report) *cardeav1.ActionReport {
	return &cardeav1.ActionReport{
		Connection: r.Connection, Method: r.Method, Url: r.URL, Address: r.Address, Status: int32(r.Status),
		StartedAt: timestamppb.New(r.Started), EndedAt: timestamppb.New(r.Ended), Error: utf8Only(r.Error), SentBytes: r.Sent, ReceivedBytes: r.Received,
	}
}
