// Package storetest is the conformance suite of store.DB: what every adapter must do, and what callers may rely on.
//
// It cannot cut the power: that nothing is acknowledged before it is durable is for each adapter's own tests.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"cardea/internal/store"
)

// SQLite is the DDL of the suite's table for an SQLite adapter. Others translate it: TEXT, a 64-bit integer, bytes.
const SQLite = `CREATE TABLE item (
	id     TEXT    PRIMARY KEY,
	n      INTEGER NOT NULL,
	body   BLOB,
	note   TEXT,
	parent TEXT    REFERENCES item (id)
) STRICT`

// Run runs the suite. Open answers a new, empty store that has the item table, and closes it when the test ends.
func Run(t *testing.T, open func(t *testing.T) store.DB) {
	cases := []struct {
		name string
		run  func(*testing.T, store.DB)
	}{
		{"ValuesComeBack", valuesComeBack},
		{"NoRows", noRows},
		{"UpsertAndReturning", upsertAndReturning},
		{"ErrorRollsBackOnlyItself", errorRollsBackOnlyItself},
		{"PanicRollsBackOnlyItself", panicRollsBackOnlyItself},
		{"FailedStatementSticks", failedStatementSticks},
		{"OnlyRowStatements", onlyRowStatements},
		{"RowsMustBeClosed", rowsMustBeClosed},
		{"TxDiesWithItsFunction", txDiesWithItsFunction},
		{"ForeignKeys", foreignKeys},
		{"ViewRefusesWrites", viewRefusesWrites},
		{"ViewIsASnapshot", viewIsASnapshot},
		{"CommitIsVisibleToLaterViews", commitIsVisible},
		{"CancelledBeforeBegin", cancelledBeforeBegin},
		{"CancelledWhileRunning", cancelledWhileRunning},
		{"ConcurrentCommitsAllCount", concurrentCommits},
		{"ClosedRefuses", closedRefuses},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

var errOwn = errors.New("the function's own error")

func insert(tx store.Tx, id string, n int64) error {
	_, err := tx.Exec(`INSERT INTO item (id, n) VALUES ($1, $2)`, id, n)
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ids answers what is stored, as one string, from a fresh snapshot.
func ids(t *testing.T, db store.DB) string {
	t.Helper()
	var all []string
	must(t, db.View(t.Context(), func(tx store.Tx) error {
		rows, err := tx.Query(`SELECT id FROM item ORDER BY id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			all = append(all, id)
		}
		return rows.Err()
	}))
	return strings.Join(all, " ")
}

func expectIDs(t *testing.T, db store.DB, want string) {
	t.Helper()
	if got := ids(t, db); got != want {
		t.Errorf("stored are %q, not %q", got, want)
	}
}

type label string

func valuesComeBack(t *testing.T, db store.DB) {
	when := time.Date(2026, 11, 21, 20, 36, 0, 123456000, time.UTC)
	must(t, db.Commit(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO item (id, n, body, note) VALUES ($1, $2, $3, $4)`, label("a"), store.Micros(when), []byte{0, 255}, "naïve ☃\x00end")
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO item (id, n, body, note) VALUES ($1, $2, $3, $4)`, "empty", uint8(7), []byte{}, "")
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO item (id, n, body, note) VALUES ($1, $2, $3, $4)`, "null", -1, []byte(nil), nil)
		return err
	}))
	must(t, db.View(t.Context(), func(tx store.Tx) error {
		var id label
		var micros int64
		var body []byte
		var note string
		if err := tx.QueryRow(`SELECT id, n, body, note FROM item WHERE n = $2 AND id = $1`, "a", store.Micros(when)).Scan(&id, &micros, &body, &note); err != nil {
			return err
		}
		if id != "a" || !store.Time(micros).Equal(when) || string(body) != "\x00\xff" || note != "naïve ☃\x00end" {
			t.Errorf("got %q %d %q %q", id, micros, body, note)
		}
		var maybe *string
		var n uint16
		if err := tx.QueryRow(`SELECT n, body, note FROM item WHERE id = 'empty'`).Scan(&n, &body, &maybe); err != nil {
			return err
		}
		if n != 7 || body == nil || len(body) != 0 || maybe == nil || *maybe != "" {
			t.Errorf("empty values came back as %d %#v %v", n, body, maybe)
		}
		if err := tx.QueryRow(`SELECT body, note FROM item WHERE id = 'null'`).Scan(&body, &maybe); err != nil {
			return err
		}
		if body != nil || maybe != nil {
			t.Errorf("NULL came back as %#v %v", body, maybe)
		}
		if err := tx.QueryRow(`SELECT note FROM item WHERE id = 'null'`).Scan(&note); err == nil {
			t.Error("NULL was stored in a string")
		}
		if err := tx.QueryRow(`SELECT n FROM item WHERE id = 'null'`).Scan(&n); err == nil {
			t.Error("-1 was stored in a uint16")
		}
		return nil
	}))
	err := db.Commit(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO item (id, n) VALUES ($1, $2)`, "t", when)
		return err
	})
	if err == nil {
		t.Error("a time.Time was stored without store.Micros")
	}
}

func noRows(t *testing.T, db store.DB) {
	must(t, db.Commit(t.Context(), func(tx store.Tx) error {
		var n int64
		if err := tx.QueryRow(`SELECT n FROM item WHERE id = $1`, "none").Scan(&n); !errors.Is(err, store.ErrNoRows) {
			t.Errorf("a missing row is %v", err)
		}
		return insert(tx, "after", 1) // finding nothing is no failure
	}))
	expectIDs(t, db, "after")
}

func upsertAndReturning(t *testing.T, db store.DB) {
	must(t, db.Commit(t.Context(), func(tx store.Tx) error {
		for want := int64(1); want <= 3; want++ {
			var n int64
			err := tx.QueryRow(`INSERT INTO item (id, n) VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = item.n + 1 RETURNING n`, "a").Scan(&n)
			if err != nil {
				return err
			}
			if n != want {
				t.Errorf("upsert %d answered %d", want, n)
			}
		}
		n, err := tx.Exec(`UPDATE item SET n = 0 WHERE id = $1`, "a")
		if err != nil || n != 1 {
			t.Errorf("update touched %d rows: %v", n, err)
		}
		n, err = tx.Exec(`UPDATE item SET n = 0 WHERE id = $1`, "b")
		if err != nil || n != 0 {
			t.Errorf("update of nothing touched %d rows: %v", n, err)
		}
		return nil
	}))
	expectIDs(t, db, "a")
}

// together runs functions so that an adapter with group commit is likely to put them in one group: the first one holds the writer
// until the others are queued.
func together(t *testing.T, db store.DB, fns ...func(store.Tx) error) []error {
	t.Helper()
	errs := make([]error, len(fns))
	var wg sync.WaitGroup
	begun, release := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		err := db.Commit(context.WithoutCancel(t.Context()), func(store.Tx) error { close(begun); <-release; return nil })
		if err != nil {
			t.Errorf("holding the writer: %v", err)
		}
	})
	<-begun
	for i, fn := range fns {
		wg.Go(func() { errs[i] = db.Commit(context.WithoutCancel(t.Context()), fn) })
	}
	time.Sleep(20 * time.Millisecond) // only makes one group likely; nothing below depends on it
	close(release)
	wg.Wait()
	return errs
}

func errorRollsBackOnlyItself(t *testing.T, db store.DB) {
	fails := func(tx store.Tx) error {
		if err := insert(tx, "c", 1); err != nil {
			return err
		}
		return errOwn
	}
	errs := together(t, db,
		func(tx store.Tx) error { return insert(tx, "a", 1) }, fails, func(tx store.Tx) error { return insert(tx, "b", 1) })
	must(t, errs[0])
	must(t, errs[2])
	if !errors.Is(errs[1], errOwn) {
		t.Errorf("the function's error came back as %v", errs[1])
	}
	if err := db.Commit(t.Context(), fails); !errors.Is(err, errOwn) {
		t.Errorf("alone, the function's error came back as %v", err)
	}
	expectIDs(t, db, "a b")
}

func panicRollsBackOnlyItself(t *testing.T, db store.DB) {
	panics := func(tx store.Tx) error {
		if err := insert(tx, "c", 1); err != nil {
			return err
		}
		panic("the function's own panic")
	}
	errs := together(t, db, func(tx store.Tx) error { return insert(tx, "a", 1) }, panics)
	must(t, errs[0])
	if errs[1] == nil || !strings.Contains(errs[1].Error(), "own panic") {
		t.Errorf("a panic came back as %v", errs[1])
	}
	if err := db.Commit(t.Context(), panics); err == nil {
		t.Error("a panic, alone, came back as success")
	}
	must(t, db.Commit(t.Context(), func(tx store.Tx) error { return insert(tx, "b", 1) }))
	expectIDs(t, db, "a b")
}

// failedStatementSticks: PostgreSQL aborts a transaction at its first failed statement, so no function may carry on after one.
func failedStatementSticks(t *testing.T, db store.DB) {
	must(t, db.Commit(t.Context(), func(tx store.Tx) error { return insert(tx, "a", 1) }))
	swallows := func(tx store.Tx) error {
		if err := insert(tx, "b", 1); err != nil {
			return err
		}
		if err := insert(tx, "a", 2); err == nil {
			t.Error("a second row with the same key was accepted")
		}
		if err := insert(tx, "c", 1); err == nil {
			t.Error("a statement ran after a failed one")
		}
		return nil
	}
	if err := db.Commit(t.Context(), swallows); err == nil {
		t.Error("a function that swallowed a failed statement was committed")
	}
	errs := together(t, db, swallows, func(tx store.Tx) error { return insert(tx, "d", 1) })
	must(t, errs[1])
	expectIDs(t, db, "a d")
}

func onlyRowStatements(t *testing.T, db store.DB) {
	for _, q := range []string{"COMMIT", "ROLLBACK", " rollback;", "BEGIN", "SAVEPOINT x", "RELEASE fn", "DROP TABLE item", "CREATE TABLE x (y INTEGER)",
		"PRAGMA foreign_keys=OFF", "ATTACH 'x' AS x", "VACUUM", "", "/* c */ COMMIT", "-- c\nCOMMIT", "SELECT 1; COMMIT"} {
		err := db.Commit(t.Context(), func(tx store.Tx) error {
			_, err := tx.Exec(q)
			return err
		})
		if err == nil {
			t.Errorf("%q ran inside a transaction", q)
		}
	}
	must(t, db.Commit(t.Context(), func(tx store.Tx) error { return insert(tx, "a", 1) }))
	expectIDs(t, db, "a")
}

func rowsMustBeClosed(t *testing.T, db store.DB) {
	err := db.Commit(t.Context(), func(tx store.Tx) error {
		if err := insert(tx, "a", 1); err != nil {
			return err
		}
		if _, err := tx.Query(`SELECT id FROM item`); err != nil {
			return err
		}
		return insert(tx, "b", 1)
	})
	if err == nil {
		t.Error("a statement ran while rows were open")
	}
	must(t, db.Commit(t.Context(), func(tx store.Tx) error {
		if err := insert(tx, "c", 1); err != nil {
			return err
		}
		_, err := tx.Query(`SELECT id FROM item`) // left open at the end
		return err
	}))
	expectIDs(t, db, "c")
}

func txDiesWithItsFunction(t *testing.T, db store.DB) {
	var kept store.Tx
	must(t, db.Commit(t.Context(), func(tx store.Tx) error { kept = tx; return nil }))
	if err := insert(kept, "late", 1); err == nil {
		t.Error("a Tx worked after its function had returned")
	}
	expectIDs(t, db, "")
}

func foreignKeys(t *testing.T, db store.DB) {
	err := db.Commit(t.Context(), func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO item (id, n, parent) VALUES ('child', 1, 'nobody')`)
		return err
	})
	if err == nil {
		t.Error("a reference to nothing was accepted")
	}
}

