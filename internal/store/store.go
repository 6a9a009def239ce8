// Package store declares the one transaction that everything durable is written in.
//
// The ledger, registry, approvals and leases are functions over Tx, so that a row and its ledger leaf stand or fall together.
// An adapter promises that Commit returns nil only when the writes would survive a power cut; it never reports success early.
// SQL is shared by the adapters: $1 placeholders, upsert and RETURNING; ids and times are made in Go, JSON is TEXT, and
// times are INTEGER microseconds since the Unix epoch.
package store

import (
	"context"
	"database/sql"
	"time"
)

// ErrNoRows is what Row.Scan returns when a query found nothing.
var ErrNoRows = sql.ErrNoRows

// Row is the outcome of a query that yields at most one row.
type Row interface {
	Scan(dest ...any) error
}

// Rows is the outcome of a query. The caller closes it before the next statement of the same Tx.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close() error
}

// Tx is one transaction. It is used by one goroutine and dies with the function it was given to.
type Tx interface {
	Exec(query string, args ...any) (rowsAffected int64, err error)
	Query(query string, args ...any) (Rows, error)
	QueryRow(query string, args ...any) Row
}

// DB is a durable store; its methods are safe for concurrent use.
type DB interface {
	// Commit runs fn and returns nil only when its writes are durable. Callers share group commits, yet each fn runs alone in its
	// own savepoint: its error or panic rolls back only itself. fn does nothing but compute and use the Tx.
	Commit(ctx context.Context, fn func(Tx) error) error
	// View runs fn over a consistent snapshot; writes are refused.
	View(ctx context.Context, fn func(Tx) error) error
	Close() error
}

// Micros is how a time is stored: microseconds since the Unix epoch, 0 for the zero time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time undoes Micros.
func Time(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
