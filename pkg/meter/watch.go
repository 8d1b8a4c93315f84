package meter

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ends sees processes end, while this process lives. It makes the Collector independent of nodeless-vmm, which a kubelet that empties a
// Pod's cgroup kills together with QEMU.
type ends struct {
	clock Clock
	all   sync.WaitGroup
	told  chan struct{} // has something once an end was seen that nobody has asked for yet

	mu    sync.Mutex
	files map[string]*os.File      // the pidfd of each process that is watched, by sandbox; guarded by mu
	seen  map[string]time.Duration // when each ended, since the boot; guarded by mu
}

func newEnds(clock Clock) *ends {
	return &ends{clock: clock, told: make(chan struct{}, 1), files: map[string]*os.File{}, seen: map[string]time.Duration{}}
}

// watch begins to watch a process, unless it does already. alive tells whether the number still is the process's.
func (e *ends) watch(sandbox string, pid int, alive func() (bool, error)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.files[sandbox]; known {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", pid))
	if same, err := alive(); !same || err != nil {
		return file.Close() // it has ended, and another one may have its number
	}
	e.files[sandbox] = file
	e.all.Go(func() { e.follow(sandbox, file) })
	return nil
}

// follow waits for the end of a process, or until the file is closed.
func (e *ends) follow(sandbox string, file *os.File) {
	raw, err := file.SyscallConn()
	if err != nil {
		return // closed
	}
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 && err == nil
	})
	now := e.clock().Boot
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		e.seen[sandbox] = now
		select {
		case e.told <- struct{}{}:
		default: // it was told of another one
		}
	}
}

// of is when a sandbox's process was seen to end.
func (e *ends) of(sandbox string) (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at, ok := e.seen[sandbox]
	return at, ok
}

// awaits tells whether a sandbox's process is watched and was not seen to end.
func (e *ends) awaits(sandbox string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, seen := e.seen[sandbox]
	return e.files[sandbox] != nil && !seen
}

// forget ends the watch on a sandbox.
func (e *ends) forget(sandbox string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if file := e.files[sandbox]; file != nil {
		_ = file.Close() // of a pidfd it cannot fail
	}
	delete(e.files, sandbox)
	delete(e.seen, sandbox)
}

// close ends all watches, and returns when nobody waits any more.
func (e *ends) close() {
	e.mu.Lock()
	for _, file := range e.files {
		_ = file.Close() // of a pidfd it cannot fail
	}
	e.mu.Unlock()
	e.all.Wait()
}
