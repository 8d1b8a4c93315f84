package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is the second stage: it enters the jail and becomes the program. It returns the exit status, and only when it could not.
func Main(args []string) int {
	if len(args) == 0 {
		return 2
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil || fd < firstFile {
		return 2
	}
	runtime.LockOSThread() // what is given up is the thread's, and the program's, which begins in it
	socket := os.NewFile(uintptr(fd), "jail")
	if err := enter(socket); err != nil {
		_, _ = io.WriteString(socket, err.Error()) // nobody else listens
	}
	return 1
}

// enter returns only on error.
func enter(socket *os.File) error {
	var told onWire
	if err := json.NewDecoder(socket).Decode(&told); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	p := told.Plan
	p.files = told.Files
	// All but what was handed over on purpose is closed when the program begins, the socket too.
	if err := unix.CloseRange(uint(firstFile+p.files), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close other descriptors: %w", err)
	}
	return p.become(func() error { return dieWith(socket) })
}

// Become makes this process the program of the plan, in its jail. It has been started in Namespaces of its own, where it is the first
// process: anywhere else it is refused. Of what it has open the program inherits so many files, from descriptor 3 on. It does not die with
// who started it. Become returns only on error; the process has to end then.
func Become(p Plan, files int) error {
	if os.Getpid() != 1 {
		return errors.New("enter the jail: this process was not started in namespaces of its own")
	}
	if err := p.validate(); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.CloseRange(uint(firstFile+files), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close other descriptors: %w", err)
	}
	return p.become(func() error { return nil })
}

// become does what both have in common; last is done when nothing more is given up.
func (p Plan) become(last func() error) error {
	filter, err := p.Calls.compile()
	if err != nil {
		return err
	}
	if err := p.enterRoot(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(p.Name)); err != nil {
		return fmt.Errorf("set the name of the host: %w", err)
	}
	if err := setLimits(p.Limits); err != nil {
		return err
	}
	if err := p.giveUp(); err != nil {
		return err
	}
	if err := p.reach(); err != nil {
		return err
	}
	if err := last(); err != nil {
		return err
	}
	if err := install(filter); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", p.Argv[0], syscall.Exec(p.Argv[0], p.Argv, p.Env))
}

// setLimits bounds what the program may take.
func setLimits(limits []Limit) error {
	for _, l := range limits {
		err := unix.Setrlimit(l.Resource, &unix.Rlimit{Cur: l.Most, Max: l.Most})
		if errors.Is(err, unix.EPERM) { // it may not be raised
			var have unix.Rlimit
			if err = unix.Getrlimit(l.Resource, &have); err == nil {
				err = unix.Setrlimit(l.Resource, &unix.Rlimit{Cur: have.Max, Max: have.Max})
			}
		}
		if err != nil {
			return fmt.Errorf("set limit %d to %d: %w", l.Resource, l.Most, err)
		}
	}
	return nil
}

// reach checks that the user may read what is shown: the program would say it in words of its own, or go on without.
func (p Plan) reach() error {
	for _, s := range p.Shown {
		mode := uint32(unix.R_OK)
		if s.Programs {
			mode |= unix.X_OK
		}
		if err := unix.Access(s.Path, mode); err != nil {
			return fmt.Errorf("%s has to be readable for every user (chmod -R o+rX): %w", s.Path, err)
		}
	}
	return nil
}

// dieWith has the kernel kill this process with the thread that started it. The change of user took the signal away. A parent that died
// meanwhile has closed its end of the socket.
func dieWith(socket *os.File) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("have the program die with its parent: %w", err)
	}
	poll := []unix.PollFd{{Fd: int32(socket.Fd())}}
	if _, err := unix.Poll(poll, 0); err != nil {
		return fmt.Errorf("look for the parent: %w", err)
	}
	if poll[0].Revents&unix.POLLHUP != 0 {
		return errors.New("the parent has gone")
	}
	return nil
}
