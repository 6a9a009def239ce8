package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"cardea/internal/store"
)

// publisher writes the public copy (https://c2sp.org/tlog-tiles): checkpoint and tile/<level>/<n>[.p/<width>]. Leaves are not in it:
// their hashes reveal nothing, since every leaf has a random id, and their text is for people who may read it.
//
// Everything here can be written again from the database, so nothing is synced; resume finds what a crash left short.
type publisher struct {
	dir  string
	size int64 // published so far
}

func newPublisher(dir string) *publisher { return &publisher{dir: dir} }

// tilePath is the tile's path as c2sp spells it, without the height that x/mod puts in.
func tilePath(t tlog.Tile) string {
	return strings.Replace(t.Path(), fmt.Sprintf("tile/%d/", t.H), "tile/", 1)
}

// resume writes every tile that is missing or has another length than it should.
func (p *publisher) resume(ctx context.Context, l *Ledger) error {
	h := l.current.Load()
	if p.dir == "" || h.Size == 0 {
		return nil
	}
	for _, t := range tlog.NewTiles(tileHeight, 0, h.Size) {
		info, err := os.Stat(p.path(t))
		if err == nil && info.Size() == int64(t.W)*tlog.HashSize {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := p.write(ctx, l, t); err != nil {
			return err
		}
	}
	return p.finish(h)
}

// upTo adds what the tree has gained, tiles before the checkpoint that needs them.
func (p *publisher) upTo(ctx context.Context, l *Ledger, h *head) error {
	if p.dir == "" || h.Size == p.size {
		return nil
	}
	for _, t := range tlog.NewTiles(tileHeight, p.size, h.Size) {
		if err := p.write(ctx, l, t); err != nil {
			return err
		}
	}
	return p.finish(h)
}

func (p *publisher) finish(h *head) error {
	if err := replaceFile(filepath.Join(p.dir, "checkpoint"), h.note); err != nil {
		return err
	}
	p.size = h.Size
	return nil
}

func (p *publisher) path(t tlog.Tile) string {
	return filepath.Join(p.dir, filepath.FromSlash(tilePath(t)))
}

func (p *publisher) write(ctx context.Context, l *Ledger, t tlog.Tile) error {
	var data []byte
	err := l.config.DB.View(ctx, func(tx store.Tx) (err error) {
		data, err = readTile(tx, tileID{t.L, t.N})
		return err
	})
	if err != nil {
		return err
	}
	if len(data) < t.W*tlog.HashSize {
		return fmt.Errorf("tile %s is too short", tilePath(t))
	}
	if err := replaceFile(p.path(t), data[:t.W*tlog.HashSize]); err != nil {
		return err
	}
	if t.W < tileWidth {
		return nil
	}
	// The full tile answers for all the partial ones, which readers know.
	return os.RemoveAll(p.path(t) + ".p")
}

// replaceFile lets readers see the old file or the new one. The files are public.
func replaceFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
