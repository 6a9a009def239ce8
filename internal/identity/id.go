package identity

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Kinds of peer.
const (
	KindRole   = "role"
	KindRunner = "runner"
)

// maxID is the longest SPIFFE id that the standard allows (SPIFFE-ID §2.3).
const maxID = 2048

// Peer is who stands at the other end of a connection, as its SVID proves.
type Peer struct {
	ID spiffeid.ID
	// Kind is KindRole or KindRunner.
	Kind string
	// Role is engine, console, authority …; "runner" for a runner.
	Role string
	// Tier is a runner's; empty for a role.
	Tier string
	Name string
	// KeyThumbprint is the base64url SHA-256 of the key's SubjectPublicKeyInfo (DER).
	// Permits are bound to it.
	KeyThumbprint string
}

// RoleID names a role's process: spiffe://<td>/role/<role>/<name>.
func RoleID(td spiffeid.TrustDomain, role, name string) (spiffeid.ID, error) {
	if role == KindRunner {
		return spiffeid.ID{}, errors.New("identity: a runner is not a role: use RunnerID")
	}
	return fromNames(td, KindRole, role, name)
}

// RunnerID names a runner: spiffe://<td>/runner/<tier>/<name>.
func RunnerID(td spiffeid.TrustDomain, tier, name string) (spiffeid.ID, error) {
	return fromNames(td, KindRunner, tier, name)
}

func fromNames(td spiffeid.TrustDomain, kind string, names ...string) (spiffeid.ID, error) {
	if td.IsZero() {
		return spiffeid.ID{}, errors.New("identity: no trust domain")
	}
	for _, n := range names {
		if !ValidName(n) {
			return spiffeid.ID{}, fmt.Errorf("identity: %q is not a name: 1 to 63 of a-z, 0-9 and '-', a letter or digit first", n)
		}
	}
	return spiffeid.FromSegments(td, append([]string{kind}, names...)...)
}

// ValidName reports whether s may name a role, tier, or runner: 1 to 63 of
// a-z, 0-9 and '-', beginning with a letter or digit. Names become folders and
// sockets, so nothing else may pass.
func ValidName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ParsePeer reads a role's or runner's id. The thumbprint stays empty. A task's id
// is refused: tasks do not call roles.
func ParsePeer(id spiffeid.ID) (Peer, error) {
	seg := strings.Split(id.Path(), "/")
	if len(seg) != 4 || !ValidName(seg[2]) || !ValidName(seg[3]) {
		return Peer{}, fmt.Errorf("identity: %q is no role and no runner", id)
	}
	switch {
	case seg[1] == KindRole && seg[2] != KindRunner:
		return Peer{ID: id, Kind: KindRole, Role: seg[2], Name: seg[3]}, nil
	case seg[1] == KindRunner:
		return Peer{ID: id, Kind: KindRunner, Role: KindRunner, Tier: seg[2], Name: seg[3]}, nil
	}
	return Peer{}, fmt.Errorf("identity: %q is no role and no runner", id)
}

// TaskID names a task: spiffe://<td>/wf/<process>/<workflow>/task/<pointer>, where
// pointer is the JSON pointer of the task in its definition. SPIFFE allows few
// characters in a path, task names many: every other byte, and the dot itself, is
// written as a dot and two hex digits, so that two tasks never share an id.
func TaskID(td spiffeid.TrustDomain, process, workflow, pointer string) (spiffeid.ID, error) {
	if td.IsZero() {
		return spiffeid.ID{}, errors.New("identity: no trust domain")
	}
	rest, ok := strings.CutPrefix(pointer, "/")
	if !ok {
		return spiffeid.ID{}, fmt.Errorf("identity: %q is not a task's JSON pointer", pointer)
	}
	segments := []string{"wf", escape(process), escape(workflow), "task"}
	for token := range strings.SplitSeq(rest, "/") {
		segments = append(segments, escape(token))
	}
	id, err := spiffeid.FromSegments(td, segments...)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("identity: task %s of %s/%s: %w", pointer, process, workflow, err)
	}
	if len(id.String()) > maxID {
		return spiffeid.ID{}, fmt.Errorf("identity: the SPIFFE id of task %s of %s/%s is longer than %d bytes", pointer, process, workflow, maxID)
	}
	return id, nil
}

// ParseTask is the inverse of TaskID.
func ParseTask(id spiffeid.ID) (process, workflow, pointer string, err error) {
	seg := strings.Split(id.Path(), "/")
	if len(seg) < 6 || seg[1] != "wf" || seg[4] != "task" {
		return "", "", "", fmt.Errorf("identity: %q is no task", id)
	}
	names := append([]string{seg[2], seg[3]}, seg[5:]...)
	for i, s := range names {
		if names[i], err = unescape(s); err != nil {
			return "", "", "", fmt.Errorf("identity: %q is no task: %w", id, err)
		}
	}
	return names[0], names[1], "/" + strings.Join(names[2:], "/"), nil
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, ".%02x", c)
		}
	}
	return b.String()
}

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '.' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errors.New("a dot without two hex digits")
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil || escape(string([]byte{byte(c)})) != s[i:i+3] {
			return "", fmt.Errorf("%q is not an escape that TaskID writes", s[i:i+3])
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), nil
}
