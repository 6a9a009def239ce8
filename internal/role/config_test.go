package role

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func load(t *testing.T, role string, conf Config, env map[string]string, args ...string) (*Loader, error) {
	t.Helper()
	flags := pflag.NewFlagSet(role, pflag.ContinueOnError)
	l := NewLoader(role, conf, flags)
	if err := flags.Parse(args); err != nil {
		return l, err
	}
	return l, l.Load(func(k string) (string, bool) { v, ok := env[k]; return v, ok })
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := configFile(t, "slots: 3\ntier: from-file\nlog-level: warn\ndrain: 3s\n")
	conf := &RunnerConfig{}
	_, err := load(t, Runner, conf, map[string]string{"CARDEA_SLOTS": "2", "CARDEA_TIER": "from-env"},
		"--config", file, "--dir", "/hub/r", "--run", "/hub/run", "--name", "a-1", "--slots", "1")
	if err != nil {
		t.Fatal(err)
	}
	if conf.Slots != 1 || conf.Tier != "from-env" || conf.LogLevel != "warn" || conf.Drain != 3*time.Second || conf.LogFormat != "text" {
		t.Errorf("%+v", conf)
	}
	if conf.Admin != "unix:/hub/run/runner-a-1-admin.sock" || conf.Work != "unix:/hub/run/work.sock" || conf.JoinFD != -1 {
		t.Errorf("defaults: %+v", conf)
	}
}

func TestDefaultNameAndBool(t *testing.T) {
	conf := &AuthorityConfig{}
	if _, err := load(t, Authority, conf, nil, "--dir", "/h/a", "--run", "/h/run", "--origin-dir", "/h/o", "--origin-url", "http://127.0.0.1:1", "--dev"); err != nil {
		t.Fatal(err)
	}
	if conf.Name != Authority || !conf.Dev || conf.Admin != "unix:/h/run/authority-admin.sock" {
		t.Errorf("%+v", conf)
	}
}

func TestConfigIsRefused(t *testing.T) {
	ok := []string{"--dir", "/h/e", "--run", "/h/run"}
	for name, test := range map[string]struct {
		conf Config
		file string
		env  map[string]string
		args []string
		want string
	}{
		"no folder":        {&EngineConfig{}, "", nil, []string{"--run", "/r"}, "--dir"},
		"relative folder":  {&EngineConfig{}, "", nil, []string{"--dir", "x", "--run", "/r"}, "--dir"},
		"unknown key":      {&EngineConfig{}, "listen-wrok: unix:/x\n", nil, ok, "listen-wrok"},
		"key twice":        {&EngineConfig{}, "drain: 1s\ndrain: 2s\n", nil, ok, "drain"},
		"nested":           {&EngineConfig{}, "drain: {a: 1}\n", nil, ok, "line 1"},
		"a list":           {&EngineConfig{}, "- drain\n", nil, ok, "mapping"},
		"bad address":      {&EngineConfig{}, "", nil, append([]string{"--decide", "/x"}, ok...), "--decide"},
		"listen fd dialed": {&EngineConfig{}, "", nil, append([]string{"--decide", "fd:3"}, ok...), "--decide"},
		"bad level":        {&EngineConfig{}, "", map[string]string{"CARDEA_LOG_LEVEL": "loud"}, ok, "--log-level"},
		"bad number":       {&RunnerConfig{}, "", map[string]string{"CARDEA_SLOTS": "many"}, ok, "CARDEA_SLOTS"},
		"no slots":         {&RunnerConfig{}, "", nil, append([]string{"--slots", "0"}, ok...), "--slots"},
		"bad tier":         {&RunnerConfig{}, "", nil, append([]string{"--tier", "a/b"}, ok...), "--tier"},
		"bad name":         {&EngineConfig{}, "", nil, append([]string{"--name", "../x"}, ok...), "--name"},
		"standard input":   {&EngineConfig{}, "", nil, append([]string{"--join-fd", "0"}, ok...), "--join-fd"},
		"two grants":       {&EngineConfig{}, "", nil, append([]string{"--join-fd", "3", "--join-file", "/x"}, ok...), "only one"},
		"admin over TCP":   {&EngineConfig{}, "", nil, append([]string{"--admin", "tcp:127.0.0.1:1"}, ok...), "--admin"},
		"open origin":      {&OriginConfig{}, "", nil, append([]string{"--listen", "tcp:0.0.0.0:80"}, ok...), "loopback"},
		"plain issuer":     {&AuthorityConfig{}, "", nil, append([]string{"--origin-dir", "/o", "--origin-url", "http://o.example"}, ok...), "--origin-url"},
		"no drain":         {&EngineConfig{}, "", nil, append([]string{"--drain", "0s"}, ok...), "--drain"},
		"bad domain":       {&EngineConfig{}, "", nil, append([]string{"--trust-domain", "a b"}, ok...), "--trust-domain"},
	} {
		args := test.args
		if test.file != "" {
			args = append([]string{"--config", configFile(t, test.file)}, args...)
		}
		if _, err := load(t, Engine, test.conf, test.env, args...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something about %q", name, err, test.want)
		}
	}
}

