package role

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits into sun_path on Linux (108) and darwin (104), with its final zero byte.
const maxSocketPath = 103

// Address is where a listener is: unix:/path, tcp:host:port, or fd:N for one that the supervisor has bound.
type Address struct {
	Network string // unix, tcp or fd
	Rest    string
}

// ParseAddress reads an address. Relative socket paths are refused: a role's working folder means nothing.
func ParseAddress(s string) (Address, error) {
	network, rest, _ := strings.Cut(s, ":")
	switch network {
	case "unix":
		if !filepath.IsAbs(rest) || filepath.Clean(rest) != rest {
			return Address{}, fmt.Errorf("address %q: a socket's path must be absolute and clean", s)
		}
		if len(rest) > maxSocketPath {
			return Address{}, fmt.Errorf("address %q: longer than the %d bytes that a socket's path can have; use a shorter folder", s, maxSocketPath)
		}
		return Address{network, rest}, nil
	case "tcp":
		if _, _, err := net.SplitHostPort(rest); err != nil {
			return Address{}, fmt.Errorf("address %q: %w", s, err)
		}
		return Address{network, rest}, nil
	case "fd":
		if n, err := strconv.Atoi(rest); err != nil || n < 3 {
			return Address{}, fmt.Errorf("address %q: an inherited descriptor is 3 or more", s)
		}
		return Address{network, rest}, nil
	}
	return Address{}, fmt.Errorf("address %q: should be unix:/path, tcp:host:port or fd:number", s)
}

func (a Address) String() string { return a.Network + ":" + a.Rest }

// Listen binds an address. A Unix socket has mode 0600; one left behind by a process that is gone is replaced, one
// that still answers is an error.
func Listen(addr string) (net.Listener, error) {
	a, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	switch a.Network {
	case "unix":
		return listenUnix(a.Rest)
	case "fd":
		return listenInherited(a)
	}
	ln, err := net.Listen("tcp", a.Rest)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

func listenInherited(a Address) (net.Listener, error) {
	n, err := strconv.Atoi(a.Rest)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	f, err := inherited(n, a.String())
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	defer f.Close()
	ln, err := net.FileListener(f) // a duplicate that children do not inherit
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	return ln, nil
}

func listenUnix(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := checkSocketFolder(dir); err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	// Two starts at once would both find the socket stale, and the second remove the first's
	// new one: the folder's lock lets one of them look at a time, and leaves no file.
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("listen on unix:%s: lock its folder: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on unix:%s: %w", path, err), ln.Close())
	}
	return ln, nil
}

// inherited is a descriptor that the supervisor left open for this process: no child of ours gets it, and closing it ends a read
// that waits.
func inherited(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("%s: descriptor %d: %w", name, fd, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

// checkSocketFolder refuses a folder in which others could put a socket of their own in place of this one.
func checkSocketFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("others may write to the folder %s: take that right away (chmod go-w)", dir)
	}
	return nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("something that is not a socket is there; it is not removed")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(errors.New("another process serves it"), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another process serves it: %w", err)
	}
	return os.Remove(path)
}

// dialAddress opens a connection to unix:/path or tcp:host:port.
func dialAddress(ctx context.Context, addr string) (net.Conn, error) {
	a, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	if a.Network == "fd" {
		return nil, fmt.Errorf("address %q cannot be dialled", addr)
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	return d.DialContext(ctx, a.Network, a.Rest)
}
