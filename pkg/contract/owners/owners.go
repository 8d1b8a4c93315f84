// Package owners has virtiofsd be nobody of the host's, and yet act for all users of a Pod's volumes, root among them. The shim starts the
// daemon by it and shows it the volumes, and nodeless-virtiofsd (pkg/vmm/virtiofsd) reads what it says.
//
// The daemon is root in a user namespace of its own, which is a user of its own outside. So its capabilities hold for what is shown to it
// as ID-mapped mounts of that namespace, and for nothing else of the host: there, files of root are root's to it, and what it makes for the
// guest's root is root's on the disk. It takes a kernel and file systems that know such mounts (mount_setattr(2), MOUNT_ATTR_IDMAP): ext4,
// XFS and btrfs, and tmpfs from 6.3 on.
package owners

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// Hold is the only argument of a nodeless-virtiofsd that holds a user namespace until the end of its input.
	Hold = "hold-users"
	// TreesEnv is the environment variable with the descriptors of what nodeless-virtiofsd shows to the daemon, as mounts that have no place
	// yet: of its programs and of the share, "4,5". Without it the daemon is root, and shows what is at their paths.
	TreesEnv = "NODELESS_VIRTIOFSD_TREES"

	// First is the user outside, and group, of the daemon whose shim has pid 0. Pids are below 2^22, so each daemon of a host has its own
	// while it lives: beside those of QEMU (pkg/vmm), and above what distributions and directories give out.
	First = 0x7a000000
	// lastUser is the last of the guest's users and groups that a file can belong to; Kubernetes knows no higher ones.
	lastUser = 1<<31 - 1
	// others is the user outside that the guest's user 1 is, for a moment, in a thread that acts for it. It is the same for all Pods: they
	// are in namespaces of processes of their own.
	others = 1<<31 - 1
)

// ErrUnknown says that a file system or the kernel knows no ID-mapped mounts.
var ErrUnknown = errors.New("ID-mapped mounts are not known")

// Users are those of a guest, as a user namespace. A nil Users are the host's own: nothing is mapped.
type Users struct {
	file *os.File
	maps []syscall.SysProcIDMap
}

// New makes the users of one Pod. program is a nodeless-virtiofsd. It is ErrUnknown on a host where they cannot be made, or can have no
// jail.
func New(program string) (_ *Users, err error) {
	u := &Users{maps: []syscall.SysProcIDMap{{HostID: First + os.Getpid(), Size: 1}, {ContainerID: 1, HostID: others, Size: lastUser}}}
	holder := exec.Command(program, Hold)
	holder.Env = []string{}
	if err := u.become(holder, unix.CLONE_NEWNS|unix.CLONE_NEWPID); err != nil {
		return nil, err
	}
	defer holder.ExtraFiles[0].Close()
	input, err := holder.StdinPipe()
	output, err2 := holder.StdoutPipe()
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("make users of a Pod: %w", err)
	}
	if err := holder.Start(); err != nil {
		return nil, fmt.Errorf("make users of a Pod: %w: %w", ErrUnknown, err)
	}
	defer func() {
		_ = input.Close()
		_ = holder.Wait() // it has nothing to say
	}()
	word, err := io.ReadAll(io.LimitReader(output, longestWord))
	if string(word) != ready {
		return nil, fmt.Errorf("make users of a Pod: %w: %w: %s", ErrUnknown, errors.Join(errNoJail, err), strings.ToValidUTF8(string(word), "?"))
	}
	if u.file, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid)); err != nil {
		return nil, fmt.Errorf("make users of a Pod: %w", err)
	}
	return u, nil
}

// For makes the users of a Pod to whom all those folders can be shown, with what is mounted at them. It is ErrUnknown where one cannot.
// What is not there is left out.
func For(program string, folders ...string) (*Users, error) {
	u, err := New(program)
	if err != nil {
		return nil, err
	}
	for _, dir := range folders {
		tree, err := u.Show(dir, true)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, u.Close())
		}
		_ = tree.Close() // it has no place
	}
	return u, nil
}

// ready is what a holder says when its users can have a jail, and longestWord bounds what else it may say.
const (
	ready       = "ready"
	longestWord = 4 << 10
)

