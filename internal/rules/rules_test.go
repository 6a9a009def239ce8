package rules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// arrows are all imports between our packages outside tests, each with its reason. An arrow that is not here fails; so does one that
// is here and no longer drawn. Add the reason before you add the import.
var arrows = map[string]map[string]string{
	"approval":        {"action": "a statement holds actions by value and checks their digests"},
	"approval/verify": {"approval": "what is signed is a statement"},
	"authority": {
		"action": "it decides over the bytes that it parsed", "approval": "signatures become consent in its transaction",
		"approval/verify": "stored signatures are verified at every use", "broker": "leases live in its transaction", "evidence": "starts rest on tickets, calls on proofs",
		"fault": "crash tests", "flow/claims": "what a definition can ask for", "identity": "it is the certificate authority", "ledger": "it records before it answers",
		"permit": "it alone signs them", "policy": "verdicts", "registry": "desired state", "store": "the one transaction",
	},
	"broker":     {"store": "leases are rows of the caller's transaction"},
	"broker/jwt": {"broker": "the provider contract", "identity": "the token's signer"},
	"cli": {
		"approval": "statements are rendered on the signer's machine", "approval/verify": "and verified and signed there", "evidence": "each call is proven",
		"flow/claims": "findings", "flow/problem": "a run's error", "identity": "the console's SVID is pinned", "ledger": "proofs are checked on the client",
		"profile": "whose hub, whose key", "role": "how roles are dialled",
	},
	"cli/clitest": {
		"console": "a real forwarder in front", "evidence": "proofs are checked", "identity": "a test CA", "ledger": "a real ledger behind", "permit": "tickets",
		"profile": "what the client is given", "role": "listeners", "sqlite": "a real store behind the ledger (tests only)", "store": "its transactions",
	},
	"console": {"evidence": "the names of the headers that it passes on"},
	"demo": {
		"action": "the thief changes one", "approval": "and reads what was approved", "demo/services": "the targets", "identity": "the thief takes the engine's",
		"role": "and dials as it", "supervise": "the hub", "examples": "what is applied",
	},
	"dispatch":            {"fault": "crash tests", "identity": "a runner is who its SVID says"},
	"durable":             {"dispatch": "attempts wait for credit", "engine": "the machine that it drives", "fault": "crash tests", "flow/problem": "errors of its own making"},
	"durable/journaltest": {"dispatch": "references", "durable": "the port", "engine": "events"},
	"durable/runsapi":     {"action": "the input's digest", "durable": "the driver that answers", "engine": "states", "evidence": "every call carries a ticket"},
	"durable/sqljournal":  {"dispatch": "references", "durable": "the port that it implements", "engine": "events", "store": "the transaction"},
	"egress":              {"action": "exactly the permitted request", "secret": "the credential on its last hop"},
	"engine":              {"action": "what attempts will do", "expr": "compiled expressions", "flow": "the Plan", "flow/claims": "effects", "flow/problem": "the standard errors"},
	"evidence":            {"permit": "tickets are the same kind of JWS"},
	"expr":                {"flow/problem": "the standard errors"},
	"flow":                {"expr": "compiled expressions", "flow/claims": "the one parser", "flow/problem": "the standard errors"},
	"flow/claims":         {"action": "which headers are never an action's to set"},
	"flow/source":         {"flow": "what YAML compiles to", "flow/claims": "findings"},
	"ledger":              {"store": "leaves stand or fall with their transaction"},
	"profile":             {"identity": "pinned roots"},
	"registry":            {"action": "digests", "flow/claims": "what workflows can ask for", "policy": "plans say which policies give what"},
	"registry/load":       {"flow": "definitions compile on the client", "flow/claims": "findings", "flow/source": "YAML", "registry": "resources"},
	"role":                {"identity": "SVIDs"},
	"runner":              {"action": "the digest is recomputed", "egress": "the one way out", "fault": "crash tests", "permit": "verified before it is redeemed", "secret": "credentials"},
	"sqlite":              {"store": "the port that it implements"},
	"storetest":           {"store": "the port that it checks"},
	"supervise":           {"identity": "session keys", "profile": "what people's clients need", "role": "grants and names of roles"},
}

