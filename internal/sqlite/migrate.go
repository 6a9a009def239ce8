package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"cardea/internal/store"
)

// component is the ordered DDL of one package's tables; step i brings it to version i+1.
type component struct {
	name  string
	steps []migration
}

type migration struct{ name, sql string }

func (m migration) digest() string {
	sum := sha256.Sum256([]byte(m.sql))
	return hex.EncodeToString(sum[:])
}

func newComponent(name string, steps []string) component {
	c := component{name: name}
	for i, sql := range steps {
		c.steps = append(c.steps, migration{name: fmt.Sprintf("%s/%04d", name, i+1), sql: sql})
	}
	return c
}

// readMigrations reads NNNN_word.sql from the top of fsys.
func readMigrations(fsys fs.FS) (component, error) {
	c := component{name: "main"}
	if fsys == nil {
		return c, nil
	}
	names, err := fs.Glob(fsys, "*.sql") // sorted
	if err != nil {
		return c, err
	}
	for i, name := range names {
		number, _, ok := strings.Cut(name, "_")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || len(number) != 4 || n != i+1 {
			return c, fmt.Errorf("migration %s: its name should start with %04d_", name, i+1)
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return c, err
		}
		// A down section would run too, and drop what was just made.
		if strings.Contains(string(text), "+goose") {
			return c, fmt.Errorf("migration %s: goose annotations are not understood here", name)
		}
		c.steps = append(c.steps, migration{name: name, sql: string(text)})
	}
	return c, nil
}

// schemaTable remembers what was applied. Whoever edits it can make an old binary run on a newer schema or a migration
// run twice; it guards against mistakes and holds no authority.
const schemaTable = `CREATE TABLE IF NOT EXISTS schema_migration (
	component  TEXT    NOT NULL,
	version    INTEGER NOT NULL,
	name       TEXT    NOT NULL,
	digest     TEXT    NOT NULL, -- of the SQL text, so that an edited migration is noticed
	applied_at INTEGER NOT NULL,
	PRIMARY KEY (component, version)
) STRICT`

// migrate brings every component up to date, each step in its own transaction, and refuses what this binary does not know.
func migrate(ctx context.Context, c *conn, components []component) error {
	if err := c.script(schemaTable); err != nil {
		return fmt.Errorf("schema_migration: %w", err)
	}
	if err := refuseStrangers(c, components); err != nil {
		return err
	}
	for _, comp := range components {
		done, err := appliedSteps(c, comp)
		if err != nil {
			return err
		}
		for i := done; i < len(comp.steps); i++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := apply(c, comp.name, i+1, comp.steps[i]); err != nil {
				return fmt.Errorf("migration %s: %w", comp.steps[i].name, err)
			}
		}
	}
	return refuseDeferred(c)
}

func refuseStrangers(c *conn, components []component) error {
	known := map[string]bool{}
	for _, comp := range components {
		if known[comp.name] {
			return fmt.Errorf("component %q is given twice", comp.name)
		}
		known[comp.name] = true
	}
	t := &tx{c: c}
	defer t.end()
	rows, err := t.Query("SELECT DISTINCT component FROM schema_migration")
	if err != nil {
		return err
	}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		if !known[name] {
			return fmt.Errorf("the schema has a component %q that this binary does not know", name)
		}
	}
	return rows.Err()
}

// appliedSteps counts the steps that the file has, after checking that they are the ones that this binary would have applied.
func appliedSteps(c *conn, comp component) (int, error) {
	t := &tx{c: c}
	defer t.end()
	rows, err := t.Query("SELECT version, name, digest FROM schema_migration WHERE component = $1 ORDER BY version", comp.name)
	if err != nil {
		return 0, err
	}
	n := 0
	for rows.Next() {
		var version int
		var name, digest string
		if err := rows.Scan(&version, &name, &digest); err != nil {
			return 0, err
		}
		switch {
		case version > len(comp.steps):
			return 0, fmt.Errorf("the schema is newer than this binary: it has %s, which is not known here; run the newer binary", name)
		case version != n+1:
			return 0, fmt.Errorf("the schema has %s without the one before it", name)
		case digest != comp.steps[n].digest():
			return 0, fmt.Errorf("migration %s was applied with another text than this binary has", name)
		}
		n++
	}
	return n, rows.Err()
}

func apply(c *conn, component string, version int, m migration) error {
	if err := c.script("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := applyOpen(c, component, version, m)
	if err == nil {
		err = c.script("COMMIT")
	}
	if err != nil {
		return errors.Join(err, c.script("ROLLBACK"))
	}
	return nil
}

func applyOpen(c *conn, component string, version int, m migration) error {
	if err := c.script(m.sql); err != nil {
		return err
	}
	t := &tx{c: c}
	defer t.end()
	_, err := t.Exec("INSERT INTO schema_migration (component, version, name, digest, applied_at) VALUES ($1, $2, $3, $4, $5)",
		component, version, m.name, m.digest(), store.Micros(time.Now()))
	return err
}

// refuseDeferred keeps deferred constraints out of the schema: they are checked at COMMIT, where one function's mistake would fail
// everyone who shares the group.
func refuseDeferred(c *conn) error {
	t := &tx{c: c}
	defer t.end()
	var name string
	err := t.QueryRow("SELECT name FROM sqlite_master WHERE upper(sql) LIKE '%INITIALLY DEFERRED%' LIMIT 1").Scan(&name)
	if errors.Is(err, store.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("table %s has a deferred constraint, which would fail other callers' commits", name)
}
