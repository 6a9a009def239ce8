package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cardea/internal/cli"
	"cardea/internal/profile"
)

var update = flag.Bool("update", false, "rewrite docs/cli.md")

// walk visits every command that people are shown.
func walk(c *cobra.Command, visit func(*cobra.Command)) {
	if c.Hidden {
		return
	}
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

// roleNames are the commands whose settings their own reference lists.
var roleNames = []string{"authority", "engine", "runner", "console", "origin"}

// TestReference keeps docs/cli.md true: it is made from the commands themselves. Run it with -update after a change.
func TestReference(t *testing.T) {
	a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}, env: func(string) string { return "" }, now: time.Now}
	text := reference(a.root())
	path := filepath.Join("..", "..", "docs", "cli.md")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != text {
		t.Fatal("docs/cli.md is not what the commands say; go test ./cmd/cardea -run TestReference -update")
	}
}

const preamble = `# The command line

` + "`cardea`" + ` is server and client. Client commands are noun and verb; each takes ` + "`-o json`" + ` and ends with a documented code.
This page is made from the commands themselves (` + "`go test ./cmd/cardea -run TestReference -update`" + `).

## Which hub, and who asks

A *profile* is one file: where the hub's console listens, the roots it must present, who you are, your session key, and the keys
that verify permits, statements and the ledger. It is found by ` + "`--profile`" + `, then ` + "`$CARDEA_PROFILE`" + `, then ` + "`./.cardea/profile.json`" + `, then
` + "`$XDG_CONFIG_HOME/cardea/profile.json`" + ` or ` + "`~/.config/cardea/profile.json`" + `. It must be readable by you alone: it holds a private key.

| field | meaning |
|---|---|
%s
Every call carries a proof made with the session key over its exact bytes; calls to the engine carry a ticket over theirs. The console in
between can drop a call, and change nothing in it. Beside the profile lies ` + "`checkpoint-<key>.note`" + `: the highest ledger checkpoint that has held. A
hub that shows less, or another history, is refused.

## Output

Text for people, with colour on a terminal only (never with ` + "`NO_COLOR`" + ` or ` + "`TERM=dumb`" + `). Whatever a hub says is cleaned first: control, bidirectional and
invisible characters are shown as escapes. ` + "`-o json`" + ` prints one document: the contracts' own field names, every field present, enumerations
as lower-case words, times in RFC 3339, JSON inside bytes as JSON. Questions are asked at a terminal only; elsewhere a command that would ask
refuses, and ` + "`--yes`" + ` answers beforehand.

## Exit codes

| code | word | meaning |
|---|---|---|
%s
With ` + "`-o json`" + `, errors go to standard error as ` + "`{\"error\": {\"code\", \"exit\", \"message\", \"mend\"}}`" + `.

## Commands
`

func reference(root *cobra.Command) string {
	var codes, b strings.Builder
	for _, row := range cli.ExitTable() {
		fmt.Fprintf(&codes, "| %d | %s | %s |\n", row.Exit, row.Word, row.Meaning)
	}
	fmt.Fprintf(&b, preamble, profileFields(), codes.String())
	walk(root, func(c *cobra.Command) {
		if c == root || c.Name() == "help" {
			return
		}
		section(&b, c)
	})
	return b.String()
}

func section(b *strings.Builder, c *cobra.Command) {
	level := strings.Repeat("#", min(2+strings.Count(c.CommandPath(), " "), 4))
	fmt.Fprintf(b, "\n%s %s\n\n%s.\n", level, c.CommandPath(), c.Short)
	if c.HasAvailableSubCommands() || !c.Runnable() {
		return
	}
	if c.Long != "" {
		fmt.Fprintf(b, "\n%s\n", strings.TrimSpace(c.Long))
	}
	fmt.Fprintf(b, "\n```\n%s\n", c.UseLine())
	if c.Example != "" {
		fmt.Fprintf(b, "\n%s\n", c.Example)
	}
	b.WriteString("```\n")
	for _, r := range roleNames {
		if c.Name() == r {
			fmt.Fprintf(b, "\n`cardea %s --print-config` lists its settings with their meaning; each is a flag, an environment variable and a key in YAML.\n", r)
			return
		}
	}
	flags(b, c)
}

func flags(b *strings.Builder, c *cobra.Command) {
	first := true
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if first {
			b.WriteString("\n| flag | meaning |\n|---|---|\n")
			first = false
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		meaning := strings.ReplaceAll(f.Usage, "|", `\|`)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			meaning += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, "| %s | %s |\n", name, meaning)
	})
}

// profileFields lists the fields of a profile from its own type, so that a new one cannot be left out.
func profileFields() string {
	meanings := map[string]string{
		"hub": "the hub's name for people", "console": "where the console listens: `unix:/path` or `tcp:host:port`", "trust_domain": "the SPIFFE trust domain whose roots are pinned",
		"role_roots": "PEM of the role CA that the console's certificate must come from", "person": "who asks",
		"session_key": "the person's private key (JWK, P-256) that signs the proof of each call", "ssh_key": "file of the SSH key that signs approvals; empty to use the ssh-agent",
		"permit_keys": "the authority's Ed25519 keys: they verify statements", "checkpoint_key": "the ledger's verifier key, in note form",
		"origin": "URL of the hub's discovery document, the issuer of its tokens", "dev": "true for a hub started by `cardea dev`",
	}
	var b strings.Builder
	for _, name := range profileNames() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, meanings[name])
		delete(meanings, name)
	}
	for name := range meanings {
		fmt.Fprintf(&b, "| `%s` | no such field |\n", name)
	}
	return b.String()
}

// profileNames are the fields of a profile as its file spells them.
func profileNames() []string {
	var names []string
	p := reflect.TypeFor[profile.Profile]()
	for i := range p.NumField() {
		name, _, _ := strings.Cut(p.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}
