package authority

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/action"
	"cardea/internal/approval/verify"
	"cardea/internal/broker"
	"cardea/internal/broker/jwt"
	"cardea/internal/evidence"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/registry"
	"cardea/internal/sqlite"
	"cardea/internal/store"
)

// hub is an authority on a real store, with people, a process and two runners, and a clock that the test moves.
type hub struct {
	*Authority
	t   *testing.T
	dir string
	mu  sync.Mutex
	at  time.Time

	people map[string]*person
}

// person holds what the person's own machine holds.
type person struct {
	name    string
	session *ecdsa.PrivateKey
	signer  ed25519.PrivateKey
}

const testDomain = "test.local"

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{t: t, dir: t.TempDir(), at: time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC), people: map[string]*person{}}
	h.open()
	h.add("ana", "admins")
	h.add("bo", "treasury")
	h.add("cy", "treasury")
	for _, r := range []struct{ name, tier string }{{"one", "standard"}, {"two", "standard"}, {"safe", "privileged"}} {
		h.must(h.AllowDevRunner(t.Context(), r.name, r.tier))
	}
	h.apply(payroll()...)
	return h
}

func (h *hub) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

func (h *hub) wait(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = h.at.Add(d)
}

// open starts an authority on the hub's folder, as a restart does.
func (h *hub) open() {
	h.t.Helper()
	td := spiffeid.RequireTrustDomainFromString(testDomain)
	keys, err := LoadKeys(h.dir, td, "https://origin.test", h.now)
	h.must(err)
	db, err := sqlite.Open(h.t.Context(), filepath.Join(h.dir, "authority.db"), nil,
		sqlite.Component("ledger", ledger.Schema), sqlite.Component("broker", broker.Schema), sqlite.Component("authority", Schema))
	h.must(err)
	h.t.Cleanup(func() { _ = db.Close() })
	signer, verifier, verifierKey, err := keys.CheckpointSigner(testDomain + "/ledger")
	h.must(err)
	book, err := ledger.Open(h.t.Context(), ledger.Config{DB: db, Hub: testDomain, Dev: true, Signer: signer, Verifier: verifier, Now: h.now})
	h.must(err)
	h.Authority, err = New(h.t.Context(), Config{TrustDomain: td, Hub: testDomain, Issuer: "https://origin.test", Dev: true, DB: db, Ledger: book,
		CheckpointKey: verifierKey, Keys: keys, Providers: []broker.Provider{jwt.Provider{Signer: keys.SVID(), Now: h.now}}, Now: h.now, Log: slog.New(slog.DiscardHandler)})
	h.must(err)
}

func (h *hub) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) add(name string, groups ...string) {
	h.t.Helper()
	session, err := identity.NewKey()
	h.must(err)
	public, signer, err := ed25519.GenerateKey(nil)
	h.must(err)
	sshKey, err := ssh.NewPublicKey(public)
	h.must(err)
	h.people[name] = &person{name: name, session: session, signer: signer}
	h.must(h.AllowDevPerson(h.t.Context(), DevPerson{Name: name, Groups: groups, Session: thumbprintOf(h.t, session),
		SSHKeys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshKey)))}}))
}

