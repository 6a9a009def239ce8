package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cardea/internal/store"
)

// State of a lease.
type State string

// States; the last two are final.
const (
	Intended State = "intended"
	Issued   State = "issued"
	Revoking State = "revoking"
	Revoked  State = "revoked"
	Expired  State = "expired"
)

// Schema is the broker's table, which the authority's migrations include. An attacker who edits a row could make the hub
// forget a credential that still lives: the ledger's issuance without its end shows it.
const Schema = `
CREATE TABLE leases (
  id          TEXT PRIMARY KEY,
  permit      TEXT NOT NULL,
  run         TEXT NOT NULL,
  task        TEXT NOT NULL,
  workflow    TEXT NOT NULL,
  runner      TEXT NOT NULL,
  connection  TEXT NOT NULL,
  provider    TEXT NOT NULL,
  promise     TEXT NOT NULL CHECK (promise IN ('named', 'by-handle', 'expiring')),
  scopes      TEXT NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('intended', 'issued', 'revoking', 'revoked', 'expired')),
  handle      TEXT NOT NULL DEFAULT '',
  intended_at INTEGER NOT NULL,
  issued_at   INTEGER NOT NULL DEFAULT 0,
  expires_at  INTEGER NOT NULL,
  ended_at    INTEGER NOT NULL DEFAULT 0,
  tries       INTEGER NOT NULL DEFAULT 0,
  due_at      INTEGER NOT NULL,
  last_error  TEXT NOT NULL DEFAULT '',
  leaf        TEXT NOT NULL DEFAULT '',
  end_leaf    TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX leases_due ON leases (due_at) WHERE state IN ('intended', 'issued', 'revoking');
CREATE INDEX leases_permit ON leases (permit);
CREATE INDEX leases_run ON leases (run);
`

// Lease is one credential's record. It never holds the credential.
type Lease struct {
	ID, Permit, Run, Task, Workflow, Runner string
	Connection, Provider                    string
	Promise                                 Promise
	Scopes                                  []string
	State                                   State
	Handle                                  string
	IntendedAt, IssuedAt, ExpiresAt         time.Time
	EndedAt, DueAt                          time.Time
	Tries                                   int
	LastError                               string
	Leaf, EndLeaf                           string
}

// Live reports whether the target may still accept the credential.
func (l Lease) Live() bool { return l.State != Revoked && l.State != Expired }

// Intend records that a credential is about to be minted (invariant 3). DueAt is set so that a crash before Issue ends it.
func Intend(tx store.Tx, l Lease) error {
	l.State, l.DueAt = Intended, l.ExpiresAt
	if l.Promise != Expiring {
		l.DueAt = l.IntendedAt.Add(mintGrace)
	}
	return insert(tx, l)
}

// IntendAndIssue records both at once, for a provider whose mint has no effect outside.
func IntendAndIssue(tx store.Tx, l Lease) error {
	l.State, l.IssuedAt, l.DueAt = Issued, l.IntendedAt, l.ExpiresAt
	return insert(tx, l)
}

// MintTimeout bounds one call to Mint; mintGrace, which is longer, is how long after the intent an unconfirmed mint is taken for lost
// and undone.
const (
	MintTimeout = 20 * time.Second
	mintGrace   = 30 * time.Second
)

func insert(tx store.Tx, l Lease) error {
	scopes, err := json.Marshal(l.Scopes)
	if err != nil {
		return fmt.Errorf("encode scopes of lease %s: %w", l.ID, err)
	}
	_, err = tx.Exec(`INSERT INTO leases (id, permit, run, task, workflow, runner, connection, provider, promise, scopes, state, handle,
		intended_at, issued_at, expires_at, due_at, leaf) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17)`,
		l.ID, l.Permit, l.Run, l.Task, l.Workflow, l.Runner, l.Connection, l.Provider, string(l.Promise), string(scopes), string(l.State), l.Handle,
		store.Micros(l.IntendedAt), store.Micros(l.IssuedAt), store.Micros(l.ExpiresAt), store.Micros(l.DueAt), l.Leaf)
	if err != nil {
		return fmt.Errorf("record lease %s: %w", l.ID, err)
	}
	return nil
}

// ErrState is returned when a lease is not in a state that allows the change: somebody else ended it first.
var ErrState = errors.New("lease is in another state")

// Issue records that an intended credential exists, with its leaf. A lease whose ending was asked for meanwhile stays revoking
// and becomes due at once: the caller sees from its permit that the credential must not be released.
func Issue(tx store.Tx, id string, m Minted, leaf string, now time.Time) error {
	return change(tx, id, `UPDATE leases SET handle = $2, issued_at = $3, expires_at = $4, leaf = $5,
		due_at = CASE state WHEN 'intended' THEN $4 ELSE $3 END, state = CASE state WHEN 'intended' THEN 'issued' ELSE state END
		WHERE id = $1 AND state IN ('intended', 'revoking')`, id, m.Handle, store.Micros(now), store.Micros(m.Expires), leaf)
}

// EndOfPermit starts the ending of every lease of a permit: revocable ones become due at once, expiring ones wait for their
// time. It reports how many can be revoked now.
func EndOfPermit(tx store.Tx, permit string, now time.Time) (int, error) {
	return startEnding(tx, "permit", permit, now)
}

// EndOfRun does the same for every permit of a run.
func EndOfRun(tx store.Tx, run string, now time.Time) (int, error) {
	return startEnding(tx, "run", run, now)
}

