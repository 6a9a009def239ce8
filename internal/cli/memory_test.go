package cli

import (
	"testing"

	"cardea/internal/cli/clitest"
	"cardea/internal/profile"
)

func TestTheMemoryNeverFalls(t *testing.T) {
	h := clitest.Start(t)
	p, err := profile.Load(h.Profile)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuditor(p.CheckpointKey, h.Folder)
	if err != nil {
		t.Fatal(err)
	}
	record := clitest.NewRecord(t, h, h.LedgerKey)
	var notes [][]byte
	for range 2 {
		record.Append("leaf")
		signed, _, err := record.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		notes = append(notes, signed)
	}
	for _, n := range [][]byte{notes[1], notes[0]} { // two commands at once may end in this order
		if err := a.remember(n); err != nil {
			t.Fatal(err)
		}
	}
	if _, seen, err := a.Seen(); err != nil || seen.Size != 2 {
		t.Fatalf("remembers %d leaves, %v", seen.Size, err)
	}
	if err := a.remember([]byte("not a checkpoint")); err == nil {
		t.Fatal("remembered what does not verify")
	}
}
