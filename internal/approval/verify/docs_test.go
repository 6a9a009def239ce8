package verify

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"cardea/internal/approval"
)

// The commands of docs/approvals.md, run in their order in a home with a key and a statement.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../../docs/approvals.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ssh-keygen", "openssl", "jq", "sha256sum"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed (Debian: apt-get install openssh-client openssl jq coreutils)", name)
		}
	}
	doc, home := statement(t), t.TempDir()
	write(t, home, "statement.json", doc)
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(home, ".ssh", "id_ed25519")
	mustTool(t, home, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	write(t, home, "allowed_signers", append([]byte(`ana@example.com namespaces="cardea-approval" `), ssh.MarshalAuthorizedKey(public(t, key))...))

	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(page, -1)
	if len(blocks) != 3 {
		t.Fatalf("%d blocks of commands", len(blocks))
	}
	var out string
	for _, b := range blocks {
		cmd := exec.Command("sh", "-eu", "-c", string(b[1]))
		cmd.Dir, cmd.Env = home, append(os.Environ(), "HOME="+home)
		got, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", b[1], err, got)
		}
		out = string(got)
	}
	if _, err := Person(doc, read(t, home, "statement.sha256.sig"), NamespaceApproval); err != nil {
		t.Error(err)
	}
	lines := strings.Fields(out)
	if len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("the digest is not that of the action: %q", out)
	}
	s, err := approval.Decode(doc)
	if err != nil || s.Actions[0].Digest != lines[0] {
		t.Errorf("digest %q, %v", lines, err)
	}
	// What the page's last command must not do: verify another document.
	write(t, home, "statement.json", append(doc, '\n'))
	cmd := exec.Command("sh", "-c", string(blocks[1][1]))
	cmd.Dir = home
	if got, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("another statement verified: %s", got)
	}
}
