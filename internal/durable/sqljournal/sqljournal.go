// Package sqljournal keeps the engine's journal in a store.DB.
//
// It promises what durable.Journal, Definitions and Grants ask: one commit per call, and an event is never replaced. It
// refuses an event whose place is taken, since then another driver writes to the same journal.
package sqljournal

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"cardea/internal/dispatch"
	"cardea/internal/durable"
	"cardea/internal/engine"
	"cardea/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations is the schema, for whoever opens the database.
func Migrations() (fs.FS, error) { return fs.Sub(migrations, "migrations") }

// Journal is the adapter. It is safe for concurrent use.
type Journal struct{ db store.DB }

var (
	_ durable.Journal     = (*Journal)(nil)
	_ durable.Definitions = (*Journal)(nil)
	_ durable.Grants      = (*Journal)(nil)
)

// New is a journal in db, whose schema is Migrations.
func New(db store.DB) *Journal { return &Journal{db: db} }

const recordColumns = `id, workflow, version, digest, person, request_id, ticket_id, input_digest, started_at`

// Begin implements durable.Journal.
func (j *Journal) Begin(ctx context.Context, r durable.Record, first durable.Entry) (durable.Record, error) {
	begun := r
	err := j.db.Commit(ctx, func(tx store.Tx) error {
		begun = r
		row := tx.QueryRow(`SELECT `+recordColumns+` FROM runs WHERE ticket_id = $1 OR (person = $2 AND request_id = $3) ORDER BY id LIMIT 1`,
			r.TicketID, r.Person, r.RequestID)
		earlier, err := scanRecord(row)
		if err == nil {
			begun = earlier
			return nil
		}
		if !errors.Is(err, store.ErrNoRows) {
			return err
		}
		_, err = tx.Exec(`INSERT INTO runs (`+recordColumns+`, format, status) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			r.ID, r.Workflow, r.Version, r.Digest, r.Person, r.RequestID, r.TicketID, r.InputDigest, store.Micros(r.StartedAt),
			engine.Format, string(engine.StatusOpening))
		if err != nil {
			return err
		}
		return insert(tx, r.ID, first)
	})
	if err != nil {
		return durable.Record{}, fmt.Errorf("journal the start of run %s: %w", r.ID, err)
	}
	return begun, nil
}

func scanRecord(row store.Row, more ...any) (durable.Record, error) {
	var r durable.Record
	var at int64
	dest := append([]any{&r.ID, &r.Workflow, &r.Version, &r.Digest, &r.Person, &r.RequestID, &r.TicketID, &r.InputDigest, &at}, more...)
	err := row.Scan(dest...)
	r.StartedAt = store.Time(at)
	return r, err
}

func insert(tx store.Tx, run string, e durable.Entry) error {
	n, err := tx.Exec(`INSERT INTO events (run, seq, data, commands) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		run, int64(e.Seq), e.Data, e.Commands[:])
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("event %d is there already: %w", e.Seq, durable.ErrFenced)
	}
	return nil
}

// Append implements durable.Journal.
func (j *Journal) Append(ctx context.Context, run string, e durable.Entry, p *durable.Progress) error {
	err := j.db.Commit(ctx, func(tx store.Tx) error {
		if err := insert(tx, run, e); err != nil || p == nil {
			return err
		}
		_, err := tx.Exec(`UPDATE runs SET status = $2, started_by = $3, kind = $4, origin = $5, ended_at = $6, closed = $7 WHERE id = $1`,
			run, string(p.Status), p.StartedBy, p.Kind, p.Origin, store.Micros(p.EndedAt), flag(p.Closed))
		if err == nil && p.Closed {
			_, err = tx.Exec(`DELETE FROM grants WHERE run = $1`, run)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("journal event %d of run %s: %w", e.Seq, run, err)
	}
	return nil
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

const summaryColumns = recordColumns + `, format, status, started_by, kind, origin, ended_at, closed,
	COALESCE((SELECT MAX(seq) FROM events WHERE events.run = runs.id), 0)`

func scanSummary(row store.Row) (durable.Summary, error) {
	var s durable.Summary
	var status string
	var ended, closed, revision int64
	r, err := scanRecord(row, &s.Format, &status, &s.StartedBy, &s.Kind, &s.Origin, &ended, &closed, &revision)
	s.Record, s.Status, s.EndedAt, s.Closed, s.Revision = r, engine.Status(status), store.Time(ended), closed != 0, uint64(revision)
	return s, err
}

// Load implements durable.Journal.
func (j *Journal) Load(ctx context.Context, run string) (durable.Summary, []durable.Entry, error) {
	var s durable.Summary
	var entries []durable.Entry
	err := j.db.View(ctx, func(tx store.Tx) (err error) {
		entries = nil
		s, err = scanSummary(tx.QueryRow(`SELECT `+summaryColumns+` FROM runs WHERE id = $1`, run))
		if errors.Is(err, store.ErrNoRows) {
			return durable.ErrNoRun
		}
		if err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT seq, data, commands FROM events WHERE run = $1 ORDER BY seq`, run)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e durable.Entry
			var seq int64
			var digest []byte
			if err := rows.Scan(&seq, &e.Data, &digest); err != nil {
				return err
			}
			if len(digest) != len(e.Commands) {
				return fmt.Errorf("event %d has a digest of %d bytes", seq, len(digest))
			}
			e.Seq = uint64(seq)
			copy(e.Commands[:], digest)
			entries = append(entries, e)
		}
		return rows.Err()
	})
	if err != nil {
		return durable.Summary{}, nil, fmt.Errorf("read run %s: %w", run, err)
	}
	return s, entries, nil
}

// List implements durable.Journal.
func (j *Journal) List(ctx context.Context, f durable.Filter) ([]durable.Summary, error) {
	statement, args := query(f)
	var out []durable.Summary
	err := j.db.View(ctx, func(tx store.Tx) error {
		out = nil
		rows, err := tx.Query(statement, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			s, err := scanSummary(rows)
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return out, nil
}

func query(f durable.Filter) (string, []any) {
	var where []string
	var args []any
	add := func(clause string, values ...any) {
		for _, v := range values {
			args = append(args, v)
			clause = strings.Replace(clause, "?", "$"+strconv.Itoa(len(args)), 1)
		}
		where = append(where, clause)
	}
	if f.Workflow != "" {
		add("workflow = ?", f.Workflow)
	}
	if len(f.Statuses) > 0 {
		var values []any
		for _, s := range f.Statuses {
			values = append(values, string(s))
		}
		add("status IN ("+strings.TrimSuffix(strings.Repeat("?, ", len(values)), ", ")+")", values...)
	}
	if f.Live {
		add("closed = 0")
	}
	if f.Before != "" {
		add("id < ?", f.Before)
	}
	q := `SELECT ` + summaryColumns + ` FROM runs`
	if len(where) > 0 {
		q += " WHERE " + strings.Join(where, " AND ")
	}
	args = append(args, int64(f.Limit))
	return q + " ORDER BY id DESC LIMIT $" + strconv.Itoa(len(args)), args
}

// Definition implements durable.Definitions.
func (j *Journal) Definition(ctx context.Context, digest string) ([]byte, error) {
	var canonical []byte
	err := j.db.View(ctx, func(tx store.Tx) error {
		return tx.QueryRow(`SELECT canonical FROM definitions WHERE digest = $1`, digest).Scan(&canonical)
	})
	if errors.Is(err, store.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read definition %s: %w", digest, err)
	}
	return canonical, nil
}

// KeepDefinition implements durable.Definitions.
func (j *Journal) KeepDefinition(ctx context.Context, digest string, canonical []byte) error {
	err := j.db.Commit(ctx, func(tx store.Tx) error {
		_, err := tx.Exec(`INSERT INTO definitions (digest, canonical) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING`, digest, canonical)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep definition %s: %w", digest, err)
	}
	return nil
}

// KeepGrants implements durable.Grants. A grant that comes after its run was closed is not kept.
func (j *Journal) KeepGrants(ctx context.Context, grants []durable.Grant) error {
	err := j.db.Commit(ctx, func(tx store.Tx) error {
		for _, g := range grants {
			_, err := tx.Exec(`INSERT INTO grants (run, task, attempt, epoch, permit, runner, key, tier, deadline)
				SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE EXISTS (SELECT 1 FROM runs WHERE id = $1 AND closed = 0)
				ON CONFLICT (run, task) DO UPDATE SET attempt = excluded.attempt, epoch = excluded.epoch, permit = excluded.permit,
				runner = excluded.runner, key = excluded.key, tier = excluded.tier, deadline = excluded.deadline
				WHERE excluded.epoch > grants.epoch`,
				g.Run, g.Task, int64(g.Attempt), int64(g.Epoch), g.Permit, g.Runner.ID, g.Runner.Key, g.Runner.Tier, store.Micros(g.Deadline))
			if err != nil {
				return fmt.Errorf("keep the grant of task %s of run %s: %w", g.Task, g.Run, err)
			}
		}
		return nil
	})
	return err
}

// Grants implements durable.Grants.
func (j *Journal) Grants(ctx context.Context) ([]durable.Grant, error) {
	var out []durable.Grant
	err := j.db.View(ctx, func(tx store.Tx) error {
		out = nil
		rows, err := tx.Query(`SELECT run, task, attempt, epoch, permit, runner, key, tier, deadline FROM grants ORDER BY run, task`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			g := durable.Grant{Held: dispatch.Held{}}
			var epoch, deadline int64
			if err := rows.Scan(&g.Run, &g.Task, &g.Attempt, &epoch, &g.Permit, &g.Runner.ID, &g.Runner.Key, &g.Runner.Tier, &deadline); err != nil {
				return err
			}
			g.Epoch, g.Deadline = uint64(epoch), store.Time(deadline)
			out = append(out, g)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read grants: %w", err)
	}
	return out, nil
}
