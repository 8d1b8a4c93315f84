package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/tests/attack"
)

// escapeName is the name by which the test binary plays a QEMU that a guest has taken over: it tries to get at the host.
const escapeName = "escape"

// try is one thing that it tries. want is how it has to fail in the jail; outside of it, by root, it goes on or fails otherwise.
type try struct {
	kind, name string
	want       unix.Errno
	do         func(e escapee) error
}

// escapee is what it knows of the host.
type escapee struct {
	File     string // of the host, that nobody has shown it
	Shown    string // that it is shown, and whose mode lets everybody write to it
	Folder   string // that it is shown
	Abstract string // a unix socket without a path that a process of the host reads from
	Process  int    // of the host
}

func raw(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func called(number uintptr, args ...uintptr) func(escapee) error {
	return func(escapee) error { return raw(number, args...) }
}

func opened(path string, flags int) func(escapee) error {
	return func(escapee) error { return openAs(path, flags) }
}

func openAs(path string, flags int) error {
	fd, err := unix.Open(path, flags, 0o600)
	if err == nil {
		return unix.Close(fd)
	}
	return err
}

func socketOf(family, kind int) func(escapee) error {
	return called(unix.SYS_SOCKET, uintptr(family), uintptr(kind), 0)
}

func text(s string) uintptr {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		return 0
	}
	kept = append(kept, p)
	return uintptr(unsafe.Pointer(p))
}

// kept are the strings whose addresses are in tries.
var kept []*byte

// nullDevice is the number of /dev/null.
const nullDevice = 1<<8 | 3

// here is the working folder, as the kernel counts it.
const here = ^uintptr(99) // AT_FDCWD

func tries() []try {
	nowhere := text("/nonexistent")
	return slices.Concat([]try{
		{"files", "a file of the host by its path", unix.ENOENT, func(e escapee) error { return openAs(e.File, unix.O_RDONLY) }},
		{"files", "above the root", unix.ENOENT, func(e escapee) error { return openAs("/../../../.."+e.File, unix.O_RDONLY) }},
		{"files", "by the root of process 1", unix.ENOENT, func(e escapee) error { return openAs("/proc/1/root"+e.File, unix.O_RDONLY) }},
		{"files", "by its own descriptors", unix.ENOENT, opened("/proc/self/fd/0", unix.O_RDONLY)},
		{"files", "by the working folder of its parent", unix.ENOENT, func(e escapee) error { return openAs(fmt.Sprintf("/proc/%d/cwd", e.Process), unix.O_RDONLY) }},
		{"files", "by a handle", unix.EPERM, func(e escapee) error {
			_, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(1, make([]byte, 8)), unix.O_RDONLY)
			return err
		}},
		{"files", "a handle of a file", unix.EPERM, func(e escapee) error { _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0); return err }},
		{"files", "by another way to open", unix.EPERM, func(e escapee) error { _, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{}); return err }},
		{"changes", "a file that is shown", unix.EROFS, func(e escapee) error { return openAs(e.Shown, unix.O_WRONLY) }},
		{"changes", "a file that is shown, made empty", unix.EROFS, func(e escapee) error { return openAs(e.Shown, unix.O_WRONLY|unix.O_TRUNC) }},
		{"changes", "a new file beside it", unix.EROFS, func(e escapee) error {
			defer unix.Unlink(e.Folder + "/new") //nolint:errcheck // outside of the jail it is there
			return openAs(e.Folder+"/new", unix.O_CREAT|unix.O_WRONLY)
		}},
		{"changes", "a file without a name", unix.EROFS, func(e escapee) error { return openAs(e.Folder, unix.O_TMPFILE|unix.O_WRONLY) }},
		{"changes", "its length", unix.EPERM, func(e escapee) error { return unix.Truncate(e.Shown, 0) }},
		{"changes", "its mode", unix.EPERM, func(e escapee) error { return unix.Chmod(e.Shown, 0o666) }},
		{"changes", "its owner", unix.EPERM, func(e escapee) error { return unix.Chown(e.Shown, 0, 0) }},
		{"changes", "its name", unix.EPERM, func(e escapee) error { return unix.Rename(e.Shown+"2", e.Shown+"3") }},
		{"changes", "a folder", unix.EPERM, func(e escapee) error {
			defer unix.Rmdir(e.Folder + "/folder") //nolint:errcheck // outside of the jail it is there
			return unix.Mkdir(e.Folder+"/folder", 0o700)
		}},
		{"changes", "a link", unix.EPERM, func(e escapee) error { return unix.Symlink("/", e.Folder+"/link") }},
		{"changes", "no file any more", unix.EPERM, func(e escapee) error { return unix.Unlink(e.Folder + "/link") }},
		{"programs", "the host's shell", unix.ENOENT, func(e escapee) error { return openAs("/bin/sh", unix.O_RDONLY) }},
		{"programs", "one that it has written to memory", unix.EPERM, called(unix.SYS_EXECVEAT, here, nowhere, 0, 0, 0)},
		// Both are refused outside as well, with another error: a child must not be made there.
		{"programs", "a child", unix.EPERM, called(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|unix.CLONE_SIGHAND, 0, 0, 0, 0)},
		{"programs", "a thread in another namespace", unix.EPERM, called(unix.SYS_CLONE, unix.CLONE_THREAD|unix.CLONE_VM|unix.CLONE_NEWNS, 0, 0, 0, 0)},
		{"programs", "a child, by the newer call", unix.ENOSYS, called(unix.SYS_CLONE3, 0, 0)},
	}, socketTries(), processTries(), deviceTries(), mountTries(nowhere), rightTries(nowhere))
}

