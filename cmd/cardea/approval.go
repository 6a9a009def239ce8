package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/approval"
	"cardea/internal/approval/verify"
	"cardea/internal/cli"
)

func (a *app) approvalCommand() *cobra.Command {
	return noun(groupWork, "approval", "What waits for people's signatures",
		a.approvalListCommand(), a.approvalShowCommand(), a.approvalSignCommand(), a.approvalRefuseCommand())
}

func (a *app) approvalListCommand() *cobra.Command {
	request := &cardeav1.ListApprovalsRequest{}
	c := &cobra.Command{Use: "list", Short: "Approvals that wait", Args: exactly()}
	c.Flags().StringVar(&request.State, "state", "", "pending, approved, refused, expired, voided or used instead of those that wait")
	c.Flags().StringVar(&request.RunId, "run", "", "only those of this run")
	_ = c.RegisterFlagCompletionFunc("run", a.completing(runIDs))
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, _ []string) error {
		answer, err := h.Control.ListApprovals(ctx, request)
		if err != nil {
			return err
		}
		return h.show(answer, func() []cli.Line {
			return h.out.Fit(cli.ApprovalTable(answer.GetApprovals(), h.profile.Keys(), a.now()))
		})
	})
}

func (a *app) approvalShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show APPROVAL", Short: "Exactly what would be done, and who has signed", Args: exactly("APPROVAL"),
		ValidArgsFunction: firstOnly(a.completing(approvalIDs)),
	}
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		asked, err := h.approval(ctx, args[0])
		if err != nil {
			return err
		}
		return h.show(asked.approval, func() []cli.Line { return append(h.render(ctx, asked), cli.ApprovalState(asked.approval)...) })
	})
}

// asked is an approval whose statement has been verified here. Nothing is shown or signed of one that has not.
type asked struct {
	approval  *cardeav1.Approval
	statement *approval.Statement
}

// approval fetches and verifies one. The hub may not answer with another than the one that was asked for.
func (h *hub) approval(ctx context.Context, id string) (asked, error) {
	answer, err := h.Control.GetApproval(ctx, &cardeav1.GetApprovalRequest{Id: id})
	if err != nil {
		return asked{}, err
	}
	statement, err := cli.VerifiedStatement(answer.GetApproval(), id, h.profile.Keys())
	if err != nil {
		return asked{}, err
	}
	return asked{answer.GetApproval(), statement}, nil
}

// render shows the statement from its signed bytes, with what is different from the one that it replaces.
func (h *hub) render(ctx context.Context, q asked) []cli.Line {
	cols, _ := h.out.Size()
	view := approval.View{Signed: cli.Signed(q.approval), Now: h.app.now(), Width: min(cols, 120)}
	if who, err := h.Control.WhoAmI(ctx, &cardeav1.WhoAmIRequest{}); err == nil {
		view.As = cli.AskedAs(q.statement, who.GetGroups())
	}
	if q.statement.Replaces != "" {
		if before, err := h.approval(ctx, q.statement.Replaces); err == nil {
			view.Replaced = before.statement
		}
	}
	return cli.StatementLines(q.statement, view)
}

func (a *app) approvalSignCommand() *cobra.Command {
	return a.decideCommand(&cobra.Command{
		Use: "sign APPROVAL", Short: "Consent, with your SSH key, to exactly what is shown", Args: exactly("APPROVAL"),
		Long: "Verifies the authority's signature, shows the statement rendered here from the signed bytes, and signs it with an SSH key:\n" +
			"the one that --key or the profile names, or a key of yours in the ssh-agent.",
	}, false)
}

func (a *app) approvalRefuseCommand() *cobra.Command {
	return a.decideCommand(&cobra.Command{
		Use: "refuse APPROVAL", Short: "Refuse, signed with your SSH key", Args: exactly("APPROVAL"),
	}, true)
}

// answer is what a person decides about an approval, and with what they sign it.
type answer struct {
	refuse  bool
	reason  string
	keyFile string
	yes     bool
}

func (a *app) decideCommand(c *cobra.Command, refuse bool) *cobra.Command {
	d := &answer{refuse: refuse}
	c.Flags().StringVar(&d.keyFile, "key", "", "private SSH key file; without it the profile's, or a key of yours in the ssh-agent")
	c.Flags().BoolVarP(&d.yes, "yes", "y", false, "do not ask; what would have been shown is signed all the same")
	c.Flags().StringVar(&d.reason, "reason", "", "why, for the others and the ledger")
	_ = c.MarkFlagFilename("key")
	c.ValidArgsFunction = firstOnly(a.completing(approvalIDs))
	return a.hubCommand(c, 0, func(ctx context.Context, h *hub, args []string) error {
		q, err := h.approval(ctx, args[0])
		if err != nil {
			return err
		}
		after, err := h.decide(ctx, q, d)
		if err != nil {
			return err
		}
		return h.show(after, func() []cli.Line { return cli.ApprovalState(after) })
	})
}

