package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cardea/internal/identity"
	"cardea/internal/role"
)

// Person is somebody that the hub knows from the start.
type Person struct {
	Name   string
	Groups []string
}

// Runner is one runner of the hub.
type Runner struct {
	Name string
	Tier string
}

// Options say what to start. The zero value of a field gets the default that it names.
type Options struct {
	// Binary is the cardea executable; this process's own when empty.
	Binary string
	// Dir is the hub's folder; it is made if it is not there.
	Dir string
	// Hub is the hub's name in profiles; "dev" when empty.
	Hub string
	// TrustDomain is cardea.local when empty.
	TrustDomain string
	// Persons are who may ask; one, "dev" in group admins, when empty.
	Persons []Person
	// Runners are standard-1 and privileged-1, each in the tier of that name, when empty.
	Runners []Runner
	// Env adds variables (NAME=value) to the environment of a process, by its name; "" is for all. A start later than the
	// change of a tree's Env sees it; see Tree.SetEnv.
	Env map[string][]string
	// Flags adds flags to a process's command line, by its name.
	Flags map[string][]string
	// Log gets what the processes write; nothing when nil.
	Log io.Writer
	// LogFormat is text (each line begins with the process's name) or json (as the processes write it). Text when empty.
	LogFormat string
	// LogLevel of the processes; info when empty.
	LogLevel string
	// Color marks each process's lines; for terminals.
	Color bool
	// Drain is how long a process may take to stop; 10 s when 0.
	Drain time.Duration
}

// Process names of the roles that there is one of. A runner's is "runner-" and its name.
const (
	Authority = role.Authority
	Engine    = role.Engine
	Console   = role.Console
	Origin    = role.Origin
)

// withDefaults fills and checks.
func (o Options) withDefaults() (Options, error) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&o.Hub, "dev")
	set(&o.TrustDomain, "cardea.local")
	set(&o.LogFormat, "text")
	set(&o.LogLevel, "info")
	if o.Drain == 0 {
		o.Drain = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if len(o.Persons) == 0 {
		o.Persons = []Person{{Name: "dev", Groups: []string{"admins"}}}
	}
	if len(o.Runners) == 0 {
		o.Runners = []Runner{{Name: "standard-1", Tier: "standard"}, {Name: "privileged-1", Tier: "privileged"}}
	}
	if o.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("supervise: find this program: %w", err)
		}
		o.Binary = self
	}
	if o.Dir == "" {
		return o, errors.New("supervise: no folder")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("supervise: %w", err)
	}
	o.Dir = dir
	return o, o.check()
}

func (o Options) check() error {
	longest := "run/console.sock"
	names := []string{}
	for _, r := range o.Runners {
		if !identity.ValidName(r.Name) || !identity.ValidName(r.Tier) {
			return fmt.Errorf("supervise: runner %q of tier %q: a name is 1 to 63 of a-z, 0-9 and '-'", r.Name, r.Tier)
		}
		if s := fmt.Sprintf("run/%s-%s-admin.sock", role.Runner, r.Name); len(s) > len(longest) {
			longest = s
		}
		names = append(names, "runner "+r.Name)
	}
	for _, p := range o.Persons {
		// Names become file names here.
		if !identity.ValidName(p.Name) {
			return fmt.Errorf("supervise: person %q: a name is 1 to 63 of a-z, 0-9 and '-'", p.Name)
		}
		for _, g := range p.Groups {
			if !identity.ValidName(g) {
				return fmt.Errorf("supervise: group %q of person %s: a name is 1 to 63 of a-z, 0-9 and '-'", g, p.Name)
			}
		}
		names = append(names, "person "+p.Name)
	}
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			return fmt.Errorf("supervise: %s is named twice", names[i])
		}
	}
	if _, err := role.ParseAddress("unix:" + filepath.Join(o.Dir, longest)); err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	return nil
}

// ParsePerson reads NAME or NAME=group,group.
func ParsePerson(s string) (Person, error) {
	name, list, some := strings.Cut(s, "=")
	p := Person{Name: name}
	if some && list != "" {
		p.Groups = strings.Split(list, ",")
	}
	if !identity.ValidName(name) {
		return Person{}, fmt.Errorf("%q should be NAME or NAME=group,group", s)
	}
	for _, g := range p.Groups {
		if !identity.ValidName(g) {
			return Person{}, fmt.Errorf("%q is not the name of a group", g)
		}
	}
	return p, nil
}