// TestPrintedConfigIsConfig: what --print-config prints is a file that gives the same configuration.
func TestPrintedConfigIsConfig(t *testing.T) {
	first := &RunnerConfig{}
	l, err := load(t, Runner, first, map[string]string{"CARDEA_TIER": "privileged"}, "--dir", "/hub/r", "--run", "/hub/run", "--name", "a", "--drain", "90s")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := l.PrintConfig(&text, func(k string) (string, bool) { return "privileged", k == "CARDEA_TIER" }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "(CARDEA_TIER)") || !strings.Contains(text.String(), "(--drain)") || !strings.Contains(text.String(), "(default)") {
		t.Errorf("sources are missing in\n%s", &text)
	}
	second := &RunnerConfig{}
	if _, err := load(t, Runner, second, nil, "--config", configFile(t, text.String())); err != nil {
		t.Fatal(err)
	}
	if *first != *second {
		t.Errorf("printed %+v, read back %+v", first, second)
	}
}

// TestReferenceIsCurrent keeps docs/config.md equal to the structs; CARDEA_UPDATE_DOCS=1 writes it.
func TestReferenceIsCurrent(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "config.md")
	if os.Getenv("CARDEA_UPDATE_DOCS") != "" {
		if err := os.WriteFile(path, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != Reference() {
		t.Errorf("%s is not what the configuration is: run CARDEA_UPDATE_DOCS=1 go test ./internal/role -run TestReferenceIsCurrent", path)
	}
}

// TestEveryFieldIsDocumented: a field without a flag could not be set; one without help could not be understood.
func TestEveryFieldIsDocumented(t *testing.T) {
	for _, c := range []Config{&AuthorityConfig{}, &EngineConfig{}, &RunnerConfig{}, &ConsoleConfig{}, &OriginConfig{}} {
		seen := map[string]bool{}
		for _, f := range fields(c) {
			if f.name == "" || f.help == "" || seen[f.name] {
				t.Errorf("%T: field %q: help %q, seen before: %v", c, f.name, f.help, seen[f.name])
			}
			seen[f.name] = true
			if f.def != "" && !strings.Contains(f.def, "${") {
				if err := f.set(f.def); err != nil {
					t.Errorf("%T: default of %s: %v", c, f.name, err)
				}
			}
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("dir: /x\nslots: 3\n")
	f.Add("a: &a [*a]\n")
	f.Add("? [x]\n: y")
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := parseConfig([]byte(text))
		if err != nil && settings != nil {
			t.Error("settings beside an error")
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	f.Add("unix:/run/x.sock")
	f.Add("tcp:[::1]:80")
	f.Add("fd:3")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err == nil && a.String() != s {
			t.Errorf("%q reads as %q", s, a)
		}
	})
}

func FuzzGrants(f *testing.F) {
	f.Add([]byte(`{"token":"t","roots":"r"}`))
	f.Add([]byte(`{"join":{"role":"engine","name":"engine","tier":"","token_sha256":"00"}}`))
	f.Add([]byte(`{"person":{"name":"dev","groups":[],"jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},"ssh_keys":[]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if g, err := parseGrant(text); err == nil && (g.Token == "" || g.Roots == "") {
			t.Error("half a grant")
		}
		if g, err := parseGrantLine(text); err == nil && (g.Join == nil) == (g.Person == nil) {
			t.Error("a line that is both or neither")
		}
	})
}
