package vmm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

// process is a running QEMU with the near ends of its three channels.
type process struct {
	cmd      *exec.Cmd
	qmp      *net.UnixConn
	console  *net.UnixConn
	agent    *net.UnixConn
	stderr   *syncTail
	started  sandboxrecord.Process
	startErr error         // why started is not known
	life     *life         // its record; nil without one
	done     chan struct{} // closed when QEMU has ended
	ended    time.Duration // when, since the boot; read after done
	err      error         // how it ended; read after done
}

// Descriptor numbers in QEMU, in the order of exec.Cmd.ExtraFiles.
const (
	fdQMP = 3 + iota
	fdConsole
	fdAgent
	fdFirstFree
)

// startQEMU runs QEMU as planned, with its channels and extra descriptors, which it inherits from fdFirstFree on. QEMU
// is killed by the kernel when this process dies.
func startQEMU(start starter, plan jail.Plan, extra []*os.File) (_ *process, err error) {
	p := &process{stderr: &syncTail{}, done: make(chan struct{})}
	p.cmd = &exec.Cmd{Stderr: p.stderr}
	var far []*os.File
	defer func() {
		for _, f := range far {
			_ = f.Close() // QEMU has its own copy
		}
		if err != nil {
			p.closeChannels()
		}
	}()
	for _, near := range []**net.UnixConn{&p.qmp, &p.console, &p.agent} {
		var f *os.File
		if *near, f, err = socketPair(); err != nil {
			return nil, err
		}
		far = append(far, f)
	}
	p.cmd.ExtraFiles = append(append([]*os.File{}, far...), extra...)
	started := make(chan error)
	go p.run(start, plan, started)
	if err = <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", plan.Argv[0], err)
	}
	return p, nil
}

// run starts QEMU and waits for it on one locked thread: the kernel sends the death signal when the
// thread that forked ends, not the process. The thread is never unlocked and ends with this function.
func (p *process) run(start starter, plan jail.Plan, started chan<- error) {
	runtime.LockOSThread()
	err := start(p.cmd, plan)
	if err == nil { // before it is waited for: until then the kernel keeps its start, even if it has ended
		p.started, _, p.startErr = sandboxrecord.Find(os.DirFS("/proc"), p.cmd.Process.Pid)
	}
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	p.ended, _ = bootTime() // it works: vm.record tries it first
	close(p.done)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
}

func (p *process) closeChannels() {
	for _, c := range []*net.UnixConn{p.qmp, p.console, p.agent} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// cause says how QEMU ended, in one line.
func (p *process) cause() error {
	words := "status 0"
	if p.err != nil {
		words = p.err.Error()
	}
	if text := p.stderr.digest(); text != "" {
		words += ": " + text
	}
	return errors.New("qemu ended: " + words)
}

// socketPair returns a connected pair: the near end for this process, the far end for QEMU.
func socketPair() (*net.UnixConn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	far := os.NewFile(uintptr(pair[1]), "qemu")
	nearFile := os.NewFile(uintptr(pair[0]), "vmm")
	defer nearFile.Close()
	near, err := net.FileConn(nearFile)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make socket pair: %w", err), far.Close())
	}
	return near.(*net.UnixConn), far, nil
}