func socketTries() []try {
	return []try{
		{"sockets", "to processes of the host", unix.EPERM, socketOf(unix.AF_UNIX, unix.SOCK_STREAM)},
		{"sockets", "to the network", unix.EPERM, socketOf(unix.AF_INET, unix.SOCK_STREAM)},
		{"sockets", "to the network by IPv6", unix.EPERM, socketOf(unix.AF_INET6, unix.SOCK_DGRAM)},
		{"sockets", "to the kernel's networks", unix.EPERM, socketOf(unix.AF_NETLINK, unix.SOCK_RAW)},
		{"sockets", "to packets", unix.EPERM, socketOf(unix.AF_PACKET, unix.SOCK_RAW)},
		{"sockets", "to virtual machines", unix.EPERM, socketOf(unix.AF_VSOCK, unix.SOCK_STREAM)},
		{"sockets", "to the kernel's ciphers", unix.EPERM, socketOf(unix.AF_ALG, unix.SOCK_SEQPACKET)},
		{"sockets", "to a daemon without a path, by a pair of its own", unix.ECONNREFUSED, func(e escapee) error {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			return unix.Sendmsg(pair[0], []byte("x"), nil, &unix.SockaddrUnix{Name: e.Abstract}, 0)
		}},
		{"sockets", "connected anew", unix.EPERM, called(unix.SYS_CONNECT, 0, 0, 0)},
		{"sockets", "bound", unix.EPERM, called(unix.SYS_BIND, 0, 0, 0)},
		{"sockets", "listened on", unix.EPERM, called(unix.SYS_LISTEN, 0, 0)},
		{"sockets", "of another kind in a pair", unix.EPERM, called(unix.SYS_SOCKETPAIR, unix.AF_INET, unix.SOCK_STREAM, 0, 0)},
	}
}

