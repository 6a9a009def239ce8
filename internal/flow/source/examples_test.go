package source

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardea/internal/flow"
	"cardea/internal/flow/claims"
)

var update = flag.Bool("update", false, "rewrite testdata/examples.txt")

// dsl finds the specification's files, which stand beside the repository.
func dsl(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if found := filepath.Join(dir, "shared", "dsl"); exists(found) {
			return found
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("the specification's files (../shared/dsl) are missing")
	}
	t.Skip("the specification's files (../shared/dsl) are missing, so its examples are not tried")
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// The specification's 66 examples all load. testdata/examples.txt says of each whether it compiles with the profile, and
// if not, why, and where.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(dsl(t), "examples", "*.yaml"))
	if err != nil || len(files) != 66 {
		t.Fatalf("there are %d examples (%v), want 66", len(files), err)
	}
	var b strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		d, _, err := Load(name, text)
		if err != nil {
			t.Errorf("%s does not load: %v", name, err)
			continue
		}
		plan, findings := Compile(name, text, flow.Options{Profile: true})
		decoded, err := claims.Decode(d.Canonical)
		if (plan != nil) != (err == nil) {
			t.Errorf("%s: compiled %v, decoded %v", name, plan != nil, err)
		}
		if plan != nil && (fmt.Sprint(plan.Claims) != fmt.Sprint(decoded) || plan.Digest != decoded.Digest) {
			t.Errorf("%s: the plan claims %+v, the authority reads %+v", name, plan.Claims, decoded)
		}
		fmt.Fprintf(&b, "%s: %s\n", name, map[bool]string{true: "compiles", false: "refused"}[plan != nil])
		b.WriteString(Format(findings))
	}
	golden := filepath.Join("testdata", "examples.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		t.Errorf("the examples' findings differ from %s (rewrite with -update and read the difference):\n%s", golden, got)
	}
}

// Without the profile, computed endpoints and headers compile; kinds that come later do not.
func TestExamplesWithoutTheProfile(t *testing.T) {
	dir := dsl(t)
	for name, want := range map[string]bool{
		"star-wars-homeworld.yaml": true, "call-http-endpoint-interpolation.yaml": true, "call-http-query-headers-expressions.yaml": true,
		"fork.yaml": false, "authentication-bearer.yaml": false,
	} {
		text, err := os.ReadFile(filepath.Join(dir, "examples", name))
		if err != nil {
			t.Fatal(err)
		}
		if plan, findings := Compile(name, text, flow.Options{}); (plan != nil) != want {
			t.Errorf("%s: compiled %v:\n%s", name, plan != nil, Format(findings))
		} else if plan != nil && len(plan.Claims.Tasks) != 0 {
			t.Errorf("%s: claims without the profile", name)
		}
	}
}
