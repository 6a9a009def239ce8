package runsapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/action"
	"cardea/internal/durable"
	"cardea/internal/durable/runsapi"
	"cardea/internal/durable/sqljournal"
	"cardea/internal/engine"
	"cardea/internal/evidence"
	"cardea/internal/permit"
	"cardea/internal/sqlite"
)

// silent is an authority that is away: what is tested here is durable before it is asked.
type silent struct{}

var errAway = errors.New("away")

func (silent) OpenRun(context.Context, *cardeav1.OpenRunRequest) (*cardeav1.OpenRunResponse, error) {
	return nil, errAway
}
func (silent) Authorize(context.Context, *cardeav1.AuthorizeRequest) (*cardeav1.AuthorizeResponse, error) {
	return nil, errAway
}
func (silent) EndRun(context.Context, *cardeav1.EndRunRequest) (*cardeav1.EndRunResponse, error) {
	return nil, errAway
}
func (silent) Workflow(context.Context, *cardeav1.WorkflowRequest) (*cardeav1.WorkflowResponse, error) {
	return nil, errAway
}
func (silent) Watch(ctx context.Context, _ func(*cardeav1.WatchDecideResponse)) error {
	<-ctx.Done()
	return ctx.Err()
}

type hub struct {
	t      *testing.T
	key    ed25519.PrivateKey
	now    time.Time
	server *httptest.Server
	driver *durable.Driver
	parsed int
}

func newHub(t *testing.T) *hub {
	t.Helper()
	migrations, err := sqljournal.Migrations()
	must(t, err)
	db, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "journal.db"), migrations)
	must(t, err)
	journal := sqljournal.New(db)
	h := &hub{t: t, now: time.Now()}
	public, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	h.key = private
	h.driver, err = durable.Open(context.Background(), durable.Config{Journal: journal, Definitions: journal, Grants: journal, Authority: silent{},
		Load: func([]byte) (*engine.Program, error) { return nil, errAway }})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- h.driver.Run(ctx) }()
	gate := runsapi.NewGate(func() (string, []ed25519.PublicKey) { return "cardea.local", []ed25519.PublicKey{public} },
		func() time.Time { return h.now }, slog.New(slog.DiscardHandler))
	_, runs := cardeav1connect.NewRunsHandler(runsapi.NewService(h.driver))
	h.server = httptest.NewUnstartedServer(gate.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.parsed++
		runs.ServeHTTP(w, r)
	})))
	h.server.EnableHTTP2 = true
	h.server.StartTLS()
	t.Cleanup(func() {
		h.server.Close()
		cancel()
		must(t, <-stopped)
		must(t, db.Close())
	})
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *hub) ticket(procedure string, body []byte, change func(*evidence.Ticket)) string {
	h.t.Helper()
	ticket := evidence.Ticket{ID: "tkt_1", Issuer: permit.Audience("cardea.local"), Audience: permit.Audience("cardea.local"), IssuedAt: h.now.Unix(),
		Expires: h.now.Add(evidence.TicketLife).Unix(), Person: "ann", Procedure: procedure, Request: evidence.BodyDigest(body)}
	if procedure == cardeav1connect.RunsStartProcedure {
		ticket.Process, ticket.Workflow, ticket.Version, ticket.WorkflowDigest = "payroll", "pay-run", "1.0.0", "sha256:d"
		ticket.InputDigest = action.Digest([]byte(`{"a":1,"b":2}`))
	}
	if change != nil {
		change(&ticket)
	}
	token, err := evidence.SignTicket(ticket, h.key)
	must(h.t, err)
	return token
}

