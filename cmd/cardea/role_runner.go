package main

import (
	"context"

	"github.com/spf13/cobra"

	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/egress"
	"cardea/internal/role"
	"cardea/internal/runner"
)

func runnerCommand() *cobra.Command {
	conf := &role.RunnerConfig{}
	return roleCommand(role.Runner, "Execute attempts: redeem, act, return", conf, func(ctx context.Context) error {
		return role.Run(ctx, role.Spec{
			Role: role.Runner, Config: conf,
			Needs: role.Needs{ConnectAnywhere: true},
			Build: func(_ context.Context, h *role.Host) error { return buildRunner(h, conf) },
		})
	})
}

// buildRunner puts the executors between the engine that pushes and the authority that gives credentials.
func buildRunner(h *role.Host, c *role.RunnerConfig) error {
	out := egress.New(egress.Options{UserAgent: "cardea-runner"})
	h.OnStop("egress", func(context.Context) error { out.Close(); return nil })
	r, err := runner.New(runner.Config{
		Self: func() runner.Self {
			peer, bundle := h.Source().SVID().Peer, h.Source().Bundle()
			return runner.Self{TrustDomain: bundle.TrustDomain, ID: peer.ID.String(), Key: peer.KeyThumbprint, PermitKeys: bundle.PermitKeys}
		},
		Work:      cardeav1connect.NewWorkClient(h.Dial(c.Work, role.Engine), role.BaseURL, role.ClientOptions()...),
		Lease:     cardeav1connect.NewLeaseClient(h.Dial(c.Lease, role.Authority), role.BaseURL, role.ClientOptions()...),
		Executors: map[string]runner.Executor{"http": runner.HTTP{Egress: out}},
		Slots:     c.Slots,
		// Of the drain's time, what runs may use most; the rest is for results and returns.
		Drain: c.Drain * 6 / 10, Flush: c.Drain * 3 / 10,
		Log: h.Log(), Metrics: h.Metrics(),
	})
	if err != nil {
		return err
	}
	h.Go("runner", r.Run)
	h.Check("engine", r.Connected)
	return nil
}
