package role

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"cardea/internal/identity"
)

// Config is one role's configuration: a struct whose fields carry `flag`, `help` and `default` tags.
//
// A field's flag names it everywhere: --listen-work, CARDEA_LISTEN_WORK, and listen-work in YAML. A default may refer to the
// folder of the hub's sockets as ${run}.
type Config interface {
	// Validate says what is wrong, naming the flag.
	Validate() error
	common() *Common
}

// Common is what every role is told.
type Common struct {
	Dir         string        `flag:"dir" help:"the role's own folder: its keys and its data. Nothing else on the disk stays writable for it"`
	Run         string        `flag:"run" help:"the folder of the hub's Unix sockets"`
	Name        string        `flag:"name" help:"this process's name within its role; part of its SPIFFE id"`
	TrustDomain string        `flag:"trust-domain" default:"cardea.local" help:"the SPIFFE trust domain of the hub"`
	Admin       string        `flag:"admin" default:"unix:${run}/${role}-admin.sock" help:"where /healthz, /readyz and /metrics are served, in plain HTTP: a Unix socket"`
	LogFormat   string        `flag:"log-format" default:"text" help:"text or json"`
	LogLevel    string        `flag:"log-level" default:"info" help:"debug, info, warn or error"`
	Drain       time.Duration `flag:"drain" default:"10s" help:"how long work in progress may take to end after SIGTERM"`
	ParentFD    int           `flag:"parent-fd" default:"-1" help:"inherited descriptor that reads end-of-file when the supervisor is gone; the role then stops. -1: none"`
}

// Joining is how a role gets and keeps its SVID.
type Joining struct {
	Enroll   string `flag:"enroll" default:"unix:${run}/enroll.sock" help:"the authority's Enroll listener"`
	Identity string `flag:"identity" default:"unix:${run}/identity.sock" help:"the authority's Identity listener"`
	JoinFD   int    `flag:"join-fd" default:"-1" help:"inherited descriptor with the join grant: JSON {token, roots}. It is read once and closed. -1: none"`
	JoinFile string `flag:"join-file" help:"file with the join grant; it is read once and erased"`
}

// AuthorityConfig configures the trusted core.
type AuthorityConfig struct {
	Common
	ListenEnroll   string `flag:"listen-enroll" default:"unix:${run}/enroll.sock" help:"serves Enroll to holders of a join token"`
	ListenIdentity string `flag:"listen-identity" default:"unix:${run}/identity.sock" help:"serves Identity to roles and runners"`
	ListenDecide   string `flag:"listen-decide" default:"unix:${run}/decide.sock" help:"serves Decide to the engine"`
	ListenLease    string `flag:"listen-lease" default:"unix:${run}/lease.sock" help:"serves Lease to runners"`
	ListenControl  string `flag:"listen-control" default:"unix:${run}/control.sock" help:"serves Control and Ledger to the console"`
	GrantsFD       int    `flag:"grants-fd" default:"-1" help:"inherited descriptor of the supervisor's grants: lines of JSON. -1: none"`
	OriginDir      string `flag:"origin-dir" help:"the folder of public files that the origin serves"`
	OriginURL      string `flag:"origin-url" help:"the origin's URL: the issuer of all identity tokens"`
	Dev            bool   `flag:"dev" help:"a hub for one evaluator: four-eyes rules warn, and every leaf of the ledger says dev"`
}

// EngineConfig configures the engine.
type EngineConfig struct {
	Common
	Joining
	Decide     string `flag:"decide" default:"unix:${run}/decide.sock" help:"the authority's Decide listener"`
	ListenWork string `flag:"listen-work" default:"unix:${run}/work.sock" help:"serves Work to runners"`
	ListenRuns string `flag:"listen-runs" default:"unix:${run}/runs.sock" help:"serves Runs to the console"`
}

// RunnerConfig configures a runner.
type RunnerConfig struct {
	Common
	Joining
	Lease string `flag:"lease" default:"unix:${run}/lease.sock" help:"the authority's Lease listener"`
	Work  string `flag:"work" default:"unix:${run}/work.sock" help:"the engine's Work listener"`
	Tier  string `flag:"tier" default:"standard" help:"the execution class of the tasks that it takes; part of its SPIFFE id"`
	Slots int    `flag:"slots" default:"64" help:"how many tasks it executes at once"`
}

// ConsoleConfig configures the console.
type ConsoleConfig struct {
	Common
	Joining
	Listen  string `flag:"listen" default:"unix:${run}/console.sock" help:"serves people and the CLI, over TLS"`
	Control string `flag:"control" default:"unix:${run}/control.sock" help:"the authority's Control and Ledger listener"`
	Runs    string `flag:"runs" default:"unix:${run}/runs.sock" help:"the engine's Runs listener"`
}

// OriginConfig configures the origin. It holds no key and joins nobody. Its own folder is the public one.
type OriginConfig struct {
	Common
	Listen string `flag:"listen" default:"tcp:127.0.0.1:0" help:"serves public files in plain HTTP: a loopback address, or an inherited one behind a TLS proxy"`
}

func (c *Common) common() *Common { return c }

// joining is what Run joins with, and the tier of the SPIFFE id.
func (c *EngineConfig) joining() (*Joining, string)  { return &c.Joining, "" }
func (c *RunnerConfig) joining() (*Joining, string)  { return &c.Joining, c.Tier }
func (c *ConsoleConfig) joining() (*Joining, string) { return &c.Joining, "" }

// Domain is the trust domain, parsed.
func (c *Common) Domain() (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return spiffeid.TrustDomain{}, fmt.Errorf("--trust-domain: %w", err)
	}
	return td, nil
}

