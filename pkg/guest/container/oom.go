package container

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oomWatch watches the memory.events files of the containers' cgroups for out-of-memory kills.
type oomWatch struct {
	inotify *os.File
	log     *slog.Logger

	mu      sync.Mutex
	watched map[string]*watched // by cgroup directory, guarded by mu
	pending []string            // container ids to report, each at most once; guarded by mu
	ready   chan struct{}       // holds a token while pending is not empty
}

type watched struct {
	id    string
	wd    int
	kills uint64
}

func newOOMWatch(log *slog.Logger) (*oomWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &oomWatch{
		inotify: os.NewFile(uintptr(fd), "inotify"), log: log,
		watched: map[string]*watched{}, ready: make(chan struct{}, 1),
	}
	go w.run()
	return w, nil
}

// run turns notifications into checks for as long as the process lives.
func (w *oomWatch) run() {
	buf := make([]byte, 4096)
	for {
		n, err := w.inotify.Read(buf)
		if err != nil {
			w.log.Error("watch for out-of-memory events ended", "err", err)
			return
		}
		for off := 0; off+unix.SizeofInotifyEvent <= n; {
			ev := (*unix.InotifyEvent)(unsafe.Pointer(&buf[off]))
			off += unix.SizeofInotifyEvent + int(ev.Len)
			if dir := w.directory(int(ev.Wd)); dir != "" {
				w.check(dir)
			}
		}
	}
}

func (w *oomWatch) directory(wd int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir, x := range w.watched {
		if x.wd == wd {
			return dir
		}
	}
	return ""
}

// add starts watching a container's cgroup.
func (w *oomWatch) add(dir, id string) {
	conn, err := w.inotify.SyscallConn()
	if err != nil {
		return
	}
	wd := -1
	_ = conn.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), filepath.Join(dir, "memory.events"), unix.IN_MODIFY)
	})
	if err != nil {
		w.log.Warn("container is not watched for out-of-memory events", "container", id, "err", err)
		return
	}
	w.mu.Lock()
	w.watched[dir] = &watched{id: id, wd: wd}
	w.mu.Unlock()
	w.check(dir) // what happened before
}

func (w *oomWatch) remove(dir string) {
	w.mu.Lock()
	x := w.watched[dir]
	delete(w.watched, dir)
	w.mu.Unlock()
	if x == nil {
		return
	}
	if conn, err := w.inotify.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(x.wd)) })
	}
}

// check reports the container of a cgroup if it had another kill since the last look.
func (w *oomWatch) check(dir string) {
	raw, err := os.ReadFile(filepath.Join(dir, "memory.events"))
	if err != nil {
		return // the cgroup has gone
	}
	kills := oomKills(raw)
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.watched[dir]
	if x == nil || kills <= x.kills {
		return
	}
	x.kills = kills
	if !slices.Contains(w.pending, x.id) {
		w.pending = append(w.pending, x.id)
	}
	w.signal()
}

// signal keeps a token in ready while something is pending; w.mu is held.
func (w *oomWatch) signal() {
	if len(w.pending) == 0 {
		return
	}
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// next waits for a report.
func (w *oomWatch) next(ctx context.Context) (string, error) {
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-w.ready:
		}
		w.mu.Lock()
		if len(w.pending) > 0 {
			id := w.pending[0]
			w.pending = w.pending[1:]
			w.signal()
			w.mu.Unlock()
			return id, nil
		}
		w.mu.Unlock()
	}
}

// oomKills reads the count of kills from a memory.events file.
func oomKills(raw []byte) uint64 {
	n, err := flatKey(raw, "oom_kill")
	if err != nil {
		return 0
	}
	return n
}

var errNoKey = errors.New("no such key")

// flatKey reads one key of a flat-keyed cgroup file.
func flatKey(raw []byte, key string) (uint64, error) {
	sc := bufio.NewScanner(bytes.NewReader(raw))
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), key+" "); ok {
			return strconv.ParseUint(v, 10, 64)
		}
	}
	return 0, fmt.Errorf("%w: %s", errNoKey, key)
}
