package demo

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The story must hold with the real binary. It fails by itself when a claim does not; here only its shape is looked at.
func TestDemo(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "cardea")
	if out, err := exec.Command("go", "build", "-o", binary, "cardea/cmd/cardea").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	var out bytes.Buffer
	if err := Run(t.Context(), Options{Binary: binary, Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if n := strings.Count(out.String(), "✔"); n < 16 {
		t.Fatalf("%d marks in\n%s", n, out.String())
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Fatalf("the demo left %v behind, %v", left, err)
	}
}

func TestChangeOneByte(t *testing.T) {
	export := []byte(`{"leaf":"{\"event\":\"allow\"}"}`)
	changed, err := changeOneByte(export)
	if err != nil {
		t.Fatal(err)
	}
	different := 0
	for i := range export {
		if export[i] != changed[i] {
			different++
		}
	}
	if different != 1 {
		t.Fatalf("%d bytes changed", different)
	}
}
