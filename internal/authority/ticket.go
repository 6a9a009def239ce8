package authority

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/gowebpki/jcs"
	"google.golang.org/protobuf/proto"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/action"
	"cardea/internal/evidence"
	"cardea/internal/permit"
	"cardea/internal/registry"
	"cardea/internal/store"
)

const procedureStart = cardeav1connect.RunsStartProcedure

// maxRequest bounds what a ticket can be asked for.
const maxRequest = 2 << 20

// Ticket states that a person asked the engine for one request, after deciding whether they may. For a start it also fixes the
// definition and the input, so that the engine cannot start another. Whatever costs time is done before the transaction, and after
// the decision: the one writer waits for nobody's input.
func (a *Authority) Ticket(ctx context.Context, who Speaker, procedure string, request []byte) (string, error) {
	if len(request) > maxRequest {
		return "", fmt.Errorf("request of %d bytes: %w", len(request), ErrInvalid)
	}
	now := a.Now()
	hub := permit.Audience(a.TrustDomain.Name())
	t := evidence.Ticket{ID: a.ids.next("tkt_", now), Issuer: hub, Audience: hub, IssuedAt: now.Unix(), Expires: now.Add(evidence.TicketLife).Unix(),
		Person: who.Person, Procedure: procedure, Request: evidence.BodyDigest(request)}
	s := a.current.Load()
	if procedure == procedureStart {
		if err := a.ticketForStart(s, who, request, &t); err != nil {
			return "", a.refusedTo(who, "start", err)
		}
	}
	err := a.DB.Commit(ctx, func(tx store.Tx) error {
		if err := requireGeneration(tx, s); err != nil {
			return err
		}
		if err := a.consumeProof(tx, who); err != nil {
			return err
		}
		if procedure == procedureStart {
			return nil
		}
		return a.requireRunAccess(tx, s, who, procedure, request)
	})
	if err != nil {
		return "", a.refusedTo(who, procedure, err)
	}
	return evidence.SignTicket(t, a.Keys.permit)
}

// refusedTo records that a person was denied something, and returns the denial.
func (a *Authority) refusedTo(who Speaker, what string, err error) error {
	if errors.Is(err, ErrDenied) {
		a.Refused("control", "denied: "+what, "person:"+who.Person)
	}
	return err
}

func (a *Authority) ticketForStart(s *snapshot, who Speaker, request []byte, t *evidence.Ticket) error {
	var start cardeav1.StartRunRequest
	if err := proto.Unmarshal(request, &start); err != nil {
		return fmt.Errorf("start request: %w: %w", ErrInvalid, err)
	}
	w, err := resolve(s, start.GetWorkflow())
	if err != nil {
		return err
	}
	if err := denial(a.mayStart(s, who.Person, w.Process, w.Workflow, Provenance{Kind: ProvenancePerson, Origin: who.Person})); err != nil {
		return err
	}
	digest, err := inputDigest(start.GetInputJson())
	if err != nil {
		return err
	}
	t.Process, t.Workflow, t.Version, t.WorkflowDigest, t.InputDigest = w.Process, w.Workflow, w.Version, w.Digest, digest
	return nil
}

// maxInputValues bounds an input by the values in it: canonical form takes time by their number.
const maxInputValues = 10_000

// inputDigest names an input by its canonical form, as the engine does.
func inputDigest(input []byte) (string, error) {
	if len(input) == 0 {
		input = []byte("{}")
	}
	if n := bytes.Count(input, []byte(",")) + bytes.Count(input, []byte(":")); n > maxInputValues {
		return "", fmt.Errorf("the input has more than %d values: %w", maxInputValues, ErrInvalid)
	}
	canonical, err := jcs.Transform(input)
	if err != nil {
		return "", fmt.Errorf("the input is not JSON: %w: %w", ErrInvalid, err)
	}
	return action.Digest(canonical), nil
}

// resolve finds the version that a reference names; without one, the newest.
func resolve(s *snapshot, reference string) (*registry.Workflow, error) {
	_, _, version, err := registry.SplitWorkflowName(reference)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var w *registry.Workflow
	var ok bool
	if version == "" {
		w, ok = s.Latest(reference)
	} else {
		w, ok = s.Workflow(reference)
	}
	if !ok {
		return nil, fmt.Errorf("workflow %s: %w", reference, ErrNotFound)
	}
	return w, nil
}

// requireRunAccess decides read for what only looks and start for what changes, over the process of the run that is named.
func (a *Authority) requireRunAccess(tx store.Tx, s *snapshot, who Speaker, procedure string, request []byte) error {
	runID, changes, err := runOf(procedure, request)
	if err != nil {
		return err
	}
	if runID == "" { // List: the engine answers with summaries of all runs
		return a.requireRead(s, who.Person, "*")
	}
	run, err := loadRun(tx, runID)
	if err != nil {
		return err
	}
	if changes {
		return denial(a.mayStart(s, who.Person, run.Process, run.Workflow, Provenance{Kind: ProvenancePerson, Origin: who.Person}))
	}
	return a.requireRead(s, who.Person, run.Process)
}

// runOf reads the run that a request to the engine is about. Every Runs request but Start, List and SendEvent has the same first
// field; the streaming one comes in an envelope of five bytes.
func runOf(procedure string, request []byte) (runID string, changes bool, err error) {
	const envelope = 5 // flags and length of a Connect message
	var m interface {
		proto.Message
		GetRunId() string
	}
	switch procedure {
	case cardeav1connect.RunsListProcedure:
		return "", false, nil
	case cardeav1connect.RunsGetProcedure:
		m = &cardeav1.GetRunRequest{}
	case cardeav1connect.RunsWatchProcedure:
		if len(request) < envelope || request[0] != 0 || int(binary.BigEndian.Uint32(request[1:envelope])) != len(request)-envelope {
			return "", false, fmt.Errorf("watch request: not one plain message: %w", ErrInvalid)
		}
		m, request = &cardeav1.WatchRunRequest{}, request[envelope:]
	case cardeav1connect.RunsCancelProcedure:
		m, changes = &cardeav1.CancelRunRequest{}, true
	case cardeav1connect.RunsSuspendProcedure:
		m, changes = &cardeav1.SuspendRunRequest{}, true
	case cardeav1connect.RunsResumeProcedure:
		m, changes = &cardeav1.ResumeRunRequest{}, true
	case cardeav1connect.RunsRetryProcedure:
		m, changes = &cardeav1.RetryRunRequest{}, true
	case cardeav1connect.RunsResolveProcedure:
		m, changes = &cardeav1.ResolveRunRequest{}, true
	default:
		return "", false, fmt.Errorf("no ticket is given for %s: %w", procedure, ErrInvalid)
	}
	if err := proto.Unmarshal(request, m); err != nil {
		return "", false, fmt.Errorf("%s request: %w: %w", procedure, ErrInvalid, err)
	}
	if !strings.HasPrefix(m.GetRunId(), "run_") {
		return "", false, fmt.Errorf("run %q: %w", m.GetRunId(), ErrInvalid)
	}
	return m.GetRunId(), changes, nil
}
