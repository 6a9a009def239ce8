package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
	"cardea/internal/flow"
	"cardea/internal/flow/claims"
	"cardea/internal/flow/source"
)

func (a *app) workflowCommand() *cobra.Command {
	return noun(groupWork, "workflow", "Definitions: check them offline, see what the hub runs",
		a.workflowLintCommand(), a.workflowListCommand(), a.workflowShowCommand())
}

func (a *app) workflowListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "Definitions that the hub has, by process, name and version", Args: exactly()}
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, _ []string) error {
		answer, err := h.Control.List(ctx, &cardeav1.ListRequest{Kind: "Workflow"})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return h.out.Fit(cli.WorkflowTable(answer.GetResources())) })
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

func (a *app) workflowLintCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "lint FILE...", Short: "Check definitions without a hub", Args: atLeastOne("FILE"),
		Long: "Compiles each definition as a hub would, and says with line and column what is wrong, what cannot run, and whose privileges\n" +
			"could not be decided beforehand. Files of other resources are skipped. Ends with 1 if a definition has errors. - reads standard input.",
		Example: "  cardea workflow lint payroll/*.yaml -o json",
	}
	a.outputFlag(c)
	c.RunE = func(_ *cobra.Command, files []string) error {
		if err := a.checkFormat(); err != nil {
			return err
		}
		findings, checked := []claims.Finding{}, 0
		for _, name := range files {
			found, isDefinition, err := a.lint(name)
			if err != nil {
				return cli.Fail(cli.Usage, "", "%s", err.Error()).Because(err)
			}
			findings = append(findings, found...)
			if isDefinition {
				checked++
			}
		}
		return a.printLint(checked, findings)
	}
	return c
}

// maxDefinition is more than any definition; the parser has limits of its own.
const maxDefinition = 16 << 20

// lint checks one file. Files of other resources are left to apply, so that a whole folder can be named.
func (a *app) lint(name string) (findings []claims.Finding, isDefinition bool, err error) {
	var text []byte
	if name == "-" {
		name = "standard input"
		text, err = readAtMost(a.in, maxDefinition)
	} else {
		text, err = readFile(name, maxDefinition)
	}
	if err != nil {
		return nil, false, err
	}
	if resources, _, err := source.LoadResources(name, text); err == nil && len(resources) > 0 && !slices.ContainsFunc(resources, looksLikeWorkflow) {
		return nil, false, nil
	}
	_, findings = source.Compile(name, text, flow.Options{Profile: true})
	for i := range findings {
		if findings[i].File == "" {
			findings[i].File = name
		}
	}
	return findings, true, nil
}

func looksLikeWorkflow(r source.RawResource) bool { return r.Kind == "" || r.Kind == "Workflow" }

func (a *app) printLint(files int, findings []claims.Finding) error {
	var err error
	if a.format == formatJSON {
		err = cli.WriteJSON(a.out, map[string]any{"files": files, "errors": cli.CountErrors(findings), "findings": findings})
	} else {
		err = cli.NewOut(a.out, a.env).Print(append(cli.LintLines(findings), cli.LintSum(files, findings))...)
	}
	if err == nil && cli.CountErrors(findings) > 0 {
		return cli.Quiet(cli.Failed)
	}
	return err
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
