package main

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "doctor", Short: "What works between you and the hub, what does not, and the mend", GroupID: groupProof, Args: exactly(),
		Long: "Checks the profile, the hub behind it, the roles that run on this machine, the clock, how approvals would be signed,\n" +
			"and what the kernel offers for confinement. Ends with 1 if something does not work.",
	}
	a.profileFlag(a.outputFlag(c))
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := a.checkFormat(); err != nil {
			return err
		}
		ctx, stop := interruptible(c.Context())
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		findings := append(a.checkHub(ctx), cli.CheckPlatform()...)
		if err := a.printFindings(findings); err != nil {
			return err
		}
		for _, f := range findings {
			if f.Health == cli.Bad {
				return cli.Quiet(cli.Failed)
			}
		}
		return nil
	}
	return c
}

func (a *app) printFindings(findings []cli.Finding) error {
	if a.format == formatJSON {
		return cli.WriteJSON(a.out, map[string]any{"checks": findings})
	}
	return cli.NewOut(a.out, a.env).Print(cli.FindingLines(findings)...)
}

// checkHub follows the way of a call: profile, console, person, clock, and the roles behind it when they are on this machine.
func (a *app) checkHub(ctx context.Context) []cli.Finding {
	h, err := a.open()
	if err != nil {
		e := cli.Explain(err)
		return []cli.Finding{{Name: "profile", Health: cli.Bad, Text: e.Text, Mend: e.Mend}}
	}
	findings := []cli.Finding{{Name: "profile", Health: cli.Good, Text: cli.F("%s: %s of hub %s", h.path, h.me(), h.profile.Hub)}}
	who, err := h.Control.WhoAmI(ctx, &cardeav1.WhoAmIRequest{})
	if err != nil {
		e := cli.Explain(err)
		findings = append(findings, cli.Finding{Name: "hub", Health: cli.Bad, Text: e.Text, Mend: hubMend(e)})
	} else {
		findings = append(findings, whoFinding(who))
	}
	if skew, known := h.Skew(); known {
		findings = append(findings, cli.CheckClock(skew))
	}
	if network, path, _ := strings.Cut(h.profile.Console, ":"); network == "unix" {
		findings = append(findings, cli.CheckRoles(ctx, filepath.Dir(path))...)
	}
	return append(findings, cli.CheckAgent(a.env, h.profile.SSHKey))
}

// hubMend does not send the reader of doctor to doctor.
func hubMend(e *cli.Error) cli.Safe {
	if e.Exit == cli.Unavailable {
		return "start it with cardea dev, or look at the log of its console"
	}
	if strings.Contains(string(e.Mend), "doctor") {
		return "if the hub was set up anew, use its new profile"
	}
	return e.Mend
}

func whoFinding(who *cardeav1.WhoAmIResponse) cli.Finding {
	text := cli.F("knows you as %s", who.GetPerson())
	if len(who.GetGroups()) > 0 {
		text += " of " + cli.Join(who.GetGroups(), ", ")
	}
	if who.GetDev() {
		return cli.Finding{Name: "hub", Health: cli.Weak, Text: text + "; it is a dev hub",
			Mend: "four-eyes rules only warn there: its ledger proves nothing about them"}
	}
	return cli.Finding{Name: "hub", Health: cli.Good, Text: text}
}
