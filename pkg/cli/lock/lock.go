// Package lock keeps a second server off a data folder. The server holds the lock as long as it lives, the kernel
// gives it back however the process ends, and the file says whose it is. pkg/cli uses it in server, check and uninstall.
package lock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

// ErrHeld says that another process has the lock.
var ErrHeld = errors.New("another server runs on it")

// Lock is a held lock.
type Lock struct{ f *os.File }

// Acquire takes the lock at path and writes our pid into it. If somebody has it, the error is ErrHeld, with the pid.
func Acquire(path string) (l *Lock, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &hint.Error{Op: "take lock", On: path, Err: err, Do: "run as root on a writable file system, or choose another folder with --data-dir"}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	switch err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return nil, held(filepath.Dir(path), f)
	case err != nil:
		return nil, fmt.Errorf("take lock %s: %w", path, err)
	}
	// The pid is written in place: a renamed file would be another one than the locked.
	text := strconv.Itoa(os.Getpid()) + "\n"
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		return nil, fmt.Errorf("write pid into lock: %w", err)
	}
	return &Lock{f: f}, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

func held(dataDir string, f *os.File) error {
	e := &hint.Error{Op: "use data dir", On: dataDir, Err: ErrHeld, Do: "stop the other server, or give this one another folder with --data-dir and other ports"}
	if pid := pidIn(f); pid != 0 {
		e.Err = fmt.Errorf("%w: pid %d", ErrHeld, pid)
		e.Do = fmt.Sprintf("stop the other server (kill %d, or systemctl stop nodeless), or give this one another folder with --data-dir and other ports", pid)
	}
	return e
}

// Holder tells the pid of the process that has the lock at path, 0 if nobody has it. It takes no lock itself.
func Holder(path string) (pid int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at lock: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	probe := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart} // a read lock may be asked for on a file that is open for reading
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &probe); err != nil {
		return 0, fmt.Errorf("look at lock %s: %w", path, err)
	}
	if probe.Type == unix.F_UNLCK {
		return 0, nil
	}
	return pidIn(f), nil
}

// pidIn reads the pid that the holder wrote; 0 if it has not written it yet.
func pidIn(f *os.File) int {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0) // io.EOF is the rule
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// Release gives the lock back. The file stays: removing it would let two processes lock two files of one name.
func (l *Lock) Release() error { return l.f.Close() }
