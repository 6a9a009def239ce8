package main

import (
	"context"

	"github.com/spf13/cobra"

	"cardea/internal/cli"
	"cardea/internal/demo"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use: "demo", Short: "Half a minute that shows what Cardea does, on real processes and services", Args: exactly(), GroupID: groupServe,
		Long: "Starts a whole hub and two services that verify what they are given, in a temporary folder, and drives them by this same command\n" +
			"line: a plan is signed and applied, a payment approved and made, a changed one refused, a task denied, a stolen credential outlived,\n" +
			"and the record verified offline. It ends with 0 only if all of that held, and leaves nothing behind.",
	}
	c.Flags().BoolVar(&keep, "keep", false, "leave the temporary folder, and say where it is")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, stop := interruptible(c.Context())
		defer stop()
		return a.demo(ctx, keep)
	}
	return c
}

func (a *app) demo(ctx context.Context, keep bool) error {
	out := cli.NewOut(a.out, a.env)
	columns, _ := out.Size()
	err := demo.Run(ctx, demo.Options{Out: a.out, Columns: columns, Color: out.Terminal() && a.env("NO_COLOR") == "", Keep: keep})
	if err != nil {
		return cli.Fail(cli.Failed, "run it again with --keep and read hub.log in its folder", "the demo did not hold: %s", cli.Clean(err.Error())).Because(err)
	}
	return nil
}
