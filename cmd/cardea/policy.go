package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

func (a *app) policyCommand() *cobra.Command {
	return noun(groupProof, "policy", "Why something was allowed or refused", a.policyExplainCommand(), a.policyCheckCommand())
}

func (a *app) policyExplainCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "explain RUN [TASK]", Short: "The verdicts of a run's tasks, and the policies that made them", Args: exactly("RUN", "[TASK]"),
		Example:           "  cardea policy explain run_01jd… timesheets",
		ValidArgsFunction: firstOnly(a.completing(runIDs)),
	}
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		request := &cardeav1.ExplainRequest{RunId: args[0]}
		if len(args) > 1 {
			request.Task = args[1]
		}
		answer, err := h.Control.Explain(ctx, request)
		if err != nil {
			return err
		}
		if len(args) > 1 && len(answer.GetAttempts()) == 0 {
			return cli.Fail(cli.NotFound, cli.F("cardea run show %s lists its tasks", args[0]), "nothing was decided for task %s of run %s", args[1], args[0])
		}
		return h.show(answer, func() []cli.Line { return cli.PolicyExplanation(answer, h.policyText(ctx)) })
	})
}

// policyText looks policies up by id. What the person may not read, and the baseline, are shown by their ids alone.
func (h *hub) policyText(ctx context.Context) func(id string) string {
	answer, err := h.Control.List(ctx, &cardeav1.ListRequest{Kind: "Policy"})
	if err != nil {
		return func(string) string { return "" }
	}
	return func(id string) string {
		for _, file := range answer.GetResources() {
			if text := cli.PolicyExcerpt(string(file.GetBody()), id); text != "" {
				return text
			}
		}
		return ""
	}
}

func (a *app) policyCheckCommand() *cobra.Command {
	var contextJSON string
	c := &cobra.Command{
		Use: "check PRINCIPAL ACTION RESOURCE", Short: "Ask policy a question; nothing is recorded or done", Args: exactly("PRINCIPAL", "ACTION", "RESOURCE"),
		Example: `  cardea policy check 'Task::"payroll/pay-run/do/0/timesheets"' use 'Connection::"hr"'`,
	}
	c.Flags().StringVar(&contextJSON, "context", "", "the context of the question: a file, - or JSON itself")
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		asked, err := a.readInput(contextJSON)
		if err != nil {
			return err
		}
		if asked != nil && !isObject(asked) {
			return cli.Fail(cli.Usage, "", "a context is a JSON object")
		}
		answer, err := h.Control.Check(ctx, &cardeav1.CheckRequest{Principal: args[0], Action: args[1], Resource: args[2], ContextJson: asked})
		if err != nil {
			return err
		}
		if err := h.show(answer, func() []cli.Line { return cli.VerdictLines(answer.GetVerdict(), answer.GetNearest()) }); err != nil {
			return err
		}
		switch answer.GetVerdict().GetOutcome() {
		case cardeav1.Outcome_OUTCOME_ALLOW:
			return nil
		case cardeav1.Outcome_OUTCOME_PENDING:
			return cli.Quiet(cli.Pending)
		}
		return cli.Quiet(cli.Denied)
	})
}

func isObject(text []byte) bool {
	var o map[string]json.RawMessage
	return json.Unmarshal(text, &o) == nil
}
