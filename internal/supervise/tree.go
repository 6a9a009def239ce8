package supervise

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cardea/internal/identity"
	"cardea/internal/profile"
	"cardea/internal/role"
)

// Tree is a running hub. It is safe for concurrent use.
type Tree struct {
	opts     Options
	people   []keyring
	children []*child
	logs     *logs
	// lock is the hub's folder, locked for as long as this tree has it.
	lock *os.File
	// listener is the origin's, bound here so that its URL is known before anything starts and outlives the origin.
	listener  *os.File
	originURL string

	begun  time.Time
	life   context.Context // ends when Close has stopped all processes
	cancel context.CancelFunc
	loops  sync.WaitGroup
	spawns chan spawn

	mu  sync.Mutex
	env map[string][]string
	// grants keeps lines to the authority whole.
	grants sync.Mutex
}

// Start makes the hub's folder and starts its processes. It returns at once: see WaitReady. The tree lives until Close, or until this
// process ends, not until ctx does: a tree that stops in good order needs somebody to wait for it.
func Start(ctx context.Context, opts Options) (*Tree, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Tree{opts: opts, begun: time.Now(), env: opts.Env, spawns: make(chan spawn)}
	if err := t.prepare(); err != nil {
		return nil, errors.Join(err, t.release())
	}
	t.plan()
	t.life, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go t.spawner()
	for _, c := range t.children {
		t.loops.Go(func() { c.loop(t.life) })
	}
	for _, c := range t.children {
		c.update(func() { c.wanted = true })
	}
	return t, nil
}

// prepare makes folders, keys and the origin's listener.
func (t *Tree) prepare() error {
	dir := t.opts.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	var err error
	if t.lock, err = lockFolder(dir); err != nil {
		return err
	}
	for _, sub := range []string{"run", Authority, Origin, "people"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("supervise: %w", err)
		}
	}
	if err := t.removeSockets(); err != nil { // left by a supervisor that was killed
		return err
	}
	for _, p := range t.opts.Persons {
		k, err := loadKeyring(filepath.Join(dir, "people", p.Name), p)
		if err != nil {
			return err
		}
		t.people = append(t.people, k)
	}
	return t.bindOrigin()
}

// lockFolder takes the folder for this supervisor alone, and refuses one that others may enter.
func lockFolder(dir string) (*os.File, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("supervise: others may enter %s, which is to hold the hub's keys: chmod 700 it, or name another folder", dir)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("supervise: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("supervise: another supervisor runs the hub in %s: stop it first, or name another folder", dir), f.Close())
	}
	return f, nil
}

// bindOrigin binds the port that the hub had before, so that what has been configured with its issuer's URL
// stays right, or else any.
func (t *Tree) bindOrigin() error {
	file := filepath.Join(t.opts.Dir, "origin.addr")
	addr := "127.0.0.1:0"
	if text, err := os.ReadFile(file); err == nil {
		addr = strings.TrimSpace(string(text))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("supervise: %w", err)
	}
	ln, err := net.Listen("tcp4", addr)
	if err != nil {
		ln, err = net.Listen("tcp4", "127.0.0.1:0")
	}
	if err != nil {
		return fmt.Errorf("supervise: bind the origin: %w", err)
	}
	defer ln.Close()
	tcp, ok := ln.(*net.TCPListener)
	if !ok || !tcp.Addr().(*net.TCPAddr).IP.IsLoopback() {
		return fmt.Errorf("supervise: the origin's address in %s is not a loopback address", file)
	}
	if t.listener, err = tcp.File(); err != nil {
		return fmt.Errorf("supervise: bind the origin: %w", err)
	}
	t.originURL = "http://" + ln.Addr().String()
	return identity.WriteSecretFile(file, []byte(ln.Addr().String()+"\n"))
}

// plan lists the processes in the order in which they depend on each other.
func (t *Tree) plan() {
	extra := fmt.Sprint(extraFD)
	t.add(Authority, Authority, "--grants-fd", extra, "--origin-dir", filepath.Join(t.opts.Dir, Origin), "--origin-url", t.originURL, "--dev")
	t.add(Engine, Engine, "--join-fd", extra)
	for _, r := range t.opts.Runners {
		t.add(role.Runner+"-"+r.Name, role.Runner, "--name", r.Name, "--tier", r.Tier, "--join-fd", extra)
	}
	t.add(Console, Console, "--join-fd", extra)
	t.add(Origin, Origin, "--listen", "fd:"+extra)
	t.logs = &logs{w: t.opts.Log, format: t.opts.LogFormat, color: t.opts.Color}
	for _, c := range t.children {
		t.logs.width = max(t.logs.width, len(c.name))
	}
}

func (t *Tree) add(name, roleName string, flags ...string) {
	t.children = append(t.children, &child{tree: t, name: name, role: roleName, flags: flags, index: len(t.children), changed: make(chan struct{})})
}

// spawn is one request to start a process.
type spawn struct {
	cmd  *exec.Cmd
	done chan error
}

// spawner starts all processes from one thread that lives as long as the tree: the kernel sends Pdeathsig when the
// thread that started a process ends, not the process.
func (t *Tree) spawner() {
	runtime.LockOSThread()
	for {
		select {
		case s := <-t.spawns:
			s.done <- s.cmd.Start()
		case <-t.life.Done():
			return // the thread, still locked, ends; so have all children by then
		}
	}
}

