package container

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reaper collects the orphans that PID 1 inherits without taking an exit status from anybody else.
//
// Each process this program starts has an owner that waits for it, so the Reaper must never collect
// one of those. It looks at the oldest zombie without collecting it; a zombie that nobody owns is an
// orphan. While a process is being started its helpers are not in the table yet, so nothing is
// collected then. An owned zombie hides those behind it only until its owner has collected it, and
// the owner then asks for another look.
type Reaper struct {
	look chan struct{} // holds one request to look

	mu       sync.Mutex
	starting int              // processes being started, guarded by mu
	owned    map[int]struct{} // guarded by mu
}

// NewReaper returns a Reaper; Run makes it work.
func NewReaper() *Reaper {
	return &Reaper{look: make(chan struct{}, 1), owned: map[int]struct{}{}}
}

// Run collects orphans until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGCHLD)
	defer signal.Stop(ch)
	for {
		r.collect()
		select {
		case <-ctx.Done():
			return
		case <-ch:
		case <-r.look:
		}
	}
}

// Start runs start, which returns the PID of the process it started; the caller owns that process and
// must call Gone when it has waited for it.
func (r *Reaper) Start(start func() (pid int, err error)) error {
	r.mu.Lock()
	r.starting++
	r.mu.Unlock()
	pid, err := start()
	r.mu.Lock()
	r.starting--
	if err == nil {
		r.owned[pid] = struct{}{}
	}
	r.mu.Unlock()
	r.again()
	return err
}

// Gone says that the owner of pid has collected it.
func (r *Reaper) Gone(pid int) {
	r.mu.Lock()
	delete(r.owned, pid)
	r.mu.Unlock()
	r.again()
}

func (r *Reaper) again() {
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// collect collects orphans up to the first owned zombie. The lock keeps a new process from starting,
// and so from taking over the PID, between the look and the collection.
func (r *Reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.starting == 0 {
		pid := zombie()
		if pid == 0 {
			return
		}
		if _, owned := r.owned[pid]; owned {
			return
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
			return
		}
	}
}

// siginfo is the part of siginfo_t that waitid fills in for a child.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// zombie returns the PID of a child that has exited and was not collected, or 0. It leaves it there.
func zombie() int {
	var info siginfo
	const flags = unix.WEXITED | unix.WNOHANG | unix.WNOWAIT
	err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), flags, nil)
	if err != nil {
		return 0
	}
	return int(info.pid)
}
