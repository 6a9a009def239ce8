package crash_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/reflect/protoreflect"

	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
	"cardea/internal/ledger"
	"cardea/internal/role"
)

// sockets are where a hub serves what. A service that is in the contracts and in nobody's process has no line here.
func sockets() map[string]struct{ socket, server string } {
	type place = struct{ socket, server string }
	return map[string]place{
		cardeav1connect.EnrollName: {"enroll", role.Authority}, cardeav1connect.IdentityName: {"identity", role.Authority},
		cardeav1connect.DecideName: {"decide", role.Authority}, cardeav1connect.LeaseName: {"lease", role.Authority},
		cardeav1connect.ControlName: {"control", role.Authority}, cardeav1connect.LedgerName: {"control", role.Authority},
		cardeav1connect.WorkName: {"work", role.Engine}, cardeav1connect.RunsName: {"runs", role.Engine},
	}
}

// thief calls with the keys of a role, taken from its folder.
type thief struct {
	h   *hub
	tls map[string]func(server string) *tls.Config // by caller; "" has none
}

func newThief(h *hub) *thief {
	h.t.Helper()
	bundle, err := h.keys.Bundle()
	if err != nil {
		h.t.Fatal(err)
	}
	th := &thief{h: h, tls: map[string]func(string) *tls.Config{
		"": func(server string) *tls.Config {
			return identity.ClientTLSWithoutSVID(bundle, identity.WantRole(server), time.Now)
		},
	}}
	for caller, folder := range map[string]string{role.Engine: role.Engine, role.Console: role.Console, role.Runner: standard} {
		source := th.steal(filepath.Join(h.tree.Dir(), folder), bundle)
		th.tls[caller] = func(server string) *tls.Config { return source.ClientTLS(identity.WantRole(server)) }
	}
	th.tls["forger"] = th.forge(bundle)
	return th
}

func (th *thief) steal(folder string, bundle identity.Bundle) *identity.Source {
	th.h.t.Helper()
	key, err := identity.LoadOrCreateKey(filepath.Join(folder, "key.pem"))
	if err != nil {
		th.h.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "svid.pem"))
	if err != nil {
		th.h.t.Fatal(err)
	}
	var chain [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	source, err := identity.NewSource(key, chain, bundle, time.Now)
	if err != nil {
		th.h.t.Fatal(err)
	}
	return source
}

// forge makes an engine's SVID under a certificate authority of the forger's own, with the names of the real one.
func (th *thief) forge(bundle identity.Bundle) func(string) *tls.Config {
	th.h.t.Helper()
	td, err := spiffeid.TrustDomainFromString(bundle.TrustDomain)
	if err != nil {
		th.h.t.Fatal(err)
	}
	ca, err := identity.NewCA(td, time.Now)
	if err != nil {
		th.h.t.Fatal(err)
	}
	id, err := identity.RoleID(td, role.Engine, role.Engine)
	if err != nil {
		th.h.t.Fatal(err)
	}
	key, err := identity.LoadOrCreateKey(filepath.Join(th.h.t.TempDir(), "key.pem"))
	if err != nil {
		th.h.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		th.h.t.Fatal(err)
	}
	chain, err := ca.Issue(csr, id, time.Hour, identity.SANs{})
	if err != nil {
		th.h.t.Fatal(err)
	}
	return func(server string) *tls.Config {
		conf := identity.ClientTLSWithoutSVID(bundle, identity.WantRole(server), time.Now)
		conf.Certificates = []tls.Certificate{{Certificate: chain, PrivateKey: key}}
		return conf
	}
}

