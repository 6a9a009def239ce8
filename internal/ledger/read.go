package ledger

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/store"
)

// Record is a leaf as it is stored and handed out.
type Record struct {
	Index int64
	// Leaf is the canonical bytes that are hashed into the tree; ParseLeaf reads them.
	Leaf []byte
	// Salt and Payload are nil once erased.
	Salt    []byte
	Payload []byte
}

// Erased says whether the payload is gone.
func (r Record) Erased() bool { return len(r.Salt) == 0 }

// Proof shows that a record is in the tree that a checkpoint signs.
type Proof struct {
	Record     Record
	Checkpoint []byte
	Size       int64
	Inclusion  tlog.RecordProof
}

// ErrEmpty is the answer while no checkpoint has been signed.
var ErrEmpty = errors.New("the ledger has no checkpoint yet")

// Limits of Entries.
const (
	defaultEntries = 100
	maxEntries     = 1000
	maxEntryBytes  = 8 << 20 // of one answer; a first entry is answered whatever its size
)

// Checkpoint answers the newest signed checkpoint and how many leaves it covers.
func (l *Ledger) Checkpoint() (signed []byte, size int64, err error) {
	h := l.current.Load()
	if h.note == nil {
		return nil, 0, ErrEmpty
	}
	return h.note, h.Size, nil
}

// Checkpoints answers up to limit signed checkpoints of at least the given size, oldest first.
func (l *Ledger) Checkpoints(ctx context.Context, from int64, limit int) (signed [][]byte, err error) {
	err = l.config.DB.View(ctx, func(tx store.Tx) error {
		rows, err := tx.Query(`SELECT note FROM ledger_checkpoint WHERE size >= $1 ORDER BY size LIMIT $2`, from, clampLimit(limit))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n []byte
			if err := rows.Scan(&n); err != nil {
				return err
			}
			signed = append(signed, n)
		}
		return rows.Err()
	})
	return signed, err
}

// CountCheckpoints says how many checkpoints were signed.
func (l *Ledger) CountCheckpoints(ctx context.Context) (n int64, err error) {
	err = l.config.DB.View(ctx, func(tx store.Tx) error {
		return tx.QueryRow(`SELECT COUNT(*) FROM ledger_checkpoint`).Scan(&n)
	})
	return n, err
}

// Entries answers sequenced records from an index on, at most limit (100 when 0, 1000 at most) and fewer when payloads are large,
// with the size of the newest checkpoint.
func (l *Ledger) Entries(ctx context.Context, from int64, limit int) (records []Record, size int64, err error) {
	size = l.current.Load().Size
	err = l.config.DB.View(ctx, func(tx store.Tx) error {
		records, err = readRecords(tx, from, size, clampLimit(limit))
		return err
	})
	return records, size, err
}

func clampLimit(limit int) int {
	if limit <= 0 {
		return defaultEntries
	}
	return min(limit, maxEntries)
}

func readRecords(tx store.Tx, from, size int64, limit int) ([]Record, error) {
	rows, err := tx.Query(`SELECT idx, leaf, salt, payload FROM ledger_leaf WHERE idx >= $1 AND idx < $2 ORDER BY idx LIMIT $3`,
		max(from, 0), size, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var records []Record
	for bytes := 0; bytes < maxEntryBytes && rows.Next(); {
		var r Record
		if err := rows.Scan(&r.Index, &r.Leaf, &r.Salt, &r.Payload); err != nil {
			return nil, err
		}
		records = append(records, r)
		bytes += len(r.Leaf) + len(r.Payload)
	}
	return records, rows.Err()
}

// Index answers where a leaf is in the tree; ok is false as long as it has not been sequenced.
func (l *Ledger) Index(tx store.Tx, id string) (index int64, ok bool, err error) {
	var idx *int64
	err = tx.QueryRow(`SELECT idx FROM ledger_leaf WHERE id = $1`, id).Scan(&idx)
	if errors.Is(err, store.ErrNoRows) {
		return 0, false, ErrUnknownLeaf
	}
	if err != nil || idx == nil {
		return 0, false, err
	}
	return *idx, true, nil
}

// Read answers a record by its leaf's id, sequenced or not; its index is -1 as long as it is not.
func (l *Ledger) Read(tx store.Tx, id string) (Record, error) {
	var idx *int64
	var r Record
	err := tx.QueryRow(`SELECT idx, leaf, salt, payload FROM ledger_leaf WHERE id = $1`, id).Scan(&idx, &r.Leaf, &r.Salt, &r.Payload)
	if errors.Is(err, store.ErrNoRows) {
		return Record{}, ErrUnknownLeaf
	}
	r.Index = -1
	if idx != nil {
		r.Index = *idx
	}
	return r, err
}

// Prove proves by id that a leaf is under the newest checkpoint. A leaf that is not sequenced yet is unknown: WaitSequenced first.
func (l *Ledger) Prove(ctx context.Context, id string) (p Proof, err error) {
	h := l.current.Load()
	err = l.config.DB.View(ctx, func(tx store.Tx) error {
		index, ok, err := l.Index(tx, id)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("leaf %s has no index yet: %w", id, ErrUnknownLeaf)
		}
		p, err = prove(tx, h, index)
		return err
	})
	return p, err
}

