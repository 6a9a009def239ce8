// Package sqlite keeps a store.DB in one SQLite file.
//
// It promises that Commit answers only after COMMIT returned with the write-ahead log synced (synchronous=FULL), that functions
// sharing a group commit are isolated by savepoints, that a failed COMMIT fails everyone in the group, and that after an I/O error
// nothing more is written until the file has been opened anew: what a failed sync left on the disk is unknown, and only SQLite's
// recovery may decide it. Views see durable state only, since WAL readers see a commit after its sync.
//
// It refuses a second writer process, a schema that this binary does not know, a folder that strangers can write to, DDL and
// transaction statements inside functions, and writes inside a View.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"cardea/internal/store"
)

var (
	// ErrClosed answers every call after Close.
	ErrClosed = errors.New("the database is closed")
	// ErrBroken answers every Commit from the first I/O error on. For the group whose COMMIT failed it also means doubt: its writes
	// may or may not be there once the file has been opened again.
	ErrBroken = errors.New("the database failed to write and takes no more commits until it is opened again")
)

// DB is one SQLite file with one writer. Its methods are safe for concurrent use.
type DB struct {
	path    string
	lock    *os.File // held for as long as the process may write
	queue   *queue
	readers *pool
	wal     *walKeeper

	// Owned by the writer goroutine.
	writer *conn
	broken error

	stopped chan struct{} // closed when the writer goroutine has ended
	closing atomic.Bool
	stats   stats
}

var _ store.DB = (*DB)(nil)

// Option changes how Open opens.
type Option func(*options)

type options struct {
	components []component
	readers    int
	vfs        string
}

// Readers bounds the snapshots that can be open at a time. The default is 4.
func Readers(n int) Option { return func(o *options) { o.readers = max(1, n) } }

// Component adds the numbered DDL of a package whose tables live in this file, versioned apart from the caller's own migrations:
// step n is version n. Components are migrated first, in the order given.
func Component(name string, steps ...string) Option {
	return func(o *options) { o.components = append(o.components, newComponent(name, steps)) }
}

// Open opens or creates the file, takes the writer's lock and brings the schema up to date. The migrations are files at the top of
// the file system, named NNNN_word.sql and numbered from 0001 without a gap; nil means none.
func Open(ctx context.Context, path string, migrations fs.FS, opts ...Option) (*DB, error) {
	o := options{readers: 4}
	for _, opt := range opts {
		opt(&o)
	}
	own, err := readMigrations(migrations)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db, err := open(ctx, path, append(o.components, own), o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return db, nil
}

func open(ctx context.Context, path string, components []component, o options) (_ *DB, err error) {
	path, lock, err := claim(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	w, err := dial(path, o.vfs, writable)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, w, components); err != nil {
		w.close()
		return nil, err
	}
	// The switch to WAL deleted a journal. Were that deletion lost in a power cut, the journal would be played back over the log.
	if err := syncFolder(filepath.Dir(path)); err != nil {
		w.close()
		return nil, err
	}
	db := &DB{
		path:    path,
		lock:    lock,
		queue:   newQueue(),
		readers: newPool(o.readers, func() (*conn, error) { return dial(path, o.vfs, readOnly) }),
		writer:  w,
		stopped: make(chan struct{}),
	}
	db.wal = newWALKeeper(func() (*conn, error) { return dial(path, o.vfs, writable) })
	go db.write()
	return db, nil
}

// Close waits for the commits that are queued, refuses new ones, folds the log into the file and releases the lock.
func (db *DB) Close() error {
	if db.closing.Swap(true) {
		return nil
	}
	db.queue.close()
	<-db.stopped
	db.wal.close()
	err := errors.Join(db.readers.close(), db.writer.close())
	return errors.Join(err, db.lock.Close())
}
