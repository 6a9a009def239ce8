package approval

import (
	"fmt"
	"net/netip"
	"unicode/utf8"
)

func (c *Connection) validate() error {
	for _, f := range []struct{ name, value string }{
		{"connection", c.Name}, {"tier", c.Tier}, {"zone", c.Zone}, {"credential", c.Credential}, {"ttl", c.TTL},
		{"provider", c.Provider}, {"present", c.Present}, {"deliver", c.Deliver},
	} {
		if err := required(f.name, f.value); err != nil {
			return err
		}
	}
	if err := optional("audience", c.Audience); err != nil {
		return err
	}
	if err := c.validateWay(); err != nil {
		return fmt.Errorf("connection %s: %w", c.Name, err)
	}
	if err := texts("hosts", c.Hosts, 1); err != nil {
		return err
	}
	if err := texts("scopes", c.Scopes, 0); err != nil {
		return err
	}
	if len(c.Allow) == 0 || len(c.Allow) > maxList {
		return fmt.Errorf("connection %s allows nothing, or too much to list", c.Name)
	}
	for i := range c.Allow {
		if err := c.Allow[i].validate(); err != nil {
			return fmt.Errorf("connection %s: %w", c.Name, err)
		}
	}
	return nil
}

// validateWay wants an address in the one spelling that dialling has no choice about.
func (c *Connection) validateWay() error {
	if c.Address != "" {
		if at, err := netip.ParseAddrPort(c.Address); err != nil || at.Port() == 0 || at.String() != c.Address {
			return fmt.Errorf("address %.80q is not ip:port", c.Address)
		}
	}
	if c.Roots != "" {
		return digest("its roots", c.Roots)
	}
	return nil
}

func (a *Allow) validate() error {
	if err := texts("methods", a.Methods, 1); err != nil {
		return err
	}
	if err := required("path", a.Path); err != nil {
		return err
	}
	if err := texts("query", a.Query, 0); err != nil {
		return err
	}
	return a.validateBody()
}

func (a *Allow) validateBody() error {
	if a.Body != "" {
		if err := digest("a body's schema", a.Body); err != nil {
			return err
		}
	}
	if len(a.Facts) > maxList {
		return fmt.Errorf("%d facts; at most %d", len(a.Facts), maxList)
	}
	for name, pointer := range a.Facts {
		if err := required("fact", name); err != nil {
			return err
		}
		if len(pointer) > maxText || !utf8.ValidString(pointer) {
			return fmt.Errorf("the pointer of fact %q is too long or not UTF-8", name)
		}
	}
	return nil
}
