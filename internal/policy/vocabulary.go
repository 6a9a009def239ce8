package policy

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
)

//go:embed schema.cedarschema
var schemaText string

//go:embed baseline/*.cedar
var baselineFiles embed.FS

// baselinePrefix begins the id of every policy that ships in the binary and of no other.
const baselinePrefix = "baseline-"

// vocabulary is the schema, indexed for converting requests.
type vocabulary struct {
	schema  *resolved.Schema
	actions map[string]types.EntityUID
}

func loadVocabulary() (*vocabulary, error) {
	var s schema.Schema
	s.SetFilename("schema.cedarschema")
	if err := s.UnmarshalCedar([]byte(schemaText)); err != nil {
		return nil, fmt.Errorf("policy: the embedded schema: %w", err)
	}
	r, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("policy: the embedded schema: %w", err)
	}
	v := &vocabulary{schema: r, actions: make(map[string]types.EntityUID, len(r.Actions))}
	for uid := range r.Actions {
		v.actions[string(uid.ID)] = uid
	}
	return v, nil
}

// Schema returns the Cedar schema that every policy is checked against, for people and their editors.
func Schema() string { return schemaText }

// Baseline returns the policies that ship in the binary, file by file.
func Baseline() ([]Source, error) {
	names, err := fs.Glob(baselineFiles, "baseline/*.cedar")
	if err != nil {
		return nil, fmt.Errorf("policy: the embedded baseline: %w", err)
	}
	slices.Sort(names)
	var out []Source
	for _, n := range names {
		b, err := baselineFiles.ReadFile(n)
		if err != nil {
			return nil, fmt.Errorf("policy: the embedded baseline: %w", err)
		}
		out = append(out, Source{Name: n, Text: string(b)})
	}
	return out, nil
}

// Rule is an approval rule that the baseline itself asks for, so that it exists in every hub.
type Rule struct {
	Name string
	// Approvers are groups, written group:security. The word owner stands for the owner of the process concerned.
	Approvers []string
	// Quorum is how many of them must sign.
	Quorum  int
	Expires time.Duration
	// Attempts is how often an approval may be used.
	Attempts int
}

// BuiltinRules returns the rules that the baseline names. A registry must refuse to let anyone define them otherwise.
func BuiltinRules() []Rule {
	return []Rule{
		{Name: "four-eyes", Approvers: []string{"group:admins", "group:security"}, Quorum: 1, Expires: 24 * time.Hour, Attempts: 1},
		{Name: "owners", Approvers: []string{"owner", "group:security"}, Quorum: 1, Expires: 4 * time.Hour, Attempts: 1},
	}
}

// Owner turns an owner as resources write it, group:people-ops or person:ana, into the group that policies compare with.
// A person is a group of one: every Person entity is in Group::"person:<name>" by itself.
func Owner(owner string) Ref {
	if g, ok := strings.CutPrefix(owner, "group:"); ok {
		return Ref{"Group", g}
	}
	return Ref{"Group", owner}
}

// PersonEntity describes a person. Only verified facts belong in groups: start, read, apply and approve hang on them.
func PersonEntity(name string, groups []string) Entity {
	parents := make([]Ref, 0, len(groups))
	for _, g := range groups {
		parents = append(parents, Ref{"Group", g})
	}
	return Entity{Ref: Ref{"Person", name}, Parents: parents}
}

// AgentEntity describes an agent and the person it acts for, who must be described too: both are asked.
func AgentEntity(name, person string) Entity {
	return Entity{Ref: Ref{"Agent", name}, Attrs: map[string]any{"actsFor": Ref{"Person", person}}}
}

// ProcessEntity describes a process. owner is as resources write it, such as group:people-ops.
func ProcessEntity(name, owner, criticality string) Entity {
	return Entity{Ref: Ref{"Process", name}, Attrs: map[string]any{"owner": Owner(owner), "criticality": criticality}}
}

// WorkflowEntity describes a workflow by its reference, such as payroll/pay-run, with its process's owner and criticality.
func WorkflowEntity(ref, owner, criticality string) Entity {
	return Entity{Ref: Ref{"Workflow", ref}, Attrs: map[string]any{"owner": Owner(owner), "criticality": criticality}}
}

// Connection is what policies may know of a connection.
type Connection struct {
	Name, Owner, Zone, Tier, Provider string
	// Shared says whether workflows of more than one process use it.
	Shared bool
	Hosts  []string
}

// ConnectionEntity describes a connection.
func ConnectionEntity(c Connection) Entity {
	hosts := make([]any, 0, len(c.Hosts))
	for _, h := range c.Hosts {
		hosts = append(hosts, h)
	}
	return Entity{Ref: Ref{"Connection", c.Name}, Attrs: map[string]any{
		"owner": Owner(c.Owner), "zone": c.Zone, "tier": c.Tier, "provider": c.Provider, "shared": c.Shared, "hosts": hosts,
	}}
}

// TaskRef names a task: workflow is payroll/pay-run, pointer is /do/2/transfer.
func TaskRef(workflow, pointer string) Ref {
	return Ref{"Task", workflow + "/" + strings.TrimPrefix(pointer, "/")}
}

// HubRef names the hub itself.
func HubRef() Ref { return Ref{"Hub", "hub"} }