// call makes one call with an empty request, and tells what was answered; an error means that there was no answer.
func (th *thief) call(caller string, m protoreflect.MethodDescriptor) (string, error) {
	place := sockets()[string(m.Parent().FullName())]
	client := role.Dial("unix:"+filepath.Join(th.h.tree.Dir(), "run", place.socket+".sock"), th.tls[caller](place.server))
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(th.h.t.Context(), patience)
	defer cancel()
	kind, body := "application/proto", []byte(nil)
	if m.IsStreamingClient() || m.IsStreamingServer() {
		kind, body = "application/connect+proto", make([]byte, 5) // one empty message
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, role.BaseURL+"/"+string(m.Parent().FullName())+"/"+string(m.Name()), bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", kind)
	request.Header.Set("Connect-Protocol-Version", "1")
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answer.Status + " " + string(text), err
}

// TestMatrix: every method of a running hub refuses whoever it is not for, with the real keys of the other roles, with none and with
// forged ones, and the authority records it.
func TestMatrix(t *testing.T) {
	h := newHub(t, "warn")
	th := newThief(h)
	tried := map[string]int{}
	for _, cell := range role.Matrix() {
		method := find(cell.Procedure)
		if _, served := sockets()[string(method.Parent().FullName())]; !served || th.tls[cell.Caller] == nil {
			continue
		}
		if cell.Allowed && (method.IsStreamingClient() || method.IsStreamingServer()) {
			continue // it would go on
		}
		said, err := th.call(cell.Caller, method)
		refused := err != nil || strings.Contains(said, "not for this caller")
		if method.Parent().FullName() == cardeav1connect.EnrollName && cell.Caller != "" {
			refused = !strings.HasPrefix(said, "200") // this listener asks for no SVID: whoever has one is a stranger without a token
		}
		if refused == cell.Allowed {
			t.Errorf("%s by %q: allowed is %v, and it answered %q %v", cell.Procedure, cell.Caller, cell.Allowed, said, err)
		}
		if !cell.Allowed {
			tried[cell.Caller]++
		}
	}
	for _, m := range []string{"/cardea.v1.Decide/OpenRun", "/cardea.v1.Identity/Renew"} {
		if said, err := th.call("forger", find(m)); err == nil && strings.HasPrefix(said, "200") {
			t.Errorf("%s took a forged SVID: %s", m, said)
		}
	}
	for _, caller := range []string{"", role.Engine, role.Runner, role.Console} {
		if tried[caller] < 10 {
			t.Errorf("only %d refusals were tried as %q", tried[caller], caller)
		}
	}
	h.wantRefusals("spiffe://cardea.local/role/engine/engine", "spiffe://cardea.local/runner/standard/standard-1", "spiffe://cardea.local/role/console/console")
}

// wantRefusals waits until the ledger tells of callers that were turned away for their role, and of one that nobody here knows.
func (h *hub) wantRefusals(callers ...string) {
	h.t.Helper()
	h.until("the refusals to be recorded", func() bool {
		seen := map[string]bool{}
		for _, l := range h.leaves() {
			var payload struct {
				Refused struct{ Listener, Reason, Caller string }
				Times   int
			}
			if l.Kind != ledger.KindRefusal {
				continue
			}
			if err := json.Unmarshal(l.payload, &payload); err != nil || payload.Times < 1 {
				h.t.Errorf("leaf %s: %v", l.ID, errors.Join(err, errors.New(string(l.payload))))
			}
			if payload.Refused.Reason == string(identity.WrongRole) {
				seen[payload.Refused.Caller] = true
			}
			if payload.Refused.Reason != string(identity.WrongRole) {
				seen[payload.Refused.Reason] = true
			}
		}
		for _, c := range callers {
			if !seen[c] {
				return false
			}
		}
		return seen[string(identity.Missing)] && seen[string(identity.Foreign)]
	})
}

// find is the method of a procedure.
func find(procedure string) protoreflect.MethodDescriptor {
	for _, s := range role.Services() {
		for i := range s.Methods().Len() {
			if m := s.Methods().Get(i); procedure == "/"+string(s.FullName())+"/"+string(m.Name()) {
				return m
			}
		}
	}
	return nil
}
