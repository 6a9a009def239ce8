package main

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
	"cardea/internal/registry/load"
)

// applying is what the command line says about a change.
type applying struct {
	files  []string
	remove []string
	plan   bool
	yes    bool
}

func (a *app) applyCommand() *cobra.Command {
	p := &applying{}
	c := &cobra.Command{
		Use: "apply -f PATH...", Short: "Show what a change grants and takes away, and make it", GroupID: groupWork,
		Long: "Reads processes, connections, rules, people, runners, workflows and policies from files and folders, shows the change as privileges\n" +
			"gained and lost, and applies it at once and as a whole. When others must sign first, apply the same again after they have.",
		Example: "  cardea apply -f payroll/\n  cardea apply -f payroll/ --plan -o json\n  cardea apply --remove Connection/bank --yes",
		Args:    cobra.ArbitraryArgs,
	}
	c.Flags().StringArrayVarP(&p.files, "file", "f", nil, "a file or a folder; may be given again, and more may follow as arguments")
	c.Flags().StringArrayVar(&p.remove, "remove", nil, "a resource to remove, as Kind/name; may be given again")
	c.Flags().BoolVar(&p.plan, "plan", false, "show the plan and end")
	c.Flags().BoolVarP(&p.yes, "yes", "y", false, "do not ask")
	return a.hubCommand(c, 0, func(ctx context.Context, h *hub, args []string) error {
		change, err := a.loadChange(append(p.files, args...), p.remove)
		if err != nil {
			return err
		}
		return h.apply(ctx, change, p)
	})
}

// loadChange reads what is to be applied. What is wrong in the files is printed with its place.
func (a *app) loadChange(paths, remove []string) (*cardeav1.PlanRequest, error) {
	if len(paths) == 0 && len(remove) == 0 {
		return nil, cli.Fail(cli.Usage, "cardea apply -f PATH", "nothing to apply is named")
	}
	change := &cardeav1.PlanRequest{}
	for _, r := range remove {
		kind, name, ok := strings.Cut(r, "/")
		if !ok || kind == "" || name == "" {
			return nil, cli.Fail(cli.Usage, "such as Connection/bank", "%s is not Kind/name", r)
		}
		change.Remove = append(change.Remove, &cardeav1.Resource{Kind: kind, Name: name})
	}
	bundle, err := load.Paths(paths...)
	if err != nil {
		return nil, cli.Fail(cli.Usage, "", "%s", err.Error()).Because(err)
	}
	if len(bundle.Findings) > 0 {
		if err := cli.NewOut(a.err, a.env).Print(cli.LintLines(bundle.Findings)...); err != nil {
			return nil, err
		}
	}
	if n := cli.CountErrors(bundle.Findings); n > 0 {
		return nil, cli.Fail(cli.Failed, "mend the files and apply again", "%s; nothing was applied", cli.Plural(n, "error"))
	}
	for _, r := range bundle.Resources {
		change.Resources = append(change.Resources, &cardeav1.Resource{Kind: r.Kind, Name: r.Name, Body: r.Body})
	}
	if len(change.Resources)+len(change.Remove) == 0 {
		return nil, cli.Fail(cli.Usage, "", "there is nothing to apply in %s", strings.Join(paths, ", "))
	}
	return change, nil
}

// apply plans, shows, asks and applies: the change that is applied is the one that was shown, or none.
func (h *hub) apply(ctx context.Context, change *cardeav1.PlanRequest, p *applying) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	plan, err := h.Control.Plan(call, change)
	cancel()
	if err != nil {
		return err
	}
	if !h.json() {
		if err := h.out.Print(cli.PlanLines(plan)...); err != nil {
			return err
		}
	}
	switch {
	case len(plan.GetErrors()) > 0:
		return h.outcome(plan, nil, cli.Fail(cli.Failed, "", "the hub cannot take this: %s", strings.Join(plan.GetErrors(), "; ")))
	case p.plan || !cli.Changes(plan):
		return h.outcome(plan, nil, nil)
	}
	if !p.yes {
		ok, err := h.app.confirm(ctx, "Apply?")
		if err != nil {
			return err
		}
		if !ok {
			return h.outcome(plan, nil, cli.Fail(cli.Failed, "", "nothing was applied"))
		}
	}
	return h.applyPlanned(ctx, change, plan, p)
}

func (h *hub) applyPlanned(ctx context.Context, change *cardeav1.PlanRequest, plan *cardeav1.PlanResponse, p *applying) error {
	done, err := h.applyOnce(ctx, change, plan.GetDigest())
	if err != nil {
		return err
	}
	if !done.GetApplied() && done.GetApprovalId() != "" && !p.yes {
		signed, err := h.signNow(ctx, done.GetApprovalId())
		if err != nil {
			return err
		}
		if signed {
			if done, err = h.applyOnce(ctx, change, plan.GetDigest()); err != nil {
				return err
			}
		}
	}
	if done.GetApplied() {
		return h.outcome(plan, done, nil)
	}
	if id := done.GetApprovalId(); id != "" {
		mend := cli.F("cardea approval show %s; when they have signed, apply the same again", id)
		return h.outcome(plan, done, cli.Fail(cli.Pending, mend, "others must sign first: %s", done.GetVerdict().GetReason()))
	}
	return h.outcome(plan, done, cli.Fail(cli.Denied, cli.Clean(done.GetVerdict().GetMend()), "%s", done.GetVerdict().GetReason()))
}

// applyOnce applies what was planned. Another state than the one that was planned from is a conflict: the privileges shown
// may not be those that would be granted.
func (h *hub) applyOnce(ctx context.Context, change *cardeav1.PlanRequest, digest string) (*cardeav1.ApplyResponse, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	done, err := h.Control.Apply(call, &cardeav1.ApplyRequest{Change: change, PlanDigest: digest})
	switch connect.CodeOf(err) {
	case connect.CodeAborted, connect.CodeFailedPrecondition:
		return nil, cli.Fail(cli.Conflict, "plan again: the hub has changed since this plan was made", "nothing was applied: %s", cli.Explain(err).Text).Because(err)
	}
	return done, err
}

// signNow offers to sign to a person who may, and says whether that was enough.
func (h *hub) signNow(ctx context.Context, id string) (enough bool, err error) {
	q, err := h.approval(ctx, id)
	if err != nil {
		return false, err
	}
	if !q.approval.GetCanSign() || !h.app.interactive() {
		return false, nil
	}
	after, err := h.decide(ctx, q, &answer{})
	var no *cli.Error
	if errors.As(err, &no) && no.Exit == cli.Failed {
		return false, nil // not now
	}
	return after.GetState() == "approved", err
}

// outcome ends the command: as one JSON document, or as a last line for people.
func (h *hub) outcome(plan *cardeav1.PlanResponse, done *cardeav1.ApplyResponse, failure *cli.Error) error {
	if h.json() {
		document := map[string]any{"plan": cli.Document(plan), "apply": nil}
		if done != nil {
			document["apply"] = cli.Document(done)
		}
		if err := cli.WriteJSON(h.app.out, document); err != nil {
			return err
		}
	} else if done != nil {
		if err := h.out.Print(cli.AppliedLines(plan, done)...); err != nil {
			return err
		}
	}
	if failure != nil {
		return failure
	}
	return nil
}