func processTries() []try {
	const nobody = 1<<22 - 1 // a pid that no process has, on nearly every host
	return []try{
		{"processes", "a signal to one of the host", unix.EPERM, func(e escapee) error { return unix.Kill(e.Process, 0) }},
		{"processes", "a signal to a thread of the host", unix.ESRCH, func(e escapee) error { return unix.Tgkill(e.Process, e.Process, 0) }},
		{"processes", "traced", unix.EPERM, called(unix.SYS_PTRACE, unix.PTRACE_ATTACH, nobody, 0, 0)},
		{"processes", "their memory read", unix.EPERM, called(unix.SYS_PROCESS_VM_READV, nobody, 0, 0, 0, 0, 0)},
		{"processes", "their memory written", unix.EPERM, called(unix.SYS_PROCESS_VM_WRITEV, nobody, 0, 0, 0, 0, 0)},
		{"processes", "their files taken", unix.EPERM, called(unix.SYS_PIDFD_OPEN, nobody, 0)},
		{"processes", "their files taken by another's", unix.EPERM, called(unix.SYS_PIDFD_GETFD, nobody, 0, 0)},
		{"processes", "listed", unix.ENOENT, opened("/proc", unix.O_RDONLY)},
		{"processes", "compared", unix.EPERM, called(unix.SYS_KCMP, nobody, nobody, 0, 0, 0)},
		{"processes", "their limits", unix.ESRCH, func(e escapee) error { return unix.Prlimit(e.Process, unix.RLIMIT_CORE, nil, new(unix.Rlimit)) }},
	}
}

func deviceTries() []try {
	list := []try{
		{"devices", "made", unix.EPERM, func(e escapee) error {
			defer unix.Unlink(e.Folder + "/made") //nolint:errcheck // outside of the jail it is there
			return unix.Mknod(e.Folder+"/made", unix.S_IFCHR|0o600, nullDevice)
		}},
		{"devices", "one in a folder that is shown", unix.EACCES, func(e escapee) error { return openAs(e.Folder+"/device", unix.O_RDONLY) }},
		{"devices", "ports of the machine", unix.EPERM, called(unix.SYS_IOPL, 0)},
		{"devices", "some ports of the machine", unix.EPERM, called(unix.SYS_IOPERM, 0, 1, 0)},
	}
	for _, name := range []string{"null", "zero", "kmsg", "kvm", "mem", "net/tun", "vhost-net", "fuse", "vfio/vfio"} {
		if _, err := os.Stat("/dev/" + name); err != nil && os.Getpid() != 1 { // outside: not on this host
			continue
		}
		list = append(list, try{"devices", "/dev/" + name, unix.ENOENT, opened("/dev/"+name, unix.O_PATH)})
	}
	return list
}

