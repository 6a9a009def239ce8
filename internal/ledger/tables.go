package ledger

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/store"
)

// loadHead reads the newest checkpoint and refuses to go on from a tree that is not the one that it signs.
func (l *Ledger) loadHead(ctx context.Context) (h *head, err error) {
	err = l.config.DB.View(ctx, func(tx store.Tx) error {
		h, err = l.readHead(tx)
		return err
	})
	return h, err
}

func (l *Ledger) readHead(tx store.Tx) (*head, error) {
	h := &head{edge: map[tileID][]byte{}}
	h.Origin = l.config.Verifier.Name()
	var size int64
	var signed string
	err := tx.QueryRow(`SELECT size, note FROM ledger_checkpoint ORDER BY size DESC LIMIT 1`).Scan(&size, &signed)
	switch {
	case errors.Is(err, store.ErrNoRows):
		if h.Root, err = tlog.TreeHash(0, nil); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if h.Checkpoint, err = ParseCheckpoint([]byte(signed), l.config.Verifier); err != nil {
			return nil, err
		}
		if h.Size != size || size == 0 {
			return nil, fmt.Errorf("the checkpoint that is stored for %d leaves signs %d", size, h.Size)
		}
		h.note = []byte(signed)
	}
	if err := checkCount(tx, h.Size); err != nil {
		return nil, err
	}
	if err := h.readEdge(tx); err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	return h, h.checkNewest(tx)
}

// checkCount compares the leaves that have an index with the signed size: more means that checkpoints were removed, fewer that
// leaves were.
func checkCount(tx store.Tx, size int64) error {
	var newest *int64
	if err := tx.QueryRow(`SELECT MAX(idx) FROM ledger_leaf`).Scan(&newest); err != nil {
		return err
	}
	have := int64(0)
	if newest != nil {
		have = *newest + 1
	}
	switch {
	case have > size:
		return fmt.Errorf("%d leaves have an index, but the newest checkpoint signs %d: checkpoints were removed", have, size)
	case have < size:
		return fmt.Errorf("the newest checkpoint signs %d leaves, but only %d are stored: leaves were removed", size, have)
	}
	return nil
}

func (h *head) readEdge(tx store.Tx) error {
	for level := 0; h.Size>>(tileHeight*level) > 0; level++ {
		id, width := edgeTile(h.Size, level)
		if width == 0 {
			continue
		}
		data, err := readTile(tx, id)
		if err != nil {
			return err
		}
		if len(data) != width*tlog.HashSize {
			return fmt.Errorf("tile %d/%d has %d bytes, but %d leaves need %d", id.level, id.n, len(data), h.Size, width*tlog.HashSize)
		}
		h.edge[id] = data
	}
	return nil
}

// checkNewest rehashes the leaves of the last, partial tile: whoever edits a file is likeliest to try it on what is newest.
func (h *head) checkNewest(tx store.Tx) error {
	id, width := edgeTile(h.Size, 0)
	first := h.Size - int64(width)
	rows, err := tx.Query(`SELECT idx, leaf FROM ledger_leaf WHERE idx >= $1 ORDER BY idx`, first)
	if err != nil {
		return err
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var index int64
		var leaf []byte
		if err := rows.Scan(&index, &leaf); err != nil {
			return err
		}
		if index != first+int64(n) {
			return fmt.Errorf("leaf %d is missing", first+int64(n))
		}
		if tlog.RecordHash(leaf) != tlog.Hash(h.edge[id][n*tlog.HashSize:][:tlog.HashSize]) {
			return fmt.Errorf("leaf %d was changed after it was signed", index)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if n != width {
		return fmt.Errorf("leaf %d is missing", first+int64(n))
	}
	return nil
}

func readTile(tx store.Tx, id tileID) ([]byte, error) {
	var data []byte
	err := tx.QueryRow(`SELECT hashes FROM ledger_tile WHERE level = $1 AND n = $2`, id.level, id.n).Scan(&data)
	if errors.Is(err, store.ErrNoRows) {
		return nil, fmt.Errorf("tile %d/%d is missing", id.level, id.n)
	}
	return data, err
}

type pendingLeaf struct {
	seq  int64
	hash tlog.Hash
}

// readPending hashes the oldest leaves that have no index yet.
func readPending(tx store.Tx, limit int) ([]pendingLeaf, error) {
	rows, err := tx.Query(`SELECT seq, leaf FROM ledger_leaf WHERE idx IS NULL ORDER BY seq LIMIT $1`, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var pending []pendingLeaf
	for rows.Next() {
		var seq int64
		var leaf []byte
		if err := rows.Scan(&seq, &leaf); err != nil {
			return nil, err
		}
		pending = append(pending, pendingLeaf{seq, tlog.RecordHash(leaf)})
	}
	return pending, rows.Err()
}

// writeGrowth gives the leaves their indexes and stores what signs them, all or nothing.
func writeGrowth(tx store.Tx, old *head, pending []pendingLeaf, g growth) error {
	var stored *int64
	if err := tx.QueryRow(`SELECT MAX(size) FROM ledger_checkpoint`).Scan(&stored); err != nil {
		return err
	}
	if (stored == nil && old.Size != 0) || (stored != nil && *stored != old.Size) {
		return fmt.Errorf("the stored ledger no longer ends at the %d leaves that this process signed", old.Size)
	}
	for i, p := range pending {
		n, err := tx.Exec(`UPDATE ledger_leaf SET idx = $1 WHERE seq = $2 AND idx IS NULL`, old.Size+int64(i), p.seq)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("leaf with sequence %d is gone or was given another index", p.seq)
		}
	}
	if err := eraseSequenced(tx); err != nil {
		return err
	}
	for id, data := range g.tiles {
		_, err := tx.Exec(`INSERT INTO ledger_tile (level, n, hashes) VALUES ($1, $2, $3)
			ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes`, id.level, id.n, data)
		if err != nil {
			return err
		}
	}
	_, err := tx.Exec(`INSERT INTO ledger_checkpoint (size, note) VALUES ($1, $2)`, g.next.Size, string(g.next.note))
	return err
}

// eraseSequenced removes the payloads whose erasure has an index by now.
func eraseSequenced(tx store.Tx) error {
	const due = `(SELECT e.leaf FROM ledger_erasure e JOIN ledger_leaf l ON l.id = e.erasure WHERE l.idx IS NOT NULL)`
	n, err := tx.Exec(`UPDATE ledger_leaf SET salt = NULL, payload = NULL WHERE id IN ` + due)
	if err != nil || n == 0 {
		return err
	}
	_, err = tx.Exec(`DELETE FROM ledger_erasure WHERE leaf IN ` + due)
	return err
}
