// Package proc runs child processes whose life is tied to ours: they get a signal when we die,
// they are asked to stop before they are killed, and their last words are part of the error.
// pkg/worker/containerd runs containerd through it.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Child describes a process to run.
type Child struct {
	Name string   // for errors
	Path string   // the executable, a real file
	Args []string // without argv[0]
	Env  []string // the whole environment; nil means ours
	Dir  string
	// Log receives stdout and stderr as they come; nil discards them (the last line still shows in errors).
	Log io.Writer
	// StopTimeout is how long the child has between SIGTERM and SIGKILL; zero means 10 s.
	StopTimeout time.Duration
	// Started, if set, is called with the pid once the process runs.
	Started func(pid int)
}

// Run starts the child and blocks until it has ended. It returns nil only if ctx ended first and the child
// then went; otherwise the error tells the exit status and the last line the child wrote.
func (c Child) Run(ctx context.Context) error {
	// The kernel delivers the parent-death signal when the *thread* that forked ends, so that thread must live on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	tail := &lastLine{next: c.Log}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.Stdout, cmd.Stderr = tail, tail
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = time.Second // grandchildren may hold the pipe
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.Name, err)
	}
	if c.Started != nil {
		c.Started(cmd.Process.Pid)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()

	select {
	case err := <-done:
		return c.ended(err, tail)
	case <-ctx.Done():
	}
	return c.stop(cmd.Process, done)
}

func (c Child) stop(p *os.Process, done <-chan error) error {
	timeout := c.StopTimeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.Name, err)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", c.Name, err)
	}
	<-done
	return nil
}

func (c Child) ended(err error, tail *lastLine) error {
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		err = errors.New("exit status 0")
	}
	if last := tail.String(); last != "" {
		return fmt.Errorf("%s ended: %w: %s", c.Name, err, last)
	}
	return fmt.Errorf("%s ended: %w", c.Name, err)
}
