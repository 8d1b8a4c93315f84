package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/util/types"
)

const (
	writable   = 0o660
	readable   = 0o440
	searchable = 0o110
	// patience is how long a volume may take before its Pod is told.
	patience = 30 * time.Second
)

// ownership gives a volume to a Pod's fsGroup, as upstream does it, with the same modes. Upstream goes through the volume by path: a
// guest that has it meanwhile swaps a folder for a link, and upstream goes on behind the link, on the host. Here everything is opened
// below what is open already, no link is followed, and what was opened is what is changed. No file is opened for reading.
type ownership struct {
	ctx      context.Context // ends with the server; upstream's call has none
	log      *slog.Logger
	dir      string
	group    int64
	readOnly bool
	policy   *v1.PodFSGroupChangePolicy
	done     func(types.CompleteFuncParam) // counts how long it took; nil for nobody

	pod      *v1.Pod
	recorder record.EventRecorder

	failed int   // what could not be changed; upstream goes on as well
	first  error // of those
}

var _ volume.VolumeOwnershipChanger = (*ownership)(nil)

// AddProgressNotifier says who is told when it takes long.
func (o *ownership) AddProgressNotifier(pod *v1.Pod, recorder record.EventRecorder) volume.VolumeOwnershipChanger {
	o.pod, o.recorder = pod, recorder
	return o
}

// ChangePermissions goes through the volume.
func (o *ownership) ChangePermissions() error {
	if o.pod != nil && o.recorder != nil {
		timer := time.AfterFunc(patience, func() {
			o.recorder.Eventf(o.pod, v1.EventTypeWarning, events.VolumePermissionChangeInProgress,
				"Setting volume ownership takes longer than %s; fsGroupChangePolicy: OnRootMismatch does it once for a volume", patience)
		})
		defer timer.Stop()
	}
	fits, err := o.rootFits()
	if err != nil || fits {
		return err
	}
	if err = o.entry(unix.AT_FDCWD, o.dir, 0); err != nil {
		err = fmt.Errorf("give volume %s to group %d: %w", o.dir, o.group, err)
	}
	if o.failed > 0 {
		o.log.Warn("volume is not wholly its Pod's", "path", o.dir, "group", o.group, "failed", o.failed, "error", o.first)
	}
	if o.done != nil {
		o.done(types.CompleteFuncParam{Err: &err})
	}
	return err
}

// rootFits tells whether nothing needs to be done, by the folder itself, if the Pod goes by that.
func (o *ownership) rootFits() (bool, error) {
	if o.policy == nil || *o.policy != v1.FSGroupChangeOnRootMismatch {
		return false, nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(o.dir, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: o.dir, Err: err}
	}
	want := o.mode(unix.S_IFDIR)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR && int64(st.Gid) == o.group && st.Mode&want == want, nil
}

// isGroup tells whether the volume has the group already.
func (o *ownership) isGroup() bool {
	var st unix.Stat_t
	return unix.Lstat(o.dir, &st) == nil && int64(st.Gid) == o.group
}

// mode is what a file of that type gets besides what it has.
func (o *ownership) mode(fileType uint32) uint32 {
	mode := uint32(writable)
	if o.readOnly {
		mode = readable
	}
	if fileType == unix.S_IFDIR {
		mode |= searchable | unix.S_ISGID
	}
	return mode
}

// entry changes what has that name in an open folder, what is in it first.
func (o *ownership) entry(dir int, name string, depth int) (err error) {
	if o.ctx.Err() != nil {
		return context.Cause(o.ctx)
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if depth > 0 {
			err = ignoreGone(err)
		}
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		o.change(fd, &st)
		return unix.Close(fd)
	}
	if depth > deepest {
		return errors.Join(fmt.Errorf("folders are more than %d deep", deepest), unix.Close(fd))
	}
	opened, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err := errors.Join(ignoreGone(err), unix.Close(fd)); err != nil || opened < 0 {
		return err
	}
	return o.folder(os.NewFile(uintptr(opened), name), &st, depth)
}

// folder changes an open folder and closes it.
func (o *ownership) folder(dir *os.File, st *unix.Stat_t, depth int) (err error) {
	defer func() { err = errors.Join(err, dir.Close()) }()
	fd := int(dir.Fd())
	for {
		names, err := dir.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := o.entry(fd, name, depth+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) { // it went while it was read
			o.change(fd, st)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// change gives an open file to the group. The mode is set last: the kernel takes setuid and setgid away with the owner. A link has no
// mode of its own.
func (o *ownership) change(fd int, st *unix.Stat_t) {
	err := unix.Fchownat(fd, "", -1, int(o.group), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	if fileType := st.Mode & unix.S_IFMT; fileType != unix.S_IFLNK {
		// The name of the descriptor leads to the opened file and nowhere else; fchmod takes none that was opened without reading.
		err = errors.Join(err, unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), st.Mode&0o7777|o.mode(fileType)))
	}
	if err != nil {
		if o.failed++; o.first == nil {
			o.first = err
		}
	}
}
