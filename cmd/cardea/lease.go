package main

import (
	"context"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

func (a *app) leaseCommand() *cobra.Command {
	return noun(groupProof, "lease", "Credentials: what is out, for whom, until when", a.leaseListCommand(), a.leaseRevokeCommand())
}

func (a *app) leaseListCommand() *cobra.Command {
	var all bool
	request := &cardeav1.ListLeasesRequest{}
	c := &cobra.Command{Use: "list", Short: "Credentials that live; with --all, those that have ended too", Args: exactly()}
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	c.Flags().StringVar(&request.Connection, "connection", "", "only those at this connection")
	c.Flags().StringVar(&request.RunId, "run", "", "only those of this run")
	c.Flags().Uint32Var(&request.Limit, "limit", 100, "at most so many, up to 1000")
	_ = c.RegisterFlagCompletionFunc("connection", a.completing(connectionNames))
	_ = c.RegisterFlagCompletionFunc("run", a.completing(runIDs))
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, _ []string) error {
		request.Live = !all
		answer, err := h.Control.ListLeases(ctx, request)
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return h.out.Fit(cli.LeaseTable(answer.GetLeases(), a.now())) })
	})
}

func (a *app) leaseRevokeCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "revoke LEASE", Short: "End a credential now", Args: exactly("LEASE")}
	c.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		answer, err := h.Control.RevokeLease(ctx, &cardeav1.RevokeLeaseRequest{LeaseId: args[0], Reason: reason})
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line { return cli.LeaseTable([]*cardeav1.LeaseRecord{answer.GetLease()}, a.now()) })
	})
}
