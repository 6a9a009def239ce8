package role

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protojson"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// Files of a role's own folder. Whoever edits them can at most make the role fail to start: the SVID proves itself against
// the roots, and the roots of a new grant must be among those kept.
const (
	keyFile    = "key.pem"
	svidFile   = "svid.pem"
	bundleFile = "bundle.json"
)

const (
	maxGrant = 64 << 10
	// minRemaining is the least life of a kept SVID that is worth starting with.
	minRemaining = 5 * time.Minute
	// tokenPatience is how long a refused token is tried again: the supervisor tells the authority of it and
	// the role at the same time.
	tokenPatience = 5 * time.Second
	joinPatience  = time.Minute
)

// Grant is what a role needs to join: a one-use token, and the role roots by which it knows the
// authority before it has a bundle.
type Grant struct {
	Token string `json:"token"`
	// Roots is PEM.
	Roots string `json:"roots"`
}

func parseGrant(text []byte) (Grant, error) {
	var g Grant
	if err := strictJSON(text, &g); err != nil {
		return Grant{}, errors.New("join grant: not the JSON of a grant") // err could quote the token
	}
	if g.Token == "" || g.Roots == "" {
		return Grant{}, errors.New("join grant: token and roots are needed")
	}
	return g, nil
}

// strictJSON reads exactly one JSON value, without unknown fields.
func strictJSON(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// readGrant reads the grant and takes it out of reach: the descriptor is closed, the file erased. false if there is none.
func readGrant(ctx context.Context, j *Joining) (Grant, bool, error) {
	switch {
	case j.JoinFD >= 0:
		text, err := readDescriptor(ctx, j.JoinFD)
		if err != nil {
			return Grant{}, false, fmt.Errorf("join grant: %w", err)
		}
		g, err := parseGrant(text)
		return g, err == nil, err
	case j.JoinFile != "":
		text, err := identity.ReadSecretFile(j.JoinFile)
		if errors.Is(err, os.ErrNotExist) {
			return Grant{}, false, nil // erased by an earlier start; the kept SVID must do
		}
		if err != nil {
			return Grant{}, false, fmt.Errorf("join grant: %w", err)
		}
		if err := os.Remove(j.JoinFile); err != nil {
			return Grant{}, false, fmt.Errorf("join grant: erase: %w", err)
		}
		g, err := parseGrant(text)
		return g, err == nil, err
	}
	return Grant{}, false, nil
}

// readDescriptor reads to the end. The supervisor writes when the authority is ready, so this may wait.
func readDescriptor(ctx context.Context, fd int) ([]byte, error) {
	f, err := inherited(fd, "--join-fd")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	text, err := io.ReadAll(io.LimitReader(f, maxGrant))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return text, err
}

// membership is a role's way into the hub and its staying there.
type membership struct {
	id    spiffeid.ID
	dir   string
	conf  *Joining
	log   *slog.Logger
	clock func() time.Time
	key   *ecdsa.PrivateKey
	// source is set by enter.
	source *identity.Source
}

// enter gets the role's SVID: the kept one while it is good, else a new one for the grant's token.
func (m *membership) enter(ctx context.Context) error {
	key, err := identity.LoadOrCreateKey(filepath.Join(m.dir, keyFile))
	if err != nil {
		return err
	}
	m.key = key
	grant, granted, err := readGrant(ctx, m.conf)
	if err != nil {
		return err
	}
	var pinned []*x509.Certificate
	if granted {
		if pinned, err = identity.ParseRoots(m.id.TrustDomain(), grant.Roots); err != nil {
			return err
		}
	}
	kept, keptErr := m.load()
	if keptErr == nil && (!granted || sharesRoot(kept.Bundle().RoleRoots, pinned)) {
		m.source = kept
		m.log.Info("joined with the kept SVID", "id", m.id, "until", kept.SVID().Leaf.NotAfter)
		return nil
	}
	if !granted {
		return fmt.Errorf("no join grant was given, and no SVID is kept that could be used: %w", keptErr)
	}
	return m.join(ctx, grant.Token, pinned)
}

func sharesRoot(a, b []*x509.Certificate) bool {
	return slices.ContainsFunc(a, func(x *x509.Certificate) bool { return slices.ContainsFunc(b, x.Equal) })
}

// join exchanges the token for an SVID.
func (m *membership) join(ctx context.Context, token string, pinned []*x509.Certificate) error {
	trust, err := identity.PinnedBundle(m.id.TrustDomain(), pinned)
	if err != nil {
		return err
	}
	csr, err := identity.NewCSR(m.key)
	if err != nil {
		return err
	}
	web := Dial(m.conf.Enroll, identity.ClientTLSWithoutSVID(trust, identity.WantRole(Authority), m.clock))
	defer web.CloseIdleConnections()
	client := cardeav1connect.NewEnrollClient(web, BaseURL, ClientOptions()...)
	answer, err := m.askToJoin(ctx, client, &cardeav1.JoinRequest{Token: token, Csr: csr})
	if err != nil {
		return fmt.Errorf("join as %s: %w", m.id, err)
	}
	bundle, err := identity.BundleFromProto(answer.GetBundle())
	if err != nil {
		return fmt.Errorf("join as %s: %w", m.id, err)
	}
	if last, err := m.loadBundle(); err == nil && sharesRoot(last.RoleRoots, bundle.RoleRoots) && bundle.Generation < last.Generation {
		// The same hub, restored to an earlier state: following it would forget bans.
		return fmt.Errorf("join as %s: %w: generation %d after %d", m.id, identity.ErrStale, bundle.Generation, last.Generation)
	}
	source, err := identity.NewSource(m.key, answer.GetChain(), bundle, m.clock)
	if err != nil {
		return fmt.Errorf("join as %s: %w", m.id, err)
	}
	if source.ID() != m.id {
		return fmt.Errorf("the join token is for %s, this is %s", source.ID(), m.id)
	}
	m.source = source
	m.log.Info("joined", "id", m.id, "until", source.SVID().Leaf.NotAfter)
	return m.save()
}

func (m *membership) askToJoin(ctx context.Context, client cardeav1connect.EnrollClient, req *cardeav1.JoinRequest) (*cardeav1.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	begin := time.Now()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		answer, err := client.Join(ctx, req)
		if err == nil {
			return answer, nil
		}
		code := connect.CodeOf(err)
		refused := code == connect.CodeUnauthenticated || code == connect.CodePermissionDenied
		if code == connect.CodeInvalidArgument || refused && time.Since(begin) > tokenPatience {
			return nil, err
		}
		m.log.Debug("cannot join yet", "error", err)
		if err := sleep(ctx, wait); err != nil {
			return nil, fmt.Errorf("gave up: %w", errors.Join(err, context.Cause(ctx)))
		}
	}
}

