package role

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-jose/go-jose/v4"
)

// maxGrantLine bounds one line of the supervisor's grants.
const maxGrantLine = 64 << 10

// GrantLine is one line of JSON on the authority's --grants-fd: exactly one of its fields is set. Only who started the
// authority can write there.
type GrantLine struct {
	Join   *JoinAllowed   `json:"join,omitempty"`
	Person *PersonAllowed `json:"person,omitempty"`
}

// JoinAllowed lets the holder of a token join, once, as one role. The token itself goes to the role alone.
type JoinAllowed struct {
	Role        string `json:"role"`
	Name        string `json:"name"`
	Tier        string `json:"tier"`
	TokenSHA256 string `json:"token_sha256"`
}

// PersonAllowed names a person of a hub in dev, with the public keys they prove themselves and sign with.
type PersonAllowed struct {
	Name   string          `json:"name"`
	Groups []string        `json:"groups"`
	JWK    jose.JSONWebKey `json:"jwk"`
	// SSHKeys are in authorized_keys form.
	SSHKeys []string `json:"ssh_keys"`
}

// ReadGrants hands each line of the descriptor to take until the supervisor closes it, ctx ends, or something in it is wrong.
// An end is no error. It is for the authority's Host.Go.
func ReadGrants(ctx context.Context, fd int, take func(context.Context, GrantLine) error) error {
	f, err := inherited(fd, "--grants-fd")
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	err = readGrants(ctx, f, take)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func readGrants(ctx context.Context, r io.Reader, take func(context.Context, GrantLine) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxGrantLine)
	for lines.Scan() {
		line, err := parseGrantLine(lines.Bytes())
		if err != nil {
			return err
		}
		if err := take(ctx, line); err != nil {
			return fmt.Errorf("grants: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("grants: %w", err)
	}
	return nil
}

func parseGrantLine(text []byte) (GrantLine, error) {
	var g GrantLine
	if err := strictJSON(text, &g); err != nil {
		return GrantLine{}, fmt.Errorf("grants: %w", err)
	}
	if (g.Join == nil) == (g.Person == nil) {
		return GrantLine{}, errors.New("grants: a line is a join or a person")
	}
	if g.Person != nil && (!g.Person.JWK.Valid() || !g.Person.JWK.IsPublic()) {
		return GrantLine{}, errors.New("grants: a person's jwk must be a public key")
	}
	return g, nil
}
