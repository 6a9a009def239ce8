package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
	"cardea/internal/ledger"
)

func (a *app) ledgerCommand() *cobra.Command {
	return noun(groupProof, "ledger", "The record of everything, and its proofs",
		a.ledgerTailCommand(), a.ledgerShowCommand(), a.ledgerVerifyCommand(), a.ledgerExportCommand())
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
		return h.out.Fit(lines)
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
			err = h.out.Print(h.out.Fit([]cli.Line{cli.EntryLine(e)})...)
		}
		if err != nil {
			return from, err
		}
		from = e.GetIndex() + 1
	}
	return from, nil
}

func (a *app) ledgerShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show LEAF", Short: "One leaf in full, with its proof checked here", Args: exactly("LEAF"),
		Long: "Shows a leaf by its id (lf_…) or its index (#42 or 42), after checking that it is under a checkpoint signed with the key in your\n" +
			"profile, that this checkpoint extends the highest one that you have seen, and that the payload is the one recorded.",
	}
	return a.hubCommand(c, callTimeout, func(ctx context.Context, h *hub, args []string) error {
		auditor, err := h.auditor()
		if err != nil {
			return err
		}
		request := &cardeav1.ProveRequest{LeafId: args[0]}
		if !strings.HasPrefix(args[0], "lf_") {
			index, err := strconv.ParseUint(strings.TrimPrefix(args[0], "#"), 10, 63)
			if err != nil {
				return cli.Fail(cli.Usage, "give lf_… or a number", "%s is neither a leaf's id nor an index", args[0])
			}
			request = &cardeav1.ProveRequest{Index: index, ByIndex: true}
		}
		p, err := auditor.Prove(ctx, h.Ledger, request)
		if err != nil {
			return err
		}
		return h.show(p.Entry, func() []cli.Line {
			proved := cli.F("✔ leaf %d of %d, under a checkpoint signed by %s", p.Entry.GetIndex(), p.Checkpoint.Size, p.Checkpoint.Origin)
			return append(cli.EntryLines(p.Entry), cli.Line{}, cli.Line{}.Add(cli.Green, proved))
		})
	})
}

// auditor checks with the key that the profile pins and remembers beside the profile.
func (h *hub) auditor() (*cli.Auditor, error) {
	return cli.NewAuditor(h.profile.CheckpointKey, filepath.Dir(h.path))
}

func (a *app) ledgerVerifyCommand() *cobra.Command {
	var file, key string
	c := &cobra.Command{
		Use: "verify", Short: "Check the whole ledger: nothing changed, removed, rolled back or forked", Args: exactly(),
		Long: "Fetches the ledger, or reads an export, and checks every leaf, payload and checkpoint here, with the key that your profile pins\n" +
			"or --key names. The highest checkpoint that held is remembered beside the profile, and a hub that shows less is refused.",
		Example: "  cardea ledger verify\n  cardea ledger export > ledger.jsonl && cardea ledger verify --file ledger.jsonl --key cardea.local/ledger+…",
	}
	c.Flags().StringVar(&file, "file", "", "check this export (- is standard input) and ask no hub")
	c.Flags().StringVar(&key, "key", "", "the ledger's verifier key, with --file; no profile is needed then")
	ask := a.hubCommand(c, 0, func(ctx context.Context, h *hub, _ []string) error {
		auditor, err := h.auditor()
		if err != nil {
			return err
		}
		if file != "" {
			return a.verifyFile(file, h.profile.CheckpointKey, auditor)
		}
		report, err := auditor.Verify(ctx, h.Ledger, h.fetching())
		if err != nil {
			return err
		}
		return a.printReport(report)
	})
	withHub := ask.RunE
	ask.RunE = func(c *cobra.Command, args []string) error {
		if err := a.checkFormat(); err != nil {
			return err
		}
		switch {
		case key == "":
			return withHub(c, args)
		case file == "":
			return cli.Fail(cli.Usage, "give --file too, or neither", "--key is for exports; a hub's ledger is checked with the key in the profile")
		}
		return a.verifyFile(file, key, nil)
	}
	return ask
}

// verifyFile checks an export. With an auditor, it must also contain what that one has seen.
func (a *app) verifyFile(file, key string, auditor *cli.Auditor) error {
	var from io.Reader = a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return cli.Fail(cli.Usage, "", "%s", err.Error()).Because(err)
		}
		defer f.Close()
		from = f
	}
	var seen [][]byte
	if auditor != nil {
		text, _, err := auditor.Seen()
		if err != nil {
			return err
		}
		if text != nil {
			seen = append(seen, text)
		}
	}
	report, err := ledger.VerifyExport(from, key, seen...)
	var broken *ledger.Problem
	if err != nil && !errors.As(err, &broken) {
		return cli.Fail(cli.Usage, "", "%s", err.Error()).Because(err)
	}
	return a.printReport(report)
}

func (a *app) printReport(r ledger.Report) error {
	if a.format == formatJSON {
		if err := cli.WriteJSON(a.out, cli.ReportDocument(r)); err != nil {
			return err
		}
	} else if err := cli.NewOut(a.out, a.env).Print(cli.ReportLine(r)); err != nil {
		return err
	}
	if r.Problem != nil {
		return cli.Quiet(cli.Failed)
	}
	return nil
}

// fetching draws how far a long fetch is, for people at a terminal.
func (h *hub) fetching() func(done, size uint64) {
	screen := cli.NewOut(h.app.err, h.app.env)
	return func(done, size uint64) { screen.Meter("fetching leaves", done, size) }
}

func (a *app) ledgerExportCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "export", Short: "The whole ledger as JSON lines, checked on the way, for cardea ledger verify --file", Args: exactly(),
		Example: "  cardea ledger export > ledger.jsonl",
	}
	ask := a.hubCommand(c, 0, func(ctx context.Context, h *hub, _ []string) error {
		auditor, err := h.auditor()
		if err != nil {
			return err
		}
		export := ledger.NewExportWriter(a.out, auditor.Origin())
		report, err := auditor.Verify(ctx, h.Ledger, func(uint64, uint64) {}, export)
		if err = errors.Join(err, export.Close()); err != nil {
			return err
		}
		if report.Problem != nil {
			return cli.Fail(cli.Failed, "the export is complete, and shows the same", "%s", report.Sentence())
		}
		return nil
	})
	ask.Flags().Lookup("output").Hidden = true // an export has one form
	return ask
}
