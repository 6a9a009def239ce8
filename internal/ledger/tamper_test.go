package ledger

import (
	"fmt"
	"strings"
	"testing"

	"cardea/internal/store"
)

// TestOpenRefusesATamperedStore edits the database between two starts.
func TestOpenRefusesATamperedStore(t *testing.T) {
	cases := map[string][]string{
		"leaf edited":            {`UPDATE ledger_leaf SET leaf = replace(leaf, 'bank', 'tank') WHERE idx = 298`},
		"newest leaf removed":    {`DELETE FROM ledger_leaf WHERE idx = 299`},
		"middle leaf removed":    {`DELETE FROM ledger_leaf WHERE idx = 270`},
		"leaf moved":             {`UPDATE ledger_leaf SET idx = 999 WHERE idx = 299`},
		"tile edited":            {`UPDATE ledger_tile SET hashes = CAST(substr(hashes, 1, 32) || zeroblob(32) || substr(hashes, 65) AS BLOB)`},
		"upper tile edited":      {`UPDATE ledger_tile SET hashes = zeroblob(32) WHERE level = 1`},
		"upper tile removed":     {`DELETE FROM ledger_tile WHERE level = 1`},
		"tile cut":               {`UPDATE ledger_tile SET hashes = substr(hashes, 1, 64)`},
		"tile removed":           {`DELETE FROM ledger_tile`},
		"checkpoint removed":     {`DELETE FROM ledger_checkpoint WHERE size = (SELECT max(size) FROM ledger_checkpoint)`},
		"all checkpoints":        {`DELETE FROM ledger_checkpoint`},
		"checkpoint relabelled":  {`UPDATE ledger_checkpoint SET size = 301 WHERE size = 300`},
		"checkpoint edited":      {`UPDATE ledger_checkpoint SET note = replace(note, char(10) || '300' || char(10), char(10) || '299' || char(10)) WHERE size = 300`},
		"everything but a stub":  {`DELETE FROM ledger_leaf`, `DELETE FROM ledger_tile`},
		"leaf index taken away":  {`UPDATE ledger_leaf SET idx = NULL WHERE idx = 299`},
		"index of two exchanged": {`UPDATE ledger_leaf SET idx = 2000 WHERE idx = 297`, `UPDATE ledger_leaf SET idx = 297 WHERE idx = 298`, `UPDATE ledger_leaf SET idx = 298 WHERE idx = 2000`},
	}
	for name, edits := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			for _, n := range []int{1, 13, 286} {
				f.append(testEntries(n)...)
				f.sequenceNow()
			}
			if _, err := Open(t.Context(), f.config); err != nil {
				t.Fatalf("the intact ledger was refused: %v", err)
			}
			f.execute(edits...)
			if _, err := Open(t.Context(), f.config); err == nil {
				t.Error("the ledger was opened")
			}
		})
	}
}

func (f *fixture) execute(sql ...string) {
	f.t.Helper()
	err := f.db.Commit(f.t.Context(), func(tx store.Tx) error {
		for _, q := range sql {
			if n, err := tx.Exec(q); err != nil || n == 0 {
				return fmt.Errorf("%s: %d rows: %w", q, n, err)
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// TestVerifyFindsWhatOpenDoesNot: an old leaf is not rehashed at start; verification and proofs do it.
func TestVerifyFindsWhatOpenDoesNot(t *testing.T) {
	f := newFixture(t, nil)
	f.append(testEntries(600)...)
	f.sequenceNow()
	if r, err := f.Verify(t.Context()); err != nil || r.Err() != nil || r.Leaves != 600 {
		t.Fatalf("%+v %v", r, err)
	}
	f.execute(`UPDATE ledger_leaf SET leaf = replace(leaf, 'bank', 'tank') WHERE idx = 100`)
	l, err := Open(t.Context(), f.config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Verify(t.Context())
	if err != nil || r.Problem == nil || r.Problem.Index != 100 || r.Problem.Fault != Changed {
		t.Errorf("%+v %v", r.Problem, err)
	}
	if _, err := l.ProveIndex(t.Context(), 100); err == nil {
		t.Error("a changed leaf was proved")
	}
	if _, err := l.ProveIndex(t.Context(), 101); err != nil {
		t.Error(err)
	}
	f.execute(`UPDATE ledger_tile SET hashes = CAST(zeroblob(32) || substr(hashes, 33) AS BLOB) WHERE level = 0 AND n = 0`)
	if _, err := l.ProveIndex(t.Context(), 101); err == nil {
		t.Error("a proof was made from a tile that was changed")
	}
}

// TestSequencerRefusesAForkBeneathIt: another process, or an editor, that advances the stored ledger stops this one.
func TestSequencerRefusesAForkBeneathIt(t *testing.T) {
	f := newFixture(t, nil)
	f.append(testEntry(0))
	f.sequenceNow()
	stale, err := Open(t.Context(), f.config)
	if err != nil {
		t.Fatal(err)
	}
	f.append(testEntry(1))
	f.sequenceNow()
	f.append(testEntry(2))
	if _, err := stale.sequence(t.Context()); err == nil || !strings.Contains(err.Error(), "no longer ends at the 1 leaves") {
		t.Errorf("a stale sequencer was answered with %v", err)
	}
	f.sequenceNow()
	if r, err := f.Verify(t.Context()); err != nil || r.Err() != nil {
		t.Errorf("%v %v", r.Sentence(), err)
	}
}
