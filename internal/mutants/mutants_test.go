package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// Every patch still applies, and every invariant that `make mutants` answers for has one. That the tests die is for `make mutants`.
func TestPatchesApply(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	files, err := filepath.Glob("mutants/*.patch")
	if err != nil || len(files) == 0 {
		t.Fatalf("no patches: %v", err)
	}
	number := regexp.MustCompile(`^(\d+)-`)
	var covered []string
	for _, file := range files {
		m, err := read(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.overlay(t.TempDir()); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if _, err := os.Stat(m.pkg); err != nil {
			t.Errorf("%s names %s: %v", file, m.pkg, err)
		}
		if n := number.FindStringSubmatch(filepath.Base(file)); n != nil {
			covered = append(covered, n[1])
		}
	}
	for _, want := range []string{"01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "16", "17", "18", "19"} {
		if !slices.Contains(covered, want) {
			t.Errorf("no patch for invariant %s", want)
		}
	}
}
