package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"cardea/internal/action"
	"cardea/internal/approval"
)

const zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

func statement(t testing.TB) []byte {
	t.Helper()
	a, err := action.Action{Kind: "http", HTTP: &action.HTTP{Method: "POST", URL: "https://api.bank.example.com/v1/transfers", Body: []byte(`{"amount":1}`)}}.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 5, 1, 6, 0, 0, 0, time.UTC)
	s := &approval.Statement{
		V: 1, Kind: approval.KindAttempt, ID: "apr_01", Hub: "hub-1", Requester: "schedule", Attempts: 1, Nonce: "0123456789abcdef",
		Rule:     approval.Rule{Name: "two-from-treasury", Digest: zeros, Approvers: []string{"group:treasury"}, Quorum: 2},
		Policies: []approval.Policy{{ID: "p", Digest: zeros}}, CreatedAt: approval.At(at), ExpiresAt: approval.At(at.Add(time.Hour)),
		Process: &approval.Process{Name: "payroll", Owner: "group:people-ops"}, Workflow: &approval.Workflow{Ref: "payroll/pay-run", Version: "1", Digest: zeros},
		Run: "run_01", Task: &approval.Task{Pointer: "/do/0/pay", Name: "pay"}, Actions: []approval.Action{approval.NewAction(a, "key")},
	}
	b, err := s.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tool runs a real OpenSSH tool.
func tool(t testing.TB, dir string, stdin []byte, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed (Debian: apt-get install openssh-client)", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustTool(t testing.TB, dir string, stdin []byte, name string, args ...string) string {
	t.Helper()
	out, err := tool(t, dir, stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

// keygen makes a key with ssh-keygen and returns its path.
func keygen(t testing.TB, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "id")
	mustTool(t, "", nil, "ssh-keygen", append([]string{"-q", "-C", "test", "-f", path}, args...)...)
	return path
}

func public(t testing.TB, path string) ssh.PublicKey {
	t.Helper()
	b, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var kinds = map[string][]string{
	"ed25519": {"-t", "ed25519", "-N", ""}, "ecdsa-256": {"-t", "ecdsa", "-b", "256", "-N", ""},
	"ecdsa-521": {"-t", "ecdsa", "-b", "521", "-N", ""}, "rsa-3072": {"-t", "rsa", "-b", "3072", "-N", ""},
	"passphrase": {"-t", "ed25519", "-N", "correct horse"}, "pem": {"-t", "rsa", "-b", "3072", "-m", "PEM", "-N", "correct horse"},
}

func passphrase(string) ([]byte, error) { return []byte("correct horse"), nil }

// What we sign, ssh-keygen verifies; what it signs, we verify.
func TestOpenSSHAgrees(t *testing.T) {
	doc := statement(t)
	for name, args := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := keygen(t, args...)
			for _, namespace := range []string{NamespaceApproval, NamespaceRefusal} {
				agree(t, path, doc, namespace, !strings.Contains(strings.Join(args, " "), "correct horse"))
			}
		})
	}
}

// agree signs with each of us and verifies with the other. theirs says whether ssh-keygen can sign without asking on a terminal.
func agree(t *testing.T, path string, doc []byte, namespace string, theirs bool) {
	t.Helper()
	dir := filepath.Dir(path)
	signer, err := FileSigner(path, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	armored, err := SignApproval(signer, doc, namespace == NamespaceRefusal)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public(t, path))))
	write(t, dir, "allowed", []byte(`ana namespaces="`+namespace+`" `+key+"\n"))
	write(t, dir, "sig", armored)
	message := approval.Message(doc)
	mustTool(t, dir, message, "ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "ana", "-n", namespace, "-s", "sig")
	if !theirs {
		return
	}
	write(t, dir, "message-"+namespace, message)
	mustTool(t, dir, nil, "ssh-keygen", "-Y", "sign", "-f", path, "-n", namespace, "message-"+namespace)
	got, err := Person(doc, read(t, dir, "message-"+namespace+".sig"), namespace)
	if err != nil {
		t.Fatal(err)
	}
	if got.Fingerprint != ssh.FingerprintSHA256(public(t, path)) || got.Hardware || got.Present {
		t.Errorf("%+v", got)
	}
}

