package registry

import (
	"fmt"
	"slices"
	"strings"
)

func readConnection(o *object, name string) Object {
	c := &Connection{
		Name:      name,
		Process:   readName(o, "process", false),
		Owner:     readOwner(o),
		Zone:      readName(o, "zone", true),
		Tier:      readName(o, "tier", false),
		Plaintext: o.boolean("plaintext"),
		Address:   readAddress(o),
		Roots:     readRoots(o),
		TTL:       readDuration(o, "ttl", false, DefaultTTL, MaxTTL),
	}
	if c.Tier == "" {
		c.Tier = "standard"
	}
	c.Hosts = o.texts("hosts", true, func(s string) error { return checkOrigin(s, c.Plaintext) })
	if len(c.Hosts) == 0 && o.members["hosts"] != nil {
		o.bad("hosts", "must name at least one origin, such as https://api.example.com")
	}
	if c.Address != "" && len(c.Hosts) > 1 {
		o.bad("address", "stands for one host, but there are %d: make a connection for each", len(c.Hosts))
	}
	c.Provider = readProvider(o)
	if g, ok := o.child("grants", false); ok {
		c.Grants.Scopes = g.texts("scopes", false, checkScope)
		g.done()
	}
	c.Present = readOnly(o, "present", "bearer", []string{"basic", "header", "sigv4", "mtls"})
	c.Deliver = readOnly(o, "deliver", "egress", []string{"file", "env", "socket"})
	c.Allow = readAllows(o)
	return c
}

// readOnly reads a field of which this build has one value.
func readOnly(o *object, field, only string, later []string) string {
	s := o.text(field, false)
	switch {
	case s == "" || s == only:
	case slices.Contains(later, s):
		o.bad(field, "this build has no %q; it has %q only", s, only)
	default:
		o.bad(field, "%q is not known; use %q or leave it out", s, only)
	}
	return only
}

// laterProviders are named in the design and come with issues of their own.
var laterProviders = []string{"oauth2", "oidc", "static", "vault", "aws", "gcp", "azure", "postgres", "ssh", "github"}

func readProvider(o *object) Provider {
	p, ok := o.child("provider", true)
	if !ok {
		return Provider{}
	}
	if len(p.members) != 1 && p.members != nil {
		o.bad("provider", "must name exactly one provider, such as {jwt: {audience: https://api.example.com}}")
	}
	for _, name := range laterProviders {
		if _, ok := p.get(name, false); ok {
			p.bad(name, "this build has no provider %s; it has jwt only, later versions bring others", name)
		}
	}
	var provider Provider
	if j, ok := p.child("jwt", false); ok {
		provider.JWT = &JWTProvider{Audience: j.text("audience", true)}
		if a := provider.JWT.Audience; len(a) > 255 || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' }) {
			j.bad("audience", "must be at most 255 characters of printable ASCII without spaces, as the target expects it in aud")
		}
		j.done()
	}
	p.read = map[string]bool{"jwt": true}
	for _, name := range laterProviders {
		if _, ok := p.members[name]; ok {
			p.read[name] = true
		}
	}
	p.done()
	return provider
}

func readAllows(o *object) []Allow {
	var allows []Allow
	for i, v := range o.list("allow", true) {
		a := newObject(v, fmt.Sprintf("%s/allow/%d", o.at, i), o.problems)
		allows = append(allows, readAllow(a))
		a.done()
	}
	if len(allows) > 100 {
		o.bad("allow", "has %d entries; at most 100 are allowed", len(allows))
	}
	return allows
}

func readAllow(o *object) Allow {
	a := Allow{Methods: o.texts("methods", true, checkMethod)}
	if len(a.Methods) == 0 && o.members["methods"] != nil {
		o.bad("methods", "must name at least one of %s", strings.Join(methods, ", "))
	}
	var err error
	if a.Path = o.text("path", true); a.Path != "" {
		if a.path, err = parseTemplate(a.Path); err != nil {
			o.bad("path", "%v", err)
		}
	}
	a.Query = o.texts("query", false, checkQueryName)
	if slices.Contains(a.Query, "*") && len(a.Query) > 1 {
		o.bad("query", `"*" already stands for every name: write it alone`)
	}
	if a.Body = o.text("body", false); a.Body != "" {
		if a.schema, err = compileSchema(a.Body); err != nil {
			o.bad("body", "%v", err)
		}
	}
	a.Facts = readFacts(o)
	if reads := a.Body != "" || len(a.Facts) > 0; reads && slices.ContainsFunc(a.Methods, func(m string) bool { return m == "GET" || m == "HEAD" }) {
		o.bad("methods", "GET and HEAD have no body: give them an entry without body and facts")
	}
	return a
}

func checkMethod(s string) error {
	if !slices.Contains(methods, s) {
		return fmt.Errorf("%q is not one of %s (upper-case)", s, strings.Join(methods, ", "))
	}
	return nil
}

func checkQueryName(s string) error {
	if s == "" || len(s) > 128 || strings.ContainsFunc(s, isControl) {
		return fmt.Errorf("%q is not a query parameter's name", s)
	}
	return nil
}

func readFacts(o *object) map[string]string {
	f, ok := o.child("facts", false)
	if !ok {
		return nil
	}
	facts := map[string]string{}
	for name := range f.members {
		pointer := f.text(name, true)
		switch _, err := splitPointer(pointer); {
		case !factPattern.MatchString(name):
			f.bad(name, "is not a fact's name: use letters, digits and _, beginning with a letter, as policy writes context.action.facts.<name>")
		case err != nil:
			f.bad(name, "%v", err)
		}
		facts[name] = pointer
	}
	if len(facts) > 50 {
		o.bad("facts", "has %d entries; at most 50 are allowed", len(facts))
	}
	return facts
}
