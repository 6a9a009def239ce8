package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cardea/internal/console"
	"cardea/internal/role"
)

func consoleCommand() *cobra.Command {
	conf := &role.ConsoleConfig{}
	return roleCommand(role.Console, "Forward people's calls to the authority and the engine, unread", conf, func(ctx context.Context) error {
		return role.Run(ctx, role.Spec{
			Role: role.Console, Config: conf,
			Build: func(_ context.Context, h *role.Host) error { return buildConsole(h, conf) },
		})
	})
}

// buildConsole puts the forwarder between people's listener and the two roles that answer them.
func buildConsole(h *role.Host, c *role.ConsoleConfig) error {
	forwarder, err := console.New(console.Config{
		Authority: h.Dial(c.Control, role.Authority).Transport,
		Engine:    h.Dial(c.Runs, role.Engine).Transport,
		Log:       h.Log(),
		Metrics:   h.Metrics(),
	})
	if err != nil {
		return err
	}
	if err := h.ServePeople(c.Listen, forwarder, nil); err != nil {
		return fmt.Errorf("serve people: %w", err)
	}
	return nil
}
