package ledger

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
)

// Kind is what a leaf records. Kinds are never renamed: old leaves keep their bytes.
type Kind string

const (
	// KindStart: a run was opened: its evidence, the decision, the provenance that it got.
	KindStart Kind = "start"
	// KindVerdict: policy decided over one action. Events: allow, deny, pending.
	KindVerdict Kind = "verdict"
	// KindIssuance: a lease was intended, or its credential is about to be released. Events: intended, issued.
	KindIssuance Kind = "issuance"
	// KindLeaseEnd: a lease ended. Events: revoked, expired.
	KindLeaseEnd Kind = "lease_end"
	// KindApproval: people were asked, or answered. Events: created, signed, refused, voided, settled.
	KindApproval Kind = "approval"
	// KindAction: a runner says what it did with a credential: attempted, and what it observed.
	KindAction Kind = "action"
	// KindChange: desired state, a policy or a secret changed, by whom and with which signatures.
	KindChange Kind = "change"
	// KindClosure: a run ended: what was issued for it, what has ended, what still lives and why.
	KindClosure Kind = "closure"
	// KindRefusal: a caller was turned away: wrong role, bad identity, stale epoch, bad proof.
	KindRefusal Kind = "refusal"
	// KindJoin: a role or a runner joined or renewed with a new key.
	KindJoin Kind = "join"
	// KindQuarantine: a role, runner, person or connection was shut out, or let in again.
	KindQuarantine Kind = "quarantine"
	// KindErasure: the payload of the leaf that refs.leaf names was erased.
	KindErasure Kind = "erasure"
)

// Known says whether this build documents the kind.
func (k Kind) Known() bool {
	switch k {
	case KindStart, KindVerdict, KindIssuance, KindLeaseEnd, KindApproval, KindAction, KindChange, KindClosure, KindRefusal,
		KindJoin, KindQuarantine, KindErasure:
		return true
	}
	return false
}

// Limits of one leaf.
const (
	MaxLeaf    = 8 << 10
	MaxPayload = 4 << 20
	maxRef     = 1 << 10
	saltSize   = 16
	version    = 1
	timeLayout = "2006-01-02T15:04:05.000Z"
)

// Refs name what a leaf is about. They cannot be erased, so nothing about a natural person belongs here: people stand in the payload.
type Refs struct {
	Run      string `json:"run,omitempty"`
	Task     string `json:"task,omitempty"`     // JSON pointer into the definition
	Attempt  string `json:"attempt,omitempty"`  // epoch, decimal
	Subject  string `json:"subject,omitempty"`  // SPIFFE id that the credential names
	Target   string `json:"target,omitempty"`   // connection
	Lease    string `json:"lease,omitempty"`    // lse_…
	Permit   string `json:"permit,omitempty"`   // prm_…
	Approval string `json:"approval,omitempty"` // apr_…
	Verdict  string `json:"verdict,omitempty"`  // lf_… of the verdict
	Leaf     string `json:"leaf,omitempty"`     // lf_… of the leaf that an erasure is about
}

// Leaf is the document that is hashed into the tree.
type Leaf struct {
	V    int    `json:"v"`
	ID   string `json:"id"` // lf_… , made by Append
	Kind Kind   `json:"kind"`
	// Event says which of the kind's events this is, where a kind has several.
	Event string    `json:"event,omitempty"`
	Time  time.Time `json:"-"` // when it was recorded, by the authority's clock; milliseconds
	Hub   string    `json:"hub"`
	// Dev marks what a hub recorded while a lone evaluator could work on it: such leaves prove nothing about four eyes.
	Dev  bool `json:"dev"`
	Refs Refs `json:"refs"`
	// Payload is "sha256:" and the digest of salt ‖ payload. The salt keeps a short payload from being guessed from it.
	Payload string `json:"payload"`
}

// canonical writes the leaf as RFC 8785 JSON: members sorted, one spelling of everything.
func (l Leaf) canonical() ([]byte, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 512)
	b = append(b, `{"dev":`...)
	b = strconv.AppendBool(b, l.Dev)
	if l.Event != "" {
		b = appendMember(b, `,"event":`, l.Event)
	}
	b = appendMember(b, `,"hub":`, l.Hub)
	b = appendMember(b, `,"id":`, l.ID)
	b = appendMember(b, `,"kind":`, string(l.Kind))
	b = appendMember(b, `,"payload":`, l.Payload)
	b = append(b, `,"refs":{`...)
	first := true
	for _, m := range l.Refs.members() {
		if m.value == "" {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, m.name)
		b = appendMember(b, ":", m.value)
	}
	b = append(b, `},"time":"`...)
	b = l.Time.UTC().AppendFormat(b, timeLayout)
	b = append(b, `","v":`...)
	b = strconv.AppendInt(b, int64(l.V), 10)
	b = append(b, '}')
	if len(b) > MaxLeaf {
		return nil, fmt.Errorf("the leaf has %d bytes; at most %d are allowed", len(b), MaxLeaf)
	}
	return b, nil
}

