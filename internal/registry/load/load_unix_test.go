//go:build unix

package load

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPipes: a pipe in a folder would make the client wait for ever.
func TestPipes(t *testing.T) {
	dir := folderOf(t, map[string]string{"a.yaml": "kind: Group\nname: a\n"})
	if err := unix.Mkfifo(filepath.Join(dir, "b.yaml"), 0o600); err != nil {
		t.Skip(err)
	}
	b, err := Paths(dir)
	if err != nil || b.Err() == nil || !strings.Contains(b.Err().Error(), "not a regular file") {
		t.Errorf("%v %v", err, b.Err())
	}
}
