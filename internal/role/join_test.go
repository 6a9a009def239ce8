package role

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/identity"
)

// grantFile registers a token for the role and writes its grant.
func (h *testHub) grantFile(token, role string) string {
	h.t.Helper()
	id, err := identity.RoleID(testTD, role, role)
	if err != nil {
		h.t.Fatal(err)
	}
	text, err := json.Marshal(h.authority.grant(token, id))
	if err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(h.dir, token+".json")
	if err := identity.WriteSecretFile(path, text); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func TestJoinErasesTheGrantAndCallsAreAdmitted(t *testing.T) {
	hub := startHub(t, identity.SVIDTTL)
	answered := make(chan error, 1)
	spec, conf := hub.engineSpec("token-1", nil)
	spec.Build = func(ctx context.Context, h *Host) error {
		client := cardeav1connect.NewDecideClient(h.Dial(conf.Decide, Authority), BaseURL, ClientOptions()...)
		_, err := client.EndRun(ctx, &cardeav1.EndRunRequest{})
		answered <- err
		return nil
	}
	hub.start(spec)
	if err := <-answered; connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Fatalf("the engine calls Decide: %v, want the handler's unimplemented", err)
	}
	if _, err := os.Stat(conf.JoinFile); !os.IsNotExist(err) {
		t.Errorf("the grant still lies in %s (%v)", conf.JoinFile, err)
	}
}

func TestKeptSVIDIsUsedOnRestart(t *testing.T) {
	hub := startHub(t, identity.SVIDTTL)
	spec, conf := hub.engineSpec("token-1", nil)
	r := hub.start(spec)
	first := r.host.Source().SVID().Leaf.SerialNumber
	r.stop()
	if err := r.ended(t); err != nil {
		t.Fatal(err)
	}
	again := hub.start(spec) // its grant file is gone: only the kept SVID can be it
	if got := again.host.Source().SVID().Leaf.SerialNumber; got.Cmp(first) != 0 {
		t.Errorf("after a restart the SVID is %v, kept was %v", got, first)
	}
	_ = conf
}

func TestRenewal(t *testing.T) {
	hub := startHub(t, 2*time.Second)
	spec, _ := hub.engineSpec("token-1", nil)
	r := hub.start(spec)
	first := r.host.Source().SVID().Leaf.SerialNumber
	deadline := time.Now().Add(20 * time.Second)
	for r.host.Source().SVID().Leaf.SerialNumber.Cmp(first) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the SVID was never renewed")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
