package authority

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cardea/internal/ledger"
	"cardea/internal/permit"
	"cardea/internal/store"
)

// States of a permit; the last two are final.
const (
	permitMinted   = "minted"
	permitRedeemed = "redeemed"
	permitReturned = "returned"
	permitVoided   = "voided"
)

// Delivery is what a runner says became of the action. It is the runner's word: authorized and attempted, not observed.
type Delivery int

// What a runner can say.
const (
	DeliveryUnknown Delivery = iota
	DeliveryNotSent
	DeliverySent
	DeliveryAnswered
)

// permitRow is a permit and what became of it.
type permitRow struct {
	id, runner, state      string
	attempt, generation    int64
	claims                 permit.Permit
	expires, deadline      time.Time
	redeemedAt, returnedAt time.Time
	redeemed               bool
	delivery               Delivery
	actions, voidReason    string
}

const permitColumns = `id, runner, state, attempt, generation, claims, expires_at, deadline, redeemed_at, returned_at, delivery, actions, void_reason`

func loadPermit(tx store.Tx, id string) (permitRow, error) {
	p, err := scanPermit(tx.QueryRow(`SELECT `+permitColumns+` FROM permits WHERE id = $1`, id))
	if errors.Is(err, store.ErrNoRows) {
		return p, fmt.Errorf("permit %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return p, fmt.Errorf("read permit %s: %w", id, err)
	}
	return p, nil
}

func scanPermit(row store.Row) (permitRow, error) {
	var p permitRow
	var text string
	var expires, deadline, redeemed, returned, delivery int64
	err := row.Scan(&p.id, &p.runner, &p.state, &p.attempt, &p.generation, &text, &expires, &deadline, &redeemed, &returned, &delivery, &p.actions, &p.voidReason)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(text), &p.claims); err != nil {
		return p, fmt.Errorf("read the claims of permit %s: %w", p.id, err)
	}
	p.expires, p.deadline, p.delivery = store.Time(expires), store.Time(deadline), Delivery(delivery)
	p.redeemed, p.redeemedAt, p.returnedAt = redeemed != 0, store.Time(redeemed), store.Time(returned)
	return p, nil
}

// voidPermit ends a permit that has not been returned. One that was never redeemed gives its use of an approval back.
func (a *Authority) voidPermit(tx store.Tx, p *permitRow, reason string) error {
	_, err := tx.Exec(`UPDATE permits SET state = 'voided', void_reason = $2 WHERE id = $1 AND state IN ('minted', 'redeemed')`, p.id, reason)
	if err != nil {
		return fmt.Errorf("void permit %s: %w", p.id, err)
	}
	if p.claims.Context.Approval != "" && p.state == permitMinted {
		if _, err := tx.Exec(`DELETE FROM approval_uses WHERE use = $1`, p.id); err != nil {
			return fmt.Errorf("give back the approval of permit %s: %w", p.id, err)
		}
	}
	p.state = permitVoided
	a.voidedLater(PermitVoided{Permit: p.id, Run: p.claims.Run, Runner: p.runner, Reason: reason})
	return nil
}

// voidPermits voids every open permit of a run or a runner. Column is one of two literals, never input.
func (a *Authority) voidPermits(tx store.Tx, column, value, reason string) error {
	open, err := openPermits(tx, column, value)
	if err != nil {
		return err
	}
	for i := range open {
		if err := a.voidPermit(tx, &open[i], reason); err != nil {
			return err
		}
	}
	return nil
}

func openPermits(tx store.Tx, column, value string) ([]permitRow, error) {
	rows, err := tx.Query(`SELECT `+permitColumns+` FROM permits WHERE `+column+` = $1 AND state IN ('minted', 'redeemed')`, value)
	if err != nil {
		return nil, fmt.Errorf("find the open permits of %s %s: %w", column, value, err)
	}
	defer rows.Close()
	var open []permitRow
	for rows.Next() {
		p, err := scanPermit(rows)
		if err != nil {
			return nil, err
		}
		open = append(open, p)
	}
	return open, rows.Err()
}

// record appends a leaf within the transaction of what it records.
func (a *Authority) record(tx store.Tx, kind ledger.Kind, refs ledger.Refs, payload any) (string, error) {
	return a.recordEvent(tx, kind, "", refs, payload)
}

func (a *Authority) recordEvent(tx store.Tx, kind ledger.Kind, event string, refs ledger.Refs, payload any) (string, error) {
	body, err := json.Marshal(payload)
	if err != nil {
		return "", fmt.Errorf("encode a %s leaf: %w", kind, err)
	}
	leaf, err := a.Ledger.Append(tx, ledger.Entry{Kind: kind, Event: event, Refs: refs, Payload: body})
	if err != nil {
		return "", fmt.Errorf("record a %s leaf: %w", kind, err)
	}
	return leaf, nil
}

// stamp writes a time as every document of ours does.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
