package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

const maxRead = 1 << 20 // Kata's own limit for one message

// stream is the agent's end of an output pipe or a terminal. Nothing is read ahead: what the host does
// not ask for stays in the kernel's pipe, which is bounded.
type stream struct {
	mu   sync.Mutex // one reader at a time
	f    *os.File
	kept []byte // read for a caller that had gone; guarded by mu
	eof  bool   // guarded by mu
}

// read returns what is there, waiting for it; io.EOF at the end.
func (s *stream) read(ctx context.Context, size int) ([]byte, error) {
	if s == nil {
		return nil, io.EOF
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) > 0 {
		n := min(size, len(s.kept))
		out := s.kept[:n]
		s.kept = s.kept[n:]
		return out, nil
	}
	buf := make([]byte, max(1, min(size, maxRead)))
	n, err := interruptible(ctx, s.f.SetReadDeadline, func() (int, error) {
		if s.eof {
			return 0, io.EOF
		}
		return s.f.Read(buf)
	})
	switch {
	case n > 0 && ctx.Err() != nil:
		s.kept = buf[:n]
		return nil, ctx.Err()
	case n > 0:
		return buf[:n], nil
	case errors.Is(err, unix.EIO), errors.Is(err, os.ErrClosed), errors.Is(err, io.EOF):
		s.eof = true // a terminal whose last process has gone answers EIO
		return nil, io.EOF
	}
	return nil, err
}

// interruptible runs a blocking transfer that ends when ctx does, by a deadline in the past.
func interruptible(ctx context.Context, setDeadline func(time.Time) error, transfer func() (int, error)) (int, error) {
	for {
		stop := context.AfterFunc(ctx, func() { _ = setDeadline(time.Unix(1, 0)) })
		n, err := transfer()
		stop()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		_ = setDeadline(time.Time{})
		if n > 0 {
			return n, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

// stdio is the agent's side of a process's standard streams, and the ends it hands to the process.
type stdio struct {
	stdin          *os.File // nil with a terminal, and when nobody is at the input
	stdout, stderr *stream
	console        *os.File   // the terminal's master
	winsize        sync.Mutex // guards nothing but the order of resizes
	toProcess      []*os.File // closed once the process has them
	consoleSocket  *os.File
}

// pipes gives a process two pipes for its output, and one for its input if somebody is at it; libcontainer gives them to the
// process's user. The input that nobody is at is /dev/null, which ends at once; libcontainer opens the container's own.
func (s *stdio) pipes(p *libcontainer.Process, noInput bool) (err error) {
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("make standard streams: %w", err)
		}
	}()
	var stdin, stdout, stderr *os.File
	if noInput {
		stdin, err = os.Open(os.DevNull)
	} else {
		stdin, s.stdin, err = os.Pipe()
	}
	if err != nil {
		return err
	}
	s.toProcess = append(s.toProcess, stdin)
	if s.stdout, stdout, err = outputPipe(); err != nil {
		return err
	}
	s.toProcess = append(s.toProcess, stdout)
	if s.stderr, stderr, err = outputPipe(); err != nil {
		return err
	}
	s.toProcess = append(s.toProcess, stderr)
	p.Stdin, p.Stdout, p.Stderr = stdin, stdout, stderr
	return nil
}

func outputPipe() (*stream, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &stream{f: r}, w, nil
}

// terminal gives a process a terminal, which libcontainer sends back over a socket.
func (s *stdio) terminal(p *libcontainer.Process) error {
	parent, child, err := utils.NewSockPair("console")
	if err != nil {
		return fmt.Errorf("make console socket: %w", err)
	}
	s.consoleSocket = parent
	p.ConsoleSocket = child
	s.toProcess = []*os.File{child}
	return nil
}

// started closes the process's ends and receives its terminal.
func (s *stdio) started() error {
	closeAll(s.toProcess)
	s.toProcess = nil
	if s.consoleSocket == nil {
		return nil
	}
	defer func() {
		s.consoleSocket.Close()
		s.consoleSocket = nil
	}()
	master, err := receiveFile(s.consoleSocket)
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	s.console = master
	s.stdout = &stream{f: master}
	return nil
}

// receiveFile takes one descriptor from a socket and makes it one that reads can be interrupted on.
func receiveFile(socket *os.File) (*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	var n int
	var rerr error
	conn, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	err = conn.Read(func(fd uintptr) bool {
		_, n, _, _, rerr = unix.Recvmsg(int(fd), make([]byte, 4096), oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(rerr, unix.EAGAIN)
	})
	if err = errors.Join(err, rerr); err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("parse control message: %d messages: %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("parse descriptor: %d descriptors: %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

// write sends to the process's standard input.
func (s *stdio) write(ctx context.Context, data []byte) (int, error) {
	f := s.stdin
	if s.console != nil {
		f = s.console
	}
	if f == nil {
		return 0, os.ErrClosed
	}
	return interruptible(ctx, f.SetWriteDeadline, func() (int, error) { return f.Write(data) })
}

// closeStdin ends the process's standard input. A terminal has no end of its own.
func (s *stdio) closeStdin() {
	if s.stdin != nil {
		s.stdin.Close()
	}
}

func (s *stdio) resize(rows, columns uint16) error {
	s.winsize.Lock()
	defer s.winsize.Unlock()
	if s.console == nil {
		return ErrNoTerminal
	}
	conn, err := s.console.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	var ierr error
	err = conn.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	return errors.Join(err, ierr)
}

// close gives up all descriptors.
func (s *stdio) close() {
	closeAll(s.toProcess)
	files := []*os.File{s.stdin, s.console, s.consoleSocket}
	for _, st := range []*stream{s.stdout, s.stderr} {
		if st != nil {
			files = append(files, st.f)
		}
	}
	closeAll(files)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