// startEnding leaves an intended lease alone until no mint of it can be under way: revoking a name that appears afterwards would
// confirm the end of what then lives. Column is one of two literals, never input.
func startEnding(tx store.Tx, column, value string, now time.Time) (int, error) {
	n, err := tx.Exec(`UPDATE leases SET due_at = CASE state WHEN 'intended' THEN due_at ELSE $2 END, state = 'revoking'
		WHERE `+column+` = $1 AND promise <> 'expiring' AND state IN ('intended', 'issued')`, value, store.Micros(now))
	if err != nil {
		return 0, fmt.Errorf("end leases of %s %s: %w", column, value, err)
	}
	return int(n), nil
}

// finish moves a live lease to its final state.
func finish(tx store.Tx, id string, state State, leaf string, now time.Time) error {
	return change(tx, id, `UPDATE leases SET state = $2, ended_at = $3, end_leaf = $4, last_error = ''
		WHERE id = $1 AND state IN ('intended', 'issued', 'revoking')`, id, string(state), store.Micros(now), leaf)
}

// stillLive reports whether a lease has not ended, as this transaction sees it.
func stillLive(tx store.Tx, id string) (bool, error) {
	found, err := List(tx, Filter{ID: id, Live: true, Limit: 1})
	return len(found) == 1, err
}

// retryLater records a failed try of a revocation.
func retryLater(tx store.Tx, id string, cause error, due time.Time) error {
	return change(tx, id, `UPDATE leases SET state = 'revoking', tries = tries + 1, last_error = $2, due_at = $3
		WHERE id = $1 AND state IN ('intended', 'issued', 'revoking')`, id, clip(cause.Error()), store.Micros(due))
}

func clip(s string) string {
	const most = 500
	if len(s) > most {
		return s[:most]
	}
	return s
}

func change(tx store.Tx, id, query string, args ...any) error {
	n, err := tx.Exec(query, args...)
	if err != nil {
		return fmt.Errorf("change lease %s: %w", id, err)
	}
	if n != 1 {
		return fmt.Errorf("lease %s: %w", id, ErrState)
	}
	return nil
}

const columns = `id, permit, run, task, workflow, runner, connection, provider, promise, scopes, state, handle,
	intended_at, issued_at, expires_at, ended_at, due_at, tries, last_error, leaf, end_leaf`

// Filter chooses leases; empty fields choose all.
type Filter struct {
	ID, Permit, Run, Connection, Runner string
	Live                                bool
	Limit                               int
}

// List returns leases, newest first. The query names only what is asked for, so that an index can find it: a permit's leases are looked up
// at every return.
func List(tx store.Tx, f Filter) ([]Lease, error) {
	where, args := "", []any{}
	for _, c := range []struct{ column, value string }{{"id", f.ID}, {"permit", f.Permit}, {"run", f.Run}, {"connection", f.Connection}} {
		if c.value != "" {
			args = append(args, c.value)
			where += fmt.Sprintf(" AND %s = $%d", c.column, len(args)) // the column is one of the four above
		}
	}
	if f.Live {
		where += ` AND state IN ('intended', 'issued', 'revoking')`
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	args = append(args, f.Limit)
	return query(tx, fmt.Sprintf(`WHERE true%s ORDER BY intended_at DESC, id DESC LIMIT $%d`, where, len(args)), args...)
}

// OfRun returns every lease of a run, oldest first.
func OfRun(tx store.Tx, run string) ([]Lease, error) {
	return query(tx, `WHERE run = $1 ORDER BY intended_at, id`, run)
}

// Due returns live leases whose next step is due by now, the longest due first.
func Due(tx store.Tx, now time.Time, limit int) ([]Lease, error) {
	return query(tx, `WHERE state IN ('intended', 'issued', 'revoking') AND due_at <= $1 ORDER BY due_at LIMIT $2`, store.Micros(now), limit)
}

// NextDue is when the next live lease becomes due; ok is false when none lives.
func NextDue(tx store.Tx) (at time.Time, ok bool, err error) {
	var micros int64
	err = tx.QueryRow(`SELECT due_at FROM leases WHERE state IN ('intended', 'issued', 'revoking') ORDER BY due_at LIMIT 1`).Scan(&micros)
	if errors.Is(err, store.ErrNoRows) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("find the next due lease: %w", err)
	}
	return store.Time(micros), true, nil
}

func query(tx store.Tx, where string, args ...any) ([]Lease, error) {
	rows, err := tx.Query(`SELECT `+columns+` FROM leases `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("query leases: %w", err)
	}
	defer rows.Close()
	var leases []Lease
	for rows.Next() {
		l, err := scan(rows)
		if err != nil {
			return nil, err
		}
		leases = append(leases, l)
	}
	return leases, rows.Err()
}

func scan(row store.Row) (Lease, error) {
	var l Lease
	var promise, scopes, state string
	var intended, issued, expires, ended, due int64
	err := row.Scan(&l.ID, &l.Permit, &l.Run, &l.Task, &l.Workflow, &l.Runner, &l.Connection, &l.Provider, &promise, &scopes, &state, &l.Handle,
		&intended, &issued, &expires, &ended, &due, &l.Tries, &l.LastError, &l.Leaf, &l.EndLeaf)
	if err != nil {
		return Lease{}, fmt.Errorf("read a lease: %w", err)
	}
	if err := json.Unmarshal([]byte(scopes), &l.Scopes); err != nil {
		return Lease{}, fmt.Errorf("read scopes of lease %s: %w", l.ID, err)
	}
	l.Promise, l.State = Promise(promise), State(state)
	l.IntendedAt, l.IssuedAt, l.ExpiresAt = store.Time(intended), store.Time(issued), store.Time(expires)
	l.EndedAt, l.DueAt = store.Time(ended), store.Time(due)
	return l, nil
}
