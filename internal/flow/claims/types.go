package claims

// Severity of a finding. An error stops a definition; a warning does not.
type Severity string

// The two severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one thing that is wrong with a definition, for people and for machines.
type Finding struct {
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule"`             // stable id, such as profile/literal-host
	Pointer  string   `json:"pointer"`          // RFC 6901, into the definition; "" is the whole document
	Message  string   `json:"message"`          // one sentence: what is wrong
	Mend     string   `json:"mend,omitempty"`   // what would make it right
	File     string   `json:"file,omitempty"`   // filled by package source
	Line     int      `json:"line,omitempty"`   // from 1; filled by package source
	Column   int      `json:"column,omitempty"` // from 1; filled by package source
}

// Claims are the privileges that a definition can exercise, and nothing else of it. They are complete: an attempt that
// matches no TaskClaim cannot come from this definition.
type Claims struct {
	Process     string      `json:"process"`
	Workflow    string      `json:"workflow"`
	Version     string      `json:"version"`
	Digest      string      `json:"digest"`      // sha256:<hex> of the canonical bytes
	Connections []string    `json:"connections"` // sorted, unique: what use.secrets declares
	Tasks       []TaskClaim `json:"tasks"`       // tasks that reach outside, in document order
}

// TaskClaim is what one task can ask for.
type TaskClaim struct {
	Pointer      string   `json:"pointer"` // /do/0/timesheets
	Name         string   `json:"name"`
	Kind         string   `json:"kind"`   // "http"
	Method       string   `json:"method"` // upper-case
	Origin       string   `json:"origin"` // https://host[:port], lower-case, without the scheme's default port
	PathTemplate string   `json:"pathTemplate"`
	Headers      []string `json:"headers"`     // names that the definition sets, lower-case, sorted; content-type may always be there
	Connections  []string `json:"connections"` // sorted; empty: a request without a credential
	Scopes       []string `json:"scopes"`      // sorted; what the author restricts the credential to
	Tier         string   `json:"tier"`        // "" when the definition does not say
	Effect       string   `json:"effect"`      // EffectIdempotent or EffectOnce
	LoopDepth    int      `json:"loopDepth"`   // loops around it; its iteration path has exactly as many indices
	Repeats      bool     `json:"repeats"`     // a `then` can lead back to it: visits above 0 are possible
	MaxAttempts  int      `json:"maxAttempts"` // tries that the definition itself can ask for; 1 without a retry policy
	Gates        []string `json:"gates"`       // pointers of approval tasks that every path to it passes
}

// The effects of a task.
const (
	EffectIdempotent = "idempotent" // may be delivered again, with the same idempotency key
	EffectOnce       = "once"       // delivered at most one time ever
)
