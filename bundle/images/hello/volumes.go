package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// listen answers on a unix socket with what it is told, in capitals.
func listen(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: hello listen SOCKET")
	}
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		heard, err := io.ReadAll(conn)
		if err == nil {
			_, err = conn.Write(bytes.ToUpper(heard))
		}
		if err = errors.Join(err, conn.Close()); err != nil {
			return err
		}
	}
}

// ask tells a unix socket something and prints the answer.
func ask(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: hello ask SOCKET TEXT")
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: args[0], Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(args[1])); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// poke writes a text to the beginning of a file through a shared mapping.
func poke(args []string) error {
	if len(args) != 2 || args[1] == "" {
		return errors.New("usage: hello poke FILE TEXT")
	}
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := syscall.Mmap(int(f.Fd()), 0, len(args[1]), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	copy(mem, args[1])
	return os.NewSyscallError("munmap", syscall.Munmap(mem))
}

// lock takes a lock on a file and holds it for a while: a record lock, fcntl(2), or one of the whole file, flock(2).
func lock(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: hello lock record|whole FILE DURATION")
	}
	hold, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[1], os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	switch args[0] {
	case "record":
		err = syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK})
	case "whole":
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	default:
		err = fmt.Errorf("unknown kind %q", args[0])
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	fmt.Println("locked")
	time.Sleep(hold)
	return nil
}

// notice prints the names that appear in a folder, as inotify(7) tells them.
func notice(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: hello notice FOLDER")
	}
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("inotify_init", err)
	}
	if _, err := syscall.InotifyAddWatch(fd, args[0], syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_CLOSE_WRITE); err != nil {
		return os.NewSyscallError("inotify_add_watch", err)
	}
	fmt.Println("watching")
	buf := make([]byte, 4096)
	for {
		n, err := syscall.Read(fd, buf)
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		for at := 0; at+syscall.SizeofInotifyEvent <= n; {
			event := (*syscall.InotifyEvent)(unsafe.Pointer(&buf[at]))
			at += syscall.SizeofInotifyEvent
			fmt.Println(strings.TrimRight(string(buf[at:at+int(event.Len)]), "\x00"))
			at += int(event.Len)
		}
	}
}

// same reads all files of a folder over and over until they hold a text. They must be readable and hold the same at any time:
// within one version, which the link ..data leads to, and each by its own name.
func same(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: hello same FOLDER TEXT")
	}
	for reads := 1; ; reads++ {
		version, err := os.Readlink(filepath.Join(args[0], "..data"))
		if err != nil {
			return err
		}
		seen, err := readSame(filepath.Join(args[0], version))
		if errors.Is(err, os.ErrNotExist) { // replaced since we looked which it is
			if now, again := os.Readlink(filepath.Join(args[0], "..data")); again == nil && now != version {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("read %d: %w", reads, err)
		}
		if seen == args[1] {
			fmt.Println("after", reads, "reads")
			return nil
		}
	}
}

func readSame(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	seen := map[string]bool{}
	text := ""
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		text = string(raw)
		seen[text] = true
	}
	if len(seen) == 0 {
		return "", os.ErrNotExist // being removed
	}
	if len(seen) != 1 {
		return "", fmt.Errorf("torn: the files of %s hold %v", dir, seen)
	}
	return text, nil
}