func thumbprintOf(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	token, err := evidence.NewProof(key, "/x", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, thumbprint, err := evidence.VerifyProof(token, "/x", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return thumbprint
}

// speaks proves a fresh request by a person.
func (h *hub) speaks(name string) Speaker {
	h.t.Helper()
	proof, err := evidence.NewProof(h.people[name].session, "/test", []byte("body"), h.now())
	h.must(err)
	who, err := h.Identify(h.t.Context(), proof, "/test", []byte("body"))
	h.must(err)
	return who
}

func resource(kind, name string, body map[string]any) registry.Resource {
	body["kind"], body["name"] = kind, name
	r, err := canonicalResource(kind, name, body)
	if err != nil {
		panic(err)
	}
	return r
}

func policyFile(name, text string) registry.Resource {
	return registry.Resource{Kind: registry.KindPolicy, Name: name, Body: []byte(text)}
}

// definition has a GET that needs no approval and a POST that is delivered once.
const definitionText = `{"document":{"dsl":"1.0.3","namespace":"payroll","name":"pay-run","version":"1.0.0"},
"use":{"secrets":["bank","hr"],"authentications":{"hr":{"bearer":{"use":"hr"}},"bank":{"bearer":{"use":"bank"}}}},
"do":[{"read":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://hr.example.com/v1/timesheets/{month}","authentication":{"use":"hr"}}}}},
{"pay":{"call":"http","metadata":{"cardea/v1":{"scopes":["transfers:write"]}},"with":{"method":"post","headers":{"content-type":"application/json"},
"endpoint":{"uri":"https://bank.example.com/v1/transfers","authentication":{"use":"bank"}},"body":"${ . }"}}},
{"ping":{"call":"http","with":{"method":"get","endpoint":{"uri":"https://open.example.com/ping"}}}}]}`

func definitionResource(text string) registry.Resource {
	canonical, err := jcs.Transform([]byte(text))
	if err != nil {
		panic(err)
	}
	r, _, err := registry.NewResource(registry.KindWorkflow, "", canonical)
	if err != nil {
		panic(err)
	}
	return r
}

const policyText = `@id("reads-hr") permit (principal in Workflow::"payroll/pay-run", action == Action::"use", resource == Connection::"hr");
@id("pays") permit (principal == Task::"payroll/pay-run/do/1/pay", action == Action::"use", resource == Connection::"bank")
  when { context.action.facts.amount.lessThan(decimal("20000.00")) };
@id("large-needs-treasury") @approval("treasury") forbid (principal in Process::"payroll", action == Action::"use", resource == Connection::"bank")
  when { context.action.facts.amount.greaterThan(decimal("1000.00")) };`

func payroll() []registry.Resource {
	return []registry.Resource{
		resource("Group", "people-ops", map[string]any{}), resource("Group", "treasury", map[string]any{}),
		resource("Process", "payroll", map[string]any{"owner": "group:people-ops", "purpose": "Pays employees", "criticality": "high"}),
		resource("Connection", "hr", map[string]any{"owner": "group:people-ops", "zone": "office", "hosts": []string{"https://hr.example.com"},
			"provider": map[string]any{"jwt": map[string]any{"audience": "https://hr.example.com"}}, "ttl": "1m",
			"allow": []any{map[string]any{"methods": []string{"GET"}, "path": "/v1/timesheets/{month}"}}}),
		resource("Connection", "bank", map[string]any{"owner": "group:treasury", "zone": "production", "tier": "privileged", "hosts": []string{"https://bank.example.com"},
			"provider": map[string]any{"jwt": map[string]any{"audience": "https://bank.example.com"}}, "ttl": "1m",
			"grants": map[string]any{"scopes": []string{"transfers:write"}},
			"allow":  []any{map[string]any{"methods": []string{"POST"}, "path": "/v1/transfers", "facts": map[string]any{"amount": "/amount"}}}}),
		resource("ApprovalRule", "treasury", map[string]any{"approvers": []string{"group:treasury"}, "quorum": 1, "expires": "4h"}),
		policyFile("payroll/policy", policyText),
		definitionResource(definitionText),
	}
}

// apply puts resources in force as ana, with the four eyes that adding privilege asks for.
func (h *hub) apply(resources ...registry.Resource) {
	h.t.Helper()
	h.must(h.applyAs(h.t.Context(), "dee", registry.Change{Apply: resources}))
}

// start opens a run as a person through ticket and evidence.
func (h *hub) start(name string) string {
	h.t.Helper()
	run, _, err := h.tryStart(name)
	h.must(err)
	return run
}

func (h *hub) tryStart(name string) (runID, ticket string, err error) {
	h.t.Helper()
	request, err := proto.Marshal(&cardeav1.StartRunRequest{Workflow: "payroll/pay-run", InputJson: []byte(`{}`)})
	h.must(err)
	ticket, err = h.Ticket(h.t.Context(), h.speaks(name), procedureStart, request)
	if err != nil {
		return "", "", err
	}
	runID = h.ids.next("run_", h.now())
	_, err = h.OpenRun(h.t.Context(), runID, definitionResource(definitionText).Digest, ticket, action.Digest([]byte(`{}`)))
	return runID, ticket, err
}

// runner is a runner's own key and SVID facts.
type runnerSide struct {
	identity.Peer
}

func (h *hub) runner(tier, name string) runnerSide {
	h.t.Helper()
	key, err := identity.NewKey()
	h.must(err)
	csr, err := identity.NewCSR(key)
	h.must(err)
	token := tier + name + base64.RawURLEncoding.EncodeToString(csr[len(csr)-8:])
	h.must(h.AllowJoin(h.t.Context(), JoinGrant{Role: "runner", Name: name, Tier: tier, TokenHash: sha256Hex(token)}))
	_, _, err = h.Join(h.t.Context(), token, csr)
	h.must(err)
	id, err := identity.RunnerID(h.TrustDomain, tier, name)
	h.must(err)
	peer, err := identity.ParsePeer(id)
	h.must(err)
	peer.KeyThumbprint, err = identity.Thumbprint(key.Public())
	h.must(err)
	return runnerSide{peer}
}

func sha256Hex(s string) string { return strings.TrimPrefix(action.Digest([]byte(s)), "sha256:") }

func readAction() []byte {
	return httpAction("GET", "https://hr.example.com/v1/timesheets/2026-03", "")
}

func payAction(amount string) []byte {
	return httpAction("POST", "https://bank.example.com/v1/transfers", `{"amount":`+amount+`}`)
}

func httpAction(method, url, body string) []byte {
	a := action.Action{Kind: "http", HTTP: &action.HTTP{Method: method, URL: url, Body: []byte(body)}}
	if body != "" {
		a.HTTP.Headers = []action.Header{{Name: "content-type", Value: "application/json"}}
	}
	canonical, err := a.Canonical()
	if err != nil {
		panic(err)
	}
	return canonical
}

func readIntent(run string, r runnerSide) Intent {
	return Intent{Task: TaskRef{Run: run, Task: "/do/0/read"}, Attempt: 1, Action: readAction(), Connections: []string{"hr"}, Runner: r.runnerID()}
}

func payIntent(run string, r runnerSide, amount string) Intent {
	return Intent{Task: TaskRef{Run: run, Task: "/do/1/pay"}, Attempt: 1, Action: payAction(amount), Connections: []string{"bank"}, Runner: r.runnerID()}
}

func (r runnerSide) runnerID() string {
	if r.Name == "" {
		return ""
	}
	return r.ID.String()
}

func (h *hub) authorize(in Intent) Authorization {
	h.t.Helper()
	out, err := h.Authorize(h.t.Context(), in)
	h.must(err)
	return out
}

func (h *hub) redeem(r runnerSide, permit string, action_ []byte) (Redemption, error) {
	return h.Redeem(h.t.Context(), r.Peer, permit, action.Digest(action_))
}

// sign signs an approval as a person would, with their own key.
func (h *hub) sign(name, id string, refuse bool) (Shown, error) {
	h.t.Helper()
	shown, err := h.Approval(h.t.Context(), h.speaks(name), id)
	if err != nil {
		return Shown{}, err
	}
	armored, err := verify.SignApproval(testSigner{h.people[name].signer}, shown.Canonical, refuse)
	h.must(err)
	return h.Sign(h.t.Context(), h.speaks(name), id, armored, refuse, "")
}

// leaves reads the ledger as it stands, in the order of commits.
func (h *hub) leaves(kind ledger.Kind) []ledger.Leaf {
	h.t.Helper()
	var out []ledger.Leaf
	h.must(h.DB.View(h.t.Context(), func(tx store.Tx) error {
		rows, err := tx.Query(`SELECT leaf FROM ledger_leaf ORDER BY seq`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				return err
			}
			leaf, err := ledger.ParseLeaf([]byte(text))
			if err != nil {
				return err
			}
			if leaf.Kind == kind {
				out = append(out, leaf)
			}
		}
		return rows.Err()
	}))
	return out
}

func (h *hub) wantErr(err, want error) {
	h.t.Helper()
	if !errors.Is(err, want) {
		h.t.Fatalf("error %v, want %v", err, want)
	}
}

func (h *hub) wantOutcome(got Authorization, want string) {
	h.t.Helper()
	if got.Verdict.Outcome != want {
		h.t.Fatalf("outcome %s (%s), want %s", got.Verdict.Outcome, got.Verdict.Reason, want)
	}
}

// claimsOf reads a JWT's claims without verifying it.
func claimsOf(t *testing.T, token []byte) map[string]any {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(string(token), ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// reopen tries to start an authority on the hub's folder and says why it could not.
func reopen(h *hub) (*Authority, error) {
	h.t.Helper()
	db, err := sqlite.Open(h.t.Context(), filepath.Join(h.dir, "authority.db"), nil,
		sqlite.Component("ledger", ledger.Schema), sqlite.Component("broker", broker.Schema), sqlite.Component("authority", Schema))
	h.must(err)
	h.t.Cleanup(func() { _ = db.Close() })
	c := h.Config
	c.DB = db
	return New(h.t.Context(), c)
}