func mountTries(nowhere uintptr) []try {
	return []try{
		{"mounts", "mount", unix.EPERM, called(unix.SYS_MOUNT, nowhere, nowhere, nowhere, 0, 0)},
		{"mounts", "unmount", unix.EPERM, called(unix.SYS_UMOUNT2, nowhere, 0)},
		{"mounts", "another root", unix.EPERM, called(unix.SYS_PIVOT_ROOT, nowhere, nowhere)},
		{"mounts", "a smaller root", unix.EPERM, called(unix.SYS_CHROOT, nowhere)},
		{"mounts", "a copy of a mount", unix.EPERM, called(unix.SYS_OPEN_TREE, here, nowhere, 0)},
		{"mounts", "a mount moved", unix.EPERM, called(unix.SYS_MOVE_MOUNT, here, nowhere, here, nowhere, 0)},
		{"mounts", "a mount with other rights", unix.EPERM, called(unix.SYS_MOUNT_SETATTR, here, nowhere, 0, 0, 0)},
		{"mounts", "a new file system", unix.EPERM, called(unix.SYS_FSOPEN, nowhere, 0)},
		{"mounts", "a namespace of its own", unix.EPERM, called(unix.SYS_UNSHARE, unix.CLONE_NEWNS)},
		{"mounts", "a user namespace", unix.EPERM, called(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
		{"mounts", "another's namespace", unix.EPERM, called(unix.SYS_SETNS, ^uintptr(0), 0)},
	}
}

func rightTries(nowhere uintptr) []try {
	return []try{
		{"rights", "root's user", unix.EPERM, called(unix.SYS_SETUID, 0)},
		{"rights", "root's group", unix.EPERM, called(unix.SYS_SETRESGID, 0, 0, 0)},
		{"rights", "root's groups", unix.EPERM, called(unix.SYS_SETGROUPS, 0, 0)},
		{"rights", "capabilities", unix.EPERM, called(unix.SYS_CAPSET, 0, 0)},
		{"rights", "a module of the kernel", unix.EPERM, called(unix.SYS_INIT_MODULE, 0, 0, nowhere)},
		{"rights", "a module of the kernel from a file", unix.EPERM, called(unix.SYS_FINIT_MODULE, ^uintptr(0), nowhere, 0)},
		{"rights", "another kernel", unix.EPERM, called(unix.SYS_KEXEC_LOAD, 0, 0, 0, ^uintptr(0))},
		{"rights", "the machine's end", unix.EPERM, called(unix.SYS_REBOOT, 0, 0, 0, 0)},
		{"rights", "keys", unix.EPERM, called(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 0, 0, 0)},
		{"rights", "a key", unix.EPERM, called(unix.SYS_ADD_KEY, 0, 0, 0, 0, 0)},
		{"rights", "programs in the kernel", unix.EPERM, called(unix.SYS_BPF, 0, 0, 0)},
		{"rights", "counters of the kernel", unix.EPERM, called(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0)},
		{"rights", "faults of memory", unix.EPERM, called(unix.SYS_USERFAULTFD, 0)},
		{"rights", "rings of calls", unix.EPERM, called(unix.SYS_IO_URING_SETUP, 1, 0)},
		{"rights", "calls in a ring", unix.EPERM, called(unix.SYS_IO_URING_ENTER, ^uintptr(0), 0, 0, 0, 0, 0)},
		{"rights", "another personality", unix.EPERM, called(unix.SYS_PERSONALITY, 0xffffffff)},
		{"rights", "memory on disk", unix.EPERM, called(unix.SYS_SWAPON, nowhere, 0)},
		{"rights", "the host's name", unix.EPERM, called(unix.SYS_SETHOSTNAME, 0, 1)},
		{"rights", "the host's clock", unix.EPERM, called(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, 0)},
		{"rights", "a clock that is adjusted", unix.EPERM, called(unix.SYS_ADJTIMEX, 0)},
		{"rights", "the kernel's log", unix.EPERM, called(unix.SYS_SYSLOG, 10, 0, 0)},
		{"rights", "higher limits", unix.EPERM, called(unix.SYS_SETRLIMIT, unix.RLIMIT_CORE, 0)},
		{"rights", "a higher priority", unix.EPERM, called(unix.SYS_SETPRIORITY, 0, 0, 0)},
		{"rights", "a life after its parent's", unix.EPERM, called(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0)},
		{"rights", "memory that is dumped", unix.EPERM, called(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1)},
		{"rights", "shared memory of the host", unix.EPERM, called(unix.SYS_SHMGET, 0x6e6f6465, 0, 0)},
		{"rights", "queues of the host", unix.EPERM, called(unix.SYS_MQ_OPEN, nowhere, 0, 0, 0)},
		{"rights", "changes of files watched", unix.EPERM, called(unix.SYS_FANOTIFY_INIT, 0, 0)},
	}
}

// tried is what became of a try.
type tried struct {
	Kind, Name string
	Errno      int // 0 if it succeeded
}

// playEscape tries all and says what became of each, and then every path that it sees.
func playEscape(args []string) error {
	runtime.LockOSThread()
	var e escapee
	if err := json.Unmarshal([]byte(args[0]), &e); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for _, try := range tries() {
		var errno unix.Errno
		if err := try.do(e); err != nil && !errors.As(err, &errno) {
			return fmt.Errorf("%s: %w", try.name, err)
		}
		if err := out.Encode(tried{try.kind, try.name, int(errno)}); err != nil {
			return err
		}
	}
	if os.Getpid() != 1 {
		return nil // on the host it sees much
	}
	return filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = out.Encode(tried{Kind: "seen", Name: path})
		}
		return err
	})
}

