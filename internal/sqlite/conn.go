package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strings"

	sqlite "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

type mode int

const (
	writable mode = iota
	readOnly
)

// conn is one SQLite connection and its prepared statements. One goroutine at a time uses it. It goes beneath database/sql, whose
// pool, locks and context watchers cost more than a statement does.
type conn struct {
	raw   rawConn
	mode  mode
	stmts map[string]*stmt    // of functions
	own   map[string]*stmt    // of this package, such as COMMIT; kept apart so that no function finds them
	args  []driver.NamedValue // reused by every statement; the driver copies what it binds
}

type rawConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
}

type stmt struct {
	driver.Stmt
	exec  driver.StmtExecContext
	query driver.StmtQueryContext
}

// maxStatements bounds the cache: a caller that builds SQL text from data must not fill memory with it.
const maxStatements = 512

// pragmas of a connection. trusted_schema=OFF and cell_size_check face a file that was edited by others. On the writer's connection
// fullfsync matters on darwin only, where fsync does not reach the platters; secure_delete overwrites what is deleted, because
// erasing is a promise of the ledger; journal_size_limit gives space back after a burst; wal_autocheckpoint is off, since walKeeper
// does it beside the commits and not inside one.
func (m mode) pragmas() []string {
	common := []string{
		"busy_timeout=5000", "trusted_schema=OFF", "cell_size_check=ON", "foreign_keys=ON", "temp_store=MEMORY", "recursive_triggers=ON",
	}
	if m == readOnly {
		return append(common, "query_only=ON", "cache_size=-2048")
	}
	return append(common, "synchronous=FULL", "secure_delete=ON", "fullfsync=ON", "checkpoint_fullfsync=ON", "wal_autocheckpoint=0",
		"journal_size_limit=33554432", "cache_size=-8192")
}

func dial(path, vfs string, m mode) (*conn, error) {
	q := url.Values{"_defensive": {"1"}, "_dqs": {"0"}}
	if vfs != "" {
		q.Set("vfs", vfs)
	}
	if m == readOnly {
		q.Set("mode", "ro")
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	connector, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, err
	}
	dc, err := connector.Connect(context.Background())
	if err != nil {
		return nil, err
	}
	raw, ok := dc.(rawConn)
	if !ok {
		return nil, errors.Join(errors.New("the SQLite driver lacks prepared statements"), dc.Close())
	}
	c := &conn{raw: raw, mode: m, stmts: map[string]*stmt{}, own: map[string]*stmt{}}
	if err := c.setUp(); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *conn) setUp() error {
	for _, p := range c.mode.pragmas() {
		if err := c.script("PRAGMA " + p); err != nil {
			return fmt.Errorf("PRAGMA %s: %w", p, err)
		}
	}
	if c.mode == readOnly {
		return nil
	}
	return c.verify("journal_mode=WAL", "wal", "synchronous", "2", "foreign_keys", "1")
}

// verify asks for pragmas back: SQLite answers a PRAGMA that it cannot honour with silence, and without WAL or FULL
// this package's promise would be a lie.
func (c *conn) verify(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		var got any
		tx := &tx{c: c}
		if err := tx.queryTrusted("PRAGMA " + pairs[i]).Scan(&got); err != nil {
			return fmt.Errorf("PRAGMA %s: %w", pairs[i], err)
		}
		if fmt.Sprint(got) != pairs[i+1] {
			return fmt.Errorf("PRAGMA %s: the database answers %v and not %s", pairs[i], got, pairs[i+1])
		}
	}
	return nil
}

// script runs statements of our own that take no arguments.
func (c *conn) script(sql string) error {
	_, err := c.raw.ExecContext(context.Background(), sql, nil)
	return err
}

// step runs a cached statement of our own that takes no arguments and has no rows, such as BEGIN.
func (c *conn) step(sql string) error {
	s, err := c.prepareTrusted(sql)
	if err != nil {
		return err
	}
	_, err = s.exec.ExecContext(context.Background(), nil)
	return err
}

// prepare is for SQL that a Tx was given: only statements on rows, so that nobody ends the group's transaction from inside it
// or changes the schema behind the migrations.
func (c *conn) prepare(sql string) (*stmt, error) {
	if s, ok := c.stmts[sql]; ok {
		return s, nil
	}
	switch word := firstWord(sql); word {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "WITH":
	default:
		return nil, fmt.Errorf("%q is not a statement that a transaction may run", word)
	}
	if strings.Contains(strings.TrimRight(sql, "; \t\r\n"), ";") {
		return nil, errors.New("more than one statement, or a value that should be an argument")
	}
	s, err := c.compile(sql)
	if err != nil {
		return nil, err
	}
	if len(c.stmts) >= maxStatements {
		c.forgetOne()
	}
	c.stmts[sql] = s
	return s, nil
}

func (c *conn) prepareTrusted(sql string) (*stmt, error) {
	if s, ok := c.own[sql]; ok {
		return s, nil
	}
	s, err := c.compile(sql)
	if err == nil {
		c.own[sql] = s
	}
	return s, err
}

func (c *conn) compile(sql string) (*stmt, error) {
	ds, err := c.raw.PrepareContext(context.Background(), sql)
	if err != nil {
		return nil, err
	}
	s := &stmt{Stmt: ds}
	var execs, queries bool
	s.exec, execs = ds.(driver.StmtExecContext)
	s.query, queries = ds.(driver.StmtQueryContext)
	if !execs || !queries {
		return nil, errors.Join(errors.New("the SQLite driver's statements lack context methods"), ds.Close())
	}
	return s, nil
}

func (c *conn) forgetOne() {
	for sql, s := range c.stmts {
		s.Close()
		delete(c.stmts, sql)
		return
	}
}

func firstWord(sql string) string {
	sql = strings.TrimLeft(sql, " \t\r\n")
	end := strings.IndexFunc(sql, func(r rune) bool { return r < 'A' || r > 'z' })
	if end >= 0 {
		sql = sql[:end]
	}
	return strings.ToUpper(sql)
}

func (c *conn) close() error {
	for _, own := range []map[string]*stmt{c.stmts, c.own} {
		for _, s := range own {
			s.Close()
		}
	}
	return c.raw.Close()
}

// isConstraint says whether err is a broken constraint, after which SQLite keeps the transaction intact.
func isConstraint(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == lib.SQLITE_CONSTRAINT
}

// keepsTransaction says whether SQLite leaves the transaction open after err. After the others it may already have rolled the
// whole group back, and then the next statement would commit on its own.
func keepsTransaction(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return true // found before SQLite was asked, such as an argument of a kind that cannot be stored
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_ERROR, lib.SQLITE_CONSTRAINT, lib.SQLITE_MISMATCH, lib.SQLITE_RANGE, lib.SQLITE_TOOBIG, lib.SQLITE_READONLY, lib.SQLITE_AUTH:
		return true
	}
	return false
}

// isFull says whether err is a full disk, after which SQLite has rolled back cleanly and may be asked again.
func isFull(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == lib.SQLITE_FULL
}