// post sends a request as a console would pass it on; it answers with Connect's code, or ok.
func (h *hub) post(procedure string, body []byte, tokens ...string) (string, []byte) {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, h.server.URL+procedure, bytes.NewReader(body))
	must(h.t, err)
	req.Header.Set("Content-Type", "application/proto")
	for _, token := range tokens {
		req.Header.Add(evidence.TicketHeader, token)
	}
	resp, err := h.server.Client().Do(req)
	must(h.t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(h.t, err)
	if resp.StatusCode == http.StatusOK {
		return "ok", data
	}
	var failed struct{ Code string }
	must(h.t, json.Unmarshal(data, &failed))
	return failed.Code, data
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	must(t, err)
	return data
}

const start = cardeav1connect.RunsStartProcedure

func startRequest(t *testing.T) []byte {
	return encode(t, &cardeav1.StartRunRequest{Workflow: "payroll/pay-run", InputJson: []byte(`{"b":2, "a":1}`), RequestId: "req_1"})
}

func TestTheGateLetsOnlyTicketsThrough(t *testing.T) {
	h := newHub(t)
	body := startRequest(t)
	good := h.ticket(start, body, nil)
	_, foreign, err := ed25519.GenerateKey(nil)
	must(t, err)
	forged, err := evidence.SignTicket(evidence.Ticket{ID: "tkt_f"}, foreign)
	must(t, err)
	for name, c := range map[string]struct {
		body   []byte
		tokens []string
	}{
		"no ticket":         {body, nil},
		"two tickets":       {body, []string{good, good}},
		"garbage":           {body, []string{"x.y.z"}},
		"another key":       {body, []string{forged}},
		"another body":      {append(bytes.Clone(body), 0x1a, 0), []string{good}},
		"another procedure": {body, []string{h.ticket(cardeav1connect.RunsGetProcedure, body, nil)}},
		"expired":           {body, []string{h.ticket(start, body, func(k *evidence.Ticket) { k.IssuedAt -= 100; k.Expires -= 100 })}},
		"another hub":       {body, []string{h.ticket(start, body, func(k *evidence.Ticket) { k.Audience, k.Issuer = "spiffe://x", "spiffe://x" })}},
	} {
		if code, data := h.post(start, c.body, c.tokens...); code != "unauthenticated" {
			t.Errorf("%s: %s %s", name, code, data)
		}
	}
	if h.parsed != 0 {
		t.Errorf("%d requests were parsed without a ticket", h.parsed)
	}
	if code, _ := h.post(start, make([]byte, 3<<20), good); code != "resource_exhausted" {
		t.Errorf("a body of 3 MiB: %s", code)
	}
}

func TestStart(t *testing.T) {
	h := newHub(t)
	body := startRequest(t)
	token := h.ticket(start, body, nil)
	code, data := h.post(start, body, token)
	if code != "ok" {
		t.Fatalf("%s %s", code, data)
	}
	var first, again cardeav1.StartRunResponse
	must(t, proto.Unmarshal(data, &first))
	if code, data = h.post(start, body, token); code != "ok" {
		t.Fatalf("the same start again: %s %s", code, data)
	}
	must(t, proto.Unmarshal(data, &again))
	if again.GetRunId() != first.GetRunId() || !strings.HasPrefix(first.GetRunId(), "run_") {
		t.Errorf("one ticket began %s and %s", first.GetRunId(), again.GetRunId())
	}
	run, err := h.driver.Get(context.Background(), first.GetRunId())
	must(t, err)
	if run.GetWorkflow() != "payroll/pay-run" || run.GetVersion() != "1.0.0" || run.GetWorkflowDigest() != "sha256:d" || run.GetStatus() != "opening" {
		t.Errorf("%v", run)
	}
}

func TestStartOnlyWhatTheTicketNames(t *testing.T) {
	h := newHub(t)
	body := startRequest(t)
	for name, c := range map[string]struct {
		change func(*evidence.Ticket)
		want   string
	}{
		"another input": {func(k *evidence.Ticket) { k.InputDigest = action.Digest([]byte(`{}`)) }, "permission_denied"},
		"no input":      {func(k *evidence.Ticket) { k.InputDigest = "" }, "permission_denied"},
		"no definition": {func(k *evidence.Ticket) { k.WorkflowDigest = "" }, "permission_denied"},
	} {
		if code, data := h.post(start, body, h.ticket(start, body, c.change)); code != c.want {
			t.Errorf("%s: %s %s", name, code, data)
		}
	}
	rows, err := h.driver.List(context.Background(), durable.Filter{Limit: 1})
	if err != nil || len(rows) != 0 {
		t.Errorf("a run was begun: %v, %v", rows, err)
	}
}

