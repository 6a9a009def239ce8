package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cardea/examples"
	"cardea/internal/demo/services"
	"cardea/internal/supervise"
)

// Options say where the demo writes and what it runs.
type Options struct {
	// Binary is the cardea executable; this process's own when empty.
	Binary string
	// Out gets the story, Columns wide; Color marks it up for a terminal.
	Out     io.Writer
	Columns int
	Color   bool
	// Keep leaves the folder in place and says where it is.
	Keep bool
}

// The people of the story.
const (
	ana = "ana" // runs payroll and administers the hub
	bo  = "bo"  // treasury: signs payments
	eve = "eve" // security: signs what adds privilege
)

// demo is one telling.
type demo struct {
	options Options
	page    *page
	dir     string
	tree    *supervise.Tree
	hr      *services.Service
	bank    *services.Service
	held    []string
	began   time.Time

	mu     sync.Mutex
	stolen string // the newest credential that a thief at hr has seen
}

// Run tells the story and returns an error when anything in it did not hold.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "cardea-demo-*")
	if err != nil {
		return fmt.Errorf("demo folder: %w", err)
	}
	d := &demo{options: o, page: newPage(o), dir: dir, began: time.Now()}
	defer func() { err = errors.Join(err, d.close()) }()
	for _, step := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"A hub, and two services that trust nobody", d.start},
		{"A process is applied: what it may do is read before it is granted", d.apply},
		{"A run pays salaries; a person signs exactly what will be sent", d.pay},
		{"Somebody takes the engine and changes an approved payment", d.tamper},
		{"A workflow that no policy allows", d.deny},
		{"A stolen credential", d.expire},
		{"The record, checked without the hub", d.audit},
	} {
		d.page.chapter(step.title)
		if err := step.tell(ctx); err != nil {
			d.page.failed(err)
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	d.page.report(d.held, time.Since(d.began))
	return nil
}

func (d *demo) close() error {
	var errs []error
	if d.tree != nil {
		errs = append(errs, d.tree.Close())
	}
	for _, s := range []*services.Service{d.hr, d.bank} {
		if s != nil {
			s.Close()
		}
	}
	if d.options.Keep {
		d.page.say("The folder stays: %s", d.dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

// holds notes a claim that has just been checked.
func (d *demo) holds(claim string) {
	d.held = append(d.held, claim)
	d.page.holds(claim)
}

// start brings up hub and services. The services discover the hub's keys by its origin, as any OpenID Connect relying party does.
func (d *demo) start(ctx context.Context) error {
	began := time.Now()
	logs, err := os.Create(filepath.Join(d.dir, "hub.log"))
	if err != nil {
		return err
	}
	d.tree, err = supervise.Start(ctx, supervise.Options{
		Binary: d.options.Binary, Dir: filepath.Join(d.dir, "hub"), Hub: "demo", Log: logs, LogLevel: "warn", Drain: 3 * time.Second,
		Persons: []supervise.Person{{Name: ana, Groups: []string{"admins"}}, {Name: bo, Groups: []string{"treasury"}}, {Name: eve, Groups: []string{"security"}}},
	})
	if err != nil {
		return err
	}
	if err := d.tree.WaitReady(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	if d.hr, err = services.Start(ctx, services.Options{Kind: services.HR, Issuer: d.tree.OriginURL(), Witness: d.steal}); err != nil {
		return err
	}
	if d.bank, err = services.Start(ctx, services.Options{Kind: services.Bank, Issuer: d.tree.OriginURL()}); err != nil {
		return err
	}
	d.page.say("%d processes, each with its own identity, ready in %d ms: authority, engine, two runners, console, origin.", len(d.tree.Names()), took.Milliseconds())
	d.page.say("%s and %s verify each request's token by OpenID discovery: signature, audience, expiry.", d.hr.Host(), d.bank.Host())
	d.page.say("People: ana runs payroll, bo is treasury, eve is security. Nobody has given the hub a password.")
	return d.writeExample()
}

// steal is what somebody who reads hr's memory would see.
func (d *demo) steal(token string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stolen = token
}

// writeExample puts examples/payroll into the demo's folder, with a Binding that points its hosts at the services.
func (d *demo) writeExample() error {
	err := fs.WalkDir(examples.Payroll, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(d.dir, filepath.FromSlash(path))
		if entry.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		content, err := examples.Payroll.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o600)
	})
	if err != nil {
		return fmt.Errorf("write the example: %w", err)
	}
	for name, s := range map[string]*services.Service{"hr": d.hr, "bank": d.bank} {
		if err := os.WriteFile(filepath.Join(d.dir, name+".pem"), []byte(s.RootsPEM()), 0o600); err != nil {
			return err
		}
	}
	binding := fmt.Sprintf("kind: Binding\nname: demo\nconnections:\n  hr: {address: '%s', rootsFile: hr.pem}\n  bank: {address: '%s', rootsFile: bank.pem}\n",
		d.hr.Addr(), d.bank.Addr())
	return os.WriteFile(filepath.Join(d.dir, "binding.yaml"), []byte(binding), 0o600)
}