func (m *membership) load() (*identity.Source, error) {
	bundle, err := m.loadBundle()
	if err != nil {
		return nil, err
	}
	text, err := identity.ReadSecretFile(filepath.Join(m.dir, svidFile))
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	source, err := identity.NewSource(m.key, chain, bundle, m.clock)
	if err != nil {
		return nil, err
	}
	if source.ID() != m.id {
		return nil, fmt.Errorf("the kept SVID is of %s", source.ID())
	}
	if source.SVID().Leaf.NotAfter.Sub(m.clock()) < minRemaining {
		return nil, errors.New("the kept SVID is about to expire")
	}
	return source, nil
}

func (m *membership) loadBundle() (identity.Bundle, error) {
	return LoadBundle(filepath.Join(m.dir, bundleFile))
}

func (m *membership) save() error {
	var text bytes.Buffer
	for _, der := range m.source.SVID().Chain {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return fmt.Errorf("keep the SVID: %w", err)
		}
	}
	if err := identity.WriteSecretFile(filepath.Join(m.dir, svidFile), text.Bytes()); err != nil {
		return err
	}
	return SaveBundle(filepath.Join(m.dir, bundleFile), m.source.Bundle())
}

// LoadBundle reads a bundle that SaveBundle wrote.
func LoadBundle(path string) (identity.Bundle, error) {
	text, err := identity.ReadSecretFile(path)
	if err != nil {
		return identity.Bundle{}, err
	}
	var p cardeav1.Bundle
	if err := protojson.Unmarshal(text, &p); err != nil {
		return identity.Bundle{}, fmt.Errorf("bundle %s: %w", path, err)
	}
	return identity.BundleFromProto(&p)
}

// SaveBundle writes a bundle as JSON. It holds no secret; its owner alone may read it because trust begins there.
func SaveBundle(path string, b identity.Bundle) error {
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(b.Proto())
	if err != nil {
		return fmt.Errorf("bundle %s: %w", path, err)
	}
	return identity.WriteSecretFile(path, append(text, '\n'))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
