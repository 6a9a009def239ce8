package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"cardea/internal/store"
	"cardea/internal/storetest"
)

func migrations(steps ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i, s := range steps {
		m[[]string{"0001_one.sql", "0002_two.sql", "0003_three.sql"}[i]] = &fstest.MapFile{Data: []byte(s)}
	}
	return m
}

func openTest(t testing.TB, path string, m fs.FS, opts ...Option) *DB {
	t.Helper()
	db, err := Open(t.Context(), path, m, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.DB {
		return openTest(t, filepath.Join(t.TempDir(), "conformance.db"), migrations(storetest.SQLite))
	})
}

func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "authority")
	path := filepath.Join(dir, "a b?c%.db") // a name that a careless URI would cut
	db := openTest(t, path, migrations(storetest.SQLite))
	put(t, db, "a")
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info.Mode(), err)
	}
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", info.Name(), info.Mode())
		}
	}
}

func put(t testing.TB, db store.DB, id string) {
	t.Helper()
	err := db.Commit(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO item (id, n) VALUES ($1, 1)`, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnsafePlacesAreRefused(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(open, "x.db"), link} {
		if _, err := Open(t.Context(), path, nil); err == nil {
			t.Errorf("opened %s", path)
		}
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := openTest(t, path, migrations(storetest.SQLite))
	if _, err := Open(t.Context(), path, migrations(storetest.SQLite)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("a second writer was answered with %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, path, migrations(storetest.SQLite))
}

func TestPragmasHold(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "x.db"), nil)
	reader, err := db.readers.open()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.close()
	// 1 is ON. fullfsync and its like are kept even where the system ignores them.
	writer := []string{"journal_mode", "wal", "synchronous", "2", "foreign_keys", "1", "trusted_schema", "0", "cell_size_check", "1",
		"secure_delete", "1", "fullfsync", "1", "checkpoint_fullfsync", "1", "wal_autocheckpoint", "0", "busy_timeout", "5000"}
	if err := db.writer.verify(writer...); err != nil {
		t.Error(err)
	}
	if err := reader.verify("journal_mode", "wal", "query_only", "1", "trusted_schema", "0", "cell_size_check", "1"); err != nil {
		t.Error(err)
	}
}

func TestMigrations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	const one, two = `CREATE TABLE one (a TEXT) STRICT; INSERT INTO one VALUES ('kept');`, `ALTER TABLE one ADD COLUMN b TEXT;`
	reopen := func(m fs.FS, opts ...Option) error {
		db, err := Open(t.Context(), path, m, opts...)
		if err == nil {
			err = db.Close()
		}
		return err
	}
	steps := []struct {
		name string
		fs   fs.FS
		opts []Option
		want string // part of the error; "" is success
	}{
		{"first", migrations(one), nil, ""},
		{"again", migrations(one), nil, ""},
		{"failing", migrations(one, two+`CREATE TABLE broken (`), nil, "0002_two.sql"},
		{"second", migrations(one, two), nil, ""},
		{"older binary", migrations(one), nil, "newer than this binary"},
		{"edited", migrations(one+" ", two), nil, "another text"},
		{"component", migrations(one, two), []Option{Component("ledger", `CREATE TABLE leaf (a TEXT) STRICT`)}, ""},
		{"component forgotten", migrations(one, two), nil, `component "ledger"`},
		{"component twice", migrations(one, two), []Option{Component("ledger", "x"), Component("ledger", "x")}, "twice"},
		{"gap", fstest.MapFS{"0002_x.sql": {Data: []byte(two)}}, nil, "0001_"},
		{"annotated", migrations("-- +goose Up\n" + one), nil, "goose"},
		{"deferred", migrations(one, two, `CREATE TABLE d (a TEXT PRIMARY KEY, b TEXT REFERENCES d(a) DEFERRABLE INITIALLY DEFERRED) STRICT`),
			[]Option{Component("ledger", `CREATE TABLE leaf (a TEXT) STRICT`)}, "deferred constraint"},
	}
	for _, s := range steps {
		err := reopen(s.fs, s.opts...)
		if (err == nil) != (s.want == "") || (err != nil && !strings.Contains(err.Error(), s.want)) {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

// TestFailedMigrationLeavesNothing: a migration that fails half-way must not leave its first half.
func TestFailedMigrationLeavesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if _, err := Open(t.Context(), path, migrations(`CREATE TABLE a (x TEXT) STRICT; CREATE TABLE a (x TEXT) STRICT`)); err == nil {
		t.Fatal("a broken migration was applied")
	}
	openTest(t, path, migrations(`CREATE TABLE a (x TEXT) STRICT`))
}

// TestGoexitInAFunction: FailNow in a test's function must not leave every later caller waiting.
func TestGoexitInAFunction(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "x.db"), migrations(storetest.SQLite))
	err := db.Commit(t.Context(), func(tx store.Tx) error {
		if _, err := tx.Exec(`INSERT INTO item (id, n) VALUES ('lost', 1)`); err != nil {
			return err
		}
		runtime.Goexit()
		return nil
	})
	if err == nil {
		t.Error("a function that never returned was committed")
	}
	put(t, db, "after")
	var n int
	err = db.View(t.Context(), func(tx store.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM item`).Scan(&n) })
	if err != nil || n != 1 {
		t.Errorf("%d rows: %v", n, err)
	}
}

