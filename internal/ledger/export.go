package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/store"
)

// An export is JSON lines: a head, then every leaf in its order, each checkpoint right after the last leaf that it covers. Every line
// has exactly the bytes that this package would write, so that no other reader of it sees another ledger.
type exportLine struct {
	Head       *exportHead `json:"cardea_ledger,omitempty"`
	Leaf       *exportLeaf `json:"leaf,omitempty"`
	Checkpoint string      `json:"checkpoint,omitempty"`
}

type exportHead struct {
	Version int    `json:"v"`
	Origin  string `json:"origin"`
}

type exportLeaf struct {
	Index int64  `json:"index"`
	Text  string `json:"text"` // the canonical bytes, which are UTF-8
	// Salt and Payload are absent once erased, base64 otherwise; an empty payload is "".
	Salt    []byte     `json:"salt,omitempty"`
	Payload *[]byte    `json:"payload,omitempty"`
	Hash    *tlog.Hash `json:"hash,omitempty"` // as it stands in the tree; evidence of which leaf was changed, if one was
}

var errNoExport = errors.New("not a ledger export")

// maxExportLine is a payload in base64, a leaf whose every byte is escaped, and room.
const maxExportLine = MaxPayload/3*4 + 6*MaxLeaf + 4<<10

// ExportWriter writes an export. Its methods mirror Verifier's.
type ExportWriter struct {
	w   *bufio.Writer
	err error
}

// NewExportWriter begins an export of the ledger called origin.
func NewExportWriter(w io.Writer, origin string) *ExportWriter {
	e := &ExportWriter{w: bufio.NewWriter(w)}
	e.line(exportLine{Head: &exportHead{Version: 1, Origin: origin}})
	return e
}

func (e *ExportWriter) line(l exportLine) {
	if e.err != nil {
		return
	}
	var b []byte
	if b, e.err = encodeLine(l); e.err == nil {
		_, e.err = e.w.Write(b)
	}
}

func encodeLine(l exportLine) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b) // ends the line
	enc.SetEscapeHTML(false)
	err := enc.Encode(l)
	return b.Bytes(), err
}

// Leaf writes the next record; hash is its hash in the tree, when known.
func (e *ExportWriter) Leaf(r Record, hash *tlog.Hash) {
	l := &exportLeaf{Index: r.Index, Text: string(r.Leaf), Hash: hash}
	if !r.Erased() {
		payload := r.Payload
		if payload == nil {
			payload = []byte{}
		}
		l.Salt, l.Payload = r.Salt, &payload
	}
	e.line(exportLine{Leaf: l})
}

// Checkpoint writes a signed checkpoint.
func (e *ExportWriter) Checkpoint(signed []byte) { e.line(exportLine{Checkpoint: string(signed)}) }

// Close flushes and answers the first error.
func (e *ExportWriter) Close() error {
	if e.err != nil {
		return e.err
	}
	return e.w.Flush()
}

// sink is what walk feeds: a Verifier or an ExportWriter.
type sink interface {
	Leaf(Record, *tlog.Hash)
	Checkpoint([]byte)
}

// Export writes everything that is signed, in one snapshot.
func (l *Ledger) Export(ctx context.Context, w io.Writer) error {
	e := NewExportWriter(w, l.config.Verifier.Name())
	if err := l.walk(ctx, e); err != nil {
		return fmt.Errorf("export ledger: %w", err)
	}
	return e.Close()
}

// Verify recomputes everything that is stored. The answer's Problem is the first thing that does not hold; an error means that the
// verification itself could not be done.
func (l *Ledger) Verify(ctx context.Context) (Report, error) {
	v := newVerifier(l.config.Verifier)
	if err := l.walk(ctx, v); err != nil {
		return Report{}, fmt.Errorf("verify ledger: %w", err)
	}
	return v.Finish(), nil
}

// walk holds one snapshot to the end: an erasure in between would take a payload whose record has gone out already.
func (l *Ledger) walk(ctx context.Context, s sink) error {
	return l.config.DB.View(ctx, func(tx store.Tx) error {
		from := int64(0)
		for {
			rows, err := readCheckpoints(tx, from)
			if err != nil || len(rows) == 0 {
				return err
			}
			for _, c := range rows {
				if err := walkTo(tx, from, c.size, s); err != nil {
					return err
				}
				s.Checkpoint(c.note)
				from = c.size
			}
		}
	})
}

