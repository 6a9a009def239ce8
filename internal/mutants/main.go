// Command mutants shows that the tests of the invariants can fail: it applies one patch after another, each of which removes the code
// that keeps an invariant, and demands that the test named in the patch then fails.
//
// The working tree is never touched: patched files reach the compiler through an overlay. A patch that no longer applies, does not
// compile, or whose test passes with it is an error, and so is a test that does not pass without it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// mutant is one patch file. Its first lines say what it is about:
//
//	# Invariant 7: once
//	# Test: ./internal/authority TestOnce
type mutant struct {
	file, title, pkg, test, tags string
	touched                      []string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(only []string) error {
	files, err := filepath.Glob("mutants/*.patch")
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("no patches in mutants/: run this from the repository's root")
	}
	survived, ran := 0, 0
	for _, file := range files {
		if len(only) > 0 && !slices.ContainsFunc(only, func(s string) bool { return strings.Contains(file, s) }) {
			continue
		}
		m, err := read(file)
		if err != nil {
			return err
		}
		ran++
		if err := m.check(); err != nil {
			survived++
			fmt.Printf("SURVIVED  %s (%s): %v\n", m.title, filepath.Base(m.file), err)
			continue
		}
		fmt.Printf("killed    %-60s by %s\n", m.title, m.test)
	}
	fmt.Printf("%d passed, %d failed\n", ran-survived, survived)
	if survived > 0 {
		return fmt.Errorf("%d of %d mutants survived", survived, ran)
	}
	return nil
}

var (
	titleLine = regexp.MustCompile(`(?m)^# (Invariant .*)$`)
	testLine  = regexp.MustCompile(`(?m)^# Test: (\S+) (\S+)(?: tags=(\S+))?$`)
	fileLine  = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)$`)
)

func read(file string) (mutant, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return mutant{}, err
	}
	title, test, touched := titleLine.FindSubmatch(text), testLine.FindSubmatch(text), fileLine.FindAllSubmatch(text, -1)
	if title == nil || test == nil || touched == nil {
		return mutant{}, fmt.Errorf("%s: an invariant, a test and a changed file are needed", file)
	}
	m := mutant{file: file, title: string(title[1]), pkg: string(test[1]), test: string(test[2]), tags: string(test[3])}
	for _, t := range touched {
		m.touched = append(m.touched, string(t[1]))
	}
	return m, nil
}

// check reports why the mutant survived, or nil when its test killed it.
func (m mutant) check() error {
	if out, err := m.goTest(""); err != nil || !strings.Contains(out, "--- PASS: "+m.test) {
		return fmt.Errorf("its test does not pass without the patch:\n%s", tail(out))
	}
	dir, err := os.MkdirTemp("", "mutant-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	overlay, err := m.overlay(dir)
	if err != nil {
		return err
	}
	out, err := m.goTest(overlay)
	switch {
	case err == nil:
		return fmt.Errorf("%s passes with the patch", m.test)
	case !strings.Contains(out, "--- FAIL: "+m.test) && !strings.Contains(out, "panic: "):
		return fmt.Errorf("%s did not run with the patch:\n%s", m.test, tail(out))
	}
	return nil
}

// overlay copies the touched files into dir, patches them there and writes what `go build -overlay` reads.
func (m mutant) overlay(dir string) (string, error) {
	replace := map[string]string{}
	for _, path := range m.touched {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		copied := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(copied), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(copied, text, 0o600); err != nil {
			return "", err
		}
		absolute, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		replace[absolute] = copied
	}
	patch, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	apply := exec.Command("git", "apply", "-p1", "--unidiff-zero", "--recount", patch)
	apply.Dir = dir
	apply.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if out, err := apply.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the patch does not apply: %s", out)
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, text, 0o600)
}

func (m mutant) goTest(overlay string) (string, error) {
	args := []string{"test", "-count=1", "-timeout=60s", "-v", "-run", "^" + strings.ReplaceAll(m.test, "/", "$/^") + "$"}
	if m.tags != "" {
		args = append(args, "-tags", m.tags)
	}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	out, err := exec.Command("go", append(args, m.pkg)...).CombinedOutput()
	return string(out), err
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
