package crash_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	_ "modernc.org/sqlite" // reads databases by other code than wrote them

	"cardea/internal/crash/target"
)

// TestCanary: credentials that were really issued, and really handed back by a careless service, are nowhere but on the wire to
// their target (invariant 16); private keys are nowhere but in their own files.
func TestCanary(t *testing.T) {
	begun := time.Now()
	h := newHub(t, "debug")
	s := h.brew("canary")
	for _, form := range target.Forms() {
		s.startWith("crash/echo", "echo-"+form, fmt.Sprintf(`{"form":%q}`, form))
	}
	s.settle()

	var hunt scanner
	tokens := h.tokens()
	if want := perAttempt + len(target.Forms()); len(tokens) < want {
		t.Fatalf("the target saw %d credentials; at least %d were expected", len(tokens), want)
	}
	for _, token := range tokens {
		parts := strings.Split(token, ".")
		hunt.add("a token's signature", []byte(parts[2]))
		hunt.add("a token's claims", []byte(parts[1]))
		signature, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		hunt.add("a token's signature in binary", signature)
	}
	h.hunt(&hunt, s, begun)
	h.huntKeys()
	h.hardened()
}

// tokens are all credentials that the target has seen.
func (h *hub) tokens() []string {
	var all []string
	for _, a := range h.target.Arrivals() {
		if !slices.Contains(all, a.Token) {
			all = append(all, a.Token)
		}
	}
	return all
}

// clean fails the test when something is found.
func (h *hub) clean(hunt *scanner, where string, data []byte) {
	h.t.Helper()
	if found := hunt.find(data); len(found) > 0 {
		slices.Sort(found)
		h.t.Errorf("%s holds %q", where, slices.Compact(found))
	}
}

// hunt looks into everything that a hub leaves behind or shows: processes while they run, what people and the command line get, the
// ledger, the logs, then every file.
func (h *hub) hunt(hunt *scanner, s *storm, begun time.Time) {
	h.t.Helper()
	for _, name := range h.tree.Names() {
		for _, file := range []string{"environ", "cmdline"} {
			if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", h.tree.PID(name), file)); err == nil {
				h.clean(hunt, file+" of "+name, data)
			}
		}
	}
	commands := [][]string{{"run", "list"}, {"lease", "list", "--all", "--limit", "1000"}, {"approval", "list"}, {"ledger", "tail", "-n", "1000"}, {"connection", "list"}, {"doctor"}}
	echoed := 0
	for _, r := range s.runs {
		commands = append(commands, []string{"run", "show", r.id}, []string{"policy", "explain", r.id})
		run := h.show(r.id)
		for what, data := range map[string][]byte{"output": run.GetOutputJson(), "error": run.GetErrorJson()} {
			h.clean(hunt, what+" of "+r.request, data)
			if strings.Contains(string(data), "[redacted]") {
				echoed++
			}
		}
	}
	if echoed < len(target.Forms())/2 {
		h.t.Errorf("only %d answers show that a credential was taken out of them: the echo does not work", echoed)
	}
	for _, c := range commands {
		for _, o := range []string{"text", "json"} {
			out, _ := h.cardea(ana, append(c, "-o", o)...)
			h.clean(hunt, "cardea "+strings.Join(c, " "), []byte(out))
		}
	}
	export, _ := h.cardea(ana, "ledger", "export")
	h.clean(hunt, "the ledger's export", []byte(export))
	for _, l := range h.parse([]byte(export)) {
		h.clean(hunt, "the payload of leaf "+l.ID, l.payload)
	}
	h.clean(hunt, "the log", h.log.bytes())
	h.files(func(path string, data []byte) { h.clean(hunt, path, data) })
	h.databases(func(place string, value []byte) { h.clean(hunt, place, value) })
	h.newIn(os.TempDir(), begun, func(path string, data []byte) { h.clean(hunt, path, data) })
}

// files reads every file of the hub, and of the folder that is people's home here.
func (h *hub) files(each func(path string, data []byte)) {
	h.t.Helper()
	n := 0
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		n++
		each(path, data)
		return err
	})
	if err != nil || n < 20 {
		h.t.Errorf("read %d files: %v", n, err)
	}
}

// newIn reads what has been put into a folder since, at its first level.
func (h *hub) newIn(folder string, since time.Time, each func(path string, data []byte)) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		h.t.Error(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.ModTime().Before(since) || info.Size() > 16<<20 {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(folder, e.Name())); err == nil {
			each(filepath.Join(folder, e.Name()), data)
		}
	}
}

