package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

// maxInput is what the contract allows for a run's input.
const maxInput = 1 << 20

func (a *app) runCommand() *cobra.Command {
	return noun(groupWork, "run", "Start runs, follow them, see all that happened in them",
		a.runStartCommand(), a.runListCommand(), a.runShowCommand(), a.runWatchCommand(), a.runCancelCommand())
}

func (a *app) runStartCommand() *cobra.Command {
	var input, requestID string
	var wait bool
	c := &cobra.Command{
		Use: "start WORKFLOW", Short: "Start a run", Args: exactly("WORKFLOW"),
		Long:              "Starts a run of <process>/<name>, or of <process>/<name>@<version>. The ticket that you ask for fixes which definition runs.",
		Example:           "  cardea run start payroll/pay-run --input may.json --wait\n  cardea run start payroll/pay-run --input '{\"month\": \"2026-05\"}'",
		ValidArgsFunction: firstOnly(a.completing(workflowNames)),
	}
	c.Flags().StringVar(&input, "input", "", "the run's input: a file, - for standard input, or JSON itself")
	c.Flags().BoolVar(&wait, "wait", false, "follow the run until it has ended; the exit code tells how")
	c.Flags().StringVar(&requestID, "request-id", "", "name of this request: asked again with the same name, the hub answers with the same run")
	return a.hubCommand(c, 0, func(ctx context.Context, h *hub, args []string) error {
		body, err := a.readInput(input)
		if err != nil {
			return err
		}
		if requestID == "" {
			requestID, err = newRequestID()
			if err != nil {
				return err
			}
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		started, err := h.Runs.Start(call, &cardeav1.StartRunRequest{Workflow: args[0], InputJson: body, RequestId: requestID})
		if err != nil {
			return err
		}
		if wait {
			return h.follow(ctx, started.GetRunId())
		}
		return h.show(started, func() []cli.Line {
			return []cli.Line{
				cli.L("run ").Add(cli.Bold, cli.Clean(started.GetRunId())).Add(cli.Plain, cli.F(" of %s started", args[0])),
				cli.L(cli.F("  follow it: cardea run watch %s", started.GetRunId())),
			}
		})
	})
}

func newRequestID() (string, error) {
	id, err := ulid.New(ulid.Now(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("request id: %w", err)
	}
	return "req_" + strings.ToLower(id.String()), nil
}

// readInput is the run's input as JSON. What begins like an object or a list is the JSON itself.
func (a *app) readInput(given string) ([]byte, error) {
	var text []byte
	var err error
	switch trimmed := strings.TrimSpace(given); {
	case given == "":
		return nil, nil
	case given == "-":
		text, err = readAtMost(a.in, maxInput)
	case strings.HasPrefix(trimmed, "{"), strings.HasPrefix(trimmed, "["):
		text = []byte(trimmed)
	default:
		text, err = readFile(given, maxInput)
	}
	if err != nil {
		return nil, cli.Fail(cli.Usage, "", "input %s: %s", given, err.Error()).Because(err)
	}
	text = bytes.TrimSpace(text)
	if len(text) > maxInput {
		return nil, cli.Fail(cli.Usage, "", "the input is larger than 1 MiB")
	}
	if !json.Valid(text) {
		return nil, cli.Fail(cli.Usage, "", "the input is not JSON")
	}
	return text, nil
}

func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, most)
}

func readAtMost(r io.Reader, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("larger than %d bytes", most)
	}
	return text, err
}

func (a *app) runListCommand() *cobra.Command {
	var workflow, status string
	var limit uint32
	c := &cobra.Command{Use: "list", Short: "Runs, newest first", Args: exactly()}
	c.Flags().StringVar(&workflow, "workflow", "", "only runs of this workflow")
	c.Flags().StringVar(&status, "status", "", "only runs in this state: running, waiting, in_doubt, completed, faulted, cancelled")
	c.Flags().Uint32Var(&limit, "limit", 50, "at most so many, up to 1000")
	_ = c.RegisterFlagCompletionFunc("workflow", a.completing(workflowNames))
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, _ []string) error {
		answer, err := h.Runs.List(ctx, &cardeav1.ListRunsRequest{Workflow: workflow, Status: status, Limit: limit})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return h.out.Fit(cli.RunTable(answer.GetRuns(), h.me(), a.now())) })
	})
}