func (t *Tree) spawn(cmd *exec.Cmd) error {
	s := spawn{cmd, make(chan error, 1)}
	select {
	case t.spawns <- s:
		return <-s.done
	case <-t.life.Done():
		return errors.New("the hub is closing")
	}
}

// environment is what a process inherits: nothing but what Go itself reads, and what the options add. The
// supervisor's own environment may hold secrets that are none of a role's business.
func (t *Tree) environment(name string) []string {
	env := []string{}
	for _, v := range []string{
		"TZ", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "GORACE",
	} {
		if value, ok := os.LookupEnv(v); ok {
			env = append(env, v+"="+value)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return append(append(env, t.env[""]...), t.env[name]...)
}

// SetEnv replaces the variables (NAME=value) that Options.Env gave a process; its next start has them.
func (t *Tree) SetEnv(name string, env ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[string][]string{}
	for k, v := range t.env {
		next[k] = v
	}
	next[name] = env
	t.env = next
}

// say adds a line of the supervisor's own to the log.
func (t *Tree) say(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if t.opts.LogFormat == "json" {
		text, _ := json.Marshal(map[string]string{ // strings always marshal
			"time": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "level": "WARN", "role": "dev", "msg": msg,
		})
		msg = string(text)
	}
	t.logs.line("dev", len(t.children), []byte(msg))
}

// giveJoinGrant lets one process join: the authority learns the token's digest, the process the token, once the authority is ready. If the
// authority is replaced meanwhile, the new one is told again.
func (t *Tree) giveJoinGrant(ctx context.Context, c *child, p *process) error {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return err
	}
	token := base64.RawURLEncoding.EncodeToString(raw)
	sum := sha256.Sum256([]byte(token))
	line := role.GrantLine{Join: &role.JoinAllowed{Role: c.role, Name: c.flag("--name", c.role), Tier: c.flag("--tier", ""), TokenSHA256: hex.EncodeToString(sum[:])}}
	a := t.children[0]
	for told := 0; ; {
		var proc *process
		var current int
		if err := a.wait(ctx, func() bool {
			proc, current = a.proc, a.starts
			return proc != nil && (a.ready || current != told)
		}); err != nil {
			return err
		}
		if current != told {
			if err := t.tellAuthority(proc, line); err != nil {
				t.say("cannot tell the authority of %s yet: %v", c.name, err)
				select {
				case <-proc.gone:
				case <-ctx.Done():
					return ctx.Err()
				}
				continue
			}
			told = current
			continue
		}
		if c.role != Engine {
			t.awaitEngine(ctx)
		}
		return t.hand(p, token)
	}
}

// awaitEngine lets those who will call the engine come after it, so that a hub starts without a warning. It is a courtesy: they
// can wait for it themselves, and do when it is stopped or keeps dying.
func (t *Tree) awaitEngine(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, c := range t.children {
		if c.role == Engine {
			_ = c.wait(ctx, func() bool { return c.ready || !c.wanted })
		}
	}
}

// flag is the value that the process is given for a flag.
func (c *child) flag(name, otherwise string) string {
	if i := slices.Index(c.flags, name); i >= 0 {
		return c.flags[i+1]
	}
	return otherwise
}

func (t *Tree) tellAuthority(p *process, line role.GrantLine) error {
	t.grants.Lock()
	defer t.grants.Unlock()
	return writeGrant(p.extra, line)
}

func writeGrant(w *os.File, line role.GrantLine) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	if err := w.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// hand gives a process its token and the roots to know the authority by.
func (t *Tree) hand(p *process, token string) error {
	bundle, err := t.bundle()
	if err != nil {
		return err
	}
	text, err := json.Marshal(role.Grant{Token: token, Roots: identity.RootsPEM(bundle.RoleRoots)})
	if err != nil {
		return err
	}
	if err := p.extra.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err = p.extra.Write(text)
	return errors.Join(err, p.extra.Close())
}

// bundle is the one that the running authority keeps.
func (t *Tree) bundle() (identity.Bundle, error) {
	return role.LoadBundle(filepath.Join(t.opts.Dir, Authority, "bundle.json"))
}

// saveProfiles writes every person's profile, with the keys that the authority has now.
func (t *Tree) saveProfiles() error {
	bundle, err := t.bundle()
	if err != nil {
		return err
	}
	for i, k := range t.people {
		p := k.profile(t.opts, t.originURL, bundle)
		if err := p.Save(t.ProfilePath(k.person.Name)); err != nil {
			return err
		}
		if i == 0 {
			if err := p.Save(filepath.Join(t.opts.Dir, "profile.json")); err != nil {
				return err
			}
		}
	}
	return nil
}

// ProfilePath is where the person's profile lies once the tree is ready.
func (t *Tree) ProfilePath(person string) string {
	return filepath.Join(t.opts.Dir, "profile-"+person+".json")
}

// Profile reads the person's profile; the tree must have been ready once.
func (t *Tree) Profile(person string) (profile.Profile, error) {
	return profile.Load(t.ProfilePath(person))
}
