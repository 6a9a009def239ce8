package load

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cardea/internal/flow/claims"
	"cardea/internal/registry"
)

// TestDocumentation: every example of the reference is a resource that this build takes, together with the others.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../../docs/resources.md")
	if err != nil {
		t.Fatal(err)
	}
	roots, err := os.ReadFile("testdata/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"roots.pem": string(roots), "people-ops.yaml": "kind: Group\nname: people-ops\n"}
	for i, block := range regexp.MustCompile("(?s)```(yaml|cedar)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		files[strings.Repeat("b", i+1)+"."+block[1]] = block[2]
	}
	b, err := Paths(folderOf(t, files))
	if err != nil || b.Err() != nil {
		t.Fatal(err, b.Err())
	}
	kinds := map[string]bool{}
	for _, r := range b.Resources {
		kinds[r.Kind] = true
	}
	for _, kind := range []string{registry.KindProcess, registry.KindConnection, registry.KindApprovalRule, registry.KindPerson, registry.KindGroup, registry.KindRunner, registry.KindPolicy} {
		if !kinds[kind] {
			t.Errorf("the reference has no example of %s", kind)
		}
	}
	empty, err := registry.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := empty.Plan(registry.Change{Apply: b.Resources}); err != nil {
		t.Errorf("the reference's examples do not fit together: %v", err)
	}
}

// FuzzResources: whatever a file holds, reading it ends in resources or in errors that have a place.
func FuzzResources(f *testing.F) {
	f.Add(process + "---\n" + connection + "---\n" + workflow)
	f.Add("kind: Binding\nname: a\nconnections: {c: {ttl: 1s}}\n---\n" + connection)
	f.Add("kind: Connection\nallow: [{body: {}}, 1, {body: 2}]\n")
	dir := folderOf(f, map[string]string{"schemas/s.json": "{}"})
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := Paths(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range b.Findings {
			if f.Severity == claims.Error && (f.File == "" || f.Message == "") {
				t.Fatalf("a finding without a place: %+v", f)
			}
		}
	})
}
