package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"cardea/internal/cli"
	"cardea/internal/profile"
)

// callTimeout is how long one question to the hub may take unless --timeout says otherwise.
const callTimeout = 30 * time.Second

// hub is one command's connection to the hub of its profile.
type hub struct {
	*cli.Client
	app     *app
	out     *cli.Out
	profile profile.Profile
	// path is the profile's file; what this person remembers of the hub lies beside it.
	path string
}

// open finds the profile and makes the client. It does not call the hub.
func (a *app) open() (*hub, error) {
	path, err := profile.Find(a.profilePath)
	if errors.Is(err, profile.ErrNone) {
		return nil, cli.Fail(cli.Identity, "start one with cardea dev, or name its profile with --profile or "+profile.Env, "no hub found: there is no profile").Because(err)
	}
	if err != nil {
		return nil, cli.Fail(cli.Identity, "", "%s", err.Error()).Because(err)
	}
	p, err := profile.Load(path)
	if err != nil {
		return nil, cli.Fail(cli.Identity, "cardea doctor checks profiles", "%s", err.Error()).Because(err)
	}
	client, err := cli.NewClient(p)
	if err != nil {
		return nil, err
	}
	return &hub{Client: client, app: a, out: cli.NewOut(a.out, a.env), profile: p, path: path}, nil
}

// hubCommand makes a command that asks the hub. timeout is the default of --timeout; 0 means as long as it takes.
func (a *app) hubCommand(c *cobra.Command, timeout time.Duration, do func(ctx context.Context, h *hub, args []string) error) *cobra.Command {
	a.profileFlag(a.outputFlag(c))
	c.Flags().DurationVar(&timeout, "timeout", timeout, "give up after this long; 0 is never")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := a.checkFormat(); err != nil {
			return err
		}
		h, err := a.open()
		if err != nil {
			return err
		}
		ctx, stop := interruptible(c.Context())
		defer stop()
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		return do(ctx, h, args)
	}
	return c
}

func (a *app) profileFlag(c *cobra.Command) {
	c.Flags().StringVar(&a.profilePath, "profile", "", "profile file of the hub (default $"+profile.Env+", ./.cardea/profile.json, ~/.config/cardea/profile.json)")
	_ = c.MarkFlagFilename("profile", "json")
}

// json says whether the answer is for a script.
func (h *hub) json() bool { return h.app.format == formatJSON }

// show prints a message as JSON, or as lines for people.
func (h *hub) show(m proto.Message, lines func() []cli.Line) error {
	if h.json() {
		return cli.WriteMessage(h.app.out, m)
	}
	return h.out.Print(lines()...)
}

// me is the person of the profile.
func (h *hub) me() string { return h.profile.Person }

// completing is for shell completion: short, silent, and never in the way.
func (a *app) completing(ask func(ctx context.Context, h *hub) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		h, err := a.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), time.Second)
		defer cancel()
		var names []string
		for _, n := range ask(ctx, h) {
			name, about, described := strings.Cut(n, "\t") // the shell shows what follows the tab
			if described {
				name = string(cli.Clean(name)) + "\t" + string(cli.Clean(about))
			} else {
				name = string(cli.Clean(name))
			}
			names = append(names, name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// firstOnly completes the first argument alone.
func firstOnly(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(c, args, given)
	}
}
