package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"cardea/internal/role"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	// healthy is how long a process must have run for its next death to count as its first.
	healthy = time.Minute
	// killAfter is what a process has beyond its own drain before it is killed.
	killAfter = 5 * time.Second
)

// Inherited descriptors of every child.
const (
	parentFD = 3 // reads end-of-file when the supervisor is gone
	extraFD  = 4 // the join grant, the authority's grants, or the origin's listener
)

// child is one process of the hub, started again for as long as it is wanted.
type child struct {
	tree  *Tree
	name  string // as in its folder, its sockets and the API
	role  string
	flags []string // beyond those of every role
	index int

	mu     sync.Mutex
	wanted bool
	// asked is true when the process that runs, or ran last, has been told to stop: its end is no death.
	asked bool
	// starting is true from the decision to start a process until proc is set, or could not be.
	starting bool
	ready    bool
	changed  chan struct{} // closed and replaced at every change
	proc     *process      // nil while none runs
	starts   int           // how many processes have been started
	lastErr  error         // why the last one ended
}

// process is one incarnation.
type process struct {
	cmd   *exec.Cmd
	out   *lineWriter
	gone  chan struct{}
	begun time.Time
	// parent is the writing end of its parent-fd; extra the supervisor's end of its extra descriptor (nil for the origin).
	parent, extra *os.File
}

// update changes the state under the lock and wakes whoever waits for it.
func (c *child) update(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait blocks until until holds, which is called with the lock held.
func (c *child) wait(ctx context.Context, until func() bool) error {
	for {
		c.mu.Lock()
		if until() {
			c.mu.Unlock()
			return nil
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", c.name, ctx.Err())
		}
	}
}

// loop runs the child while it is wanted, until the tree ends.
func (c *child) loop(ctx context.Context) {
	backoff := minBackoff
	for {
		if c.wait(ctx, func() bool { c.starting = c.wanted; return c.wanted }) != nil {
			return
		}
		lived, err := c.once(ctx)
		c.mu.Lock()
		asked := c.asked || !c.wanted
		c.mu.Unlock()
		if asked {
			backoff = minBackoff
			continue
		}
		if lived >= healthy {
			backoff = minBackoff
		}
		c.tree.say("%s ended (%v); starting it again in %s", c.name, err, backoff)
		wait, cancel := context.WithTimeout(ctx, backoff)
		_ = c.wait(wait, func() bool { return !c.wanted }) // no need to wait for a child that is wanted no more
		cancel()
		backoff = min(2*backoff, maxBackoff)
	}
}

// once runs one process to its end.
func (c *child) once(ctx context.Context) (time.Duration, error) {
	p, err := c.start()
	if err != nil {
		c.update(func() { c.starting, c.lastErr = false, err })
		return 0, err
	}
	c.update(func() { c.starting, c.asked, c.proc, c.ready = false, false, p, false; c.starts++ })
	life, end := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() { c.introduce(life, p) })
	tasks.Go(func() { c.awaitReady(life) })
	err = p.cmd.Wait()
	end()
	tasks.Wait()
	p.out.flush()
	_ = p.parent.Close()
	if p.extra != nil {
		_ = p.extra.Close()
	}
	if err == nil {
		err = errors.New("exit status 0")
	}
	// Whoever waited for its end must then see it ended.
	c.update(func() { c.proc, c.ready, c.lastErr = nil, false, err; close(p.gone) })
	return time.Since(p.begun), err
}

// start makes the process with its descriptors.
func (c *child) start() (*process, error) {
	t := c.tree
	parentR, parentW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer parentR.Close()
	p := &process{gone: make(chan struct{}), parent: parentW, begun: time.Now()}
	inherited := t.listener
	if c.role != Origin {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start %s: %w", c.name, err), parentW.Close())
		}
		defer r.Close()
		inherited, p.extra = r, w
	}
	cmd := exec.Command(t.opts.Binary, c.args()...)
	cmd.Env = t.environment(c.name)
	cmd.Dir = t.opts.Dir
	cmd.ExtraFiles = []*os.File{parentR, inherited}
	cmd.SysProcAttr = childAttr()
	p.out = &lineWriter{logs: t.logs, name: c.name, index: c.index}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.WaitDelay = killAfter // a grandchild that holds the log open does not hold us
	p.cmd = cmd
	if err := t.spawn(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.name, err), parentW.Close(), closeFile(p.extra))
	}
	return p, nil
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func (c *child) args() []string {
	o := c.tree.opts
	args := []string{
		c.role, "--dir", filepath.Join(o.Dir, c.name), "--run", filepath.Join(o.Dir, "run"), "--trust-domain", o.TrustDomain,
		"--log-format", o.LogFormat, "--log-level", o.LogLevel, "--drain", o.Drain.String(), "--parent-fd", fmt.Sprint(parentFD),
	}
	return append(append(args, c.flags...), o.Flags[c.name]...)
}

// admin is the address of the process's health endpoints.
func (c *child) admin() string {
	return "unix:" + filepath.Join(c.tree.opts.Dir, "run", c.name+"-admin.sock")
}

// awaitReady notes when the process has become ready.
func (c *child) awaitReady(ctx context.Context) {
	for ctx.Err() == nil {
		if role.Ready(ctx, c.admin()) == nil {
			c.update(func() { c.ready = true })
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(4 * time.Millisecond):
		}
	}
}

// introduce gives the process what it needs of others: the authority its grants, the others their join grant once the authority answers.
func (c *child) introduce(ctx context.Context, p *process) {
	switch c.role {
	case Origin:
		return
	case Authority:
		for _, k := range c.tree.people {
			if err := c.tree.tellAuthority(p, k.grant()); err != nil {
				c.tree.say("cannot tell the authority of %s: %v", k.person.Name, err)
			}
		}
		return
	}
	if err := c.tree.giveJoinGrant(ctx, c, p); err != nil && ctx.Err() == nil {
		c.tree.say("cannot let %s join: %v", c.name, err)
		_ = p.extra.Close() // it ends for want of a grant, and is started again
	}
}

// end asks the process to stop, not to be started again, and kills it if it does not in time.
func (c *child) end(limit time.Duration) error {
	var p *process
	c.update(func() { c.wanted = false })
	if err := c.wait(context.Background(), func() bool { p, c.asked = c.proc, true; return !c.starting }); err != nil {
		return err
	}
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.name, err)
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(limit):
	}
	err := fmt.Errorf("%s did not stop within %s and was killed", c.name, limit)
	if kill := p.cmd.Process.Kill(); kill != nil && !errors.Is(kill, os.ErrProcessDone) {
		return errors.Join(err, kill)
	}
	<-p.gone
	return err
}
