package services

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

const maxTransferBody = 64 << 10

// bank keeps transfers in memory. A key that came before is answered as it was then.
type bank struct {
	now func() time.Time

	mu    sync.Mutex
	byKey map[string]*transfer
	order []*transfer
}

type transfer struct {
	digest [sha256.Size]byte
	answer []byte
}

// order is one batch: what is paid to whom, and what that comes to.
type order struct {
	Month    string      `json:"month,omitempty"`
	Currency string      `json:"currency"`
	Total    json.Number `json:"total"`
	Payments []payment   `json:"payments"`
}

type payment struct {
	Employee string      `json:"employee,omitempty"`
	Amount   json.Number `json:"amount"`
	Currency string      `json:"currency"`
	IBAN     string      `json:"iban"`
}

const maxPayments = 1000

// create moves money at most once per idempotency key (draft-ietf-httpapi-idempotency-key-header).
func (b *bank) create(w http.ResponseWriter, r *http.Request, seen *Seen) {
	if seen.IdempotencyKey == "" {
		problem(w, http.StatusBadRequest, "Idempotency-Key is missing", "A transfer needs one.")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTransferBody))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "The body cannot be read", "At most 64 KiB are taken.")
		return
	}
	digest := sha256.Sum256(body)
	seen.Body = "sha256:" + hex.EncodeToString(digest[:])
	var o order
	if err := json.Unmarshal(body, &o); err != nil || !o.valid() {
		problem(w, http.StatusUnprocessableEntity, "Not a transfer", "A transfer has payments, each with a positive amount of at most two decimals, a currency and an iban, and their total.")
		return
	}
	t, fresh := b.take(seen.Subject+"\n"+seen.IdempotencyKey, digest, o)
	switch {
	case t == nil:
		seen.Conflict = true
		problem(w, http.StatusConflict, "The key was used for another body", "The same Idempotency-Key came with a different transfer.")
		return
	case !fresh:
		seen.Replayed = true
		w.Header().Set("Idempotent-Replayed", "true")
	}
	seen.Transferred = fresh
	answer(w, http.StatusCreated, t.answer)
}

// take returns the transfer under key and whether it is new; nil when the key names another body.
func (b *bank) take(key string, digest [sha256.Size]byte, o order) (t *transfer, fresh bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.byKey[key]; t != nil {
		if t.digest != digest {
			return nil, false
		}
		return t, false
	}
	id := "tr_" + strings.ToLower(ulid.MustNew(ulid.Timestamp(b.now()), rand.Reader).String())
	text, err := json.Marshal(struct {
		ID     string `json:"id"`
		Status string `json:"status"`
		order
	}{id, "accepted", o})
	if err != nil {
		panic(err) // strings and a checked number
	}
	t = &transfer{digest, text}
	b.byKey[key] = t
	b.order = append(b.order, t)
	return t, true
}

func (b *bank) list(w http.ResponseWriter, _ *http.Request, _ *Seen) {
	b.mu.Lock()
	all := make([]json.RawMessage, len(b.order))
	for i, t := range b.order {
		all[i] = t.answer
	}
	b.mu.Unlock()
	body, err := json.Marshal(all)
	if err != nil {
		problem(w, http.StatusInternalServerError, "Cannot write", "")
		return
	}
	answer(w, http.StatusOK, body)
}

func (o order) valid() bool {
	total, ok := money(o.Total)
	if !ok || o.Currency == "" || len(o.Payments) == 0 || len(o.Payments) > maxPayments {
		return false
	}
	sum := new(big.Rat)
	for _, p := range o.Payments {
		amount, ok := money(p.Amount)
		if !ok || p.Currency != o.Currency || p.IBAN == "" {
			return false
		}
		sum.Add(sum, amount)
	}
	return sum.Cmp(total) == 0
}

// money reads a positive amount with at most two decimals.
func money(n json.Number) (*big.Rat, bool) {
	amount, ok := new(big.Rat).SetString(string(n))
	if !ok || len(n) > 20 || strings.ContainsAny(string(n), "eE/") || amount.Sign() <= 0 {
		return nil, false
	}
	return amount, new(big.Rat).Mul(amount, big.NewRat(100, 1)).IsInt()
}
