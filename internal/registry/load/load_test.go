package load

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardea/internal/registry"
)

// folderOf writes files into a fresh folder.
func folderOf(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	process    = "kind: Process\nname: p\nowner: group:o\npurpose: x\ncriticality: low\n"
	connection = `kind: Connection
name: c
owner: group:o
zone: internal
hosts: [https://c.example]
provider: {jwt: {audience: c}}
allow:
  - {methods: [POST], path: /a, body: schemas/s.json}
`
	workflow = "document: {dsl: '1.0.3', namespace: p, name: w, version: '1.0.0'}\ndo:\n  - a: {set: {x: 1}}\n"
)

func find(t *testing.T, b *Bundle, kind, name string) registry.Object {
	t.Helper()
	for _, r := range b.Resources {
		if r.Kind == kind && r.Name == name {
			_, o, err := registry.NewResource(r.Kind, r.Name, r.Body)
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
	}
	t.Fatalf("no %s %s in %v", kind, name, b.Resources)
	return nil
}

func TestFolder(t *testing.T) {
	dir := folderOf(t, map[string]string{
		"process.yaml": process + "---\n" + connection, "w.yml": workflow, "policy.cedar": "// none\n",
		"schemas/s.json": "{\n  \"maxProperties\": 3\n}\n", "inputs/may.json": `{"month": "x"}`, "notes.md": "x", ".hidden/x.yaml": "nonsense: [",
		"g.json": `{"kind":"Group","name":"o"}`,
	})
	b, err := Paths(dir)
	if err != nil || b.Err() != nil {
		t.Fatal(err, b.Err())
	}
	var ids []string
	for _, r := range b.Resources {
		ids = append(ids, r.ID().String())
	}
	if got := strings.Join(ids, ", "); got != "Process p, Group o, Connection c, Policy p/policy, Workflow p/w@1.0.0" {
		t.Errorf("resources: %s", got)
	}
	c := find(t, b, registry.KindConnection, "c").(*registry.Connection)
	if c.Process != "p" || c.Allow[0].Body != `{"maxProperties":3}` {
		t.Errorf("process %q, body %q", c.Process, c.Allow[0].Body)
	}
}

func TestSingleFileKeepsItsProcess(t *testing.T) {
	dir := folderOf(t, map[string]string{"process.yaml": process, "c.yaml": connection, "schemas/s.json": "true", "broken.yaml": "a: [", "p.cedar": ""})
	whole, err := Paths(filepath.Join(dir, "c.yaml"), filepath.Join(dir, "p.cedar"))
	if err != nil || whole.Err() != nil {
		t.Fatal(err, whole.Err())
	}
	if c := find(t, whole, registry.KindConnection, "c").(*registry.Connection); c.Process != "p" || len(whole.Resources) != 2 || whole.Files != 2 {
		t.Errorf("process %q, %d resources, %d files", c.Process, len(whole.Resources), whole.Files)
	}
	find(t, whole, registry.KindPolicy, "p/p")
}

func TestNearestProcess(t *testing.T) {
	other := strings.Replace(process, "name: p", "name: q", 1)
	dir := folderOf(t, map[string]string{
		"p/process.yaml": process, "p/deep/c.yaml": strings.Replace(connection, ", body: schemas/s.json", "", 1),
		"q/process.yaml": other, "q/policy.cedar": "", "hub.cedar": "",
	})
	b, err := Paths(dir)
	if err != nil || b.Err() != nil {
		t.Fatal(err, b.Err())
	}
	if c := find(t, b, registry.KindConnection, "c").(*registry.Connection); c.Process != "p" {
		t.Errorf("process %q", c.Process)
	}
	find(t, b, registry.KindPolicy, "q/policy")
	find(t, b, registry.KindPolicy, "hub")
	two, err := Paths(folderOf(t, map[string]string{"a.yaml": process + "---\n" + other, "x.cedar": ""}))
	if err != nil || two.Err() != nil {
		t.Fatal(err, two.Err())
	}
	find(t, two, registry.KindPolicy, "x")
}

func TestBinding(t *testing.T) {
	plain := strings.Replace(connection, ", body: schemas/s.json", "", 1)
	dir := folderOf(t, map[string]string{"c.yaml": plain})
	roots, err := os.ReadFile("testdata/root.pem")
	if err != nil {
		t.Fatal(err)
	}
	local := folderOf(t, map[string]string{
		"roots.pem": string(roots),
		"b.yaml":    "kind: Binding\nname: laptop\nconnections: {c: {address: '127.0.0.1:8443', rootsFile: roots.pem, ttl: 3s}}\n",
	})
	b, err := Paths(dir, filepath.Join(local, "b.yaml"))
	if err != nil || b.Err() != nil {
		t.Fatal(err, b.Err())
	}
	c := find(t, b, registry.KindConnection, "c").(*registry.Connection)
	if c.Address != "127.0.0.1:8443" || c.Roots != string(roots) || c.TTL.Seconds() != 3 {
		t.Errorf("%+v", c)
	}
	unbound, err := Paths(dir)
	if err != nil {
		t.Fatal(err)
	}
	if unbound.Resources[0].Digest == b.Resources[0].Digest {
		t.Error("a Binding is not in the digest")
	}
	for binding, want := range map[string]string{
		"kind: Binding\nname: a\nconnections: {d: {ttl: 1s}}\n":                                               "there is no Connection d",
		"kind: Binding\nname: a\nconnections: {c: {hosts: x}}\n":                                              "hosts cannot be bound",
		"kind: Binding\nname: a\nconnections: {c: {ttl: 1}}\n":                                                "must be a string",
		"kind: Binding\nname: a\nconnections: {c: 1}\n":                                                       "must be an object",
		"kind: Binding\nname: a\n":                                                                            "connections is missing",
		"kind: Binding\nname: a\nconection: {}\nconnections: {}\n":                                            "conection is not a field",
		"kind: Binding\nname: a\nconnections: {c: {rootsFile: ../x}}\n":                                       "certificates ../x",
		"kind: Binding\nname: a\nconnections: {c: {rootsFile: x, roots: y}}\n":                                "exclude each other",
		"kind: Binding\nname: a\nconnections: {c: {address: localhost}}\n":                                    "is not ip:port",
		"kind: Binding\nname: a\nconnections: {c: {}}\n---\n{kind: Binding, name: b, connections: {c: {}}}\n": "is bound in",
	} {
		b, err := Paths(dir, folderOf(t, map[string]string{"b.yaml": binding}))
		if err != nil {
			t.Fatal(err)
		}
		if b.Err() == nil || !strings.Contains(b.Err().Error(), want) {
			t.Errorf("%s gives %v, want %q", binding, b.Err(), want)
		}
	}
}

func TestFindingsHavePlaces(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"yaml", "a.yaml", "kind: [", "a.yaml:"},
		{"no kind", "a.yaml", "x: 1\n", "a.yaml:1:1: error: this document has neither a kind"},
		{"second document", "a.yaml", process + "---\nkind: Group\nname: A\n", "a.yaml:8:7: error: Group A: name"},
		{"misspelt", "a.yaml", "kind: Group\nname: a\npurose: x\n", "a.yaml:3:"},
		{"deep", "a.yaml", strings.Replace(connection, "path: /a, body: schemas/s.json", "path: a", 1), "a.yaml:8:29: error: Connection c: allow/0/path"},
		{"workflow", "a.yaml", strings.Replace(workflow, "set", "sett", 1), "a.yaml:3:"},
		{"twice", "a.yaml", "kind: Group\nname: a\n---\nkind: Group\nname: a\n", "stands here and in"},
		{"schema that is not there", "a.yaml", connection, "schema schemas/s.json"},
		{"schema outside", "a.yaml", strings.Replace(connection, "schemas/s.json", "../s.json", 1), "schema ../s.json"},
		{"schema absolute", "a.yaml", strings.Replace(connection, "schemas/s.json", "/etc/passwd", 1), "relative to this file"},
		{"schema number", "a.yaml", strings.Replace(connection, "schemas/s.json", "1", 1), "must be a JSON Schema"},
		{"policy name", "A.cedar", "", "is not a name"},
		{"policy text", "a.cedar", "\u202e", "control characters"},
		{"later kind", "a.yaml", "kind: Agent\nname: a\n", "later version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Paths(folderOf(t, map[string]string{c.file: c.text}))
			if err != nil {
				t.Fatal(err)
			}
			if b.Err() == nil || !strings.Contains(b.Err().Error(), c.want) {
				t.Errorf("got %v, want %q", b.Err(), c.want)
			}
		})
	}
}

