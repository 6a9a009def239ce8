package origin

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// folder is a public folder as the authority writes it, with things around it that are nobody's business.
func folder(t *testing.T) string {
	t.Helper()
	outside := t.TempDir()
	dir := filepath.Join(outside, "public")
	for name, text := range map[string]string{
		".well-known/openid-configuration": `{"issuer":"x"}`,
		"jwks.json":                        `{"keys":[]}`,
		"ledger/checkpoint":                "cardea.local/ledger\n1\n",
		"ledger/tile/0/000":                "tile",
		"ledger/tile/0/001.p/7":            "partial",
		"ledger/tile/entries/000":          "entries",
		"document.json":                    "{}",
		".hidden.json":                     "hidden",
		"tile/.tmp-123":                    "unfinished",
		"script.html":                      "<script>",
		"README":                           "readme",
		"../secret.json":                   "secret",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func serve(t *testing.T, dir string) *Origin {
	t.Helper()
	o, err := New(dir, slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func get(o *Origin, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "http://origin/", nil)
	r.URL.Path = path
	o.ServeHTTP(w, r)
	return w
}

func TestPublicFiles(t *testing.T) {
	o := serve(t, folder(t))
	for path, want := range map[string]struct{ body, contentType, cache string }{
		"/.well-known/openid-configuration": {`{"issuer":"x"}`, "application/json", "public, max-age=300"},
		"/jwks.json":                        {`{"keys":[]}`, "application/jwk-set+json", "public, max-age=60"},
		"/ledger/checkpoint":                {"cardea.local/ledger\n1\n", "text/plain; charset=utf-8", "no-cache"},
		"/ledger/tile/0/000":                {"tile", "application/octet-stream", "public, max-age=31536000, immutable"},
		"/ledger/tile/0/001.p/7":            {"partial", "application/octet-stream", "public, max-age=31536000, immutable"},
		"/ledger/tile/entries/000":          {"entries", "application/octet-stream", "public, max-age=31536000, immutable"},
		"/document.json":                    {"{}", "application/json", "public, max-age=60"},
	} {
		t.Run(path, func(t *testing.T) {
			w := get(o, http.MethodGet, path)
			if w.Code != 200 || w.Body.String() != want.body || w.Header().Get("Content-Type") != want.contentType || w.Header().Get("Cache-Control") != want.cache {
				t.Fatalf("%d %q %v", w.Code, w.Body, w.Header())
			}
			if w.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
				t.Fatalf("headers %v", w.Header())
			}
			if head := get(o, http.MethodHead, path); head.Code != 200 || head.Body.Len() != 0 {
				t.Fatalf("HEAD: %d %q", head.Code, head.Body)
			}
		})
	}
}

func TestWhatChangesHasNoLastModified(t *testing.T) {
	o := serve(t, folder(t))
	// Two checkpoints fit into one second: a client that asks "modified since?" would be told no, and miss the newer.
	if got := get(o, http.MethodGet, "/ledger/checkpoint").Header().Get("Last-Modified"); got != "" {
		t.Fatalf("Last-Modified: %s", got)
	}
}

func TestPathsThatAreNotServed(t *testing.T) {
	dir := folder(t)
	o := serve(t, dir)
	long := "/" + strings.Repeat("a/", 200) + "x.json"
	for _, path := range []string{
		"/", "", "/ledger", "/ledger/", "/ledger/tile", "/ledger/tile/0", "/.well-known", "/.well-known/",
		"/../secret.json", "/ledger/../../secret.json", "/./jwks.json", "//jwks.json", "/ledger//checkpoint", "/jwks.json/", "jwks.json/../../secret.json",
		"/.hidden.json", "/tile/.tmp-123", "/x/.well-known/openid-configuration", "/.well-known/../jwks.json",
		"/script.html", "/README", "/jwks.json\x00", "/jwks.json\\", `/..\secret.json`, "/jwks.json%00", "/missing.json", long,
	} {
		t.Run(path, func(t *testing.T) {
			w := get(o, http.MethodGet, path)
			if w.Code != http.StatusNotFound {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("a refusal may be cached: %v", w.Header())
			}
		})
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	dir := folder(t)
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("../secret.json", "out.json")
	link("jwks.json", "inside.json") // stays in the folder: os.Root would follow it
	link("ledger", "folder")
	link(filepath.Dir(dir), "up")
	if err := os.MkdirAll(filepath.Join(dir, "odd.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := serve(t, dir)
	for _, path := range []string{"/out.json", "/inside.json", "/folder/checkpoint", "/folder/tile/0/000", "/up/secret.json", "/odd.json"} {
		if w := get(o, http.MethodGet, path); w.Code != http.StatusNotFound {
			t.Errorf("%s: status %d: %s", path, w.Code, w.Body)
		}
	}
}

func TestPipesAreNotOpened(t *testing.T) {
	dir := folder(t)
	if err := unix.Mkfifo(filepath.Join(dir, "pipe.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := serve(t, dir)
	answered := make(chan int)
	go func() { answered <- get(o, http.MethodGet, "/pipe.json").Code }()
	select {
	case code := <-answered:
		if code != http.StatusNotFound {
			t.Fatalf("status %d", code)
		}
	case <-time.After(10 * time.Second): // opening a pipe that nobody writes waits for ever
		t.Fatal("a pipe was opened")
	}
}

func TestMethods(t *testing.T) {
	o := serve(t, folder(t))
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"} {
		w := get(o, method, "/jwks.json")
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" || strings.Contains(w.Body.String(), "keys") {
			t.Errorf("%s: %d %v", method, w.Code, w.Header())
		}
	}
}

func TestBodiesAndQueriesAreRefused(t *testing.T) {
	o := serve(t, folder(t))
	for name, r := range map[string]*http.Request{
		"body":    httptest.NewRequest(http.MethodGet, "http://origin/jwks.json", strings.NewReader("x")),
		"query":   httptest.NewRequest(http.MethodGet, "http://origin/jwks.json?x=1", nil),
		"escaped": httptest.NewRequest(http.MethodGet, "http://origin/ledger%2fcheckpoint", nil),
	} {
		w := httptest.NewRecorder()
		o.ServeHTTP(w, r)
		if w.Code < 400 {
			t.Errorf("%s: status %d", name, w.Code)
		}
	}
}

func TestLargeFilesAreNotServed(t *testing.T) {
	dir := folder(t)
	if err := os.Truncate(filepath.Join(dir, "document.json"), maxFile+1); err != nil {
		t.Fatal(err)
	}
	if w := get(serve(t, dir), http.MethodGet, "/document.json"); w.Code != http.StatusNotFound {
		t.Fatalf("status %d", w.Code)
	}
}

func TestTooManyAtOnce(t *testing.T) {
	o := serve(t, folder(t))
	for range maxParallel {
		o.slots <- struct{}{}
	}
	w := get(o, http.MethodGet, "/jwks.json")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Fatalf("status %d", w.Code)
	}
	<-o.slots
	if w := get(o, http.MethodGet, "/jwks.json"); w.Code != 200 {
		t.Fatalf("status %d", w.Code)
	}
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/jwks.json", "/../secret.json", "/ledger/tile/0/000", "/.well-known/openid-configuration", "/a/./b.json"} {
		f.Add(p)
	}
	dir := f.TempDir()
	public := filepath.Join(dir, "public")
	if err := os.Mkdir(public, 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret.json"), []byte("secret"), 0o644); err != nil {
		f.Fatal(err)
	}
	o, err := New(public, slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string) {
		// The public folder is empty: whatever is served came from elsewhere.
		if w := get(o, http.MethodGet, path); w.Code == 200 {
			t.Fatalf("%q served %q", path, w.Body)
		}
	})
}
