package engine

import (
	"encoding/base64"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"cardea/internal/action"
	"cardea/internal/expr"
	"cardea/internal/flow"
	"cardea/internal/flow/claims"
	"cardea/internal/flow/problem"
)

// MaxFailures is how often an attempt is made again because it failed on our side of the target, before anything was sent:
// the permit could not be redeemed, or a service of the hub was away. After that the task gets the problem. What fails at the
// target is never retried here: that is the definition's to say.
const MaxFailures = 6

// statusCancelled is what runners say of an attempt that was stopped before it began, because its permit was voided.
const statusCancelled = 499

// backoff before attempt n+1 after n such failures: 100 ms, doubled each time.
func backoff(failures uint32) time.Duration { return 100 * time.Millisecond << min(failures, 10) }

// call makes the request of a `call: http` and an attempt of it.
func (m *machine) call(t *flow.Task, f *Frame) error {
	request, err := t.HTTP.Request(m.scope(t, f))
	if err != nil {
		return err
	}
	act := action.Action{Kind: "http", HTTP: &action.HTTP{Method: request.Method, URL: request.URL, Body: request.Body}}
	for _, h := range request.Headers {
		act.HTTP.Headers = append(act.HTTP.Headers, action.Header{Name: h.Name, Value: h.Value})
	}
	if f.Action, err = act.Canonical(); err != nil {
		return problem.Newf(problem.Expression, "the request that the task describes cannot be sent: %v", err)
	}
	f.Phase, f.Attempt = FrameAttempt, 1
	m.push(f)
	m.note(t, f.Task, TaskPending, f.Attempt, nil)
	m.emit(m.p.attempt(f, m.s.Tiers))
	return nil
}

// retriable says whether a result is a failure of our own that may be tried again. Only what was never sent is: so a `once`
// action is not sent twice, whatever failed.
func retriable(r *Result) bool {
	if r.Problem == nil || r.Delivery != NotSent {
		return false
	}
	switch r.Problem.Status {
	case http.StatusServiceUnavailable, statusCancelled:
		return true
	}
	return r.Problem.Of(problem.Authorization)
}

// again makes the next attempt after a failure of our own.
func (m *machine) again(f *Frame, t *flow.Task, epoch uint64) {
	f.NotBefore = m.now.Add(backoff(f.Failures))
	f.Failures++
	f.Attempt++
	f.Phase, f.Approval, f.Last, f.Floor = FrameAttempt, "", Grant{}, max(f.Floor, epoch+1)
	m.note(t, f.Task, TaskPending, f.Attempt, nil)
	m.emit(m.p.attempt(f, m.s.Tiers))
}

// leavesDoubt says whether a result leaves open whether a `once` action was carried out.
func leavesDoubt(t *flow.Task, r *Result) bool {
	return r.Problem != nil && r.Delivery == Sent && t.HTTP.Effect != claims.EffectIdempotent
}

// output is what a call gives: the standard error for an unsuccessful response, or what `output` asks for.
func (m *machine) output(t *flow.Task, f Frame, r *Result) (any, error) {
	if r.Problem != nil {
		return nil, standard(r.Problem)
	}
	status := r.HTTP.Status
	if !(status >= 200 && status < 300 || status >= 300 && status < 400 && t.HTTP.Redirect) {
		p := problem.Newf(problem.Communication, "the server answered %d %s", status, http.StatusText(status))
		p.Status = status
		return nil, p
	}
	if t.HTTP.Output == flow.OutputRaw {
		return base64.StdEncoding.EncodeToString(r.HTTP.Body), nil
	}
	content, err := content(r.HTTP)
	if err != nil || t.HTTP.Output != flow.OutputResponse {
		return content, err
	}
	act, err := action.Parse(f.Action)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"request":    map[string]any{"method": act.HTTP.Method, "uri": act.HTTP.URL, "headers": requestHeaders(act.HTTP.Headers)},
		"statusCode": status, "headers": responseHeaders(r.HTTP.Headers), "content": content,
	}, nil
}

// content parses a body that says it is JSON (RFC 6839 suffixes included), gives other text as a string and the rest as base64.
// No body is null.
func content(r *HTTPResponse) (any, error) {
	if len(r.Body) == 0 {
		return nil, nil
	}
	media := ""
	for _, h := range r.Headers {
		if strings.EqualFold(h[0], "content-type") {
			media, _, _ = mime.ParseMediaType(h[1])
		}
	}
	if media == "application/json" || strings.HasSuffix(media, "+json") {
		value, err := expr.Decode(r.Body)
		if err != nil {
			return nil, problem.Newf(problem.Communication, "the response says that it is JSON, and is not: %v", err)
		}
		return value, nil
	}
	if utf8.Valid(r.Body) {
		return string(r.Body), nil
	}
	return base64.StdEncoding.EncodeToString(r.Body), nil
}

func requestHeaders(headers []action.Header) map[string]any {
	out := map[string]any{}
	for _, h := range headers {
		out[h.Name] = h.Value
	}
	return out
}

// responseHeaders joins repeated fields as RFC 9110 §5.3 allows; names are lower-case.
func responseHeaders(headers [][2]string) map[string]any {
	out := map[string]any{}
	for _, h := range headers {
		name := strings.ToLower(h[0])
		if before, ok := out[name].(string); ok {
			out[name] = before + ", " + h[1]
		} else {
			out[name] = h[1]
		}
	}
	return out
}

// standard lets through problems of the standard's types only: a runner that has been taken over may say what it likes, but not
// pretend to be an error that the definition itself raises.
func standard(p *flow.Problem) *flow.Problem {
	for _, k := range []problem.Kind{problem.Configuration, problem.Validation, problem.Expression, problem.Authentication,
		problem.Authorization, problem.Timeout, problem.Communication, problem.Runtime} {
		if !p.Of(k) {
			continue
		}
		out := problem.New(k, p.Detail)
		if k == problem.Communication && p.Status >= 400 && p.Status <= 599 {
			out.Status = p.Status
		}
		return out
	}
	return problem.New(problem.Runtime, "the runner reported an error of no standard type")
}