func write(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPersonRefuses(t *testing.T) {
	doc := statement(t)
	key := newSigner(t)
	good := mustSign(t, key, approval.Message(doc), NamespaceApproval)
	if _, err := Person(doc, good, NamespaceApproval); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	rearm := func(blob []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: sshsig.PEMType, Bytes: blob}) }
	changed := bytes.Clone(block.Bytes)
	changed[len(changed)-1] ^= 1
	other := bytes.Replace(doc, []byte("hub-1"), []byte("hub-2"), 1)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weakSigner, err := ssh.NewSignerFromKey(weak)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		doc, sig  []byte
		namespace string
	}{
		"another statement":      {other, good, NamespaceApproval},
		"as a refusal":           {doc, good, NamespaceRefusal},
		"namespace of git":       {doc, mustSign(t, key, approval.Message(doc), "git"), "git"},
		"made for git":           {doc, mustSign(t, key, approval.Message(doc), "git"), NamespaceApproval},
		"over the document":      {doc, mustSign(t, key, doc, NamespaceApproval), NamespaceApproval},
		"over the digest as hex": {doc, mustSign(t, key, []byte(approval.Digest(doc)), NamespaceApproval), NamespaceApproval},
		"changed":                {doc, rearm(changed), NamespaceApproval},
		"longer":                 {doc, rearm(append(bytes.Clone(block.Bytes), 0)), NamespaceApproval},
		"shorter":                {doc, rearm(block.Bytes[:len(block.Bytes)-1]), NamespaceApproval},
		"text before":            {doc, append([]byte("hello\n"), good...), NamespaceApproval},
		"text after":             {doc, append(bytes.Clone(good), "hello\n"...), NamespaceApproval},
		"twice":                  {doc, append(bytes.Clone(good), good...), NamespaceApproval},
		"headers":                {doc, pem.EncodeToMemory(&pem.Block{Type: sshsig.PEMType, Headers: map[string]string{"a": "b"}, Bytes: block.Bytes}), NamespaceApproval},
		"other armour":           {doc, pem.EncodeToMemory(&pem.Block{Type: "PGP SIGNATURE", Bytes: block.Bytes}), NamespaceApproval},
		"nothing":                {doc, nil, NamespaceApproval},
		"too long":               {doc, bytes.Repeat([]byte("A"), MaxArmored+1), NamespaceApproval},
		"weak RSA":               {doc, mustSign(t, weakSigner, approval.Message(doc), NamespaceApproval), NamespaceApproval},
		"reserved field":         {doc, rearm(withReserved(t, block.Bytes)), NamespaceApproval},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := Person(tt.doc, tt.sig, tt.namespace); err == nil {
				t.Errorf("taken: %+v", s)
			}
		})
	}
}

type sshsigBlob struct {
	Magic                                     [6]byte
	Version                                   uint32
	Key, Namespace, Reserved, Hash, Signature string
}

func withReserved(t testing.TB, blob []byte) []byte {
	t.Helper()
	var b sshsigBlob
	if err := ssh.Unmarshal(blob, &b); err != nil {
		t.Fatal(err)
	}
	b.Reserved = "x"
	return ssh.Marshal(b)
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSign(t testing.TB, s ssh.Signer, message []byte, namespace string) []byte {
	t.Helper()
	armored, err := sign(s, "test", message, namespace)
	if err != nil {
		t.Fatal(err)
	}
	return armored
}

// securityKey is a software ed25519 security key (PROTOCOL.u2f): it signs application, flags, counter and message.
type securityKey struct {
	private ed25519.PrivateKey
	public  ssh.PublicKey
	flags   byte
}

func newSecurityKey(t testing.TB, flags byte) *securityKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type, Key, Application string
	}{ssh.KeyAlgoSKED25519, string(public), "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	return &securityKey{private, key, flags}
}

