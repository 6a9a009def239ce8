package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is also the target: the bench starts itself as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == targetCommand {
		if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The measurement must work with the real binary, and its counts agree. What it measures in a second is not looked at.
func TestBenchSmoke(t *testing.T) {
	dir := t.TempDir()
	if err := refuseMemory(dir); err != nil {
		t.Skip(err)
	}
	binary := filepath.Join(dir, "cardea")
	if out, err := exec.Command("go", "build", "-o", binary, "cardea/cmd/cardea").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	path := filepath.Join(dir, "figures.json")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-short", "-binary", binary, "-dir", dir, "-json", path}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "accepted requests agree") {
		t.Errorf("no word of the counts in\n%s", &out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var figures map[string]float64
	if err := json.Unmarshal(text, &figures); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range figures {
		if !bytes.Contains(page, []byte("`"+key+"`")) {
			t.Errorf("docs/benchmarks.md does not say what %s is", key)
		}
		if value <= 0 && !strings.HasPrefix(key, "cpu_us_") && !strings.HasPrefix(key, "others_") {
			t.Errorf("%s is %g", key, value)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "cardea-bench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// Each count that differs must end the bench in failure.
func TestCountsMustAgree(t *testing.T) {
	good := func() counts {
		return counts{leaves: map[string]int{"verdict allow": 6, "issuance issued": 6, "action attempted": 6, "closure ": 2}, accepted: 6, requests: 6, journalled: 6, ended: 2}
	}
	b := &bench{out: &bytes.Buffer{}}
	if err := b.agree(good(), 2); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(*counts){
		"verdicts that allow":               func(c *counts) { c.leaves["verdict allow"]++ },
		"issuances":                         func(c *counts) { c.leaves["issuance issued"]-- },
		"actions":                           func(c *counts) { c.leaves["action attempted"]-- },
		"results in the journal":            func(c *counts) { c.journalled-- },
		"requests that the target accepted": func(c *counts) { c.accepted-- },
		"requests that the target saw":      func(c *counts) { c.requests++ },
		"verdicts that do not allow":        func(c *counts) { c.leaves["verdict deny"]++ },
		"runs that completed":               func(c *counts) { c.ended-- },
		"closures":                          func(c *counts) { c.leaves["closure "]-- },
	} {
		c := good()
		spoil(&c)
		if err := b.agree(c, 2); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestMemoryIsRefused(t *testing.T) {
	const shm = "/dev/shm"
	if _, err := os.Stat(shm); err != nil {
		t.Skip(err)
	}
	var out bytes.Buffer
	err := run(t.Context(), []string{"-short", "-dir", shm}, &out)
	if err == nil || !strings.Contains(err.Error(), "is memory") {
		t.Fatalf("%v\n%s", err, &out)
	}
	if left, err := filepath.Glob(filepath.Join(shm, "cardea-bench-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestQuantile(t *testing.T) {
	d := make([]time.Duration, 100)
	for i := range d {
		d[i] = time.Duration(i + 1)
	}
	for q, want := range map[float64]time.Duration{.5: 50, .99: 99, 1: 100, 0: 1} {
		if got := quantile(d, q); got != want {
			t.Errorf("%v: %d, want %d", q, got, want)
		}
	}
	if quantile(nil, .5) != 0 || quantile(d[:1], .99) != 1 {
		t.Error("edges")
	}
}

func TestFiguresKeepFourDigits(t *testing.T) {
	f := figures{}
	for in, want := range map[float64]float64{0: 0, 1234.567: 1235, .0123456: .01235, 5: 5, 0.09: 0.09} {
		if f.set("x", in); f["x"] != want {
			t.Errorf("%v: %v", in, f["x"])
		}
	}
}
