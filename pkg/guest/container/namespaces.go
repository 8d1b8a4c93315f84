package container

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// HolderArg is the argument that makes the program call HoldPIDNamespace.
const HolderArg = "hold-pid-namespace"

// holderUser is who the holder of a shared PID namespace becomes.
const holderUser = 65535

// namespaces are those that the containers of a sandbox share.
type namespaces struct {
	dir string

	mu     sync.Mutex
	holder int // PID of the first process of the shared PID namespace, guarded by mu
}

func (n *namespaces) ipc() string { return filepath.Join(n.dir, "ipc") }
func (n *namespaces) uts() string { return filepath.Join(n.dir, "uts") }

// newNamespaces makes the IPC and UTS namespaces and keeps them by bind mounts in dir.
func newNamespaces(dir, hostname string) (*namespaces, error) {
	n := &namespaces{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make namespace directory: %w", err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		for _, file := range []string{n.ipc(), n.uts()} {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return err
			}
			source := "/proc/thread-self/ns/" + filepath.Base(file)
			if err := unix.Mount(source, file, "", unix.MS_BIND, ""); err != nil {
				return os.NewSyscallError("bind", err)
			}
		}
		if hostname == "" {
			return nil
		}
		return os.NewSyscallError("sethostname", unix.Sethostname([]byte(hostname)))
	})
	if err != nil {
		return nil, fmt.Errorf("make sandbox namespaces: %w", err)
	}
	return n, nil
}

// within runs f inside the shared namespaces.
func (n *namespaces) within(f func() error) error {
	return onThread(func() error {
		for _, file := range []string{n.ipc(), n.uts()} {
			if err := enter(file); err != nil {
				return err
			}
		}
		return f()
	})
}

func enter(file string) error {
	ns, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), 0); err != nil {
		return fmt.Errorf("enter namespace %s: %w", file, err)
	}
	return nil
}

// onThread runs f on a thread of its own, which ends with it and takes its namespaces along.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// applySysctl sets kernel parameters: network ones for the guest, the others in the shared namespaces.
func (n *namespaces) applySysctl(all map[string]string) error {
	net, other := splitSysctl(all)
	if err := writeSysctl(net); err != nil || len(other) == 0 {
		return err
	}
	return n.within(func() error { return writeSysctl(other) })
}

func writeSysctl(settings map[string]string) error {
	for key, value := range settings {
		file := filepath.Join("/proc/sys", filepath.Clean("/"+strings.ReplaceAll(key, ".", "/")))
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl %s=%s: %w", key, value, err)
		}
	}
	return nil
}

// sharedPID returns the PID namespace of a sandbox whose containers see each other's processes. Its
// first process is started when it is first wanted.
func (n *namespaces) sharedPID(reaper *Reaper) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.holder == 0 {
		cmd := exec.Command("/proc/self/exe", HolderArg)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		err := reaper.Start(func() (int, error) {
			if err := cmd.Start(); err != nil {
				return 0, err
			}
			return cmd.Process.Pid, nil
		})
		if err != nil {
			return "", fmt.Errorf("start holder of the PID namespace: %w", err)
		}
		n.holder = cmd.Process.Pid
		go func() {
			_ = cmd.Wait()
			reaper.Gone(cmd.Process.Pid)
		}()
	}
	return "/proc/" + strconv.Itoa(n.holder) + "/ns/pid", nil
}

// HoldPIDNamespace is the first process of a shared PID namespace: it collects orphans for ever. It
// gives up its rights first, as the containers can see it, and is spared when memory runs out: all of them
// would end with it.
func HoldPIDNamespace() error {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGCHLD)
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	const empty = "/proc/self/fdinfo" // a directory nobody can write to
	err := errors.Join(
		os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0o644),
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0),
		unix.Chroot(empty), unix.Chdir("/"),
		syscall.Setgroups(nil), syscall.Setresgid(holderUser, holderUser, holderUser),
		syscall.Setresuid(holderUser, holderUser, holderUser))
	if err != nil {
		return fmt.Errorf("give up rights: %w", err)
	}
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || errors.Is(err, unix.ECHILD) {
				break
			}
		}
		<-ch
	}
}
