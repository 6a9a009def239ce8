package egress

import "net/netip"

// checkAddress refuses every address that is not plainly on the public internet. A connection that wants another one must name it.
// An attacker who writes the DNS of a permitted host, or an action with an address for a host, would otherwise reach the
// runner's own network: its cloud's metadata service, databases without passwords, Cardea itself.
func checkAddress(addr netip.Addr) error {
	a := addr.Unmap() // ::ffff:127.0.0.1 is 127.0.0.1 to the kernel
	if a.Zone() != "" {
		return fail(Refused, "address %s has a zone", addr)
	}
	if inner, ok := embedded(a); ok {
		a = inner
	}
	for _, bad := range specialRanges {
		if bad.prefix.Contains(a) {
			return fail(Refused, "address %s is %s; a connection must name it to reach it", addr, bad.what)
		}
	}
	if a.Is6() && a.As16()[0]>>5 != 1 { // 2000::/3, all that IANA has given out
		return fail(Refused, "address %s is not global unicast", addr)
	}
	return nil
}

// embedded returns the IPv4 address that a translator would send to: NAT64 (RFC 6052) or 6to4 (RFC 3056).
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

type specialRange struct {
	prefix netip.Prefix
	what   string
}

// specialRanges is never written.
var specialRanges = parseRanges([][2]string{
	// The IANA special-purpose registries (RFC 6890 and its updates), and the addresses at which clouds serve credentials.
	{"0.0.0.0/8", "unspecified"},
	{"10.0.0.0/8", "private"},
	{"100.64.0.0/10", "shared address space (CGNAT)"},
	{"127.0.0.0/8", "loopback"},
	{"169.254.0.0/16", "link-local, where clouds serve credentials"},
	{"172.16.0.0/12", "private"},
	{"192.0.0.0/24", "reserved for protocols"},
	{"192.0.2.0/24", "for documentation"},
	{"192.88.99.0/24", "a 6to4 relay"},
	{"192.168.0.0/16", "private"},
	{"198.18.0.0/15", "for benchmarks"},
	{"198.51.100.0/24", "for documentation"},
	{"203.0.113.0/24", "for documentation"},
	{"224.0.0.0/4", "multicast"},
	{"240.0.0.0/4", "reserved"},
	{"168.63.129.16/32", "a cloud's metadata service"},
	{"::/128", "unspecified"},
	{"::1/128", "loopback"},
	{"::/96", "an IPv4-compatible address"},
	{"64:ff9b:1::/48", "local NAT64"},
	{"100::/64", "discard-only"},
	{"2001::/23", "reserved for protocols, such as Teredo"},
	{"2001:db8::/32", "for documentation"},
	{"3fff::/20", "for documentation"},
	{"fc00::/7", "private"},
	{"fe80::/10", "link-local"},
	{"fec0::/10", "site-local"},
	{"ff00::/8", "multicast"},
})

func parseRanges(table [][2]string) []specialRange {
	ranges := make([]specialRange, len(table))
	for i, row := range table {
		ranges[i] = specialRange{netip.MustParsePrefix(row[0]), row[1]}
	}
	return ranges
}

// checkNamed is for an address that the connection names: its owner meant it, so that only what no server can have is refused.
func checkNamed(named string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(named)
	if err != nil {
		return netip.AddrPort{}, fail(Refused, "the connection's address %q is not ip:port", named)
	}
	a := ap.Addr().Unmap()
	if a.IsUnspecified() || a.IsMulticast() || ap.Port() == 0 {
		return netip.AddrPort{}, fail(Refused, "the connection's address %q is not one server's", named)
	}
	return netip.AddrPortFrom(a, ap.Port()), nil
}