var errNoJail = errors.New("the Pod's users can have no jail")

// Holder is what a nodeless-virtiofsd does that is given Hold. It says on its standard output, which it closes, whether the daemon's jail
// can be made: the kernel lets other users than the host's have a /proc only where nothing is hidden in that of the host.
func Holder(input io.Reader, output io.WriteCloser) {
	word := ready
	if err := mountProc(); err != nil {
		word = err.Error()
	}
	_, _ = io.WriteString(output, word) // who listens takes silence for an answer
	_ = output.Close()
	_, _ = io.Copy(io.Discard, input)
}

// mountProc makes a /proc that gets no place.
func mountProc() error {
	proc, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(proc) //nolint:errcheck // only a handle
	if err := unix.FsconfigCreate(proc); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(proc, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return fmt.Errorf("mount a /proc (something hides a part of the host's): %w", err)
	}
	return unix.Close(fd)
}

// become has cmd be root of the users, in a namespace of them and in further ones. Its program is opened here, as the user outside may not
// go through the folders that it lies in.
func (u *Users) become(cmd *exec.Cmd, namespaces uintptr) error {
	program, err := os.Open(cmd.Path)
	if err != nil {
		return fmt.Errorf("start as another user: %w", err)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles[:len(cmd.ExtraFiles):len(cmd.ExtraFiles)], program)
	cmd.Path = "/proc/self/fd/" + strconv.Itoa(firstFile+len(cmd.ExtraFiles)-1)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | namespaces, UidMappings: u.maps, GidMappings: u.maps, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{}, // root inside
	}
	return nil
}

// firstFile is the first descriptor that exec.Cmd.ExtraFiles become.
const firstFile = 3

// Close lets go of them. Mounts and processes keep them.
func (u *Users) Close() error {
	if u == nil {
		return nil
	}
	return u.file.Close()
}

// Map shows the files of a mount that has no place yet, and of those below it, as the users'. It is ErrUnknown where that cannot be.
func (u *Users) Map(tree int) error {
	if u == nil {
		return nil
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(u.file.Fd())}
	err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	return nil
}

// Show opens what lies at a path as a mount that has no place yet, mapped if it can be.
func (u *Users) Show(path string, mapped bool) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("show %s: %w", path, err)
	}
	tree := os.NewFile(uintptr(fd), path)
	if mapped {
		err = u.Map(fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("show %s: %w", path, err), tree.Close())
	}
	return tree, nil
}

// Start starts virtiofsd, in namespaces and with users of its own. cmd runs a nodeless-virtiofsd with Kata's arguments, and Kata's socket
// as its only file. programs and share are the paths of what the daemon is and of what it serves.
func (u *Users) Start(cmd *exec.Cmd, namespaces uintptr, programs, share string) error {
	if u == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
		return cmd.Start()
	}
	var numbers []string
	for _, t := range []struct {
		path   string
		mapped bool
	}{{programs, false}, {share, true}} {
		tree, err := u.Show(t.path, t.mapped)
		if err != nil {
			return err
		}
		defer tree.Close()
		numbers = append(numbers, strconv.Itoa(firstFile+len(cmd.ExtraFiles)))
		cmd.ExtraFiles = append(cmd.ExtraFiles[:len(cmd.ExtraFiles):len(cmd.ExtraFiles)], tree)
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, TreesEnv+"="+strings.Join(numbers, ","))
	if err := u.become(cmd, namespaces); err != nil {
		return err
	}
	defer cmd.ExtraFiles[len(cmd.ExtraFiles)-1].Close()
	return cmd.Start()
}

// Trees reads what Start has written: the descriptors of the daemon's programs and of its share. Both are 0 without one.
func Trees(value string) (programs, share int, err error) {
	if value == "" {
		return 0, 0, nil
	}
	if _, err := fmt.Sscanf(value, "%d,%d", &programs, &share); err != nil || programs < firstFile || share < firstFile || programs == share {
		return 0, 0, fmt.Errorf("read %s: %q are not two descriptors", TreesEnv, value)
	}
	return programs, share, nil
}