// TestViewPanicReleasesItsReader: with one reader, a second View would wait for ever on one that was not given back.
func TestViewPanicReleasesItsReader(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "x.db"), migrations(storetest.SQLite), Readers(1))
	func() {
		defer func() { _ = recover() }()
		_ = db.View(t.Context(), func(store.Tx) error { panic("in a view") })
	}()
	if err := db.View(t.Context(), func(tx store.Tx) error { return tx.QueryRow(`SELECT 1`).Scan(new(int)) }); err != nil {
		t.Fatal(err)
	}
}

// TestStatementCacheIsBounded also runs statements that were forgotten and prepared anew.
func TestStatementCacheIsBounded(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "x.db"), migrations(storetest.SQLite))
	err := db.Commit(t.Context(), func(tx store.Tx) error {
		for i := range 3 * maxStatements {
			var got int
			if err := tx.QueryRow(`SELECT $1 `+strings.Repeat(" ", i), i).Scan(&got); err != nil {
				return err
			}
			if got != i {
				t.Errorf("statement %d answered %d", i, got)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(db.writer.stmts); n > maxStatements {
		t.Errorf("%d statements are cached", n)
	}
}

// TestLogStartsOver: the write-ahead log must not grow with what is written; readers come and go meanwhile.
func TestLogStartsOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := openTest(t, path, migrations(storetest.SQLite))
	body := make([]byte, 200<<10)
	const rounds = 400 // 80 MB through a log of some 16 MB
	for range rounds {
		err := db.Commit(t.Context(), func(tx store.Tx) error {
			_, err := tx.Exec(`INSERT INTO item (id, n, body) VALUES ('big', 1, $1) ON CONFLICT (id) DO UPDATE SET body = excluded.body`, body)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 40<<20 {
		t.Errorf("after %d MB of writes the log has %d MB", rounds*len(body)>>20, info.Size()>>20)
	}
}

func TestCloseDrainsTheQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db := openTest(t, path, migrations(storetest.SQLite))
	answers := make(chan error, 20)
	begun := make(chan struct{})
	go db.Commit(context.Background(), func(store.Tx) error { close(begun); return nil })
	<-begun
	for i := range cap(answers) {
		id := string(rune('a' + i))
		go func() {
			answers <- db.Commit(context.Background(), func(tx store.Tx) error {
				_, err := tx.Exec(`INSERT INTO item (id, n) VALUES ($1, 1)`, id)
				return err
			})
		}()
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	stored := 0
	for range cap(answers) {
		switch err := <-answers; {
		case err == nil:
			stored++
		case !errors.Is(err, ErrClosed):
			t.Errorf("a commit during Close was answered with %v", err)
		}
	}
	again := openTest(t, path, migrations(storetest.SQLite))
	var n int
	err := again.View(t.Context(), func(tx store.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM item`).Scan(&n) })
	if err != nil || n != stored {
		t.Errorf("%d commits were acknowledged, %d rows are stored: %v", stored, n, err)
	}
}
