package sqljournal_test

import (
	"context"
	"path/filepath"
	"testing"

	"cardea/internal/durable/journaltest"
	"cardea/internal/durable/sqljournal"
	"cardea/internal/sqlite"
)

// opened remembers the file of a journal, so that it can be opened again.
type opened struct {
	*sqljournal.Journal
	db   *sqlite.DB
	path string
}

func open(t *testing.T, path string) opened {
	t.Helper()
	migrations, err := sqljournal.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(context.Background(), path, migrations)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // a second Close does nothing
	return opened{sqljournal.New(db), db, path}
}

func TestSQLite(t *testing.T) {
	journaltest.Run(t,
		func(t *testing.T) journaltest.Store { return open(t, filepath.Join(t.TempDir(), "journal.db")) },
		func(t *testing.T, s journaltest.Store) journaltest.Store {
			before := s.(opened)
			if err := before.db.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, before.path)
		})
}