// databases reads every value of every table, from copies: raw pages hold long values in pieces.
func (h *hub) databases(each func(place string, value []byte)) {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.tree.Dir(), "*", "*.db"))
	if err != nil || len(found) != 2 {
		h.t.Fatalf("databases %v: %v", found, err)
	}
	for _, path := range found {
		name := filepath.Base(path)
		copied := filepath.Join(h.t.TempDir(), name)
		for _, end := range []string{"", "-wal"} {
			data, err := os.ReadFile(path + end)
			if err != nil {
				h.t.Fatal(err)
			}
			if err := os.WriteFile(copied+end, data, 0o600); err != nil {
				h.t.Fatal(err)
			}
		}
		if n := h.values(copied, func(place string, value []byte) { each(name+" "+place, value) }); n < 100 {
			h.t.Errorf("%s has %d values; the hunt misses something", name, n)
		}
	}
}

func (h *hub) values(path string, each func(place string, value []byte)) (n int) {
	h.t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	for _, table := range h.rows(db, `SELECT name FROM sqlite_schema WHERE type = 'table'`) {
		for _, row := range h.rows(db, `SELECT * FROM "`+string(table[0])+`"`) {
			for i, value := range row {
				each(fmt.Sprintf("%s, column %d", table[0], i), value)
				n++
			}
		}
	}
	return n
}

func (h *hub) rows(db *sql.DB, query string) (all [][][]byte) {
	h.t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		h.t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		h.t.Fatal(err)
	}
	for rows.Next() {
		row, into := make([][]byte, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			h.t.Fatal(err)
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// huntKeys looks for each private key everywhere but in the file that is its own, and, for a person's session, in that person's profile.
func (h *hub) huntKeys() {
	h.t.Helper()
	keys := map[string][]byte{} // by file
	h.files(func(path string, data []byte) {
		if secret := privateKey(data); secret != nil {
			keys[path] = secret
		}
	})
	if len(keys) < 5+4+2*2 { // the authority's, the other roles', and two of each person
		h.t.Errorf("found only %d private keys: the hunt misses some", len(keys))
	}
	hunts := map[string]*scanner{}
	for file, secret := range keys {
		hunts[file] = &scanner{}
		hunts[file].add("the key in "+filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), secret)
	}
	search := func(path string, data []byte) {
		for file, hunt := range hunts {
			session := filepath.Base(file) == "session.pem" && strings.HasPrefix(filepath.Base(path), "profile")
			if path != file && !session {
				h.clean(hunt, path, data)
			}
		}
	}
	h.files(search)
	search("the log", h.log.bytes())
	h.databases(search)
}

// privateKey is the secret scalar or seed in a PEM file; nil if there is none.
func privateKey(text []byte) []byte {
	if !strings.Contains(string(text), "PRIVATE KEY") {
		return nil
	}
	var key any
	for rest := text; key == nil; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			key = k
		} else if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
			key = k
		}
	}
	if k, err := ssh.ParseRawPrivateKey(text); key == nil && err == nil {
		key = k
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		secret, _ := k.Bytes() // fails for curves that are not used here, and is then missed in the count
		return secret
	case ed25519.PrivateKey:
		return k.Seed()
	case *ed25519.PrivateKey:
		return k.Seed()
	}
	return nil
}

// hardened asks the kernel what it would give away of each process: no core, no new privileges. A process that is not dumpable
// belongs to root in /proc, which shows only when the tests are not root's.
func (h *hub) hardened() {
	h.t.Helper()
	if runtime.GOOS != "linux" {
		h.t.Log("this system's /proc cannot be asked")
		return
	}
	for _, name := range h.tree.Names() {
		proc := fmt.Sprintf("/proc/%d/", h.tree.PID(name))
		limits, err := os.ReadFile(proc + "limits")
		if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
			h.t.Errorf("%s may leave a core: %v", name, err)
		}
		status, err := os.ReadFile(proc + "status")
		if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1") {
			h.t.Errorf("%s may gain privileges: %v", name, err)
		}
		if os.Getuid() != 0 {
			if f, err := os.Open(proc + "mem"); err == nil {
				_ = f.Close()
				h.t.Errorf("the memory of %s can be read by its user", name)
			}
		}
	}
}
