package ledger

import (
	"errors"
	"fmt"
	"maps"

	"golang.org/x/mod/sumdb/tlog"
)

// Tiles have the height that https://c2sp.org/tlog-tiles fixes.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	tileBytes  = tileWidth * tlog.HashSize
)

type tileID struct {
	level int
	n     int64
}

// head is a tree as of one signed checkpoint, by its right edge: the partial tile of every level, from which the root can be computed
// and the tree extended without reading anything. It is never changed, only replaced.
type head struct {
	Checkpoint
	note []byte // the signed checkpoint; nil for the empty tree, which nobody signs
	edge map[tileID][]byte
}

// edgeTile names the partial tile of a level and its width, 0 when the level ends with a full tile.
func edgeTile(size int64, level int) (id tileID, width int) {
	hashes := size >> (tileHeight * level)
	return tileID{level, hashes >> tileHeight}, int(hashes & (tileWidth - 1))
}

// growth is what extending a head adds: the next head, unsigned, and the tiles that are new or wider.
type growth struct {
	next  *head
	tiles map[tileID][]byte
}

// extend appends leaf hashes. The new tree is proved to have the old one as its prefix, against the signed old root: a mistake here
// or in what was loaded stops the ledger before anything is signed (invariant 14).
func (h *head) extend(leaves []tlog.Hash) (growth, error) {
	g := growth{
		next:  &head{Checkpoint: Checkpoint{Origin: h.Origin, Size: h.Size}, edge: maps.Clone(h.edge)},
		tiles: map[tileID][]byte{},
	}
	for _, leaf := range leaves {
		g.add(leaf)
	}
	next := g.next
	var err error
	if next.Root, err = tlog.TreeHash(next.Size, g); err != nil {
		return growth{}, fmt.Errorf("hash the tree of %d leaves: %w", next.Size, err)
	}
	if err := g.proveExtends(h); err != nil {
		return growth{}, err
	}
	return g, nil
}

// add appends one leaf's hash to the edge; a tile that becomes full hands its root to the level above.
func (g *growth) add(h tlog.Hash) {
	for level := 0; ; level++ {
		id, width := edgeTile(g.next.Size, level)
		tile, own := g.tiles[id]
		if !own {
			// A fresh slice per tile and pass: the head that is being extended shares the old one.
			tile = append(make([]byte, 0, tileBytes), g.next.edge[id][:width*tlog.HashSize]...)
		}
		tile = append(tile, h[:]...)
		g.tiles[id] = tile
		if len(tile) < tileBytes {
			g.next.edge[id] = tile
			break
		}
		delete(g.next.edge, id)
		h = tileRoot(tile)
	}
	g.next.Size++
}

func tileRoot(tile []byte) tlog.Hash {
	if len(tile) == tlog.HashSize {
		return tlog.Hash(tile)
	}
	half := len(tile) / 2
	return tlog.NodeHash(tileRoot(tile[:half]), tileRoot(tile[half:]))
}

// proveExtends checks with the verifier's own function that next is old and something after it.
func (g growth) proveExtends(old *head) error {
	if g.next.Size <= old.Size {
		return fmt.Errorf("the tree of %d leaves would not grow past the %d that are signed", g.next.Size, old.Size)
	}
	if old.Size == 0 {
		return nil
	}
	proof, err := tlog.ProveTree(g.next.Size, old.Size, g)
	if err != nil {
		return fmt.Errorf("prove that %d leaves extend %d: %w", g.next.Size, old.Size, err)
	}
	if err := tlog.CheckTree(proof, g.next.Size, g.next.Root, old.Size, old.Root); err != nil {
		return fmt.Errorf("%d leaves do not extend the %d that are signed: %w", g.next.Size, old.Size, err)
	}
	return nil
}

// ReadHashes makes growth a tlog.HashReader over what it has in memory.
func (g growth) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	return readFrom(indexes, func(id tileID) []byte {
		if t, ok := g.tiles[id]; ok {
			return t
		}
		return g.next.edge[id]
	})
}

func readFrom(indexes []int64, tile func(tileID) []byte) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		t := tlog.TileForIndex(tileHeight, index)
		data := tile(tileID{t.L, t.N})
		if len(data) < t.W*tlog.HashSize {
			return nil, errors.New("tile " + tilePath(t) + " is missing or too short")
		}
		h, err := tlog.HashFromTile(t, data, index)
		if err != nil {
			return nil, err
		}
		hashes[i] = h
	}
	return hashes, nil
}

// check says whether the edge leads to the root.
func (h *head) check() error {
	root, err := tlog.TreeHash(h.Size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return readFrom(indexes, func(id tileID) []byte { return h.edge[id] })
	}))
	if err != nil {
		return err
	}
	if root != h.Root {
		return fmt.Errorf("the stored hashes of %d leaves lead to root %v, but the signed checkpoint says %v", h.Size, root, h.Root)
	}
	return nil
}
