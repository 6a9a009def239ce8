package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"cardea/internal/cli"
	"cardea/internal/fault"
)

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "What this binary is", Args: exactly()}
	a.outputFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		if err := a.checkFormat(); err != nil {
			return err
		}
		b := readBuild()
		if a.format == formatJSON {
			return cli.WriteJSON(a.out, b)
		}
		out := cli.NewOut(a.out, a.env)
		line := cli.F("cardea %s  %s  %s/%s", b.Version, b.Go, b.OS, b.Arch)
		if b.Revision != "" {
			line += cli.F("  revision %s", b.Revision)
		}
		if b.Modified {
			line += " (modified)"
		}
		if b.FaultPoints {
			line += "  WITH FAULT POINTS: for crash tests only"
		}
		return out.Print(cli.L(line))
	}
	return c
}

type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	// FaultPoints is true for a binary that can be told to die.
	FaultPoints bool `json:"fault_points"`
}

// readBuild tells what the toolchain recorded; a build outside version control is "devel".
func readBuild() build {
	b := build{Version: "devel", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, FaultPoints: fault.Enabled}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