func TestATicketForAChangeIsForOneUse(t *testing.T) {
	h := newHub(t)
	body := startRequest(t)
	_, data := h.post(start, body, h.ticket(start, body, nil))
	var started cardeav1.StartRunResponse
	must(t, proto.Unmarshal(data, &started))
	cancel := encode(t, &cardeav1.CancelRunRequest{RunId: started.GetRunId(), Reason: "enough"})
	token := h.ticket(cardeav1connect.RunsCancelProcedure, cancel, func(k *evidence.Ticket) { k.ID = "tkt_2" })
	code, data := h.post(cardeav1connect.RunsCancelProcedure, cancel, token)
	var cancelled cardeav1.CancelRunResponse
	must(t, proto.Unmarshal(data, &cancelled))
	if code != "ok" || cancelled.GetRun().GetStatus() != "cancelled" {
		t.Fatalf("%s %v", code, &cancelled)
	}
	if code, _ = h.post(cardeav1connect.RunsCancelProcedure, cancel, token); code != "unauthenticated" {
		t.Errorf("the same ticket again: %s", code)
	}
	get := encode(t, &cardeav1.GetRunRequest{RunId: started.GetRunId()})
	token = h.ticket(cardeav1connect.RunsGetProcedure, get, nil)
	for range 2 {
		if code, data = h.post(cardeav1connect.RunsGetProcedure, get, token); code != "ok" {
			t.Errorf("get: %s %s", code, data)
		}
	}
}

func TestWatchAndList(t *testing.T) {
	h := newHub(t)
	body := startRequest(t)
	_, data := h.post(start, body, h.ticket(start, body, nil))
	var started cardeav1.StartRunResponse
	must(t, proto.Unmarshal(data, &started))
	client := cardeav1connect.NewRunsClient(&http.Client{Transport: signing{h}}, h.server.URL)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := client.Watch(ctx, &cardeav1.WatchRunRequest{RunId: started.GetRunId()})
	must(t, err)
	defer stream.Close()
	if !stream.Receive() || stream.Msg().GetRun().GetStatus() != "opening" {
		t.Fatalf("%v %v", stream.Msg(), stream.Err())
	}
	must(t, h.driver.Cancel(ctx, started.GetRunId(), "ann", ""))
	if !stream.Receive() || stream.Msg().GetRun().GetStatus() != "cancelled" {
		t.Fatalf("%v %v", stream.Msg(), stream.Err())
	}
	list, err := client.List(ctx, &cardeav1.ListRunsRequest{})
	if err != nil || len(list.GetRuns()) != 1 || list.GetRuns()[0].GetId() != started.GetRunId() {
		t.Errorf("%v %v", list, err)
	}
	if _, err = client.Get(ctx, &cardeav1.GetRunRequest{RunId: "run_none"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("%v", err)
	}
	if _, err = client.Suspend(ctx, &cardeav1.SuspendRunRequest{}); connect.CodeOf(err) != connect.CodeUnimplemented || !strings.Contains(err.Error(), "suspend") {
		t.Errorf("%v", err)
	}
}

// signing gets a ticket for each request, as the CLI does.
type signing struct{ h *hub }

func (s signing) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	out := r.Clone(r.Context())
	out.Body, out.ContentLength, out.GetBody = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	out.Header.Set(evidence.TicketHeader, s.h.ticket(r.URL.Path, body, nil))
	return s.h.server.Client().Transport.RoundTrip(out)
}
