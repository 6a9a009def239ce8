package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

func (a *app) workflowCommand() *cobra.Command {
	return noun(groupWork, "workflow", "Definitions: check them offline, see what the hub runs",
		a.workflowListCommand(), a.workflowShowCommand())
}

func (a *app) workflowListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "Definitions that the hub has, by process, name and version", Args: exactly()}
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, _ []string) error {
		answer, err := h.Control.List(ctx, &cardeav1.ListRequest{Kind: "Workflow"})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return cli.WorkflowTable(answer.GetResources()) })
	})
}

func (a *app) workflowShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show WORKFLOW", Short: "A definition as the hub runs it", Args: exactly("WORKFLOW"),
		Long:              "Shows the canonical definition of <process>/<name>@<version>, or of the version of <process>/<name> that was applied last.",
		ValidArgsFunction: firstOnly(a.completing(workflowVersions)),
	}
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		name, err := h.newestVersion(ctx, args[0])
		if err != nil {
			return err
		}
		answer, err := h.Control.Get(ctx, &cardeav1.GetRequest{Kind: "Workflow", Name: name})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return cli.ResourceLines(answer.GetResource()) })
	})
}

// newestVersion completes a name without a version by the one that was applied last.
func (h *hub) newestVersion(ctx context.Context, name string) (string, error) {
	if strings.Contains(name, "@") {
		return name, nil
	}
	answer, err := h.Control.List(ctx, &cardeav1.ListRequest{Kind: "Workflow"})
	if err != nil {
		return "", err
	}
	var newest *cardeav1.Resource
	for _, r := range answer.GetResources() {
		if !strings.HasPrefix(r.GetName(), name+"@") {
			continue
		}
		if newest == nil || r.GetAppliedAt().AsTime().After(newest.GetAppliedAt().AsTime()) {
			newest = r
		}
	}
	if newest == nil {
		return "", cli.Fail(cli.NotFound, "cardea workflow list shows what there is", "there is no workflow %s", name)
	}
	return newest.GetName(), nil
}

// workflowNames are <process>/<name>, once each, for completion.
func workflowNames(ctx context.Context, h *hub) []string {
	var names []string
	for _, n := range workflowVersions(ctx, h) {
		name, _, _ := strings.Cut(n, "@")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func workflowVersions(ctx context.Context, h *hub) []string { return resourceNames(ctx, h, "Workflow") }
