package supervise

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/pflag"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
	"cardea/internal/role"
)

// TestMain is also the binary that the tests supervise: called with a role's name it runs the least such role, confined like a real one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains(role.Callers()[1:], os.Args[1]) {
		if err := runRole(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "supervise-and-hang" {
		superviseAndHang(os.Args[2])
	}
	os.Exit(m.Run())
}

func runRole(name string, args []string) error {
	var conf role.Config
	build := func(context.Context, *role.Host) error { return nil }
	switch name {
	case role.Authority:
		c := &role.AuthorityConfig{}
		conf, build = c, (&authority{conf: c, tokens: map[string]role.JoinAllowed{}}).build
	case role.Engine:
		c := &role.EngineConfig{}
		conf, build = c, func(_ context.Context, h *role.Host) error {
			_, work := cardeav1connect.NewWorkHandler(cardeav1connect.UnimplementedWorkHandler{}, role.HandlerOptions()...)
			return h.Serve(c.ListenWork, role.Mount{Service: cardeav1connect.WorkName, Handler: work})
		}
	case role.Runner:
		conf = &role.RunnerConfig{}
	case role.Console:
		conf = &role.ConsoleConfig{}
	case role.Origin:
		c := &role.OriginConfig{}
		conf, build = c, func(_ context.Context, h *role.Host) error {
			return h.ServePublic(c.Listen, http.FileServer(http.Dir(c.Dir)))
		}
	}
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	loader := role.NewLoader(name, conf, flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := loader.Load(os.LookupEnv); err != nil {
		return err
	}
	if os.Getenv("STUB_DIES") != "" {
		return errors.New("told to die")
	}
	return role.Run(context.Background(), role.Spec{Role: name, Config: conf, Build: build})
}

// authority is the least one: it knows who may join, and nothing else.
type authority struct {
	cardeav1connect.UnimplementedEnrollHandler
	cardeav1connect.UnimplementedIdentityHandler
	conf *role.AuthorityConfig
	ca   *identity.CA

	mu     sync.Mutex
	tokens map[string]role.JoinAllowed
	host   *role.Host
}

func (a *authority) build(_ context.Context, h *role.Host) error {
	td := spiffeid.RequireTrustDomainFromString(a.conf.TrustDomain)
	path := filepath.Join(a.conf.Dir, "ca.pem")
	text, err := identity.ReadSecretFile(path)
	if err == nil {
		a.ca, err = identity.ParseCA(td, text, time.Now)
	} else if errors.Is(err, fs.ErrNotExist) {
		if a.ca, err = identity.NewCA(td, time.Now); err == nil {
			if text, err = a.ca.MarshalPEM(); err == nil {
				err = identity.WriteSecretFile(path, text)
			}
		}
	}
	if err != nil {
		return err
	}
	permit, err := identity.LoadOrCreateEd25519(filepath.Join(a.conf.Dir, "permit.pem"))
	if err != nil {
		return err
	}
	b, err := identity.PinnedBundle(td, []*x509.Certificate{a.ca.Root()})
	if err != nil {
		return err
	}
	b.PermitKeys, b.Dev = []ed25519.PublicKey{permit.Public().(ed25519.PublicKey)}, a.conf.Dev
	if err := h.UseCA(a.ca, b); err != nil {
		return err
	}
	a.host = h
	h.Go("grants", func(ctx context.Context) error { return role.ReadGrants(ctx, a.conf.GrantsFD, a.take) })
	_, enroll := cardeav1connect.NewEnrollHandler(a, role.HandlerOptions()...)
	_, ident := cardeav1connect.NewIdentityHandler(watcher{authority: a}, role.HandlerOptions()...)
	return errors.Join(
		h.ServeJoiners(a.conf.ListenEnroll, role.Mount{Service: cardeav1connect.EnrollName, Handler: enroll}),
		h.Serve(a.conf.ListenIdentity, role.Mount{Service: cardeav1connect.IdentityName, Handler: ident}),
		os.WriteFile(filepath.Join(a.conf.OriginDir, "hello.json"), []byte(`{}`), 0o600),
	)
}

// take notes a grant; persons land in a file for the test to read.
func (a *authority) take(_ context.Context, g role.GrantLine) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.Join != nil {
		a.tokens[g.Join.TokenSHA256] = *g.Join
		return nil
	}
	return os.WriteFile(filepath.Join(a.conf.Dir, "person-"+g.Person.Name), []byte(fmt.Sprint(g.Person.Groups, g.Person.SSHKeys)), 0o600)
}

func (a *authority) Join(_ context.Context, req *cardeav1.JoinRequest) (*cardeav1.JoinResponse, error) {
	sum := sha256.Sum256([]byte(req.GetToken()))
	digest := hex.EncodeToString(sum[:])
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.tokens[digest]
	if !ok {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no such token"))
	}
	delete(a.tokens, digest)
	id, err := identity.RoleID(a.ca.TrustDomain(), g.Role, g.Name)
	if g.Role == role.Runner {
		id, err = identity.RunnerID(a.ca.TrustDomain(), g.Tier, g.Name)
	}
	if err != nil {
		return nil, err
	}
	chain, err := a.ca.Issue(req.GetCsr(), id, identity.SVIDTTL, identity.SANs{})
	return &cardeav1.JoinResponse{Chain: chain, Bundle: a.host.Source().Bundle().Proto()}, err
}

// watcher answers Identity.Watch with the one bundle there is.
type watcher struct {
	cardeav1connect.UnimplementedIdentityHandler
	*authority
}

func (w watcher) Watch(ctx context.Context, _ *cardeav1.WatchIdentityRequest, out *connect.ServerStream[cardeav1.WatchIdentityResponse]) error {
	if err := out.Send(&cardeav1.WatchIdentityResponse{Bundle: w.host.Source().Bundle().Proto()}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (w watcher) Renew(context.Context, *cardeav1.RenewRequest) (*cardeav1.RenewResponse, error) {
	return nil, connect.NewError(connect.CodeUnimplemented, errors.New("not here"))
}

// superviseAndHang is a supervisor for the test to kill.
func superviseAndHang(dir string) {
	t, err := Start(context.Background(), Options{Dir: dir, Log: os.Stderr})
	if err == nil {
		err = t.WaitReady(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, name := range t.Names() {
		fmt.Println(t.PID(name))
	}
	fmt.Println("ready")
	select {}
}