func viewRefusesWrites(t *testing.T, db store.DB) {
	for _, q := range []string{`INSERT INTO item (id, n) VALUES ('a', 1)`, `WITH x AS (SELECT 1) INSERT INTO item (id, n) SELECT 'a', 1`, `DELETE FROM item`} {
		err := db.View(t.Context(), func(tx store.Tx) error {
			_, err := tx.Exec(q)
			return err
		})
		if err == nil {
			t.Errorf("a view ran %q", q)
		}
	}
	expectIDs(t, db, "")
}

func viewIsASnapshot(t *testing.T, db store.DB) {
	must(t, db.Commit(t.Context(), func(tx store.Tx) error { return insert(tx, "a", 1) }))
	count := func(tx store.Tx) (n int) {
		must(t, tx.QueryRow(`SELECT COUNT(*) FROM item`).Scan(&n))
		return n
	}
	must(t, db.View(t.Context(), func(tx store.Tx) error {
		before := count(tx)
		must(t, db.Commit(t.Context(), func(tx store.Tx) error { return insert(tx, "b", 1) }))
		if after := count(tx); after != before {
			t.Errorf("a view saw %d rows and then %d", before, after)
		}
		return nil
	}))
	expectIDs(t, db, "a b")
}

func commitIsVisible(t *testing.T, db store.DB) {
	for i := range 50 {
		id := fmt.Sprintf("%03d", i)
		must(t, db.Commit(t.Context(), func(tx store.Tx) error { return insert(tx, id, 1) }))
		must(t, db.View(t.Context(), func(tx store.Tx) error {
			var n int
			return tx.QueryRow(`SELECT n FROM item WHERE id = $1`, id).Scan(&n)
		}))
	}
}

