package kubelet

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/volume"
)

// NewUnmounter is upstream's, which removes a volume with os.RemoveAll: that has a file open for each folder above the one it is in. A
// guest can make more of them, below each other, than the server may have open. So what is in the volume goes before.
func (e emptyDirs) NewUnmounter(name string, uid types.UID) (volume.Unmounter, error) {
	u, err := e.ResizableEphemeralVolumePlugin.NewUnmounter(name, uid)
	if err != nil {
		return nil, err
	}
	return &emptied{u}, nil
}

type emptied struct{ volume.Unmounter }

// TearDown removes the volume.
func (e *emptied) TearDown() error { return e.TearDownAt(e.GetPath()) }

// TearDownAt removes the volume, which lies there. No guest has it any more.
func (e *emptied) TearDownAt(dir string) error {
	if err := empty(dir); err != nil {
		return fmt.Errorf("empty volume %s: %w", dir, err)
	}
	return e.Unmounter.TearDownAt(dir)
}

// empty removes what is in a folder, with a bounded number of open files and in bounded memory. What is on another file system, such as a
// volume in memory, is left. A folder that does not exist is empty.
func empty(path string) error {
	root, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return errors.Join(&os.PathError{Op: "stat", Path: path, Err: err}, unix.Close(root))
	}
	e := emptier{root: root, device: st.Dev}
	return e.clear(root, path, 0)
}

type emptier struct {
	root   int // where folders go that are too deep
	device uint64
}

// clear removes what is in an open folder and closes it. It is read from its start until nothing is found that can go.
func (e *emptier) clear(fd int, name string, depth int) (err error) {
	dir := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, dir.Close()) }()
	for {
		gone := 0
		for {
			names, err := dir.Readdirnames(namesAtOnce)
			for _, name := range names {
				removed, err := e.entry(fd, name, depth)
				if err != nil {
					return err
				}
				if removed {
					gone++
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if gone == 0 {
			return nil
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

func (e *emptier) entry(dir int, name string, depth int) (removed bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, ignoreGone(err)
	}
	if st.Dev != e.device {
		return false, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return true, ignoreGone(unix.Unlinkat(dir, name, 0))
	}
	if depth >= deepest {
		return true, unix.Renameat(dir, name, e.root, rand.Text()) // a name that nobody has put there
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, ignoreGone(err)
	}
	if err := e.clear(fd, name, depth+1); err != nil {
		return false, err
	}
	switch err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); {
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EBUSY): // something is mounted there or below
		return false, nil
	default:
		return err == nil, ignoreGone(err)
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
