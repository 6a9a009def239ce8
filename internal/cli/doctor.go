package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"
)

// Health is the outcome of one check.
type Health string

const (
	Good Health = "ok"
	// Weak is something that works, and less well or less safely than it could.
	Weak Health = "warning"
	// Bad is something that does not work.
	Bad Health = "problem"
)

// Finding is one check's outcome: what was found, and what would mend it.
type Finding struct {
	Name   Safe   `json:"name"`
	Health Health `json:"health"`
	Text   Safe   `json:"text"`
	Mend   Safe   `json:"mend,omitempty"`
}

// FindingLines shows findings, each with its mend.
func FindingLines(findings []Finding) []Line {
	var lines []Line
	wide := 0
	for _, f := range findings {
		wide = max(wide, f.Name.Width())
	}
	for _, f := range findings {
		sign, style := Safe("✔ "), Green
		switch f.Health {
		case Weak:
			sign, style = "! ", Yellow
		case Bad:
			sign, style = "✘ ", Red
		}
		lines = append(lines, append(Line{{sign, style}}, append(L(f.Name).Pad(wide+2), Piece{Text: f.Text})...))
		if f.Mend != "" {
			lines = append(lines, append(L("").Pad(wide+4), Piece{f.Mend, Dim}))
		}
	}
	return lines
}

// Skew is how far this machine's clock is ahead of the hub's, as its last answer told; false before the first answer.
func (c *Client) Skew() (time.Duration, bool) {
	s, ok := c.skew.Load().(time.Duration)
	return s, ok
}

// CheckClock judges the skew. A proof further off than a minute is refused.
func CheckClock(skew time.Duration) Finding {
	off := Span(skew.Abs())
	switch {
	case skew.Abs() > 45*time.Second:
		return Finding{"clock", Bad, off + " from the hub's: proofs will be refused", "set this machine's clock (timedatectl set-ntp true)"}
	case skew.Abs() > 5*time.Second:
		return Finding{"clock", Weak, off + " from the hub's", "set this machine's clock (timedatectl set-ntp true)"}
	}
	return Finding{Name: "clock", Health: Good, Text: "agrees with the hub's"}
}

// CheckRoles asks every role that has an admin socket in the folder whether it is ready.
func CheckRoles(ctx context.Context, folder string) []Finding {
	sockets, err := filepath.Glob(filepath.Join(folder, "*-admin.sock"))
	if err != nil || len(sockets) == 0 {
		return nil
	}
	sort.Strings(sockets)
	findings := make([]Finding, len(sockets))
	for i, s := range sockets {
		name := Clean(strings.TrimSuffix(filepath.Base(s), "-admin.sock"))
		findings[i] = checkRole(ctx, name, s)
	}
	return findings
}

func checkRole(ctx context.Context, name Safe, socket string) Finding {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://role/readyz", nil)
	if err != nil {
		return Finding{Name: name, Health: Bad, Text: Clean(err.Error())}
	}
	answer, err := client.Do(req)
	if err != nil {
		return Finding{name, Bad, "does not answer", F("its process is gone or stuck; see its log. Socket: %s", socket)}
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 500)) // what it says decorates its status
	if answer.StatusCode == http.StatusOK {
		return Finding{Name: name, Health: Good, Text: "ready"}
	}
	return Finding{name, Bad, "not ready" + prefixed(": ", Clean(strings.TrimSpace(string(said)))), "see its log"}
}

// CheckAgent looks for a way to sign approvals: a key file that the profile names, or an agent.
func CheckAgent(env func(string) string, keyFile string) Finding {
	if keyFile != "" {
		if _, err := os.Stat(keyFile); err != nil {
			return Finding{"signing", Weak, F("the profile's key %s cannot be read", keyFile), "cardea approval sign --key names another"}
		}
		return Finding{Name: "signing", Health: Good, Text: F("approvals are signed with %s", keyFile)}
	}
	socket := env("SSH_AUTH_SOCK")
	if socket == "" {
		return Finding{"signing", Weak, "no ssh-agent: approvals need --key FILE", `start one: eval "$(ssh-agent)" && ssh-add`}
	}
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return Finding{"signing", Weak, "the ssh-agent in SSH_AUTH_SOCK does not answer", `start one: eval "$(ssh-agent)" && ssh-add`}
	}
	conn.Close()
	return Finding{Name: "signing", Health: Good, Text: "an ssh-agent answers"}
}

// CheckPlatform says which walls this machine can build between roles and around tasks.
func CheckPlatform() []Finding {
	system := Finding{Name: "system", Health: Good, Text: Safe(fmt.Sprintf("%s/%s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()))}
	return append([]Finding{system}, checkKernel()...)
}