func cancelledBeforeBegin(t *testing.T, db store.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := db.Commit(ctx, func(store.Tx) error { t.Error("the function ran"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("commit answered %v", err)
	}
	err = db.View(ctx, func(tx store.Tx) error { return tx.QueryRow(`SELECT 1`).Scan(new(int)) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("view answered %v", err)
	}
}

// cancelledWhileRunning: once a function has begun, its outcome is what Commit answers.
func cancelledWhileRunning(t *testing.T, db store.DB) {
	ctx, cancel := context.WithCancel(t.Context())
	must(t, db.Commit(ctx, func(tx store.Tx) error { cancel(); return insert(tx, "a", 1) }))
	expectIDs(t, db, "a")
}

func concurrentCommits(t *testing.T, db store.DB) {
	const callers, each = 20, 25
	must(t, db.Commit(t.Context(), func(tx store.Tx) error { return insert(tx, "sum", 0) }))
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				err := db.Commit(context.WithoutCancel(t.Context()), func(tx store.Tx) error {
					var n int64
					if err := tx.QueryRow(`SELECT n FROM item WHERE id = 'sum'`).Scan(&n); err != nil {
						return err
					}
					if _, err := tx.Exec(`UPDATE item SET n = $1 WHERE id = 'sum'`, n+1); err != nil {
						return err
					}
					if (c+i)%5 == 0 {
						return errOwn
					}
					return nil
				})
				if (c+i)%5 == 0 != errors.Is(err, errOwn) {
					t.Errorf("caller %d, commit %d: %v", c, i, err)
				}
			}
		})
	}
	wg.Wait()
	var n int64
	must(t, db.View(t.Context(), func(tx store.Tx) error { return tx.QueryRow(`SELECT n FROM item WHERE id = 'sum'`).Scan(&n) }))
	if want := int64(callers * each * 4 / 5); n != want {
		t.Errorf("%d increments were committed, %d are stored", want, n)
	}
}

func closedRefuses(t *testing.T, db store.DB) {
	must(t, db.Close())
	if err := db.Commit(context.WithoutCancel(t.Context()), func(store.Tx) error { return nil }); err == nil {
		t.Error("a closed store committed")
	}
	if err := db.View(context.WithoutCancel(t.Context()), func(store.Tx) error { return nil }); err == nil {
		t.Error("a closed store opened a view")
	}
	must(t, db.Close())
}