// roots are programs and wiring: they may import everything, and nothing imports them.
var roots = []string{"cmd/cardea", "mutants", "bench", "crash"}

// walls are imports that must not be reached at all, not even through others.
var walls = []struct {
	from, not []string
	because   string
}{
	{[]string{"console", "runner", "egress"}, []string{"internal/broker", "internal/policy", "internal/registry", "internal/authority", "internal/ledger", "internal/store"},
		"what faces the network or holds credentials must not carry the code that decides"},
	{[]string{"authority", "registry", "policy", "approval", "ledger", "broker"}, []string{"go.yaml.in/yaml", "github.com/itchyny/gojq", "internal/flow/source", "internal/expr"},
		"the trusted core reads strict JSON only: no YAML, no jq"},
	{[]string{"engine"}, []string{"internal/store", "internal/durable", "internal/identity", "internal/fault"}, "the state machine is pure"},
	{[]string{"authority", "engine", "durable", "dispatch", "runner", "console", "registry", "ledger", "broker"}, []string{"internal/sqlite", "internal/supervise", "modernc.org/sqlite"},
		"adapters are chosen in cmd"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "cardea/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]listed{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		found[short(p.ImportPath)] = p
	}
}

func short(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, "cardea/"), "internal/")
}

func ours(path string) bool { return strings.HasPrefix(path, "cardea/") }

// contracts may be imported by everybody: they are what roles say to each other.
func contracts(path string) bool { return strings.HasPrefix(path, "cardea/api/") }

func isRoot(name string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return name == r || strings.HasPrefix(name, r+"/") })
}

func TestImportRules(t *testing.T) {
	for name, p := range packages(t) {
		if isRoot(name) || strings.HasPrefix(name, "api/") {
			continue
		}
		drawn := map[string]bool{}
		for _, path := range p.Imports {
			if !ours(path) || contracts(path) {
				continue
			}
			to := short(path)
			drawn[to] = true
			if isRoot(to) {
				t.Errorf("%s imports %s: nothing imports a program", name, to)
			}
			if arrows[name][to] == "" {
				t.Errorf("%s imports %s: add the arrow with its reason, or do without", name, to)
			}
		}
		for to := range arrows[name] {
			if !drawn[to] {
				t.Errorf("the arrow from %s to %s is not drawn any more", name, to)
			}
		}
	}
}

func TestImportRulesWalls(t *testing.T) {
	all := packages(t)
	for _, wall := range walls {
		for _, from := range wall.from {
			p, ok := all[from]
			if !ok {
				t.Errorf("there is no package %s", from)
			}
			for _, dep := range p.Deps {
				for _, not := range wall.not {
					if strings.HasPrefix(strings.TrimPrefix(dep, "cardea/"), not) {
						t.Errorf("%s reaches %s: %s", from, dep, wall.because)
					}
				}
			}
		}
	}
}

// The state machine has no clock, chance, file, network or goroutine of its own.
func TestImportRulesPure(t *testing.T) {
	for _, path := range packages(t)["engine"].Imports {
		if slices.Contains([]string{"context", "os", "net", "os/exec", "sync", "sync/atomic", "math/rand", "math/rand/v2", "crypto/rand", "database/sql", "log/slog"}, path) {
			t.Errorf("engine imports %s: it is pure", path)
		}
	}
}

// A room called util has no one idea: what would go there belongs to a caller.
func TestImportRulesNames(t *testing.T) {
	for name := range packages(t) {
		for _, part := range strings.Split(name, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helpers", "helper", "pkg", "misc", "shared"}, part) {
				t.Errorf("package %s is called %s", name, part)
			}
		}
	}
}