type checkpointRow struct {
	size int64
	note []byte
}

func readCheckpoints(tx store.Tx, after int64) ([]checkpointRow, error) {
	rows, err := tx.Query(`SELECT size, note FROM ledger_checkpoint WHERE size > $1 ORDER BY size LIMIT 256`, after)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []checkpointRow
	for rows.Next() {
		var c checkpointRow
		if err := rows.Scan(&c.size, &c.note); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

// walkTo feeds the leaves from an index up to a size. Holes are fed as they are: the sink says what is missing.
func walkTo(tx store.Tx, from, to int64, s sink) error {
	for from < to {
		tile, err := readTile(tx, tileID{0, from / tileWidth})
		if err != nil {
			tile = nil // a missing tile costs the exact index of a change, not its discovery
		}
		end := min(to, (from/tileWidth+1)*tileWidth)
		for from < end {
			records, err := readRecords(tx, from, end, tileWidth)
			if err != nil {
				return err
			}
			for _, r := range records {
				s.Leaf(r, hashAt(tile, r.Index%tileWidth))
				from = r.Index + 1
			}
			if len(records) == 0 {
				from = end
			}
		}
	}
	return nil
}

func hashAt(tile []byte, i int64) *tlog.Hash {
	if int64(len(tile)) < (i+1)*tlog.HashSize {
		return nil
	}
	h := tlog.Hash(tile[i*tlog.HashSize:][:tlog.HashSize])
	return &h
}

// VerifyExport verifies an export with nothing but the ledger's verifier key and, if there are some, checkpoints held from elsewhere.
// The error is the report's Problem, or says why the export could not be read.
func VerifyExport(r io.Reader, key string, seen ...[]byte) (Report, error) {
	v, err := NewVerifier(key, seen...)
	if err != nil {
		return Report{}, err
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxExportLine)
	n := 0
	for ; v.report.Problem == nil && lines.Scan(); n++ {
		if err := v.line(lines.Bytes(), n == 0); err != nil {
			v.fault(v.report.Leaves, Unreadable, "line %d, after %d leaves: %v", n+1, v.report.Leaves, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		v.fault(v.report.Leaves, Unreadable, "line %d, after %d leaves: longer than %d bytes", n+1, v.report.Leaves, maxExportLine)
	case err != nil:
		return Report{}, fmt.Errorf("read ledger export: %w", err)
	case n == 0:
		v.fault(0, Unreadable, "%v: it is empty", errNoExport)
	}
	report := v.Finish()
	return report, report.Err()
}

func (v *Verifier) line(b []byte, first bool) error {
	var l exportLine
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return err
	}
	again, err := encodeLine(l)
	if err != nil {
		return err
	}
	if !bytes.Equal(bytes.TrimSuffix(again, []byte("\n")), b) {
		return errors.New("not in the form that exports are written in")
	}
	switch {
	case first != (l.Head != nil), l.Head != nil && (l.Leaf != nil || l.Checkpoint != ""), (l.Leaf != nil) == (l.Checkpoint != "") && l.Head == nil:
		return errNoExport
	case l.Head != nil:
		return v.head(*l.Head)
	case l.Leaf != nil:
		return v.exported(*l.Leaf)
	}
	v.Checkpoint([]byte(l.Checkpoint))
	return nil
}

func (v *Verifier) head(h exportHead) error {
	if h.Version != 1 {
		return fmt.Errorf("export version %d is not known to this build", h.Version)
	}
	if h.Origin != v.key.Name() {
		return fmt.Errorf("this is an export of ledger %q, and the key is of %q", h.Origin, v.key.Name())
	}
	return nil
}

func (v *Verifier) exported(l exportLeaf) error {
	r := Record{Index: l.Index, Leaf: []byte(l.Text)}
	if (len(l.Salt) == 0) != (l.Payload == nil) {
		return errors.New("salt and payload must be there together or not at all")
	}
	if l.Payload != nil {
		r.Salt, r.Payload = l.Salt, *l.Payload
	}
	v.Leaf(r, l.Hash)
	return nil
}
