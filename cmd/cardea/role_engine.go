package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/dispatch"
	"cardea/internal/durable"
	"cardea/internal/durable/runsapi"
	"cardea/internal/durable/sqljournal"
	"cardea/internal/engine"
	"cardea/internal/flow"
	"cardea/internal/role"
	"cardea/internal/sqlite"
)

func engineCommand() *cobra.Command {
	conf := &role.EngineConfig{}
	return roleCommand(role.Engine, "Run workflows: journal, dispatch, results", conf, func(ctx context.Context) error {
		return role.Run(ctx, role.Spec{
			Role: role.Engine, Config: conf,
			Build: func(ctx context.Context, h *role.Host) error { return buildEngine(ctx, h, conf) },
		})
	})
}

// buildEngine puts the driver between its journal, the authority that decides, the runners that act and the console that asks.
func buildEngine(ctx context.Context, h *role.Host, c *role.EngineConfig) error {
	journal, err := openJournal(ctx, h, filepath.Join(c.Dir, "journal.db"))
	if err != nil {
		return err
	}
	decide := cardeav1connect.NewDecideClient(h.Dial(c.Decide, role.Authority), role.BaseURL, role.ClientOptions()...)
	driver, err := durable.Open(ctx, durable.Config{Journal: journal, Definitions: journal, Grants: journal,
		Authority: durable.NewClient(decide), Load: loadProgram, Log: h.Log(), Metrics: h.Metrics()})
	if err != nil {
		return err
	}
	h.Go("driver", driver.Run)
	h.Go("drain runners", func(ctx context.Context) error {
		select {
		case <-h.Draining():
			driver.Pool().Drain()
		case <-ctx.Done():
		}
		return nil
	})
	h.Check("driver", driver.Ready)
	return serveEngine(h, c, driver)
}

func serveEngine(h *role.Host, c *role.EngineConfig, driver *durable.Driver) error {
	_, work := cardeav1connect.NewWorkHandler(dispatch.NewService(driver.Pool(), driver, h.Log()), role.HandlerOptions()...)
	if err := h.Serve(c.ListenWork, role.Mount{Service: cardeav1connect.WorkName, Handler: work}); err != nil {
		return fmt.Errorf("serve runners: %w", err)
	}
	gate := runsapi.NewGate(func() (string, []ed25519.PublicKey) {
		b := h.Source().Bundle()
		return b.TrustDomain, b.PermitKeys
	}, time.Now, h.Log())
	_, runs := cardeav1connect.NewRunsHandler(runsapi.NewService(driver), role.HandlerOptions()...)
	if err := h.Serve(c.ListenRuns, role.Mount{Service: cardeav1connect.RunsName, Handler: gate.Wrap(runs)}); err != nil {
		return fmt.Errorf("serve the console: %w", err)
	}
	return nil
}

func openJournal(ctx context.Context, h *role.Host, path string) (*sqljournal.Journal, error) {
	migrations, err := sqljournal.Migrations()
	if err != nil {
		return nil, err
	}
	db, err := sqlite.Open(ctx, path, migrations)
	if err != nil {
		return nil, err
	}
	h.OnStop("journal", func(context.Context) error { return db.Close() })
	return sqljournal.New(db), nil
}

// loadProgram compiles what the authority has registered, by the same parser and under the same profile.
func loadProgram(canonical []byte) (*engine.Program, error) {
	plan, findings := flow.Compile(canonical, flow.Options{Profile: true})
	if plan != nil {
		return engine.Load(plan)
	}
	for _, f := range findings {
		if f.Severity == "error" {
			return nil, fmt.Errorf("%s: %s", f.Pointer, f.Message)
		}
	}
	return nil, errors.New("it does not compile")
}
