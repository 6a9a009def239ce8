package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
)

func (a *app) ledgerCommand() *cobra.Command {
	return noun(groupProof, "ledger", "The record of everything, and its proofs", a.ledgerTailCommand())
}

// tailEvery is how often a followed ledger is asked for more.
const tailEvery = time.Second

func (a *app) ledgerTailCommand() *cobra.Command {
	var count uint32
	var follow bool
	c := &cobra.Command{Use: "tail", Short: "The newest leaves", Args: exactly()}
	c.Flags().Uint32VarP(&count, "lines", "n", 20, "so many leaves, up to 1000")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new ones until Ctrl-C; with -o json, one document per line")
	return a.hubCommand(c, 0, func(ctx context.Context, h *hub, _ []string) error {
		head, err := h.entries(ctx, 0, 1)
		if err != nil {
			return err
		}
		from := head.GetSize() - min(head.GetSize(), uint64(count))
		if !follow {
			return h.printTail(ctx, from, head.GetSize())
		}
		for {
			next, err := h.printNew(ctx, from)
			if err != nil {
				return err
			}
			if next > from {
				from = next
				continue
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(tailEvery):
			}
		}
	})
}

// entries asks for leaves within the time of one call.
func (h *hub) entries(ctx context.Context, from uint64, limit uint32) (*cardeav1.EntriesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return h.Ledger.Entries(ctx, &cardeav1.EntriesRequest{From: from, Limit: limit})
}

func (h *hub) printTail(ctx context.Context, from, size uint64) error {
	all := &cardeav1.EntriesResponse{Size: size}
	for from < size {
		answer, err := h.entries(ctx, from, uint32(min(size-from, 1000)))
		if err != nil {
			return err
		}
		if len(answer.GetEntries()) == 0 {
			return cli.Fail(cli.Internal, "cardea ledger verify", "the hub says that the ledger has %d leaves, and does not show leaf %d", size, from)
		}
		all.Entries = append(all.Entries, answer.GetEntries()...)
		from += uint64(len(answer.GetEntries()))
	}
	return h.show(all, func() []cli.Line {
		lines := make([]cli.Line, len(all.GetEntries()))
		for i, e := range all.GetEntries() {
			lines[i] = cli.EntryLine(e)
		}
		return lines
	})
}

// printNew prints what follows from, and answers where the next leaf will be.
func (h *hub) printNew(ctx context.Context, from uint64) (uint64, error) {
	answer, err := h.entries(ctx, from, 1000)
	if err != nil {
		if ctx.Err() != nil {
			return from, nil
		}
		return from, err
	}
	for _, e := range answer.GetEntries() {
		if h.json() {
			err = cli.WriteMessageLine(h.app.out, e)
		} else {
			err = h.out.Print(cli.EntryLine(e))
		}
		if err != nil {
			return from, err
		}
		from = e.GetIndex() + 1
	}
	return from, nil
}
