package authority

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"cardea/internal/store"
)

// small are the tables that do not grow with runs: reading them whole is cheap.
var small = regexp.MustCompile(`^SCAN (resources|sessions|bans|meta|CONSTANT ROW)\b`)

// Every statement on the path of a step finds its rows by a key or an index: one that reads a table of runs, tasks, permits or leases whole
// makes each step slower than the one before, which no test on an empty store would show.
func TestNoStatementOfAStepReadsATable(t *testing.T) {
	h := newHub(t)
	r, safe := h.runner("standard", "one"), h.runner("privileged", "safe")
	statements := &recorder{DB: h.DB, seen: map[string]bool{}}
	h.DB = statements
	run := h.start("ana")
	got := h.authorize(readIntent(run, r))
	_, err := h.redeem(r, got.Permit, readAction())
	h.must(err)
	_, err = h.Return(t.Context(), r.Peer, permitID(h, run), []ActionReport{{Connection: "hr"}}, DeliveryAnswered)
	h.must(err)
	h.wantOutcome(h.authorize(payIntent(run, safe, "10.00")), outcomeAllow)
	h.pending(h.start("ana"), safe, "5000.00")
	_, _, err = h.EndRun(t.Context(), run, "completed")
	h.must(err)
	if len(statements.seen) < 20 {
		t.Fatalf("only %d statements were seen", len(statements.seen))
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(h.dir, "authority.db")+"?mode=ro")
	h.must(err)
	defer db.Close()
	for query := range statements.seen {
		for _, step := range planOf(t, db, query) {
			if strings.HasPrefix(step, "SCAN") && !small.MatchString(step) {
				t.Errorf("%s:\n%s", step, query)
			}
		}
	}
}

var argument = regexp.MustCompile(`\$\d+`)

// planOf is how SQLite would run a statement; no argument's value matters.
func planOf(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	names := map[string]bool{}
	for _, name := range argument.FindAllString(query, -1) {
		names[name] = true
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+query, make([]any, len(names))...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(fmt.Errorf("%s: %w", query, err))
	}
	return steps
}

// recorder notes the text of every statement.
type recorder struct {
	store.DB
	mu   sync.Mutex
	seen map[string]bool
}

func (r *recorder) Commit(ctx context.Context, fn func(store.Tx) error) error {
	return r.DB.Commit(ctx, func(tx store.Tx) error { return fn(recordedTx{tx, r}) })
}

func (r *recorder) View(ctx context.Context, fn func(store.Tx) error) error {
	return r.DB.View(ctx, func(tx store.Tx) error { return fn(recordedTx{tx, r}) })
}

func (r *recorder) note(query string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[query] = true
}

type recordedTx struct {
	store.Tx
	r *recorder
}

func (t recordedTx) Exec(query string, args ...any) (int64, error) {
	t.r.note(query)
	return t.Tx.Exec(query, args...)
}

func (t recordedTx) Query(query string, args ...any) (store.Rows, error) {
	t.r.note(query)
	return t.Tx.Query(query, args...)
}

func (t recordedTx) QueryRow(query string, args ...any) store.Row {
	t.r.note(query)
	return t.Tx.QueryRow(query, args...)
}