// TestNothingOutside: a folder's author may not make the client read, and then send, other files.
func TestNothingOutside(t *testing.T) {
	secret := folderOf(t, map[string]string{"s.json": `{"title":"secret"}`, "g.yaml": "kind: Group\nname: secret\n"})
	dir := folderOf(t, map[string]string{"c.yaml": connection, "schemas/x": ""})
	for from, to := range map[string]string{"schemas/s.json": "s.json", "g.yaml": "g.yaml"} {
		if err := os.Symlink(filepath.Join(secret, to), filepath.Join(dir, from)); err != nil {
			t.Skip(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(dir, "linked")); err != nil {
		t.Skip(err)
	}
	b, err := Paths(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Resources {
		if strings.Contains(string(r.Body), "secret") {
			t.Errorf("%s holds what stands outside the folder: %s", r.ID(), r.Body)
		}
	}
	if b.Err() == nil || !strings.Contains(b.Err().Error(), "g.yaml: error: cannot be read") {
		t.Errorf("a link that leads out is not reported: %v", b.Err())
	}
}

func TestSchemaLayoutChangesNothing(t *testing.T) {
	digest := func(body string) string {
		b, err := Paths(folderOf(t, map[string]string{"c.yaml": strings.Replace(connection, "schemas/s.json", body, 1), "s.json": "{\n\t\"maxProperties\" : 3}"}))
		if err != nil || b.Err() != nil {
			t.Fatal(err, b.Err())
		}
		return b.Resources[0].Digest
	}
	if a, b, c := digest("s.json"), digest(`'{"maxProperties": 3}'`), digest("{maxProperties: 3}"); a != b || b != c {
		t.Error("one schema, written in three ways, has more than one digest")
	}
}

func TestLimits(t *testing.T) {
	large := folderOf(t, map[string]string{"a.yaml": "# " + strings.Repeat("x", maxFile)})
	if b, err := Paths(large); err != nil || b.Err() == nil || !strings.Contains(b.Err().Error(), "more than 1024 KiB") {
		t.Errorf("%v %v", err, b.Err())
	}
	if _, err := Paths(filepath.Join(large, "none")); err == nil {
		t.Error("a missing path was read")
	}
	other := folderOf(t, map[string]string{"a.txt": "x"})
	if _, err := Paths(filepath.Join(other, "a.txt")); err == nil || !strings.Contains(err.Error(), "can be applied") {
		t.Errorf("a file of another kind: %v", err)
	}
}
