package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"cardea/internal/store"
)

var (
	errTxOver   = errors.New("the transaction's function has returned")
	errRowsOpen = errors.New("the rows of the previous query are still open")
)

// tx is one function's transaction. The first failing statement sticks: PostgreSQL aborts the transaction there, and a function
// that swallowed the error must not be told that it committed.
type tx struct {
	c     *conn
	ctx   context.Context // of a View, nil for a Commit: a commit that has begun is not interrupted
	rows  *rows           // open, at most one
	err   error           // sticks
	lost  bool            // err may have ended the whole group's transaction
	over  bool
	inSQL bool // a statement is running; a panic that finds it so came from the driver
}

func (t *tx) Exec(query string, args ...any) (int64, error) {
	s, err := t.ready(query, args)
	if err != nil {
		return 0, t.fail(query, err)
	}
	t.inSQL = true
	res, err := s.exec.ExecContext(context.Background(), t.c.args)
	t.inSQL = false
	if err != nil {
		return 0, t.fail(query, err)
	}
	n, err := res.RowsAffected()
	return n, err
}

func (t *tx) Query(query string, args ...any) (store.Rows, error) {
	r, err := t.query(query, args)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (t *tx) QueryRow(query string, args ...any) store.Row {
	r, err := t.query(query, args)
	return row{r, err}
}

func (t *tx) query(query string, args []any) (*rows, error) {
	s, err := t.ready(query, args)
	if err != nil {
		return nil, t.fail(query, err)
	}
	return t.open(s, query)
}

// queryTrusted is QueryRow for statements of our own, such as a PRAGMA.
func (t *tx) queryTrusted(query string) row {
	s, err := t.c.prepareTrusted(query)
	if err != nil {
		return row{nil, err}
	}
	t.c.args = t.c.args[:0]
	r, err := t.open(s, query)
	return row{r, err}
}

func (t *tx) open(s *stmt, query string) (*rows, error) {
	t.inSQL = true
	dr, err := s.query.QueryContext(context.Background(), t.c.args)
	t.inSQL = false
	if err != nil {
		return nil, t.fail(query, err)
	}
	t.rows = &rows{tx: t, dr: dr, query: query, values: make([]driver.Value, len(dr.Columns()))}
	return t.rows, nil
}

// ready prepares the statement and converts the arguments into c.args.
func (t *tx) ready(query string, args []any) (*stmt, error) {
	switch {
	case t.over:
		return nil, errTxOver
	case t.err != nil:
		return nil, t.err
	case t.rows != nil:
		return nil, errRowsOpen
	case t.ctx != nil && t.ctx.Err() != nil:
		return nil, t.ctx.Err()
	}
	s, err := t.c.prepare(query)
	if err != nil {
		return nil, err
	}
	t.c.args = t.c.args[:0]
	for i, a := range args {
		v, err := argument(a)
		if err != nil {
			return nil, fmt.Errorf("argument $%d: %w", i+1, err)
		}
		t.c.args = append(t.c.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return s, nil
}

func (t *tx) fail(query string, err error) error {
	if t.over {
		return err
	}
	if t.err == nil {
		t.err = fmt.Errorf("%s: %w", brief(query), err)
		t.lost = !keepsTransaction(err)
	}
	return t.err
}

// brief names a statement in an error: enough of its text to find it; values are never part of it.
func brief(query string) string {
	const most = 60
	line := make([]byte, 0, most)
	for i := 0; i < len(query) && len(line) < most; i++ {
		switch b := query[i]; {
		case b > ' ':
			line = append(line, b)
		case len(line) > 0 && line[len(line)-1] != ' ':
			line = append(line, ' ')
		}
	}
	return string(line)
}

// end closes what the function left open and makes the Tx useless to whoever kept it.
func (t *tx) end() {
	if t.rows != nil {
		t.rows.Close()
	}
	t.over = true
}

type rows struct {
	tx     *tx
	dr     driver.Rows
	query  string
	values []driver.Value
	err    error
	ready  bool // values hold a row
	closed bool
}

func (r *rows) Next() bool {
	if r.closed || r.err != nil {
		return false
	}
	if ctx := r.tx.ctx; ctx != nil && ctx.Err() != nil {
		r.err = r.tx.fail(r.query, ctx.Err())
		r.Close()
		return false
	}
	r.tx.inSQL = true
	err := r.dr.Next(r.values)
	r.tx.inSQL = false
	r.ready = err == nil
	if err != nil {
		if err != io.EOF {
			r.err = r.tx.fail(r.query, err)
		}
		r.Close()
	}
	return r.ready
}

func (r *rows) Scan(dest ...any) error {
	if !r.ready {
		return fmt.Errorf("%s: Scan without a row", brief(r.query))
	}
	if len(dest) != len(r.values) {
		return fmt.Errorf("%s: %d columns do not fit %d destinations", brief(r.query), len(r.values), len(dest))
	}
	for i, d := range dest {
		if err := assign(d, r.values[i]); err != nil {
			return fmt.Errorf("%s: column %d (%s): %w", brief(r.query), i+1, r.dr.Columns()[i], err)
		}
	}
	return nil
}

func (r *rows) Err() error { return r.err }

func (r *rows) Close() error {
	if r.closed {
		return nil
	}
	r.closed, r.ready = true, false
	r.tx.rows = nil
	if err := r.dr.Close(); err != nil && r.err == nil {
		r.err = r.tx.fail(r.query, err)
		return r.err
	}
	return nil
}

type row struct {
	r   *rows
	err error
}

func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.r.Close()
	if !r.r.Next() {
		if err := r.r.Err(); err != nil {
			return err
		}
		return store.ErrNoRows
	}
	if err := r.r.Scan(dest...); err != nil {
		return err
	}
	// Run to the end: an INSERT … RETURNING that is reset half-way would have its row written, and a second row is a caller's bug.
	if r.r.Next() {
		return fmt.Errorf("%s: more than one row", brief(r.r.query))
	}
	return r.r.Err()
}
