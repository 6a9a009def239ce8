package crash_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"time"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/cli"
	"cardea/internal/ledger"
)

// indexed is a leaf and its place.
type indexed struct {
	ledger.Leaf
	index   int64
	payload []byte
}

// leaves verifies the whole ledger twice, against the hub with what was seen before in mind, and offline from the export, and
// returns it.
func (h *hub) leaves() []indexed {
	h.t.Helper()
	var export bytes.Buffer
	auditor, err := cli.NewAuditor(h.keys.CheckpointKey, filepath.Join(h.dir, "hub"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.insist("verify the ledger", func(ctx context.Context) error {
		export.Reset()
		w := ledger.NewExportWriter(&export, auditor.Origin())
		report, err := auditor.Verify(ctx, h.ana.Ledger, func(uint64, uint64) {}, w)
		if err == nil && report.Problem != nil {
			err = report.Err()
		}
		if err != nil {
			return err
		}
		return w.Close()
	})
	if _, err := ledger.VerifyExport(bytes.NewReader(export.Bytes()), h.keys.CheckpointKey); err != nil {
		h.t.Errorf("the ledger does not verify offline: %v", err)
	}
	return h.parse(export.Bytes())
}

func (h *hub) parse(export []byte) []indexed {
	h.t.Helper()
	var all []indexed
	lines := bufio.NewScanner(bytes.NewReader(export))
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		var line struct {
			Leaf *struct {
				Index   int64
				Text    string
				Payload []byte
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			h.t.Fatal(err)
		}
		if line.Leaf == nil {
			continue
		}
		leaf, err := ledger.ParseLeaf([]byte(line.Leaf.Text))
		if err != nil {
			h.t.Fatal(err)
		}
		all = append(all, indexed{leaf, line.Leaf.Index, line.Leaf.Payload})
	}
	return all
}

// checkLedger demands for each request that the target took an earlier issuance of exactly its credential, and before that the
// verdict that allowed it (invariants 2 and 6); that the target saw no credential that was not issued (20); and a closure for each
// run that was opened.
func (h *hub) checkLedger() {
	h.t.Helper()
	issued, byID := map[string]indexed{}, map[string]indexed{}
	open := map[string]bool{}
	for _, l := range h.leaves() {
		byID[l.ID] = l
		switch l.Kind {
		case ledger.KindIssuance:
			if _, twice := issued[l.Refs.Lease]; twice {
				h.t.Errorf("lease %s was issued twice", l.Refs.Lease)
			}
			issued[l.Refs.Lease] = l
		case ledger.KindStart:
			open[l.Refs.Run] = true
		case ledger.KindClosure:
			if !open[l.Refs.Run] {
				h.t.Errorf("run %s was closed twice, or never opened", l.Refs.Run)
			}
			delete(open, l.Refs.Run)
		}
	}
	for run := range open {
		h.t.Errorf("run %s was opened and has no closure", run)
	}
	for _, a := range h.target.Arrivals() {
		l, ok := issued[a.Lease]
		switch v := byID[l.Refs.Verdict]; {
		case !ok:
			h.t.Errorf("the target took lease %s, which the ledger does not know", a.Lease)
		case l.Refs.Permit != a.Permit || l.Refs.Run != a.Run || l.Refs.Subject != a.Subject || l.Refs.Target != "target":
			h.t.Errorf("lease %s was issued as %+v and used as %+v", a.Lease, l.Refs, a)
		case l.Time.After(a.At):
			h.t.Errorf("lease %s was recorded at %s, after its use at %s", a.Lease, l.Time, a.At)
		case v.Kind != ledger.KindVerdict || v.Event != "allow" || v.index >= l.index || v.Refs.Run != a.Run:
			h.t.Errorf("lease %s names verdict %q, which is no earlier allow of its run", a.Lease, l.Refs.Verdict)
		}
	}
	for _, why := range h.target.Refused() {
		h.t.Errorf("the target refused a request: %s", why)
	}
}

// checkLeases waits until nothing lives, and demands that every lease has ended (invariant 4).
func (h *hub) checkLeases() {
	h.t.Helper()
	h.until("all leases to end", func() bool {
		live := 1
		h.insist("list leases", func(ctx context.Context) error {
			answer, err := h.ana.Control.ListLeases(ctx, &cardeav1.ListLeasesRequest{Live: true, Limit: 1000})
			live = len(answer.GetLeases())
			for _, l := range answer.GetLeases() {
				if late := time.Since(l.GetExpiresAt().AsTime()); late > patience/2 {
					h.t.Errorf("lease %s lives %s beyond its end", l.GetId(), late)
				}
			}
			return err
		})
		return live == 0 || h.t.Failed()
	})
	issued, over := map[string]bool{}, map[string]bool{}
	for _, l := range h.leaves() {
		switch l.Kind {
		case ledger.KindIssuance:
			issued[l.Refs.Lease] = true
		case ledger.KindLeaseEnd:
			over[l.Refs.Lease] = true
		}
	}
	for lease := range issued {
		if !over[lease] {
			h.t.Errorf("lease %s does not live and its end is not recorded", lease)
		}
	}
}