// ID is the role's SPIFFE id.
func (c *Common) ID(role, tier string) (spiffeid.ID, error) {
	td, err := c.Domain()
	if err != nil {
		return spiffeid.ID{}, err
	}
	if role == Runner {
		return identity.RunnerID(td, tier, c.Name)
	}
	return identity.RoleID(td, role, c.Name)
}

func (c *Common) validate() error {
	errs := []error{
		folder("dir", c.Dir), folder("run", c.Run),
		oneOf("log-format", c.LogFormat, "text", "json"),
		address("admin", c.Admin, "unix"),
	}
	if !identity.ValidName(c.Name) {
		errs = append(errs, fmt.Errorf("--name: %q is not 1 to 63 of a-z, 0-9 and '-'", c.Name))
	}
	if _, err := c.Domain(); err != nil {
		errs = append(errs, err)
	}
	if err := new(slog.Level).UnmarshalText([]byte(c.LogLevel)); err != nil {
		errs = append(errs, fmt.Errorf("--log-level: %q is not debug, info, warn or error", c.LogLevel))
	}
	if c.Drain <= 0 || c.Drain > 10*time.Minute {
		errs = append(errs, fmt.Errorf("--drain: %s is not between 0 and 10 minutes", c.Drain))
	}
	return errors.Join(append(errs, descriptor("parent-fd", c.ParentFD))...)
}

func (j *Joining) validate() error {
	errs := []error{dialled("enroll", j.Enroll), dialled("identity", j.Identity), descriptor("join-fd", j.JoinFD)}
	if j.JoinFD >= 0 && j.JoinFile != "" {
		errs = append(errs, errors.New("--join-fd and --join-file: only one can be given"))
	}
	if j.JoinFile != "" && !filepath.IsAbs(j.JoinFile) {
		errs = append(errs, fmt.Errorf("--join-file: %q is not an absolute path", j.JoinFile))
	}
	return errors.Join(errs...)
}

// Validate says what is wrong, naming the flag.
func (c *AuthorityConfig) Validate() error {
	errs := []error{
		c.Common.validate(),
		address("listen-enroll", c.ListenEnroll, "unix", "tcp", "fd"), address("listen-identity", c.ListenIdentity, "unix", "tcp", "fd"),
		address("listen-decide", c.ListenDecide, "unix", "tcp", "fd"), address("listen-lease", c.ListenLease, "unix", "tcp", "fd"),
		address("listen-control", c.ListenControl, "unix", "tcp", "fd"),
		descriptor("grants-fd", c.GrantsFD), folder("origin-dir", c.OriginDir),
	}
	if err := identity.CheckIssuer(c.OriginURL); err != nil {
		errs = append(errs, fmt.Errorf("--origin-url: %w", err))
	}
	return errors.Join(errs...)
}

// Validate says what is wrong, naming the flag.
func (c *EngineConfig) Validate() error {
	return errors.Join(c.Common.validate(), c.Joining.validate(), dialled("decide", c.Decide),
		address("listen-work", c.ListenWork, "unix", "tcp", "fd"), address("listen-runs", c.ListenRuns, "unix", "tcp", "fd"))
}

// Validate says what is wrong, naming the flag.
func (c *RunnerConfig) Validate() error {
	errs := []error{c.Common.validate(), c.Joining.validate(), dialled("lease", c.Lease), dialled("work", c.Work)}
	if !identity.ValidName(c.Tier) {
		errs = append(errs, fmt.Errorf("--tier: %q is not 1 to 63 of a-z, 0-9 and '-'", c.Tier))
	}
	if c.Slots < 1 || c.Slots > 4096 {
		errs = append(errs, fmt.Errorf("--slots: %d is not between 1 and 4096", c.Slots))
	}
	return errors.Join(errs...)
}

// Validate says what is wrong, naming the flag.
func (c *ConsoleConfig) Validate() error {
	return errors.Join(c.Common.validate(), c.Joining.validate(), address("listen", c.Listen, "unix", "tcp", "fd"),
		dialled("control", c.Control), dialled("runs", c.Runs))
}

// Validate says what is wrong, naming the flag. Plain HTTP leaves this machine only through something that adds TLS.
func (c *OriginConfig) Validate() error {
	errs := []error{c.Common.validate(), address("listen", c.Listen, "unix", "tcp", "fd")}
	if a, err := ParseAddress(c.Listen); err == nil && a.Network == "tcp" {
		host, _, _ := net.SplitHostPort(a.Rest)
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			errs = append(errs, fmt.Errorf("--listen: %q is not a loopback address: the origin speaks plain HTTP", host))
		}
	}
	return errors.Join(errs...)
}

func folder(flag, path string) error {
	if path == "" {
		return fmt.Errorf("--%s: must be given", flag)
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("--%s: %q is not an absolute, clean path", flag, path)
	}
	return nil
}

func oneOf(flag, value string, choices ...string) error {
	if !slices.Contains(choices, value) {
		return fmt.Errorf("--%s: %q is not %s", flag, value, strings.Join(choices, " or "))
	}
	return nil
}

func address(flag, addr string, networks ...string) error {
	a, err := ParseAddress(addr)
	if err == nil {
		return oneOf(flag, a.Network, networks...)
	}
	return fmt.Errorf("--%s: %w", flag, err)
}

func dialled(flag, addr string) error { return address(flag, addr, "unix", "tcp") }

func descriptor(flag string, fd int) error {
	if fd != -1 && fd < 3 {
		return fmt.Errorf("--%s: %d is not an inherited descriptor (3 or more; -1 for none)", flag, fd)
	}
	return nil
}
