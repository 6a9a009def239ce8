package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/gowebpki/jcs"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/action"
	"cardea/internal/approval"
	"cardea/internal/identity"
	"cardea/internal/role"
)

// answered is what the authority said to the thief.
type answered struct {
	reason   string
	approval string
	permit   bool
}

// askAsEngine takes the engine's key and SVID from its folder and asks for the approved payment with one account changed.
func (d *demo) askAsEngine(ctx context.Context, run, approved string) (answered, error) {
	intent, err := d.changedIntent(ctx, run, approved)
	if err != nil {
		return answered{}, err
	}
	source, err := d.engineIdentity()
	if err != nil {
		return answered{}, err
	}
	address := "unix:" + filepath.Join(d.tree.Dir(), "run", "decide.sock")
	client := cardeav1connect.NewDecideClient(role.Dial(address, source.ClientTLS(identity.WantRole(role.Authority))), role.BaseURL, role.ClientOptions()...)
	response, err := client.Authorize(ctx, &cardeav1.AuthorizeRequest{Intents: []*cardeav1.Intent{intent}})
	if err != nil {
		return answered{}, err
	}
	if len(response.GetAuthorizations()) != 1 {
		return answered{}, errors.New("the authority did not answer one intent with one verdict")
	}
	a := response.GetAuthorizations()[0]
	return answered{reason: a.GetVerdict().GetReason(), approval: a.GetApprovalId(), permit: a.GetPermit() != ""}, nil
}

func (d *demo) engineIdentity() (*identity.Source, error) {
	folder := filepath.Join(d.tree.Dir(), "engine")
	key, err := identity.LoadOrCreateKey(filepath.Join(folder, "key.pem"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "svid.pem"), filepath.Join(folder, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("the engine's SVID: %w", err)
	}
	profile, err := d.tree.Profile(ana)
	if err != nil {
		return nil, err
	}
	bundle, err := profile.Bundle()
	if err != nil {
		return nil, err
	}
	return identity.NewSource(key, pair.Certificate, bundle, time.Now)
}

// approvedAction is what an approval is over.
func (d *demo) approvedAction(ctx context.Context, id string) (action.Action, error) {
	st, err := d.statement(ctx, id)
	if err != nil {
		return action.Action{}, err
	}
	if len(st.Actions) != 1 {
		return action.Action{}, fmt.Errorf("the approval is over %d actions", len(st.Actions))
	}
	signed, err := jcs.Transform(st.Actions[0].Action) // the CLI's JSON is indented
	if err != nil {
		return action.Action{}, err
	}
	return action.Parse(signed)
}

func (d *demo) statement(ctx context.Context, id string) (approval.Statement, error) {
	var shown struct {
		Statement approval.Statement `json:"statement"`
	}
	err := d.ask(ctx, bo, &shown, "approval", "show", id)
	return shown.Statement, err
}

// changedIntent is the approved action with the last digit of the first account number changed: the sum stays the same.
func (d *demo) changedIntent(ctx context.Context, run, approved string) (*cardeav1.Intent, error) {
	a, err := d.approvedAction(ctx, approved)
	if err != nil {
		return nil, err
	}
	const account = `"iban":"`
	at := bytes.Index(a.HTTP.Body, []byte(account))
	if at < 0 {
		return nil, errors.New("the payment names no account")
	}
	last := at + len(account) + bytes.IndexByte(a.HTTP.Body[at+len(account):], '"') - 1
	a.HTTP.Body[last] = '0' + (a.HTTP.Body[last]-'0'+1)%10
	canonical, err := a.Canonical()
	if err != nil {
		return nil, err
	}
	st, err := d.statement(ctx, approved)
	if err != nil {
		return nil, err
	}
	return &cardeav1.Intent{Task: &cardeav1.TaskRef{RunId: run, Task: st.Task.Pointer}, Attempt: 1, Action: canonical, Connections: []string{"bank"}}, nil
}
