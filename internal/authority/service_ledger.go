package authority

import (
	"context"
	"errors"
	"fmt"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/api/cardea/v1/cardeav1connect"
	"cardea/internal/ledger"
)

// LedgerService shows people the record and proves it.
type LedgerService struct{ *Authority }

var _ cardeav1connect.LedgerHandler = LedgerService{}

// reader admits whoever may read everything: the ledger speaks of all processes.
func (s LedgerService) reader(ctx context.Context) error {
	who, err := speaker(ctx)
	if err != nil {
		return err
	}
	return s.rpcError("Ledger", s.requireRead(s.current.Load(), who.Person, "*"))
}

// Checkpoint answers the newest signed checkpoint.
func (s LedgerService) Checkpoint(ctx context.Context, r *cardeav1.CheckpointRequest) (*cardeav1.CheckpointResponse, error) {
	if err := s.reader(ctx); err != nil {
		return nil, err
	}
	if r.GetSettle() {
		if err := s.Ledger.WaitSequenced(ctx); err != nil {
			return nil, s.rpcError("Checkpoint", fmt.Errorf("%w: %w", ErrUnavailable, err))
		}
	}
	signed, _, err := s.Ledger.Checkpoint()
	if err != nil {
		return nil, s.ledgerError("Checkpoint", err)
	}
	count, err := s.Ledger.CountCheckpoints(ctx)
	if err != nil {
		return nil, s.rpcError("Checkpoint", err)
	}
	return &cardeav1.CheckpointResponse{Checkpoint: signed, Checkpoints: uint64(count)}, nil
}

func (s LedgerService) ledgerError(procedure string, err error) error {
	if errors.Is(err, ledger.ErrUnknownLeaf) || errors.Is(err, ledger.ErrEmpty) {
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return s.rpcError(procedure, err)
}

// Entries answers leaves with their payloads, in the order of the tree.
func (s LedgerService) Entries(ctx context.Context, r *cardeav1.EntriesRequest) (*cardeav1.EntriesResponse, error) {
	if err := s.reader(ctx); err != nil {
		return nil, err
	}
	records, size, err := s.Ledger.Entries(ctx, int64(r.GetFrom()), int(r.GetLimit()))
	if err != nil {
		return nil, s.ledgerError("Entries", err)
	}
	out := &cardeav1.EntriesResponse{Size: uint64(size)}
	for _, record := range records {
		out.Entries = append(out.Entries, protoEntry(record))
	}
	return out, nil
}

func protoEntry(r ledger.Record) *cardeav1.Entry {
	return &cardeav1.Entry{Index: uint64(r.Index), Leaf: r.Leaf, Payload: r.Payload, Salt: r.Salt}
}

// Checkpoints answers all signed checkpoints, oldest first.
func (s LedgerService) Checkpoints(ctx context.Context, r *cardeav1.CheckpointsRequest) (*cardeav1.CheckpointsResponse, error) {
	if err := s.reader(ctx); err != nil {
		return nil, err
	}
	signed, err := s.Ledger.Checkpoints(ctx, int64(r.GetFromSize()), int(r.GetLimit()))
	if err != nil {
		return nil, s.ledgerError("Checkpoints", err)
	}
	return &cardeav1.CheckpointsResponse{Checkpoints: signed}, nil
}

// Prove proves that a leaf is under the newest checkpoint and, when asked, that an older tree is a prefix of it.
func (s LedgerService) Prove(ctx context.Context, r *cardeav1.ProveRequest) (*cardeav1.ProveResponse, error) {
	if err := s.reader(ctx); err != nil {
		return nil, err
	}
	var p ledger.Proof
	var err error
	if r.GetByIndex() {
		p, err = s.Ledger.ProveIndex(ctx, int64(r.GetIndex()))
	} else {
		p, err = s.Ledger.Prove(ctx, r.GetLeafId())
	}
	if err != nil {
		return nil, s.ledgerError("Prove", err)
	}
	out := &cardeav1.ProveResponse{Entry: protoEntry(p.Record), Checkpoint: p.Checkpoint}
	for _, h := range p.Inclusion {
		out.Inclusion = append(out.Inclusion, h[:])
	}
	if old := int64(r.GetConsistentWith()); old > 0 {
		tree, err := s.Ledger.ProveConsistency(ctx, old, p.Size)
		if err != nil {
			return nil, s.ledgerError("Prove", err)
		}
		for _, h := range tree {
			out.Consistency = append(out.Consistency, h[:])
		}
	}
	return out, nil
}
