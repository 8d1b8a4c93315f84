// Package virtiofsd starts the bundled virtiofsd for Kata, in a jail. cmd/nodeless-virtiofsd is the program that Kata runs in its place;
// the shim starts that in namespaces of its own (contract.VirtiofsdNamespaces).
package virtiofsd

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract/owners"
	"github.com/nodeless/nodeless/pkg/jail"
)

const (
	// fileLimit is how many files the daemon may hold open; each file that a guest uses is one.
	fileLimit = 1 << 20
	// threadLimit is more than it has threads.
	threadLimit = 64
	// owner is root, of the Pod's users (pkg/contract/owners) or of the host: for a guest's root the daemon does not change its user, so that
	// files of that one would belong to whom it is.
	owner = 0
)

// Command is the argument vector that starts the bundled daemon with Kata's arguments. The bundled loader comes first, because the host
// need not have the daemon's libraries. What the daemon may do is said here, behind Kata's arguments, so that none of those widens it. Its
// walls are those of the jail: it makes none itself, for which it would need rights.
func Command(bundle string, args []string) ([]string, error) {
	args, err := checked(args)
	if err != nil {
		return nil, err
	}
	lib := filepath.Join(bundle, "qemu", "lib")
	argv := []string{filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib, filepath.Join(bundle, "qemu", "bin", "virtiofsd")}
	argv = append(argv, args...)
	return append(argv, "--sandbox=none", "--seccomp=kill", "--inode-file-handles=never", "--rlimit-nofile=0", "--modcaps="+dropped), nil
}

// Exec replaces this process by the bundled daemon, in its jail. trees is what the environment has as owners.TreesEnv. It returns only on
// error.
func Exec(bundle string, args []string, trees string) error {
	argv, err := Command(bundle, args)
	if err != nil {
		return err
	}
	if err := makeBlocking(argv); err != nil {
		return err
	}
	runtime.LockOSThread() // what follows is the thread's, and the daemon's, which begins in it
	if err := keepRights(); err != nil {
		return err
	}
	programs, share, err := owners.Trees(trees)
	if err != nil {
		return err
	}
	p := plan(bundle, argv, programs, share)
	return jail.Become(p, 1)
}

// rights are the capabilities that the daemon has use for: files of a volume belong to whomever the guest says, and it opens all of them.
// It makes no device, gives no file rights of its own, and mounts nothing.
var rights = []uintptr{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP}

// dropped are capabilities that the daemon would take by itself, and is not given.
const dropped = "-mknod:-setfcap"

// plan is what the daemon has in its jail: itself, what it shares, and Kata's socket as descriptor 3. programs and share are descriptors of
// the first two, or 0.
func plan(bundle string, argv []string, programs, share int) jail.Plan {
	p := jail.Plan{
		Argv: argv, Name: "nodeless", User: owner, Capabilities: rights, Proc: true, Calls: calls(),
		Shown: []jail.Shown{{Path: filepath.Join(bundle, "qemu"), Programs: true, Tree: programs}},
		Limits: []jail.Limit{
			{Resource: unix.RLIMIT_CORE}, {Resource: unix.RLIMIT_MSGQUEUE}, {Resource: unix.RLIMIT_MEMLOCK},
			{Resource: unix.RLIMIT_NOFILE, Most: fileLimit}, {Resource: unix.RLIMIT_NPROC, Most: threadLimit},
		},
	}
	for _, arg := range argv {
		if dir, ok := strings.CutPrefix(arg, sharedDir); ok {
			p.Shown = append(p.Shown, jail.Shown{Path: filepath.Clean(dir), Writable: true, Mounts: true, Tree: share})
		}
	}
	return p
}

// makeBlocking clears the non-blocking mode of an inherited socket: the daemon waits in accept, and Go's
// sockets, Kata's among them, are handed over as they are.
func makeBlocking(argv []string) error {
	for _, arg := range argv {
		number, ok := strings.CutPrefix(arg, "--fd=")
		if !ok {
			continue
		}
		fd, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("parse %s: %w", arg, err)
		}
		if err := unix.SetNonblock(fd, false); err != nil {
			return fmt.Errorf("prepare descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// keepRights lets the daemon keep its capabilities while it acts for another user, which it does to create files that
// belong to that user. The user's supplementary groups do not come along, so without those rights a process in the guest
// that may write to a folder as a member of its group, which is what an fsGroup is, could not create a file in it.
// Who may do what has been decided by the guest's kernel before the daemon is asked.
func keepRights() error {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("read securebits: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|noSetuidFixup), 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities across a change of user: %w", err)
	}
	return nil
}

// noSetuidFixup is SECBIT_NO_SETUID_FIXUP, capabilities(7).
const noSetuidFixup = 1 << 2

// sharedDir begins the argument that names what is shared.
const sharedDir = "--shared-dir="

// allowed are the arguments that Kata may give, all in the form --name=value where they have a value.
var allowed = map[string]bool{
	"--shared-dir": true, "--fd": true, "--socket-path": true, "--cache": true, "--thread-pool-size": true, "--announce-submounts": true,
	"--xattr": true, "--posix-acl": true, "--log-level": true,
}

// checked gives the arguments as the daemon gets them. One that is not known is refused: it might share more, or confine less.
func checked(args []string) ([]string, error) {
	var out []string
	shared := 0
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch {
		case name == "--syslog":
			continue // there is no log of the system's within its walls; what it says goes to the shim
		case !allowed[name]:
			return nil, fmt.Errorf("check virtiofsd's arguments: %q is not one that a Pod's volumes need", arg)
		case name == "--shared-dir":
			shared++
			if !filepath.IsAbs(value) {
				return nil, fmt.Errorf("check virtiofsd's arguments: %q is not an absolute path", value)
			}
		case name == "--fd":
			if n, err := strconv.Atoi(value); err != nil || n < 3 {
				return nil, fmt.Errorf("check virtiofsd's arguments: --fd: %q is not an inherited descriptor", value)
			}
		}
		out = append(out, arg)
	}
	if shared != 1 {
		return nil, fmt.Errorf("check virtiofsd's arguments: --shared-dir is there %d times, want once", shared)
	}
	return out, nil
}

// Bundle is the folder that this program was unpacked into, unless the environment names another.
func Bundle(getenv func(string) string) (string, error) {
	if dir := getenv("NODELESS_BUNDLE"); dir != "" {
		return dir, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find bundle: %w", err)
	}
	return filepath.Dir(filepath.Dir(exe)), nil
}
