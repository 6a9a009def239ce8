package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cardea/internal/action"
	"cardea/internal/demo/services"
)

// apply shows the plan, that ana cannot grant it alone, and applies it once eve has signed it.
func (d *demo) apply(ctx context.Context) error {
	args := []string{"apply", "-f", "payroll", "-f", "binding.yaml", "--yes"}
	if _, err := d.show(ctx, ana, exitPending, args...); err != nil {
		return err
	}
	var waiting struct {
		Approvals []approvalRow `json:"approvals"`
	}
	if err := d.ask(ctx, eve, &waiting, "approval", "list"); err != nil {
		return err
	}
	if len(waiting.Approvals) != 1 {
		return fmt.Errorf("%d approvals wait for eve, not 1", len(waiting.Approvals))
	}
	id := waiting.Approvals[0].ID
	d.page.command(eve, []string{"approval", "sign", id})
	if r, err := d.cardea(ctx, eve, "approval", "sign", id, "--yes"); err != nil || r.exit != exitOK {
		return errors.Join(err, fmt.Errorf("eve could not sign: %s", r.out))
	}
	r, err := d.cardea(ctx, ana, args...)
	if err != nil || r.exit != exitOK {
		return errors.Join(err, fmt.Errorf("the signed change was not applied: %s", r.out))
	}
	d.page.command(ana, args)
	d.page.output(lastLine(r.out))
	d.holds("what a change grants was shown as privileges; nobody could grant it alone")
	return nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

const may = "payroll/inputs/may.json"

// pay runs the pay run to its end: one approval, one transfer.
func (d *demo) pay(ctx context.Context) error {
	run, err := d.startRun(ctx, ana, "payroll/pay-run", may)
	if err != nil {
		return err
	}
	waiting, err := d.waitingApproval(ctx, run)
	if err != nil {
		return err
	}
	d.page.say("The timesheets are read. The payment waits: what bo is asked to sign is rendered from the signed bytes, on bo's own machine.")
	if _, err := d.show(ctx, bo, exitOK, "approval", "show", waiting.ID); err != nil {
		return err
	}
	if r, err := d.cardea(ctx, ana, "approval", "sign", waiting.ID, "--yes"); err != nil || r.exit != exitDenied {
		return errors.Join(err, fmt.Errorf("ana was not refused her own request: %s", r.out))
	}
	if d.bank.Stats().Transfers != 0 {
		return errors.New("money moved before it was approved")
	}
	d.page.command(bo, []string{"approval", "sign", waiting.ID})
	if r, err := d.cardea(ctx, bo, "approval", "sign", waiting.ID, "--yes"); err != nil || r.exit != exitOK {
		return errors.Join(err, fmt.Errorf("bo could not sign: %s", r.out))
	}
	if r, err := d.cardea(ctx, ana, "run", "watch", run); err != nil || r.exit != exitOK {
		return errors.Join(err, fmt.Errorf("the run did not complete: %s", r.out))
	}
	if _, err := d.show(ctx, ana, exitOK, "run", "show", run); err != nil {
		return err
	}
	if err := d.wantSignedBytes(ctx, waiting.ID); err != nil {
		return err
	}
	d.holds("ana could not sign her own request; bo signed exactly the bytes that the bank received, once")
	if err := d.wantOwnCredentials(ctx, run); err != nil {
		return err
	}
	d.holds("each task had its own credential, for one system, for seconds")
	return nil
}

// wantSignedBytes compares what the bank received with what the statement holds.
func (d *demo) wantSignedBytes(ctx context.Context, id string) error {
	signed, err := d.approvedAction(ctx, id)
	if err != nil {
		return err
	}
	transfers := 0
	for _, seen := range d.bank.Requests() {
		if !seen.Transferred {
			continue
		}
		transfers++
		if seen.Body != action.Digest(signed.HTTP.Body) {
			return errors.New("the bank received other bytes than were signed")
		}
	}
	if transfers != 1 {
		return fmt.Errorf("the bank has %d transfers, not 1", transfers)
	}
	return nil
}

// longest is the longest life that the example gives a credential.
const longest = 10 * time.Second

// wantOwnCredentials compares what each service saw with what the hub issued: one lease and one subject for each task, for seconds.
func (d *demo) wantOwnCredentials(ctx context.Context, run string) error {
	var issued struct {
		Leases []struct {
			ID         string    `json:"id"`
			Connection string    `json:"connection"`
			IssuedAt   time.Time `json:"issued_at"`
			ExpiresAt  time.Time `json:"expires_at"`
		} `json:"leases"`
	}
	if err := d.ask(ctx, ana, &issued, "lease", "list", "--all", "--run", run); err != nil {
		return err
	}
	used := map[string]string{}
	for connection, s := range map[string]*services.Service{"hr": d.hr, "bank": d.bank} {
		for _, seen := range s.Requests() {
			if seen.Run == run {
				used[seen.Lease] = connection + " " + seen.Subject
			}
		}
	}
	subjects := map[string]bool{}
	for _, l := range issued.Leases {
		if !strings.HasPrefix(used[l.ID], l.Connection+" spiffe://") || l.ExpiresAt.Sub(l.IssuedAt) > longest {
			return fmt.Errorf("lease %s at %s was used as %q", l.ID, l.Connection, used[l.ID])
		}
		subjects[used[l.ID]] = true
	}
	if len(issued.Leases) != 2 || len(used) != 2 || len(subjects) != 2 {
		return fmt.Errorf("%d credentials were issued and %d used, by %d tasks", len(issued.Leases), len(used), len(subjects))
	}
	return nil
}

// tamper is a run whose payment is changed, after it was approved, by whoever has taken the engine.
func (d *demo) tamper(ctx context.Context) error {
	run, err := d.startRun(ctx, ana, "payroll/pay-run", may)
	if err != nil {
		return err
	}
	approved, err := d.waitingApproval(ctx, run)
	if err != nil {
		return err
	}
	if err := d.tree.Stop("engine"); err != nil {
		return err
	}
	if r, err := d.cardea(ctx, bo, "approval", "sign", approved.ID, "--yes"); err != nil || r.exit != exitOK {
		return errors.Join(err, fmt.Errorf("bo could not sign: %s", r.out))
	}
	d.page.say("bo has signed. The engine is taken: with its keys, the thief asks for the approved payment with one account number changed.")
	verdict, err := d.askAsEngine(ctx, run, approved.ID)
	if err != nil {
		return err
	}
	d.page.output(fmt.Sprintf("authority: %s", verdict.reason))
	if verdict.permit || verdict.approval == "" || verdict.approval == approved.ID {
		return errors.New("the changed payment got a permit, or kept its approval")
	}
	if _, err := d.show(ctx, bo, exitOK, "approval", "show", verdict.approval); err != nil {
		return err
	}
	if err := d.wantDifference(ctx, verdict.approval, approved.ID); err != nil {
		return err
	}
	refusal := []string{"approval", "refuse", verdict.approval, "--reason", "not an account of ours"}
	d.page.command(bo, refusal)
	if r, err := d.cardea(ctx, bo, append(refusal, "--yes")...); err != nil || r.exit != exitOK {
		return errors.Join(err, fmt.Errorf("bo could not refuse: %s", r.out))
	}
	if err := d.tree.StartRole("engine"); err != nil {
		return err
	}
	if err := d.tree.WaitReady(ctx); err != nil {
		return err
	}
	d.page.say("The engine is back in our hands, and asks for the genuine payment. bo's refusal has ended the matter all the same:")
	if r, err := d.show(ctx, ana, exitDenied, "run", "watch", run); err != nil || !strings.Contains(r.out, "refused by bo") {
		return errors.Join(err, errors.New("the run was not denied by bo's refusal"))
	}
	if n := d.bank.Stats().Transfers; n != 1 {
		return fmt.Errorf("the bank has %d transfers, not 1", n)
	}
	d.holds("a changed payment lost its approval; the refusal shows the one thing that was changed; no money moved")
	return nil
}

// wantDifference demands that the new question names the changed account and nothing else.
func (d *demo) wantDifference(ctx context.Context, id, replaced string) error {
	var a approvalRow
	if err := d.ask(ctx, bo, &a, "approval", "show", id); err != nil {
		return err
	}
	if a.Replaces != replaced || len(a.Differences) != 1 || !strings.HasSuffix(a.Differences[0].Path, "/iban") {
		return fmt.Errorf("the new question replaces %q and tells %d differences", a.Replaces, len(a.Differences))
	}
	return nil
}

// deny starts what no policy allows.
func (d *demo) deny(ctx context.Context) error {
	before := d.hr.Stats().Requests
	run, err := d.startRun(ctx, ana, "payroll/pay-run-test", may)
	if err != nil {
		return err
	}
	if r, err := d.cardea(ctx, ana, "run", "watch", run); err != nil || r.exit != exitDenied {
		return errors.Join(err, fmt.Errorf("the run was not denied: %s", r.out))
	}
	r, err := d.show(ctx, ana, exitOK, "policy", "explain", run)
	if err != nil {
		return err
	}
	if !strings.Contains(r.out, "payroll-reads-hr") {
		return errors.New("the denial does not name the policy that comes nearest")
	}
	if d.hr.Stats().Requests != before {
		return errors.New("a denied task reached hr")
	}
	d.holds("a denial says which policy came nearest and whom to ask; nothing was sent")
	return nil
}

// expire replays a credential that was stolen at hr, while it lives and after.
func (d *demo) expire(ctx context.Context) error {
	run, err := d.startRun(ctx, ana, "payroll/pay-run", may)
	if err != nil {
		return err
	}
	if _, err := d.waitingApproval(ctx, run); err != nil {
		return err
	}
	d.mu.Lock()
	token := d.stolen
	d.mu.Unlock()
	alive, err := d.replay(ctx, token)
	if err != nil {
		return err
	}
	if alive != http.StatusOK {
		return fmt.Errorf("hr answers %d to a credential that lives", alive)
	}
	d.page.say("Somebody reads hr's memory and replays the credential: 200. It is a bearer token, and it lives for at most 10 s.")
	began := time.Now()
	status := alive
	err = d.until(ctx, "the credential to expire", func() (bool, error) {
		status, err = d.replay(ctx, token)
		return status == http.StatusUnauthorized, err
	})
	if err != nil {
		return err
	}
	d.page.say("%.0f s later: %d, expired. No one had to notice.", time.Since(began).Seconds(), status)
	if r, err := d.cardea(ctx, ana, "run", "cancel", run); err != nil || r.exit != exitOK {
		return errors.Join(err, fmt.Errorf("the run could not be cancelled: %s", r.out))
	}
	d.holds("a stolen credential was dead within seconds, at its target, by itself")
	return d.wantNothingAlive(ctx)
}

func (d *demo) replay(ctx context.Context, token string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.hr.Host()+"/v1/timesheets/2026-05", nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := d.hr.Client().Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// wantNothingAlive waits for the hub to have confirmed every ending.
func (d *demo) wantNothingAlive(ctx context.Context) error {
	err := d.until(ctx, "all credentials to end", func() (bool, error) {
		var list struct {
			Leases []struct{} `json:"leases"`
		}
		err := d.ask(ctx, ana, &list, "lease", "list")
		return len(list.Leases) == 0, err
	})
	if err != nil {
		return err
	}
	if _, err := d.show(ctx, ana, exitOK, "lease", "list", "--all", "--limit", "5"); err != nil {
		return err
	}
	d.holds("nothing that was issued is alive")
	return nil
}

// audit verifies an export with the hub stopped, and shows that one changed byte is found.
func (d *demo) audit(ctx context.Context) error {
	export, err := d.cardea(ctx, ana, "ledger", "export")
	if err != nil || export.exit != exitOK {
		return errors.Join(err, fmt.Errorf("the ledger could not be exported: %s", export.out))
	}
	profile, err := d.tree.Profile(ana)
	if err != nil {
		return err
	}
	path := filepath.Join(d.dir, "ledger.jsonl")
	if err := os.WriteFile(path, []byte(export.out), 0o600); err != nil {
		return err
	}
	if err := d.tree.Close(); err != nil {
		return err
	}
	d.page.say("The hub is stopped. An auditor has the export and the ledger's public key.")
	verify := []string{"ledger", "verify", "--file", "ledger.jsonl", "--key", profile.CheckpointKey}
	if _, err := d.show(ctx, ana, exitOK, verify...); err != nil {
		return err
	}
	changed, err := changeOneByte([]byte(export.out))
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		return err
	}
	d.page.say("One byte of one record is changed, as whoever owns the disk could:")
	r, err := d.cardea(ctx, ana, verify...)
	if err != nil {
		return err
	}
	d.page.output(r.out)
	if r.exit != exitFailed || !strings.Contains(r.out, "leaf ") || !strings.Contains(r.out, "was changed") {
		return errors.New("the changed record was not found and named")
	}
	d.holds("the record verifies offline, and one changed byte is found and named")
	return nil
}

// changeOneByte rewrites "allow" as "aloow" in the middle of the export: a verdict that says something else.
func changeOneByte(export []byte) ([]byte, error) {
	changed := slices.Clone(export)
	at := strings.LastIndex(string(changed), `"event\":\"allow`)
	if at < 0 {
		if at = strings.LastIndex(string(changed), `allow`); at < 0 {
			return nil, errors.New("the export holds no verdict")
		}
	}
	at = at + strings.Index(string(changed[at:]), "allow")
	changed[at+2] = 'o'
	return changed, nil
}
