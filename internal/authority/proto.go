package authority

import (
	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/approval"
	"cardea/internal/registry"
)

// What people are shown, as the contracts spell it.

func protoPlan(p registry.Plan) *cardeav1.PlanResponse {
	out := &cardeav1.PlanResponse{Digest: p.Digest, AddsPrivilege: p.AddsPrivilege(), Warnings: p.Warnings, Errors: p.Errors}
	for _, c := range p.Changes {
		out.Changes = append(out.Changes, &cardeav1.Change{Verb: c.Verb, Kind: c.ID.Kind, Name: c.ID.Name, Detail: c.Detail})
	}
	for _, g := range p.Privileges {
		out.Privileges = append(out.Privileges, &cardeav1.Privilege{Lost: g.Lost, Process: g.Process, Workflow: g.Workflow, Task: g.Task, TaskName: g.TaskName,
			Connection: g.Connection, Access: g.Access, What: g.What, Credential: g.Credential, Approval: g.Approval, Policies: g.Policies})
	}
	for _, e := range p.Exposures {
		out.Exposures = append(out.Exposures, &cardeav1.Exposure{Process: e.Process, StrangersCanStart: e.StrangersCanStart,
			ReachesProduction: e.ReachesProduction, SharesWith: e.SharesWith})
	}
	return out
}

func protoRef(r LedgerRef) *cardeav1.LedgerRef {
	if r.Leaf == "" {
		return nil
	}
	return &cardeav1.LedgerRef{LeafId: r.Leaf, Sequenced: r.Sequenced, Index: uint64(r.Index)}
}

func protoExplanation(e Explanation) *cardeav1.ExplainResponse {
	out := &cardeav1.ExplainResponse{
		Provenance: &cardeav1.Provenance{Kind: e.Run.Provenance.Kind, Origin: e.Run.Provenance.Origin}, StartedBy: e.Run.StartedBy,
		StartVerdict: protoVerdict(e.Run.Verdict), StartLeaf: protoRef(e.StartLeaf), ClosureLeaf: protoRef(e.ClosureLeaf),
		Closure: protoClosure(e.Run.Closure, e.Run.ClosureLeaf),
	}
	for _, a := range e.Attempts {
		out.Attempts = append(out.Attempts, protoAttempt(a))
	}
	return out
}

func protoAttempt(a AttemptRecord) *cardeav1.AttemptRecord {
	out := &cardeav1.AttemptRecord{
		Task:    &cardeav1.TaskRef{RunId: a.Task.Run, Task: a.Task.Task, Iteration: a.Task.Iteration, Visit: a.Task.Visit},
		Attempt: a.Attempt, Epoch: a.Epoch, Verdict: protoVerdict(a.Verdict), ActionDigest: a.Digest, Action: a.Action, Runner: a.Runner,
		PermitState: "none", DecidedAt: protoTime(a.Decided), Leaf: protoRef(a.Leaf), ApprovalId: a.Approval, Nearest: a.Verdict.Nearest,
		Connections: a.Connections,
	}
	if p := a.Permit; p != nil {
		out.PermitId, out.PermitState, out.Delivery = p.id, p.state, cardeav1.Delivery(p.delivery)
		out.RedeemedAt, out.ReturnedAt = protoTime(p.redeemedAt), protoTime(p.returnedAt)
	}
	for _, l := range a.Leases {
		out.Leases = append(out.Leases, protoLease(l))
	}
	for _, r := range a.Actions {
		out.Actions = append(out.Actions, protoReport(r))
	}
	for _, s := range a.Signatures {
		out.Signatures = append(out.Signatures, protoSignature(s))
	}
	return out
}

func protoLease(l LeaseRecord) *cardeav1.LeaseRecord {
	return &cardeav1.LeaseRecord{Id: l.ID, Connection: l.Connection, Provider: l.Provider, State: string(l.State), Promise: string(l.Promise), RunId: l.Run,
		Task: l.Task, Runner: l.Runner, Scopes: l.Scopes, IssuedAt: protoTime(l.IssuedAt), ExpiresAt: protoTime(l.ExpiresAt), EndedAt: protoTime(l.EndedAt),
		RevokeTries: uint32(l.Tries), LastError: l.LastError, Leaf: protoRef(l.Ref), Workflow: l.Workflow, PermitId: l.Permit}
}

func protoSignature(s approval.Signature) *cardeav1.SignatureRecord {
	return &cardeav1.SignatureRecord{Person: s.Person, Key: s.Key, SignedAt: protoTime(s.At), Refused: s.Refuse, Reason: s.Reason}
}

func protoApproval(a Shown) *cardeav1.Approval {
	out := &cardeav1.Approval{Id: a.ID, State: string(a.State), Statement: a.Canonical, AuthoritySignature: a.Signature,
		Quorum: uint32(a.Statement.Rule.Quorum), CreatedAt: protoTime(a.Statement.CreatedAt.Time), ExpiresAt: protoTime(a.Statement.ExpiresAt.Time),
		CanSign: a.Cannot == "", CannotBecause: a.Cannot, Uses: uint32(a.Uses), Attempts: uint32(a.Statement.Attempts), Replaces: a.Replaces, VoidReason: a.Reason}
	for _, s := range a.Judgement.Signatures {
		record := protoSignature(s.Signature)
		if !s.Counts {
			record.Reason = s.Because
		}
		out.Signatures = append(out.Signatures, record)
	}
	for _, d := range a.Differences {
		out.Differences = append(out.Differences, &cardeav1.Difference{Path: d.Path, Before: d.Before, After: d.After})
	}
	return out
}
