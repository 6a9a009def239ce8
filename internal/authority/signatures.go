package authority

import (
	"fmt"
	"slices"
	"time"

	"cardea/internal/approval"
	"cardea/internal/approval/verify"
	"cardea/internal/store"
)

func approvalSignature(person, key string, at time.Time, refuse bool, reason string) approval.Signature {
	return approval.Signature{Person: person, Key: key, At: at, Refuse: refuse, Reason: reason}
}

func insertSignature(tx store.Tx, row *approvalRow, sig approval.Signature, armored []byte, leaf string) error {
	refused := 0
	if sig.Refuse {
		refused = 1
	}
	_, err := tx.Exec(`INSERT INTO signatures (approval, person, key, signature, refused, reason, signed_at, leaf) VALUES ($1,$2,$3,$4,$5,$6,$7,$8)
		ON CONFLICT (approval, person) DO UPDATE SET key = excluded.key, signature = excluded.signature, refused = excluded.refused,
		reason = excluded.reason, signed_at = excluded.signed_at, leaf = excluded.leaf`,
		row.id, sig.Person, sig.Key, armored, refused, sig.Reason, store.Micros(sig.At), leaf)
	if err != nil {
		return fmt.Errorf("record the signature of %s on approval %s: %w", sig.Person, row.id, err)
	}
	row.signatures = slices.DeleteFunc(row.signatures, func(s approval.Signature) bool { return s.Person == sig.Person })
	row.signatures = append(row.signatures, sig)
	return nil
}

// loadSignatures reads the signatures of an approval and verifies each again over the statement as it stands in the store: a row
// that was forged, or whose statement was edited, counts for nothing.
func loadSignatures(tx store.Tx, r *approvalRow) error {
	rows, err := tx.Query(`SELECT person, key, signature, refused, reason, signed_at FROM signatures WHERE approval = $1 ORDER BY signed_at, person`, r.id)
	if err != nil {
		return fmt.Errorf("read the signatures of approval %s: %w", r.id, err)
	}
	defer rows.Close()
	for rows.Next() {
		var sig approval.Signature
		var armored []byte
		var refused, at int64
		if err := rows.Scan(&sig.Person, &sig.Key, &armored, &refused, &sig.Reason, &at); err != nil {
			return fmt.Errorf("read the signatures of approval %s: %w", r.id, err)
		}
		sig.At, sig.Refuse = store.Time(at), refused != 0
		namespace := verify.NamespaceApproval
		if sig.Refuse {
			namespace = verify.NamespaceRefusal
		}
		signed, err := verify.Person(r.canonical, armored, namespace)
		if err != nil || signed.Fingerprint != sig.Key {
			continue
		}
		r.signatures = append(r.signatures, sig)
	}
	return rows.Err()
}