// TestAttackEscapedQEMU: who has taken QEMU over tries what a process may try on a host, and gets none of it. Before, root tries the same
// outside of the jail, to see that it is the jail that holds.
func TestAttackEscapedQEMU(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("skipped: needs root, to make the jail")
	}
	dir := t.TempDir()
	cfg := HostConfig{Bundle: filepath.Join(dir, "bundle"), Accel: AccelTCG}
	e := escapee{File: filepath.Join(dir, "secret"), Folder: filepath.Join(cfg.Bundle, "qemu"), Abstract: "@nodeless-" + filepath.Base(dir), Process: os.Getpid()}
	e.Shown = filepath.Join(e.Folder, "data")
	program, kernel, initrd := filepath.Join(e.Folder, escapeName), filepath.Join(cfg.Bundle, "kernel"), filepath.Join(cfg.Bundle, "initrd")
	must(t, os.MkdirAll(e.Folder, 0o755))
	for _, path := range []string{e.File, e.Shown, kernel, initrd} {
		must(t, os.WriteFile(path, []byte("x"), 0o600))
		must(t, os.Chmod(path, 0o666))
	}
	device := filepath.Join(e.Folder, "device")
	must(t, errors.Join(unix.Mknod(device, unix.S_IFCHR|0o600, nullDevice), os.Chmod(device, 0o666), os.Chmod(e.Folder, 0o777)))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, errors.Join(err, os.WriteFile(program, self, 0o755)))
	daemon, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: e.Abstract, Net: "unixgram"})
	must(t, err)
	defer daemon.Close()
	what, err := json.Marshal(e)
	must(t, err)

	outside := exec.Command(program, string(what))
	free := results(t, outside, outside.Start)
	jailed := &exec.Cmd{}
	plan := cfg.plan(Spec{Accel: AccelTCG, Kernel: kernel, Initrd: initrd, MaxVCPUs: 1})
	plan.Argv = []string{program, string(what)}
	held := results(t, jailed, func() error { return jail.Start(jail.Self, jailed, plan) })

	var seen []string
	for _, r := range held {
		if r.Kind == "seen" {
			seen = append(seen, r.Name)
		}
	}
	kinds := []string{"files", "changes", "programs", "sockets", "processes", "devices", "mounts", "rights"}
	for _, kind := range kinds {
		attack.Try(t, "T5", "QEMU that is taken over wants "+kind, func(t *testing.T) attack.Outcome {
			for _, try := range tries() {
				if try.kind == kind {
					judge(t, try, free, held)
				}
			}
			return attack.Refused
		})
	}
	slices.Sort(seen)
	want := []string{device, initrd, kernel, e.Shown, program}
	slices.Sort(want)
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("files that it sees (-want +got):\n%s", diff)
	}
}

// judge compares what became of a try outside of the jail and in it.
func judge(t *testing.T, want try, free, held []tried) {
	t.Helper()
	find := func(list []tried) (unix.Errno, bool) {
		for _, r := range list {
			if r.Kind == want.kind && r.Name == want.name {
				return unix.Errno(r.Errno), true
			}
		}
		return 0, false
	}
	outside, wasTried := find(free)
	inside, there := find(held)
	if !there || inside != want.want {
		t.Errorf("%s: tried: %t, ended with %d (%v), want %v", want.name, there, inside, inside, want.want)
	}
	if wasTried && outside == want.want {
		t.Logf("%s: shows little here, it fails outside of the jail as well: %v", want.name, outside)
	}
}

// results runs what tries and reads what became of it.
func results(t *testing.T, cmd *exec.Cmd, start func() error) (list []tried) {
	t.Helper()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	started := make(chan error)
	go func() { // on a thread that lives as long as what it starts
		runtime.LockOSThread()
		err := start()
		if err == nil {
			err = cmd.Wait()
		}
		started <- err
	}()
	if err := <-started; err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	for line := range strings.Lines(out.String()) {
		var r tried
		must(t, json.Unmarshal([]byte(line), &r))
		list = append(list, r)
	}
	if len(list) < len(tries())/2 {
		t.Fatalf("%d tries were told of: %s", len(list), errs.String()+strconv.Itoa(len(out.String())))
	}
	return list
}
