package kubelet

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1helper "k8s.io/kubernetes/pkg/apis/core/v1/helper"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/util/fs"
)

const (
	// namesAtOnce is how many names of a folder are in memory; so many of each of the deepest folders are 17 MiB.
	namesAtOnce = 128
	// leastOfFile and mostOfFile bound what each file counts as at least, in bytes.
	leastOfFile, mostOfFile = 4 << 10, 16 << 10
	// deepest is how far below its volume a file may be to be counted; each level is an open file of the server.
	deepest = 512
	// mostLinked is how many files of several names are told apart. Of more, each name counts.
	mostLinked = 1 << 16
)

// emptyDirs is upstream's emptyDir with another way to count what is in one. A guest writes there: upstream has all names of a folder in
// memory at once, and gives up, without a figure to hold the Pod to its limit, where a path is too long.
type emptyDirs struct {
	volume.ResizableEphemeralVolumePlugin
	givers
}

func (g givers) emptyDirs(plugins []volume.VolumePlugin) []volume.VolumePlugin {
	var all []volume.VolumePlugin
	for _, p := range plugins {
		if whole, ok := p.(volume.ResizableEphemeralVolumePlugin); ok { // all that the kubelet looks for in it
			p = emptyDirs{whole, g}
		}
		all = append(all, p)
	}
	return all
}

// NewMounter is upstream's.
func (e emptyDirs) NewMounter(spec *volume.Spec, pod *v1.Pod) (volume.Mounter, error) {
	m, err := e.ResizableEphemeralVolumePlugin.NewMounter(spec, pod)
	if err != nil {
		return nil, err
	}
	d := &emptyDir{Mounter: m, plugin: e, spec: spec}
	if spec.Volume != nil && spec.Volume.EmptyDir != nil {
		d.onDisk, d.huge = spec.Volume.EmptyDir.Medium == v1.StorageMediumDefault, v1helper.IsHugePageMedium(spec.Volume.EmptyDir.Medium)
	}
	return d, nil
}

type emptyDir struct {
	volume.Mounter
	plugin emptyDirs
	spec   *volume.Spec
	onDisk bool
	huge   bool // in huge pages
}

// SetUp makes the volume. It is empty when upstream gives it to the Pod's group, but for one in huge pages, which upstream makes again when
// the server starts again.
func (e *emptyDir) SetUp(args volume.MounterArgs) error {
	if !e.huge || args.FsGroup == nil {
		return e.Mounter.SetUp(args)
	}
	giver := e.plugin.giver(e.plugin, e.spec, e.Mounter, e.GetPath(), args)
	args.FsGroup = nil
	if err := e.Mounter.SetUp(args); err != nil {
		return err
	}
	return giver.ChangePermissions()
}

// GetMetrics says what is in the volume and what is left on its file system.
func (e *emptyDir) GetMetrics() (*volume.Metrics, error) {
	if !e.onDisk {
		return e.Mounter.GetMetrics()
	}
	path := e.GetPath()
	available, capacity, _, inodes, inodesFree, _, err := fs.Info(path)
	if err != nil {
		return nil, fmt.Errorf("look for room in %s: %w", path, err)
	}
	used, err := usage(path, ofFile(capacity, inodes))
	if err != nil {
		return nil, err
	}
	quantity := func(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }
	if used.tooDeep { // whoever hides so deep has all that there is
		used.bytes = capacity
	}
	return &volume.Metrics{
		Time: metav1.Now(), Used: quantity(used.bytes), Available: quantity(available), Capacity: quantity(capacity),
		InodesUsed: quantity(used.inodes), Inodes: quantity(inodes), InodesFree: quantity(inodesFree),
	}, nil
}

// ofFile is what a file counts as at least: the file system's bytes for each file that it can have. A Pod that makes empty files takes no
// more of those than of the bytes. It is 16 KiB with ext4 as it is made by default; a file system that makes room for files as they come
// has no number.
func ofFile(capacity, files int64) int64 {
	if files <= 0 {
		return leastOfFile
	}
	return min(max(capacity/files, leastOfFile), mostOfFile)
}

// used is what a folder holds.
type used struct {
	bytes, inodes int64
	tooDeep       bool
}

// usage counts a folder in bounded memory, whatever is made in it meanwhile, and each file as ofFile at least. No link is followed, no
// file opened, no other file system entered.
func usage(path string, ofFile int64) (used, error) {
	root, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return used{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return used{}, errors.Join(&os.PathError{Op: "stat", Path: path, Err: err}, unix.Close(root))
	}
	c := counter{device: st.Dev, ofFile: ofFile, linked: map[uint64]bool{}}
	c.add(&st)
	if err := c.walk(root, path, 0); err != nil {
		return used{}, fmt.Errorf("count %s: %w", path, err)
	}
	return c.used, nil
}

type counter struct {
	used
	device uint64
	ofFile int64
	linked map[uint64]bool // files of several names that were counted
}

// walk counts what is in an open folder and closes it.
func (c *counter) walk(fd int, name string, depth int) (err error) {
	dir := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, dir.Close()) }()
	for {
		names, err := dir.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := c.entry(fd, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) { // it went while it was read
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *counter) entry(dir int, name string, depth int) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	}
	if st.Dev != c.device || !c.add(&st) || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if depth >= deepest {
		c.tooDeep = true
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) { // another thing by now
		return nil
	}
	if err != nil {
		return err
	}
	return c.walk(fd, name, depth+1)
}

// add counts a file, once.
func (c *counter) add(st *unix.Stat_t) bool {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if c.linked[st.Ino] {
			return false
		}
		if len(c.linked) < mostLinked {
			c.linked[st.Ino] = true
		}
	}
	c.bytes += max(st.Blocks*512, c.ofFile)
	c.inodes++
	return true
}