func (a *app) runShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show RUN", Short: "All that was decided, issued, approved and done in a run", Args: exactly("RUN"),
		ValidArgsFunction: firstOnly(a.completing(runIDs)),
	}
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		run, err := h.Runs.Get(ctx, &cardeav1.GetRunRequest{RunId: args[0]})
		if err != nil {
			return err
		}
		explained, err := h.Control.Explain(ctx, &cardeav1.ExplainRequest{RunId: args[0]})
		if err != nil {
			return err
		}
		if h.json() {
			return cli.WriteJSON(a.out, map[string]any{"run": cli.Document(run.GetRun()), "explain": cli.Document(explained)})
		}
		return h.out.Print(cli.Timeline(run.GetRun(), explained, h.me())...)
	})
}

func (a *app) runWatchCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "watch RUN", Short: "Follow a run until it has ended", Args: exactly("RUN"),
		Long:              "Follows a run until it has ended. Ctrl-C stops watching; the run goes on.",
		ValidArgsFunction: firstOnly(a.completing(runIDs)),
	}
	return a.hubCommand(c, 0, func(ctx context.Context, h *hub, args []string) error { return h.follow(ctx, args[0]) })
}

// follow shows a run until it has ended and turns its end into an exit code.
func (h *hub) follow(ctx context.Context, id string) error {
	out := h.out
	if h.json() {
		out = cli.NewOut(io.Discard, h.app.env) // one document, at the end
	}
	w := &cli.Watcher{
		Out: out, Me: h.me(), Now: h.app.now,
		Open: func(ctx context.Context) (cli.Stream, error) {
			return h.Runs.Watch(ctx, &cardeav1.WatchRunRequest{RunId: id})
		},
		Explain: func(ctx context.Context) (*cardeav1.ExplainResponse, error) {
			return h.Control.Explain(ctx, &cardeav1.ExplainRequest{RunId: id})
		},
	}
	run, err := w.Run(ctx)
	if run != nil && h.json() {
		if jsonErr := cli.WriteMessage(h.app.out, run); jsonErr != nil {
			return jsonErr
		}
	}
	goesOn := cli.F("the run goes on: cardea run watch %s", id)
	switch {
	case errors.Is(err, context.Canceled):
		return cli.Fail(cli.Interrupted, goesOn, "stopped watching")
	case errors.Is(err, context.DeadlineExceeded):
		return cli.Fail(cli.Pending, goesOn, "the run has not ended in the time given")
	case err != nil:
		return err
	}
	if exit := cli.RunExit(run); exit != cli.OK {
		return cli.Quiet(exit)
	}
	return nil
}

func (a *app) runCancelCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "cancel RUN", Short: "Cancel a run; what it holds is taken back", Args: exactly("RUN"),
		ValidArgsFunction: firstOnly(a.completing(runIDs)),
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		answer, err := h.Runs.Cancel(ctx, &cardeav1.CancelRunRequest{RunId: args[0], Reason: reason})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line {
			run := answer.GetRun()
			if !cli.RunEnded(run) {
				return []cli.Line{cli.L(cli.F("run %s is being cancelled; it is %s now", args[0], run.GetStatus()))}
			}
			return append([]cli.Line{cli.RunHead(run, h.me())}, cli.RunTail(run)...)
		})
	})
}

// runIDs are the newest runs, for completion.
func runIDs(ctx context.Context, h *hub) []string {
	answer, err := h.Runs.List(ctx, &cardeav1.ListRunsRequest{Limit: 30})
	if err != nil {
		return nil
	}
	var ids []string
	for _, r := range answer.GetRuns() {
		ids = append(ids, r.GetId()+"\t"+r.GetWorkflow()+" "+r.GetStatus())
	}
	return ids
}