// ProveIndex is Prove by index.
func (l *Ledger) ProveIndex(ctx context.Context, index int64) (p Proof, err error) {
	h := l.current.Load()
	err = l.config.DB.View(ctx, func(tx store.Tx) error {
		p, err = prove(tx, h, index)
		return err
	})
	return p, err
}

func prove(tx store.Tx, h *head, index int64) (Proof, error) {
	if index < 0 || index >= h.Size {
		return Proof{}, fmt.Errorf("index %d of %d: %w", index, h.Size, ErrUnknownLeaf)
	}
	records, err := readRecords(tx, index, index+1, 1)
	if err != nil {
		return Proof{}, err
	}
	if len(records) != 1 {
		return Proof{}, fmt.Errorf("leaf %d is missing", index)
	}
	proof, err := tlog.ProveRecord(h.Size, index, h.reader(tx))
	if err != nil {
		return Proof{}, fmt.Errorf("prove leaf %d: %w", index, err)
	}
	// Refuse rather than hand out a proof that fails at the reader's: the leaf's bytes are checked here too.
	if err := tlog.CheckRecord(proof, h.Size, h.Root, index, tlog.RecordHash(records[0].Leaf)); err != nil {
		return Proof{}, fmt.Errorf("leaf %d was changed after it was signed: %w", index, err)
	}
	return Proof{Record: records[0], Checkpoint: h.note, Size: h.Size, Inclusion: proof}, nil
}

// ProveConsistency proves that the tree of size old is a prefix of the tree of size size. Both are at most the newest checkpoint's;
// size 0 means that.
func (l *Ledger) ProveConsistency(ctx context.Context, old, size int64) (proof tlog.TreeProof, err error) {
	h := l.current.Load()
	if size == 0 {
		size = h.Size
	}
	if old < 1 || old > size || size > h.Size {
		return nil, fmt.Errorf("prove consistency of %d with %d: the ledger has %d leaves", old, size, h.Size)
	}
	err = l.config.DB.View(ctx, func(tx store.Tx) error {
		proof, err = tlog.ProveTree(size, old, h.reader(tx))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prove consistency of %d with %d: %w", old, size, err)
	}
	return proof, nil
}

// reader reads hashes from the stored tiles; each tile is checked against the signed root on the way.
func (h *head) reader(tx store.Tx) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: h.Size, Hash: h.Root}, storedTiles{tx})
}

// storedTiles is a tlog.TileReader. A stored tile may be wider than the one asked for: it has grown since.
type storedTiles struct{ tx store.Tx }

func (storedTiles) Height() int                     { return tileHeight }
func (storedTiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (s storedTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := readTile(s.tx, tileID{t.L, t.N})
		if err != nil {
			return nil, err
		}
		if len(b) < t.W*tlog.HashSize {
			return nil, fmt.Errorf("tile %s has only %d bytes", tilePath(t), len(b))
		}
		data[i] = b[:t.W*tlog.HashSize]
	}
	return data, nil
}
