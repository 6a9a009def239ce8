package authority

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	cardeav1 "cardea/api/cardea/v1"
)

// codes is the one table from errors to RPC codes. What is not in it is internal, and its text stays in the log.
var codes = []struct {
	err  error
	code connect.Code
}{
	{ErrNotFound, connect.CodeNotFound},
	{ErrInvalid, connect.CodeInvalidArgument},
	{ErrUnknownUser, connect.CodeUnauthenticated},
	{ErrDenied, connect.CodePermissionDenied},
	{ErrConflict, connect.CodeAborted},
	{ErrStale, connect.CodeFailedPrecondition},
	{ErrUnavailable, connect.CodeUnavailable},
	{errGeneration, connect.CodeUnavailable},
	{context.Canceled, connect.CodeCanceled},
	{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
}

// rpcError maps an error for the wire. A denial carries its verdict as a detail.
func (a *Authority) rpcError(procedure string, err error) error {
	if err == nil {
		return nil
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return withVerdict(connect.NewError(c.code, err), err)
		}
	}
	a.Log.Error("request failed", "procedure", procedure, "error", err)
	return connect.NewError(connect.CodeInternal, errors.New("the authority could not do this; its log says why"))
}

func withVerdict(out *connect.Error, err error) *connect.Error {
	var denied *DeniedError
	if errors.As(err, &denied) {
		if detail, err := connect.NewErrorDetail(proto.Message(protoVerdict(denied.Verdict))); err == nil {
			out.AddDetail(detail)
		}
	}
	return out
}

func protoVerdict(v Verdict) *cardeav1.Verdict {
	return &cardeav1.Verdict{Outcome: protoOutcome(v.Outcome), Policies: v.Policies, Reason: v.Reason, Mend: v.Mend, LeafId: v.Leaf}
}

func protoOutcome(s string) cardeav1.Outcome {
	switch s {
	case outcomeAllow:
		return cardeav1.Outcome_OUTCOME_ALLOW
	case outcomePending:
		return cardeav1.Outcome_OUTCOME_PENDING
	case outcomeDoubt:
		return cardeav1.Outcome_OUTCOME_IN_DOUBT
	case outcomeReroute:
		return cardeav1.Outcome_OUTCOME_REROUTE
	}
	return cardeav1.Outcome_OUTCOME_DENY
}