// decide shows, asks, signs and sends. Person and key are checked by the authority again at every use.
func (h *hub) decide(ctx context.Context, q asked, d *answer) (*cardeav1.Approval, error) {
	id := q.approval.GetId()
	if !q.approval.GetCanSign() {
		because := q.approval.GetCannotBecause()
		if because == "" {
			because = "it is " + q.approval.GetState()
		}
		return nil, cli.Fail(cli.Denied, "", "you cannot decide about %s: %s", id, because)
	}
	signer, err := h.signer(ctx, d.keyFile)
	if err != nil {
		return nil, err
	}
	if err := h.consent(ctx, q, d, signer); err != nil {
		return nil, err
	}
	signature, err := verify.SignApproval(signer, q.approval.GetStatement(), d.refuse)
	if err != nil {
		return nil, err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	sent, err := h.Control.Sign(call, &cardeav1.SignRequest{ApprovalId: id, Signature: signature, Refuse: d.refuse, Reason: d.reason})
	if err != nil {
		return nil, err
	}
	return sent.GetApproval(), nil
}

// consent shows what would be signed and asks for a yes, unless the command line has said it.
func (h *hub) consent(ctx context.Context, q asked, d *answer, signer verify.Signer) error {
	if !h.json() || !d.yes {
		if err := cli.NewOut(h.app.err, h.app.env).Print(h.render(ctx, q)...); err != nil {
			return err
		}
	}
	if d.yes {
		return nil
	}
	verb := cli.Safe("Sign")
	if d.refuse {
		verb = "Refuse"
	}
	ok, err := h.app.confirm(ctx, cli.F("%s with ssh key %s (%s)?", verb, ssh.FingerprintSHA256(signer.PublicKey()), signer.Name()))
	if err == nil && !ok {
		err = cli.Fail(cli.Failed, "", "nothing was signed")
	}
	return err
}

// signer is the key that a person signs with: the file that they or their profile name, or the one of their registered keys
// that the ssh-agent holds.
func (h *hub) signer(ctx context.Context, keyFile string) (verify.Signer, error) {
	if keyFile == "" {
		keyFile = h.profile.SSHKey
	}
	if keyFile != "" {
		s, err := verify.FileSigner(keyFile, h.app.passphrase)
		if err != nil {
			return nil, cli.Fail(cli.Usage, "--key names another", "%s", err.Error()).Because(err)
		}
		return s, nil
	}
	socket := h.app.env("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, cli.Fail(cli.Usage, "give --key FILE, or start an ssh-agent", "there is no key to sign with: no ssh-agent runs")
	}
	held, err := verify.AgentSigners(ctx, socket)
	if err != nil {
		return nil, cli.Fail(cli.Usage, "give --key FILE", "%s", err.Error()).Because(err)
	}
	if mine := verify.Find(held, h.ownKeys(ctx)); len(mine) > 0 {
		return mine[0], nil
	}
	if len(held) == 1 {
		return held[0], nil // the authority says whether it is the person's
	}
	return nil, cli.Fail(cli.Usage, "give --key FILE, or ssh-add the key that the hub knows of you",
		"the ssh-agent holds %d keys, and none of them is known to be yours", len(held))
}

// ownKeys are the fingerprints of the person's keys, as far as the person may read them.
func (h *hub) ownKeys(ctx context.Context) []string {
	answer, err := h.Control.Get(ctx, &cardeav1.GetRequest{Kind: "Person", Name: h.me()})
	if err != nil {
		return nil
	}
	var person struct {
		SSHKeys []string `json:"sshKeys"`
	}
	if err := json.Unmarshal(answer.GetResource().GetBody(), &person); err != nil {
		return nil
	}
	var prints []string
	for _, k := range person.SSHKeys {
		if _, print, err := verify.Fingerprint(k); err == nil {
			prints = append(prints, print)
		}
	}
	return prints
}

// approvalIDs are those that wait, for completion.
func approvalIDs(ctx context.Context, h *hub) []string {
	answer, err := h.Control.ListApprovals(ctx, &cardeav1.ListApprovalsRequest{})
	if err != nil {
		return nil
	}
	var ids []string
	for _, p := range answer.GetApprovals() {
		about := p.GetState()
		if s, err := cli.VerifiedStatement(p, p.GetId(), h.profile.Keys()); err == nil && s.Workflow != nil {
			about = s.Workflow.Ref
		}
		ids = append(ids, p.GetId()+"\t"+about)
	}
	return ids
}
