package role

import (
	"net"
	"strconv"
)

// Needs are what a role uses of the machine beyond its own folder and sockets. The zero value is the least.
type Needs struct {
	// ReadWrite and ReadOnly are further files or folders.
	ReadWrite []string
	ReadOnly  []string
	// RunPrograms allows the role to start its own binary as a child (and read the libraries that takes).
	RunPrograms bool
	// ConnectAnywhere allows TCP to any port: for runners, whose egress decides about targets. All others reach the ports that
	// their configuration names.
	ConnectAnywhere bool
}

// walls is what Harden has put up, for one honest line in the log.
type walls struct {
	Has     []string
	Missing []string
}

// systemFiles are what Go's resolver, TLS and time packages read. None is secret.
func systemFiles() []string {
	return []string{
		"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services", "/etc/protocols", "/etc/localtime",
		"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
		"/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/dev/urandom", "/run/systemd/resolve", "/proc/self",
	}
}

// dialledPorts are the TCP ports among the addresses that a configuration dials.
func dialledPorts(c Config) []uint16 {
	var ports []uint16
	for _, f := range fields(c) {
		text, ok := f.value.Interface().(string)
		if !ok {
			continue
		}
		a, err := ParseAddress(text)
		if err != nil || a.Network != "tcp" {
			continue
		}
		_, port, err := net.SplitHostPort(a.Rest)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			ports = append(ports, uint16(n))
		}
	}
	return ports
}
