package main

import (
	"context"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

func (a *app) connectionCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "Target systems and who owns them", Args: exactly()}
	a.hubCommand(list, callTimeout, func(ctx context.Context, h *hub, _ []string) error {
		answer, err := h.Control.List(ctx, &cardeav1.ListRequest{Kind: "Connection"})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return h.out.Fit(cli.ConnectionTable(answer.GetResources())) })
	})
	show := &cobra.Command{
		Use: "show CONNECTION", Short: "What may be asked of a target system, and who uses it", Args: exactly("CONNECTION"),
		ValidArgsFunction: firstOnly(a.completing(connectionNames)),
	}
	a.hubCommand(show, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		answer, err := h.Control.Get(ctx, &cardeav1.GetRequest{Kind: "Connection", Name: args[0]})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return cli.ResourceLines(answer.GetResource()) })
	})
	return noun(groupWork, "connection", "Target systems: owner, zone, what may be asked, who uses them", list, show)
}

func connectionNames(ctx context.Context, h *hub) []string {
	return resourceNames(ctx, h, "Connection")
}

func resourceNames(ctx context.Context, h *hub, kind string) []string {
	answer, err := h.Control.List(ctx, &cardeav1.ListRequest{Kind: kind})
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range answer.GetResources() {
		names = append(names, r.GetName())
	}
	return names
}
