// Package virtiofsd starts QEMU's C virtiofsd for Kata, which knows the arguments of the Rust one only.
// cmd/nodeless-virtiofsd is the program that Kata runs in its place.
package virtiofsd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileLimit is how many files the daemon may hold open; each file that a guest uses is one.
const fileLimit = 1 << 20

// appendix is made of bundle/virtiofsd/append.c.
const appendix = "append.so"

// Command is the argument vector that starts the bundled daemon with the given arguments of the Rust one. The bundled loader comes first,
// because the host need not have the daemon's libraries. With it comes bundle/virtiofsd/append.c, by which the daemon appends what a
// program of the guest appends and nothing else.
func Command(bundle string, args []string) ([]string, error) {
	translated, err := Translate(args)
	if err != nil {
		return nil, err
	}
	lib := filepath.Join(bundle, "qemu", "lib")
	argv := []string{filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib, "--preload", filepath.Join(lib, appendix), filepath.Join(bundle, "qemu", "bin", "virtiofsd")}
	return append(argv, translated...), nil
}

// Exec replaces this process by the bundled daemon. It returns only on error.
func Exec(bundle string, args, env []string) error {
	argv, err := Command(bundle, args)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(bundle, "qemu", "lib", appendix)); err != nil { // the loader would go on without
		return fmt.Errorf("find what virtiofsd writes by: %w", err)
	}
	raiseFileLimit()
	if err := makeBlocking(argv); err != nil {
		return err
	}
	if err := passOnMounts(argv); err != nil {
		return err
	}
	runtime.LockOSThread() // what follows is the thread's, and the daemon's, which begins in it
	if err := errors.Join(keepRights(), confine()); err != nil {
		return err
	}
	if err := unix.Exec(argv[0], argv, env); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}

// makeBlocking clears the non-blocking mode of an inherited socket: the C daemon waits in accept, and Go's
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

// passOnMounts makes the shared directory pass on what is mounted on it later: the daemon moves to a mount namespace of its
// own, and the Kata shim mounts the Pod's volumes on the directory as they are needed.
func passOnMounts(argv []string) error {
	for _, arg := range argv {
		if dir, ok := strings.CutPrefix(arg, "source="); ok {
			err := unix.Mount("", dir, "", unix.MS_SHARED, "")
			if err != nil && !errors.Is(err, unix.EINVAL) { // a plain folder is part of a mount whose way it goes
				return fmt.Errorf("make %s a shared mount: %w", dir, err)
			}
		}
	}
	return nil
}

// keepRights lets the daemon keep root's capabilities while it acts for another user, which it does to create files that
// belong to that user. The user's supplementary groups do not come along, so without root's rights a process in the guest
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

// confine keeps the daemon from more rights than it begins with, and its memory, with the guest's, out of files.
func confine() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// noSetuidFixup is SECBIT_NO_SETUID_FIXUP, capabilities(7).
const noSetuidFixup = 1 << 2

// raiseFileLimit takes as much as it is given; the daemon itself would refuse to start with less than it
// asks for, and not every host lets root raise the limit.
func raiseFileLimit() {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return
	}
	want := unix.Rlimit{Cur: fileLimit, Max: max(fileLimit, have.Max)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &want) != nil {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: have.Max, Max: have.Max}) // no worse than before
	}
}

// flags of the Rust daemon that are an -o option of the C one.
var flagOptions = map[string]string{
	"--announce-submounts": "announce_submounts", "--xattr": "xattr", "--posix-acl": "posix_acl", "--writeback": "writeback",
	"--allow-direct-io": "allow_direct_io", "--killpriv-v2": "killpriv_v2", "--no-killpriv-v2": "no_killpriv_v2",
	"--no-readdirplus": "no_readdirplus", "--security-label": "security_label", "--flock": "flock",
}

// settings of the Rust daemon that are an -o option with a value.
var valueOptions = map[string]string{
	"--shared-dir": "source", "--xattrmap": "xattrmap", "--log-level": "log_level",
}

// dropped are capabilities that the daemon keeps by itself and that a volume needs none of: a guest must make no device of the host's,
// and give none of the host's files rights.
const dropped = "-mknod:-setfcap"

// settings that both know under one name.
var sameOptions = map[string]bool{"--fd": true, "--socket-path": true, "--thread-pool-size": true, "--socket-group": true}

// ignored are settings that the C daemon has no need of.
var ignored = map[string]bool{"--seccomp": true, "--inode-file-handles": true, "--rlimit-nofile": true}

// Translate turns arguments of the Rust virtiofsd into those of the C one. What the latter cannot do is an
// error rather than silently different.
func Translate(args []string) ([]string, error) {
	out := []string{"-f", "--rlimit-nofile=0", "-o", "modcaps=" + dropped}
	source := false
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(args[i], "=")
		if option, ok := flagOptions[name]; ok && !inline {
			out = append(out, "-o", option)
			continue
		}
		switch name {
		case "-d":
			out = append(out, name)
			continue
		case "--syslog", "--no-announce-submounts", "-f":
			// With --syslog the C daemon is killed by its own system call filter as soon as it has to
			// connect to the log anew, and a Pod's volumes with it.
			continue
		}
		if !inline {
			if i++; i == len(args) {
				return nil, fmt.Errorf("translate virtiofsd arguments: unknown, or without its value: %q", name)
			}
			value = args[i]
		}
		more, err := setting(name, value)
		if err != nil {
			return nil, fmt.Errorf("translate virtiofsd arguments: %w", err)
		}
		if name == "--shared-dir" {
			if source {
				return nil, errors.New("translate virtiofsd arguments: --shared-dir is there twice")
			}
			source = true
		}
		out = append(out, more...)
	}
	if !source {
		return nil, errors.New("translate virtiofsd arguments: --shared-dir is missing")
	}
	return out, nil
}

func setting(name, value string) ([]string, error) {
	if strings.Contains(value, ",") && name != "-o" && !sameOptions[name] {
		return nil, fmt.Errorf("%s: %q contains a comma", name, value) // it would separate options
	}
	if option, ok := valueOptions[name]; ok {
		return []string{"-o", option + "=" + value}, nil
	}
	switch {
	case sameOptions[name]:
		if name == "--fd" {
			if n, err := strconv.Atoi(value); err != nil || n < 3 {
				return nil, fmt.Errorf("--fd: %q is not an inherited descriptor", value)
			}
		}
		return []string{name + "=" + value}, nil
	case ignored[name]:
		return nil, nil
	case name == "-o":
		return oldForm(value)
	case name == "--cache":
		return cache(value)
	case name == "--sandbox":
		if value == "none" {
			value = "chroot" // the C daemon always confines itself
		}
		return []string{"-o", "sandbox=" + value}, nil
	}
	return nil, fmt.Errorf("unknown argument %q", name)
}

// oldForm passes options that are the C daemon's already: none that Kata decides, what is shared above all.
func oldForm(value string) ([]string, error) {
	for _, option := range strings.Split(value, ",") {
		switch name, _, _ := strings.Cut(option, "="); name {
		case "source", "sandbox", "cache", "modcaps", "vhost_user_socket":
			return nil, fmt.Errorf("-o %s: not for an option in the old form to say", name)
		}
	}
	return []string{"-o", value}, nil
}

func cache(mode string) ([]string, error) {
	switch mode {
	case "auto", "always":
	case "never":
		mode = "none"
	case "metadata":
		mode = "auto" // the nearest: metadata for a second, data until the next open
	default:
		return nil, fmt.Errorf("unknown cache mode %q", mode)
	}
	return []string{"-o", "cache=" + mode}, nil
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
