package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// process is a container's first process, one executed in it later, or the pause container's none.
type process struct {
	lp  *libcontainer.Process // nil for the pause container
	io  stdio
	pid int

	done   chan struct{} // closed when status is known
	status int32         // read it after done
}

// newProcess prepares a process with its streams; noInput says that nobody will be at its input.
func newProcess(p *specs.Process, init, noInput bool) (*process, error) {
	pr := &process{lp: libcontainerProcess(p), done: make(chan struct{})}
	pr.lp.Init = init
	var err error
	if p.Terminal {
		err = pr.io.terminal(pr.lp)
	} else {
		err = pr.io.pipes(pr.lp, noInput)
	}
	if err != nil {
		return nil, err
	}
	return pr, nil
}

// libcontainerProcess converts a process description; limits and labels come from the container.
func libcontainerProcess(p *specs.Process) *libcontainer.Process {
	lp := &libcontainer.Process{
		Args: p.Args,
		Env:  p.Env,
		UID:  int(p.User.UID),
		GID:  int(p.User.GID),
		Cwd:  p.Cwd,
	}
	if p.NoNewPrivileges { // else it is the container's: Kata leaves it out of what it has executed
		lp.NoNewPrivileges = &p.NoNewPrivileges
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if b := p.ConsoleSize; b != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(b.Width), uint16(b.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	return lp
}

// start lets the container start the process and waits for its end in the background; ended runs
// before the status is told to anybody.
func (p *process) start(reaper *Reaper, c *libcontainer.Container, ended func()) error {
	err := reaper.Start(func() (int, error) {
		if err := c.Start(p.lp); err != nil {
			return 0, err
		}
		return p.lp.Pid()
	})
	if err != nil {
		p.io.close()
		return err
	}
	p.pid, _ = p.lp.Pid()
	ioErr := p.io.started()
	go p.wait(reaper, ended)
	if ioErr != nil {
		return errors.Join(ioErr, p.lp.Signal(unix.SIGKILL))
	}
	return nil
}

func (p *process) wait(reaper *Reaper, ended func()) {
	state, err := p.lp.Wait()
	reaper.Gone(p.pid)
	status := exitStatus(state, err)
	if ended != nil {
		ended()
	}
	p.finish(status)
}

// unknownStatus is what a process without a status gets, as in containerd.
const unknownStatus = 255

// exitStatus is the exit code, or 128 and the signal, as in a shell.
func exitStatus(state *os.ProcessState, err error) int32 {
	if state == nil {
		return unknownStatus
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return unknownStatus
	case ws.Signaled():
		return 128 + int32(ws.Signal())
	case ws.Exited():
		return int32(ws.ExitStatus())
	}
	return unknownStatus
}

// finish sets the status and lets go of standard input; output stays to be read.
func (p *process) finish(status int32) {
	p.status = status
	close(p.done)
	p.io.closeStdin()
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// await blocks until the process has ended.
func (p *process) await(ctx context.Context) (int32, error) {
	select {
	case <-p.done:
		return p.status, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// signal sends a signal; a process that has ended is left in peace.
func (p *process) signal(sig unix.Signal) error {
	if p.ended() || sig == 0 {
		return nil
	}
	if err := p.lp.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s: %w", sig, err)
	}
	return nil
}
