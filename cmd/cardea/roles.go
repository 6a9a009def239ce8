package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cardea/internal/cli"
	"cardea/internal/role"
)

// roleCommand is the command of one role: it gathers the configuration into conf and hands it to run. Each role's own file
// (role_<name>.go) wires it, like this:
//
//	func engineCommand() *cobra.Command {
//		conf := &role.EngineConfig{}
//		return roleCommand(role.Engine, "Run workflows: journal, timers, dispatch", conf, func(ctx context.Context) error {
//			return role.Run(ctx, role.Spec{
//				Role: role.Engine, Config: conf,
//				Needs: role.Needs{RunPrograms: true}, // expression children
//				Build: func(ctx context.Context, h *role.Host) error {
//					decide := cardeav1connect.NewDecideClient(h.Dial(conf.Decide, role.Authority), role.BaseURL, role.ClientOptions()...)
//					journal, err := …open(filepath.Join(conf.Dir, "journal.db"))
//					if err != nil {
//						return err
//					}
//					h.OnStop("journal", func(context.Context) error { return journal.Close() })
//					e := engine.New(…, h.Log(), h.Metrics())
//					h.Go("engine", e.Run)                     // ends when its context ends; an error stops the role
//					h.Check("journal", e.Ready)               // condition of /readyz
//					_, work := cardeav1connect.NewWorkHandler(e, role.HandlerOptions()...)
//					return h.Serve(conf.ListenWork, role.Mount{Service: cardeav1connect.WorkName, Handler: work})
//				},
//			})
//		})
//	}
func roleCommand(name, short string, conf role.Config, run func(context.Context) error) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs}
	loader := role.NewLoader(name, conf, cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if loader.Print {
			if err := loader.Read(os.LookupEnv); err != nil {
				return badConfig(name, err)
			}
			return loader.PrintConfig(cmd.OutOrStdout(), os.LookupEnv)
		}
		if err := loader.Load(os.LookupEnv); err != nil {
			return badConfig(name, err)
		}
		return run(cmd.Context())
	}
	return cmd
}

// badConfig puts what is wrong on one line, and says where all of it is written down.
func badConfig(name string, err error) error {
	return cli.Fail(cli.Usage, cli.F("cardea %s --print-config shows what is set; docs/config.md has all of it", name), "%s",
		strings.ReplaceAll(err.Error(), "\n", "; ")).Because(err)
}