func (k *securityKey) PublicKey() ssh.PublicKey { return k.public }

func (k *securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	app, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	counter := binary.BigEndian.AppendUint32(nil, 7)
	signed := append(append(append(app[:], k.flags), counter...), message[:]...)
	return &ssh.Signature{
		Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.private, signed), Rest: append([]byte{k.flags}, counter...),
	}, nil
}

func TestSecurityKeys(t *testing.T) {
	doc := statement(t)
	for flags, want := range map[byte]struct{ ok, verified bool }{0x01: {true, false}, 0x05: {true, true}, 0x00: {}, 0x04: {}} {
		k := newSecurityKey(t, flags)
		armored := mustSign(t, k, approval.Message(doc), NamespaceApproval)
		s, err := Person(doc, armored, NamespaceApproval)
		if (err == nil) != want.ok || s.Verified != want.verified && want.ok {
			t.Errorf("flags %#x: %+v, %v", flags, s, err)
		}
		if want.ok && (!s.Hardware || !s.Present) {
			t.Errorf("flags %#x: %+v", flags, s)
		}
		if !want.ok {
			continue
		}
		dir := t.TempDir()
		write(t, dir, "allowed", append([]byte("ana "), ssh.MarshalAuthorizedKey(k.public)...))
		write(t, dir, "sig", armored)
		mustTool(t, dir, approval.Message(doc), "ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "ana", "-n", NamespaceApproval, "-s", "sig")
	}
}

func TestCheckKey(t *testing.T) {
	for _, bits := range []string{"1024", "2048"} {
		if CheckKey(public(t, keygen(t, "-t", "rsa", "-b", bits, "-N", ""))) == nil {
			t.Errorf("RSA of %s bits was taken", bits)
		}
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(&e.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
	key, print, err := Fingerprint(line + " ana@laptop")
	if err != nil || key.Type() != ssh.KeyAlgoECDSA256 || print != ssh.FingerprintSHA256(pub) {
		t.Errorf("%v %s %v", key, print, err)
	}
	cert := &ssh.Certificate{Key: pub, SignatureKey: pub, CertType: ssh.UserCert}
	if err := cert.SignCert(rand.Reader, newSigner(t)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", `command="x" ` + line, line + "\n" + line, "ssh-dss AAAA", string(ssh.MarshalAuthorizedKey(cert)), strings.Repeat("a", maxKey+1)} {
		if _, _, err := Fingerprint(bad); err == nil {
			t.Errorf("%.60q was taken", bad)
		}
	}
}

func TestFileSigner(t *testing.T) {
	path := keygen(t, kinds["passphrase"]...)
	if _, err := FileSigner(path, nil); err == nil || !strings.Contains(err.Error(), "ssh-agent") {
		t.Errorf("an encrypted key without anybody to ask: %v", err)
	}
	asked := 0
	s, err := FileSigner(path, func(string) ([]byte, error) { asked++; return []byte("wrong"), nil })
	if err != nil {
		t.Fatal(err)
	}
	if asked != 0 {
		t.Error("the passphrase was asked for before anything was signed")
	}
	if _, err := SignApproval(s, statement(t), false); err == nil || asked != 1 {
		t.Errorf("wrong passphrase: %v after %d questions", err, asked)
	}
	if _, err := FileSigner(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("a file that does not exist")
	}
	write(t, filepath.Dir(path), "text", []byte("not a key"))
	if _, err := FileSigner(filepath.Join(filepath.Dir(path), "text"), nil); err == nil {
		t.Error("a text was taken for a key")
	}
	if _, err := FileSigner(keygen(t, "-t", "rsa", "-b", "2048", "-N", ""), nil); err == nil {
		t.Error("a weak key was offered")
	}
	// The file is exchanged between listing and signing.
	plain := keygen(t, kinds["ed25519"]...)
	s, err = FileSigner(plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Dir(plain), "id", read(t, filepath.Dir(keygen(t, kinds["ed25519"]...)), "id"))
	if _, err := SignApproval(s, statement(t), false); err == nil {
		t.Error("signed with another key than was shown")
	}
}

// startAgent starts a real ssh-agent that ends with the test.
func startAgent(t *testing.T, keys ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // a short path: Unix sockets allow about 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	if _, err := exec.LookPath("ssh-agent"); err != nil {
		t.Skip("ssh-agent is not installed (Debian: apt-get install openssh-client)")
	}
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, k := range keys {
		add := exec.Command("ssh-add", "-q", k)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v\n%s", err, out)
		}
	}
	return socket
}

func TestAgent(t *testing.T) {
	ed, rsaKey, weak := keygen(t, kinds["ed25519"]...), keygen(t, kinds["rsa-3072"]...), keygen(t, "-t", "rsa", "-b", "2048", "-N", "")
	socket := startAgent(t, ed, rsaKey, weak)
	signers, err := AgentSigners(context.Background(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if len(signers) != 2 {
		t.Fatalf("%d signers; the weak key must be left out", len(signers))
	}
	doc := statement(t)
	for _, s := range signers {
		armored, err := SignApproval(s, doc, true)
		if err != nil {
			t.Fatalf("%s: %v", s.Name(), err)
		}
		if _, err := Person(doc, armored, NamespaceRefusal); err != nil {
			t.Errorf("%s: %v", s.Name(), err)
		}
	}
	want := ssh.FingerprintSHA256(public(t, rsaKey))
	found := Find(append(signers, signers...), []string{want, "SHA256:other"})
	if len(found) != 1 || fingerprint(found[0]) != want {
		t.Errorf("found %v", found)
	}
	remove := exec.Command("ssh-add", "-q", "-D")
	remove.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := remove.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if _, err := SignApproval(signers[0], doc, false); err == nil {
		t.Error("signed with a key that the agent no longer holds")
	}
	if _, err := AgentSigners(context.Background(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("an agent that is not there")
	}
}

func TestStatementSignature(t *testing.T) {
	doc := statement(t)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := SignStatement(key, doc)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := VerifyStatement([]ed25519.PublicKey{other, pub}, doc, sig); err != nil || s.ID != "apr_01" {
		t.Errorf("%v %v", s, err)
	}
	bare := sha256.Sum256(doc)
	changed := bytes.Replace(doc, []byte("hub-1"), []byte("hub-2"), 1)
	for name, tt := range map[string]struct {
		keys     []ed25519.PublicKey
		doc, sig []byte
	}{
		"no keys":     {nil, doc, sig},
		"another key": {[]ed25519.PublicKey{other}, doc, sig},
		"broken key":  {[]ed25519.PublicKey{{1}}, doc, sig},
		"changed":     {[]ed25519.PublicKey{pub}, changed, sig},
		"no context":  {[]ed25519.PublicKey{pub}, doc, ed25519.Sign(key, bare[:])},
		"short":       {[]ed25519.PublicKey{pub}, doc, sig[:63]},
		"no document": {[]ed25519.PublicKey{pub}, []byte("{}"), ed25519.Sign(key, statementMessage([]byte("{}")))},
	} {
		if _, err := VerifyStatement(tt.keys, tt.doc, tt.sig); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if _, err := SignStatement(key, []byte("{}")); err == nil {
		t.Error("the authority signed something that is no statement")
	}
	if _, err := SignStatement(nil, doc); err == nil {
		t.Error("signed without a key")
	}
}

func FuzzPerson(f *testing.F) {
	doc := statement(f)
	key := newSigner(f)
	good := mustSign(f, key, approval.Message(doc), NamespaceApproval)
	f.Add(good)
	f.Add(mustSign(f, newSecurityKey(f, 5), approval.Message(doc), NamespaceApproval))
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Person(doc, b, NamespaceApproval)
		if err == nil && s.Fingerprint == "" {
			t.Error("genuine without a key")
		}
		if err == nil && fmt.Sprint(s.Key) == "" {
			t.Error("no key")
		}
	})
}
