package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cardea/internal/origin"
	"cardea/internal/role"
)

func originCommand() *cobra.Command {
	conf := &role.OriginConfig{}
	return roleCommand(role.Origin, "Serve public files: discovery, keys, the ledger's tiles", conf, func(ctx context.Context) error {
		return role.Run(ctx, role.Spec{
			Role: role.Origin, Config: conf,
			Build: func(_ context.Context, h *role.Host) error { return buildOrigin(h, conf) },
		})
	})
}

// buildOrigin serves the role's own folder, which is the one that the authority writes public files into.
func buildOrigin(h *role.Host, c *role.OriginConfig) error {
	files, err := origin.New(c.Dir, h.Log(), h.Metrics())
	if err != nil {
		return err
	}
	h.OnStop("public folder", func(context.Context) error { return files.Close() })
	if err := h.ServePublic(c.Listen, files); err != nil {
		return fmt.Errorf("serve public files: %w", err)
	}
	return nil
}