type member struct{ name, value string }

// members are the references in the order of their names, as RFC 8785 wants them.
func (r Refs) members() [10]member {
	return [10]member{
		{"approval", r.Approval}, {"attempt", r.Attempt}, {"leaf", r.Leaf}, {"lease", r.Lease}, {"permit", r.Permit},
		{"run", r.Run}, {"subject", r.Subject}, {"target", r.Target}, {"task", r.Task}, {"verdict", r.Verdict},
	}
}

func appendMember(b []byte, prefix, value string) []byte {
	return appendString(append(b, prefix...), value)
}

// appendString writes a string as RFC 8785 §3.2.2.2 does: short escapes where JSON has them, \u00xx for other controls, all else as
// it is.
func appendString(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		default:
			if j := strings.IndexByte("\b\t\n\f\r", c); j >= 0 {
				b = append(b, '\\', "btnfr"[j])
				continue
			}
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(b, '"')
}

func (l Leaf) validate() error {
	if l.V != version {
		return fmt.Errorf("leaf version %d is not known to this build", l.V)
	}
	if !l.Kind.Known() {
		return fmt.Errorf("leaf kind %q is not known to this build", l.Kind)
	}
	if !isID(l.ID) {
		return fmt.Errorf("leaf id %q is not lf_ and a ULID in lower case", l.ID)
	}
	if !isWord(l.Event) {
		return fmt.Errorf("leaf event %q is not a lower-case word", l.Event)
	}
	if l.Hub == "" || len(l.Hub) > maxRef || !utf8.ValidString(l.Hub) {
		return errors.New("the leaf names no hub")
	}
	if year := l.Time.UTC().Year(); year < 2000 || year > 9999 {
		return fmt.Errorf("leaf time %v is not plausible", l.Time)
	}
	if !isDigest(l.Payload) {
		return errors.New("the leaf's payload is not a sha256 digest")
	}
	for _, m := range l.Refs.members() {
		if len(m.value) > maxRef || !utf8.ValidString(m.value) {
			return fmt.Errorf("reference %s is longer than %d bytes or not UTF-8", m.name, maxRef)
		}
	}
	return nil
}

func isID(s string) bool {
	rest, ok := strings.CutPrefix(s, "lf_")
	if !ok || len(rest) != ulid.EncodedSize || rest != strings.ToLower(rest) {
		return false
	}
	_, err := ulid.ParseStrict(strings.ToUpper(rest))
	return err == nil
}

func isWord(s string) bool {
	return len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

func isDigest(s string) bool {
	rest, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(rest) == 64 && strings.Trim(rest, "0123456789abcdef") == ""
}

// ParseLeaf reads canonical bytes and refuses any others, so that no two readers see two leaves in the same bytes.
func ParseLeaf(canonical []byte) (Leaf, error) {
	if len(canonical) > MaxLeaf {
		return Leaf{}, fmt.Errorf("the leaf has %d bytes; at most %d are allowed", len(canonical), MaxLeaf)
	}
	var w struct {
		Leaf
		Time string `json:"time"`
	}
	dec := json.NewDecoder(bytes.NewReader(canonical))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return Leaf{}, fmt.Errorf("decode leaf: %w", err)
	}
	t, err := time.Parse(timeLayout, w.Time)
	if err != nil {
		return Leaf{}, fmt.Errorf("decode leaf: %w", err)
	}
	w.Leaf.Time = t
	again, err := w.Leaf.canonical()
	if err != nil {
		return Leaf{}, err
	}
	if !bytes.Equal(again, canonical) {
		return Leaf{}, errors.New("the leaf is not in its canonical form")
	}
	return w.Leaf, nil
}

// payloadDigest binds a payload to its leaf. The salt has a fixed length, so that salt ‖ payload can be cut in one way only.
func payloadDigest(salt, payload []byte) string {
	h := sha256.New()
	h.Write(salt)
	h.Write(payload)
	return "sha256:" + hex.EncodeToString(h.Sum(make([]byte, 0, sha256.Size)))
}

// CheckPayload says whether a payload and its salt are the ones that the leaf was made with.
func (l Leaf) CheckPayload(salt, payload []byte) error {
	if len(salt) != saltSize {
		return fmt.Errorf("leaf %s: the salt has %d bytes and not %d", l.ID, len(salt), saltSize)
	}
	if subtle.ConstantTimeCompare([]byte(payloadDigest(salt, payload)), []byte(l.Payload)) != 1 {
		return fmt.Errorf("leaf %s: payload and salt do not have the digest that the leaf carries", l.ID)
	}
	return nil
}

func newSalt() []byte {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails: crypto/rand ends the process instead
	return salt
}

func newID(t time.Time) (string, error) {
	id, err := ulid.New(ulid.Timestamp(t), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("leaf id: %w", err)
	}
	return "lf_" + strings.ToLower(id.String()), nil
}
