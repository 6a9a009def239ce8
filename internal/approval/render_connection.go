package approval

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// connection writes where requests go and what they carry. What turns them away from where their URL seems to lead stands
// first, in capitals.
func (p *page) connection(c Connection) {
	p.field("connection", fmt.Sprintf("%s at %s, zone %s, tier %s", token(c.Name), tokens(c.Hosts, ", "), token(c.Zone), token(c.Tier)))
	if c.Address != "" {
		p.field("ADDRESS", "dialled at "+token(c.Address)+" instead of what its name resolves to")
	}
	if c.Plaintext {
		p.field("PLAINTEXT", "WITHOUT TLS: whoever is on the way can read and change all of it, the credential too")
	}
	if c.Roots != "" {
		p.field("ROOTS", "trusts only the certificates with "+token(c.Roots)+", none of the system's")
	}
	credential := visible(c.Credential)
	if len(c.Scopes) > 0 {
		credential += " with " + tokens(c.Scopes, " ")
	}
	p.field("credential", credential+", at most "+token(c.TTL)+" each")
	p.field("issued", issued(c))
	for _, a := range c.Allow {
		p.field("  allows", allows(a))
	}
}

func issued(c Connection) string {
	var parts []string
	for _, part := range []struct{ before, value string }{
		{"by ", c.Provider}, {"for ", c.Audience}, {"presented as ", c.Present}, {"delivered by ", c.Deliver},
	} {
		if part.value != "" {
			parts = append(parts, part.before+token(part.value))
		}
	}
	return strings.Join(parts, ", ")
}

func allows(a Allow) string {
	text := tokens(a.Methods, ",") + " " + token(a.Path)
	switch {
	case slices.Equal(a.Query, []string{"*"}):
		text += "; any query"
	case len(a.Query) > 0:
		text += "; query " + tokens(a.Query, ", ")
	}
	if a.Body != "" {
		text += "; body fits the schema " + token(a.Body)
	}
	for i, name := range slices.Sorted(maps.Keys(a.Facts)) {
		if i == 0 {
			text += "; policy reads"
		}
		text += " " + token(name) + "=" + token(a.Facts[name])
	}
	return text
}
