package main

import (
	"github.com/spf13/cobra"

	"cardea/internal/cli"
)

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Shell completion, names of workflows, runs and approvals included",
		Long: "Prints a completion script. For one session:\n\n  bash  source <(cardea completion bash)\n" +
			"  zsh   source <(cardea completion zsh)\n  fish  cardea completion fish | source\n\n" +
			"Names come from the hub of the profile; when it does not answer within a second there are none.",
		Args:              exactly("bash|zsh|fish"),
		ValidArgs:         []string{"bash", "zsh", "fish"},
		ValidArgsFunction: nil,
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return c.Root().GenZshCompletion(a.out)
			case "fish":
				return c.Root().GenFishCompletion(a.out, true)
			}
			return cli.Fail(cli.Usage, "use bash, zsh or fish", "there is no completion for %q", args[0])
		},
	}
}
