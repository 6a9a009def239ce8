package cli

import (
	"encoding/json"
	"sort"
	"strconv"
	"strings"

	cardeav1 "cardea/api/cardea/v1"
	"cardea/internal/ledger"
)

// EntryLine is one leaf in one line: when, what, about what.
func EntryLine(e *cardeav1.Entry) Line {
	number := Line{{F("#%d", e.GetIndex()), Dim}}.Pad(8)
	leaf, err := ledger.ParseLeaf(e.GetLeaf())
	if err != nil {
		return number.Add(Red, "unreadable leaf: "+Clean(err.Error()))
	}
	kind := Clean(string(leaf.Kind))
	if leaf.Event != "" {
		kind += " " + Clean(leaf.Event)
	}
	l := number.Add(Dim, Stamp(leaf.Time)+"  ").Add(kindStyle(leaf), kind).Pad(54)
	return l.Add(Plain, refsText(leaf.Refs)).Add(Dim, payloadHint(e.GetPayload(), len(e.GetSalt()) == 0))
}

func kindStyle(l ledger.Leaf) Style {
	switch {
	case l.Kind == ledger.KindRefusal, l.Event == "deny", l.Event == "refused":
		return Red
	case l.Kind == ledger.KindQuarantine, l.Event == "pending", l.Event == "voided":
		return Yellow
	}
	return Plain
}

// refsText names what a leaf is about, the most telling first.
func refsText(r ledger.Refs) Safe {
	var parts []Safe
	add := func(word Safe, value string) {
		if value != "" {
			parts = append(parts, word+Clean(value))
		}
	}
	add("", r.Run)
	if r.Task != "" {
		parts = append(parts, Clean(TaskName(r.Task)))
	}
	add("at ", r.Target)
	add("", r.Lease)
	add("", r.Approval)
	add("", r.Leaf)
	if len(parts) == 0 {
		add("", r.Subject)
	}
	var text Safe
	for i, p := range parts {
		if i > 0 {
			text += "  "
		}
		text += p
	}
	return text
}

// payloadHint shows the short values of a payload's first level; the whole stands in ledger show.
func payloadHint(payload []byte, erased bool) Safe {
	if erased {
		return "  (payload erased)"
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(payload, &members) != nil {
		return ""
	}
	names := make([]string, 0, len(members))
	for n := range members {
		names = append(names, n)
	}
	sort.Strings(names)
	var text Safe
	for _, n := range names {
		value := string(members[n])
		if unquoted, err := strconv.Unquote(value); err == nil {
			value = unquoted
		}
		if len(value) > 40 || strings.ContainsAny(value, "{[") || value == "" || value == "null" {
			continue
		}
		text += "  " + Clean(n) + "=" + Clean(value)
		if text.Width() > 100 {
			break
		}
	}
	return text
}

// EntryLines is one leaf in full.
func EntryLines(e *cardeav1.Entry) []Line {
	lines := []Line{EntryLine(e), {}, {{"leaf", Bold}}}
	lines = append(lines, Indent(2, BodyLines(e.GetLeaf()))...)
	lines = append(lines, Line{}, Line{{"payload", Bold}})
	if len(e.GetSalt()) == 0 {
		return append(lines, L("  erased; the leaf keeps its salted digest"))
	}
	return append(lines, Indent(2, BodyLines(e.GetPayload()))...)
}

// ReportLine is a verification's outcome in one line.
func ReportLine(r ledger.Report) Line {
	if r.Problem != nil {
		return Line{{"✘ ", Red}, {Text: Clean(r.Sentence())}}
	}
	return Line{{"✔ ", Green}, {Text: Clean(r.Sentence())}}
}

// reportJSON is a verification's outcome for scripts.
type reportJSON struct {
	OK          bool                  `json:"ok"`
	Sentence    string                `json:"sentence"`
	Origin      string                `json:"origin"`
	Leaves      int64                 `json:"leaves"`
	Checkpoints int64                 `json:"checkpoints"`
	Root        string                `json:"root"`
	Erased      int64                 `json:"erased"`
	Dev         int64                 `json:"dev"`
	ByKind      map[ledger.Kind]int64 `json:"by_kind"`
	// Problem is null when everything holds.
	Problem *problemJSON `json:"problem"`
}

type problemJSON struct {
	Index int64  `json:"index"`
	Fault string `json:"fault"`
}

// ReportDocument is a verification's outcome as a JSON document.
func ReportDocument(r ledger.Report) any {
	d := reportJSON{
		OK: r.Problem == nil, Sentence: r.Sentence(), Origin: r.Origin, Leaves: r.Leaves, Checkpoints: r.Checkpoints,
		Root: r.Root.String(), Erased: r.Erased, Dev: r.Dev, ByKind: r.ByKind,
	}
	if r.Problem != nil {
		d.Problem = &problemJSON{r.Problem.Index, string(r.Problem.Fault)}
	}
	return d
}
