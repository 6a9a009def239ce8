package approval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// maxDifferences bounds a list that people are to read; its last entry says that there are more.
	maxDifferences = 200
	maxValue       = 300
	maxDiffDepth   = 64
)

// Difference is one place where two statements disagree. Before and After are JSON, so that "1" and 1 stay apart; empty
// where the place does not exist.
type Difference struct {
	// Path is a JSON pointer, such as /action/http/body/amount; with several actions /actions/3/http/body/amount.
	Path          string
	Before, After string
}

// Diff tells what changed from one statement to the one that replaces it, in the order of the paths. Bodies that hold JSON are
// compared member by member. What always differs (id, nonce, times, replaces, digests that follow from content) is left out.
// Every difference in meaning is told; one in spelling alone, such as the order of members, when there is no other.
func Diff(before, after *Statement) []Difference {
	d := &differ{}
	d.compare("", d.tree(before), d.tree(after), 0)
	d.actions(before.Actions, after.Actions)
	slices.SortStableFunc(d.found, func(a, b Difference) int { return strings.Compare(a.Path, b.Path) })
	if n := len(d.found); n > maxDifferences {
		d.found = append(d.found[:maxDifferences], Difference{Path: "", After: fmt.Sprintf("and %d more differences", n-maxDifferences)})
	}
	return d.found
}

type differ struct{ found []Difference }

// tree is a statement as JSON, without its actions and without what always differs.
func (d *differ) tree(s *Statement) any {
	c := *s
	c.Actions = nil
	raw, err := json.Marshal(&c)
	if err != nil {
		return fmt.Sprintf("unreadable: %v", err) // never for a decoded statement; told rather than hidden
	}
	t, _ := parseJSON(raw)
	m, _ := t.(map[string]any)
	for _, always := range []string{"id", "nonce", "createdAt", "expiresAt", "replaces"} {
		delete(m, always)
	}
	plan, _ := m["plan"].(map[string]any)
	changes, _ := plan["changes"].([]any)
	for _, c := range changes {
		if c, ok := c.(map[string]any); ok && c["kind"] != kindPolicy {
			unfold(c, "before")
			unfold(c, "after")
		}
	}
	return m
}

// unfold puts the tree in the place of a text that is JSON with one reading.
func unfold(m map[string]any, key string) {
	text, ok := m[key].(string)
	if !ok {
		return
	}
	// A replacement character may stand for different broken escapes, which would then look equal: compare the text.
	if tree, ok := parseJSON([]byte(text)); ok && !strings.ContainsRune(show(tree), utf8.RuneError) {
		m[key] = tree
	}
}

func (d *differ) actions(before, after []Action) {
	for i := range max(len(before), len(after)) {
		at := fmt.Sprintf("/actions/%d", i)
		if len(before) <= 1 && len(after) <= 1 {
			at = "/action"
		}
		switch {
		case i >= len(before):
			d.note(at, "", show(actionTree(after[i])))
			continue
		case i >= len(after):
			d.note(at, show(actionTree(before[i])), "")
			continue
		}
		n := len(d.found)
		d.compare(at, actionTree(before[i]), actionTree(after[i]), 0)
		if len(d.found) == n && before[i].Digest != after[i].Digest {
			d.add(at+"/http/body", rawBody(before[i]), rawBody(after[i]))
		}
	}
}

// actionTree is an action as JSON with its headers by name and, where the body is JSON that has one reading, the body
// as a tree. It ends in the idempotency key, so that the same request under another key is told as well.
func actionTree(a Action) any {
	t, ok := parseJSON(a.Action)
	m, isMap := t.(map[string]any)
	if !ok || !isMap {
		return string(a.Action)
	}
	delete(m, "v")
	m["idempotencyKey"] = a.IdempotencyKey
	h, ok := m["http"].(map[string]any)
	if !ok {
		return m
	}
	headers := map[string]any{}
	list, _ := h["headers"].([]any)
	for _, pair := range list {
		if p, ok := pair.([]any); ok && len(p) == 2 {
			headers[fmt.Sprint(p[0])] = p[1]
		}
	}
	h["headers"] = headers
	if h["encoding"] == "text" {
		unfold(h, "body")
	}
	return m
}

func rawBody(a Action) any {
	t, _ := parseJSON(a.Action)
	m, _ := t.(map[string]any)
	h, _ := m["http"].(map[string]any)
	return h["body"]
}

func (d *differ) compare(at string, a, b any, depth int) {
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	if aok && bok && depth < maxDiffDepth {
		keys := slices.Collect(maps.Keys(am))
		for k := range bm {
			if _, both := am[k]; !both {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			d.compareMember(at+"/"+escape(k), am, bm, k, depth)
		}
		return
	}
	al, aok := a.([]any)
	bl, bok := b.([]any)
	if aok && bok && depth < maxDiffDepth {
		for i := range max(len(al), len(bl)) {
			next := fmt.Sprintf("%s/%d", at, i)
			switch {
			case i >= len(al):
				d.note(next, "", show(bl[i]))
			case i >= len(bl):
				d.note(next, show(al[i]), "")
			default:
				d.compare(next, al[i], bl[i], depth+1)
			}
		}
		return
	}
	d.add(at, a, b)
}

func (d *differ) compareMember(at string, am, bm map[string]any, key string, depth int) {
	a, ina := am[key]
	b, inb := bm[key]
	switch {
	case !ina:
		d.note(at, "", show(b))
	case !inb:
		d.note(at, show(a), "")
	default:
		d.compare(at, a, b, depth+1)
	}
}

// add notes two values that are not both maps or both lists, if they differ.
func (d *differ) add(at string, a, b any) {
	before, after := show(a), show(b)
	if before == after {
		return
	}
	d.note(at, before, after)
}

func (d *differ) note(at, before, after string) {
	before, after = around(before, after)
	d.found = append(d.found, Difference{Path: at, Before: before, After: after})
}

// show writes a value as JSON.
func show(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprintf("unreadable: %v", err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// around cuts two long values down to where they differ: a change must not hide behind a long beginning.
func around(a, b string) (string, string) {
	if len(a) <= maxValue && len(b) <= maxValue {
		return a, b
	}
	same := 0
	for same < len(a) && same < len(b) && a[same] == b[same] {
		same++
	}
	from := max(0, same-40)
	for from > 0 && !utf8.RuneStart(a[from]) {
		from--
	}
	cut := func(s string) string {
		if s == "" {
			return s
		}
		from := min(from, len(s))
		out := s[from:]
		if len(out) > maxValue {
			out = strings.ToValidUTF8(out[:maxValue], "") + fmt.Sprintf("… (%d bytes)", len(s))
		}
		if from > 0 {
			out = "…" + out
		}
		return out
	}
	return cut(a), cut(b)
}

func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// parseJSON reads JSON that has exactly one reading: numbers as they are written, no double keys, nothing after it.
func parseJSON(raw []byte) (any, bool) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	v, err := readValue(dec, 0)
	if err != nil {
		return nil, false
	}
	_, err = dec.Token()
	return v, err == io.EOF
}

func readValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDiffDepth {
		return nil, fmt.Errorf("deeper than %d", maxDiffDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		m := map[string]any{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			name, ok := key.(string)
			if _, double := m[name]; double || !ok {
				return nil, fmt.Errorf("key %q stands twice", name)
			}
			if m[name], err = readValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = dec.Token()
		return m, err
	case json.Delim('['):
		l := []any{}
		for dec.More() {
			v, err := readValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err = dec.Token()
		return l, err
	}
	return t, nil
}
