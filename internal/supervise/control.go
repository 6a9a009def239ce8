package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// WaitReady returns when all wanted processes are ready and the profiles are written.
func (t *Tree) WaitReady(ctx context.Context) error {
	for _, c := range t.children {
		if err := c.wait(ctx, func() bool { return c.ready || !c.wanted }); err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			return errors.Join(err, c.lastErr)
		}
	}
	return t.saveProfiles()
}

// Dir is the hub's folder.
func (t *Tree) Dir() string { return t.opts.Dir }

// OriginURL is the URL of the hub's public files, the issuer of its tokens.
func (t *Tree) OriginURL() string { return t.originURL }

// Persons are who the hub knows from the start.
func (t *Tree) Persons() []Person { return append([]Person(nil), t.opts.Persons...) }

// Names are the processes' names, in the order in which they depend on each other.
func (t *Tree) Names() []string {
	var names []string
	for _, c := range t.children {
		names = append(names, c.name)
	}
	return names
}

func (t *Tree) find(name string) (*child, error) {
	for _, c := range t.children {
		if c.name == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("supervise: no process is named %q", name)
}

// PID is the process's id; 0 while it does not run or if there is none of that name.
func (t *Tree) PID(name string) int {
	c, err := t.find(name)
	if err != nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		return 0
	}
	return c.proc.cmd.Process.Pid
}

// Starts is how often the process has been started.
func (t *Tree) Starts(name string) int {
	c, err := t.find(name)
	if err != nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starts
}

// Stop lets a process drain and end, and does not start it again.
func (t *Tree) Stop(name string) error {
	c, err := t.find(name)
	if err != nil {
		return err
	}
	return c.end(t.opts.Drain + killAfter)
}

// StartRole starts a process that Stop has ended. It returns at once: see WaitReady.
func (t *Tree) StartRole(name string) error {
	c, err := t.find(name)
	if err != nil {
		return err
	}
	c.update(func() { c.wanted = true })
	return nil
}

// Restart stops a process in good order, starts it and waits until it is ready.
func (t *Tree) Restart(ctx context.Context, name string) error {
	if err := t.Stop(name); err != nil {
		return err
	}
	if err := t.StartRole(name); err != nil {
		return err
	}
	c, err := t.find(name)
	if err != nil {
		return err
	}
	return c.wait(ctx, func() bool { return c.ready })
}

// Kill ends a process as a power cut would (SIGKILL) and returns when it is gone; it is then started again.
func (t *Tree) Kill(name string) error {
	c, err := t.find(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	p := c.proc
	c.mu.Unlock()
	if p == nil {
		return fmt.Errorf("supervise: %s does not run", name)
	}
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("supervise: kill %s: %w", name, err)
	}
	<-p.gone
	return nil
}

// WaitGone returns when the process that has run since before the call is gone, however it ends: for tests that make a process kill itself.
func (t *Tree) WaitGone(ctx context.Context, name string) error {
	c, err := t.find(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	p := c.proc
	c.mu.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-p.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to end: %w", name, ctx.Err())
	}
}

// Close stops all processes, the last started first, so that each still has whom it needs to finish; then it
// removes the sockets. The hub's folder stays.
func (t *Tree) Close() error {
	var errs []error
	for _, c := range t.children {
		c.update(func() { c.wanted = false })
	}
	for i := len(t.children) - 1; i >= 0; i-- {
		errs = append(errs, t.children[i].end(t.opts.Drain+killAfter))
	}
	t.cancel()
	t.loops.Wait()
	return errors.Join(append(errs, t.removeSockets(), t.release())...)
}

// removeSockets clears the folder of sockets. The roles cannot: their walls give them no right there.
func (t *Tree) removeSockets() error {
	run := filepath.Join(t.opts.Dir, "run")
	entries, err := os.ReadDir(run)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Type() == os.ModeSocket {
			errs = append(errs, os.Remove(filepath.Join(run, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (t *Tree) release() error {
	errs := []error{closeFile(t.listener), closeFile(t.lock)}
	t.listener, t.lock = nil, nil
	return errors.Join(errs...)
}

// Age is how long ago the tree was started.
func (t *Tree) Age() time.Duration { return time.Since(t.begun) }
