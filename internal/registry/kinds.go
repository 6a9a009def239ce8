package registry

import (
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Kinds of resource, in the order in which plans list them.
const (
	KindProcess      = "Process"
	KindGroup        = "Group"
	KindPerson       = "Person"
	KindRunner       = "Runner"
	KindConnection   = "Connection"
	KindApprovalRule = "ApprovalRule"
	KindPolicy       = "Policy"
	KindWorkflow     = "Workflow"
)

// Limits of what one person may hand in.
const (
	MaxResource  = 256 << 10 // bytes of one body
	MaxDepth     = 32
	MaxNodes     = 16 << 10 // JSON values in one body
	MaxResources = 1000     // resources in one change
	MaxTTL       = time.Hour
	MaxExpires   = 30 * 24 * time.Hour
	DefaultTTL   = 5 * time.Minute
)

// ID names a resource.
type ID struct {
	Kind, Name string
}

// String gives kind and name for people.
func (id ID) String() string { return id.Kind + " " + id.Name }

// Resource is one object of desired state by value.
type Resource struct {
	Kind, Name string
	// Body is canonical JSON (RFC 8785), and for a Policy its Cedar text.
	Body []byte
	// Digest names Body: sha256:<64 hex>.
	Digest string
}

// ID gives the resource's kind and name.
func (r Resource) ID() ID { return ID{r.Kind, r.Name} }

// Stored is a resource in force, with who put it there.
type Stored struct {
	Resource
	AppliedAt time.Time
	// AppliedBy is a person's name; the approver of a run may not be the one who applied its definition.
	AppliedBy string
}

// Object is what Decode makes of a body: *Process, *Connection, *ApprovalRule, *Person, *Group, *Runner, *Policy or *Workflow.
type Object interface {
	ID() ID
}

// Process is a business process. A workflow's namespace names its process.
type Process struct {
	Name        string
	Owner       string // group:<name> or person:<name>
	Purpose     string
	Criticality string // low, medium, high or critical
}

// Connection is a target system: where it is, which credential it takes, and all that it may ever be asked.
type Connection struct {
	Name string
	// Process is the one it was made for; empty for one that belongs to the hub. Others may use it where policy lets them: it is
	// then shared.
	Process string
	Owner   string
	Zone    string
	// Tier is the least privileged class of runners that may hold its credential.
	Tier string
	// Hosts are canonical origins, https://host[:port].
	Hosts []string
	// Address, when set, is the ip:port that is dialled for the only host: the one way to a private address.
	Address string
	// Roots, when set, are the PEM certificates that the host's chain must end in, in place of the system's.
	Roots     string
	Plaintext bool
	Provider  Provider
	Grants    Grants
	// TTL bounds the credential's life from issue.
	TTL     time.Duration
	Present string // bearer
	Deliver string // egress: the credential never leaves the runner's way out
	Allow   []Allow
}

// Provider says where a connection's credentials come from. Exactly one field is set.
type Provider struct {
	JWT *JWTProvider
}

// Name gives the provider's word, such as jwt.
func (p Provider) Name() string {
	if p.JWT != nil {
		return "jwt"
	}
	return ""
}

// JWTProvider mints a JWT-SVID of the task itself, for one audience.
type JWTProvider struct {
	Audience string
}

// Grants is the most that a credential of a connection may carry.
type Grants struct {
	Scopes []string
}

// Allow is one kind of request that a connection may be asked.
type Allow struct {
	Methods []string
	// Path is a canonical template: literal segments and whole-segment variables, /v1/timesheets/{month}.
	Path string
	// Query lists the query parameters that may occur; "*" stands for any. None may by default.
	Query []string
	// Body is the text of a JSON Schema that the request's body must satisfy; a body is then JSON.
	Body string
	// Facts are what policy may read of the body: name → JSON pointer. A body without one of them does not match.
	Facts map[string]string

	path   []segment
	schema *jsonschema.Schema
}

// ApprovalRule says whose signatures lift an @approval policy.
type ApprovalRule struct {
	Name    string
	Process string // empty for a rule of the hub
	// Approvers are group:<name> and person:<name>.
	Approvers []string
	Quorum    int
	Expires   time.Duration
	// Attempts is how many attempts of the one signed action an approval covers; 1 unless stated.
	Attempts int
}

// Person is somebody who may ask and sign.
type Person struct {
	Name    string
	Groups  []string
	SSHKeys []string // authorized_keys lines, comment included

	keys []ssh.PublicKey
}

// Group names people; its members are the persons that list it.
type Group struct {
	Name    string
	Purpose string
}

// Runner is what one runner may be given.
type Runner struct {
	Name string
	Tier string
	// Processes and Zones bound it; "*" stands for all, and an empty list for none.
	Processes []string
	Zones     []string
}

// Policy is one Cedar file.
type Policy struct {
	Name string
	Text string
}

// ID names the process.
func (p *Process) ID() ID { return ID{KindProcess, p.Name} }

// ID names the connection.
func (c *Connection) ID() ID { return ID{KindConnection, c.Name} }

// ID names the rule.
func (r *ApprovalRule) ID() ID { return ID{KindApprovalRule, r.Name} }

// ID names the person.
func (p *Person) ID() ID { return ID{KindPerson, p.Name} }

// ID names the group.
func (g *Group) ID() ID { return ID{KindGroup, g.Name} }

// ID names the runner.
func (r *Runner) ID() ID { return ID{KindRunner, r.Name} }

// ID names the policy file.
func (p *Policy) ID() ID { return ID{KindPolicy, p.Name} }
