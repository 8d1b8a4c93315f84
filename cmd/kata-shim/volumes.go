package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
)

// volumes brings a Pod's volumes into its microVM the way the kubelet means them. Kata gives each container a share of its own,
// so that two containers with one volume see two files with one content: no common lock, FIFO or socket. Here a volume
// is shared once, under its own name, and the mounts of the containers are rewritten to point at it before Kata reads them
// (docs/adr/0017). Kata passes on a mount whose type it does not know; the guest's end is pkg/guest/agent/volumes.go.
type volumes struct {
	mounts string // Kata's folder for what is shared
	shared string // the same, read-only, as virtiofsd serves it
	direct string // where Kata is told of volumes that it attaches as disks; those are none of ours
	table  func() ([]mountPoint, error)
	show   func(path string, readOnly bool) (tree int, err error) // to virtiofsd

	mu sync.Mutex // one container at a time
}

var (
	// podVolume and podSubpath are how the kubelet lays out a Pod's folder.
	podVolume  = regexp.MustCompile(`^(/.*/pods/[^/]+)/volumes/kubernetes\.io~([^/]+)/([^/]+)(/mount)?$`)
	podSubpath = regexp.MustCompile(`^(/.*/pods/[^/]+)/volume-subpaths/[^/]+/[^/]+/[0-9]+$`)
	podFolder  = regexp.MustCompile(`^/.*/pods/[^/]+/`)
)

func newVolumes(root, id string, show func(string, bool) (int, error)) *volumes {
	dir := filepath.Join(root, contract.KataShares, id)
	return &volumes{
		mounts: filepath.Join(dir, "mounts"), shared: filepath.Join(dir, "shared"),
		direct: filepath.Join(root, contract.KataShared, "direct-volumes"), table: hostMounts, show: show,
	}
}

// prepare rewrites the container description in a bundle.
func (v *volumes) prepare(bundle string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := os.Lstat(v.shared); errors.Is(err, fs.ErrNotExist) {
		return nil // the pause container comes before it; and a sandbox may share nothing
	}
	file := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read container description: %w", err)
	}
	var spec map[string]json.RawMessage
	var mounts []ociMount
	if err := json.Unmarshal(raw, &spec); err != nil {
		return fmt.Errorf("parse container description: %w", err)
	}
	if err := json.Unmarshal(spec["mounts"], &mounts); err != nil {
		return fmt.Errorf("parse container description: %w", err)
	}
	if err := v.rewrite(mounts); err != nil {
		return err
	}
	if spec["mounts"], err = json.Marshal(mounts); err != nil {
		return fmt.Errorf("write container description: %w", err)
	}
	if raw, err = json.Marshal(spec); err != nil {
		return fmt.Errorf("write container description: %w", err)
	}
	return replaceFile(file, raw)
}

// ociMount is a mount of a container description.
type ociMount struct {
	Destination string          `json:"destination"`
	Type        string          `json:"type,omitempty"`
	Source      string          `json:"source,omitempty"`
	Options     []string        `json:"options,omitempty"`
	UIDMappings json.RawMessage `json:"uidMappings,omitempty"`
	GIDMappings json.RawMessage `json:"gidMappings,omitempty"`
}

func (m ociMount) bind() bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func (m ociMount) readOnly() bool {
	return slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro")
}

func (v *volumes) rewrite(mounts []ociMount) error {
	table, err := v.table()
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for i := range mounts {
		m := &mounts[i]
		if !m.bind() {
			continue
		}
		vol, ok := find(*m, table)
		if !ok || v.leftToKata(*m, vol) {
			continue
		}
		if err := v.place(m, vol); err != nil {
			return fmt.Errorf("share %s for %s: %w", m.Source, m.Destination, err)
		}
	}
	return nil
}

// volume is a directory on the host that a container's mount is about.
type volume struct {
	dir  string // the volume's root
	sub  string // a path below it, if not all of it is meant
	name string // in the shared directory
	kind string // of the guest's mount
	ro   bool   // the microVM must not write it
}

// find tells which volume a mount is about; a file such as /etc/hosts is none.
func find(m ociMount, table []mountPoint) (volume, bool) {
	if parts := podVolume.FindStringSubmatch(m.Source); parts != nil {
		return podsVolume(m.Source, parts, table)
	}
	if parts := podSubpath.FindStringSubmatch(m.Source); parts != nil {
		return subpathVolume(m.Source, parts[1], table)
	}
	if podFolder.MatchString(m.Source) || system(m.Source) || system(m.Destination) {
		return volume{}, false
	}
	return volume{dir: m.Source, name: hostName(m.Source, m.readOnly()), kind: contract.MountShare, ro: m.readOnly()}, true
}

// podsVolume describes one of the folders that the kubelet makes for a Pod. Whether a container may write it is the guest's
// business: all containers of a Pod live in it, and a reader must see the very files of the writer.
func podsVolume(dir string, parts []string, table []mountPoint) (volume, bool) {
	plugin, name := parts[2], parts[3]
	vol := volume{dir: dir, name: plugin + "~" + name, kind: contract.MountShare}
	switch plugin {
	case "configmap", "secret", "projected", "downward-api":
		vol.kind, vol.ro = contract.MountWatch, true
	case "empty-dir":
		switch filesystemAt(table, dir) {
		case "tmpfs":
			vol.kind, vol.name = contract.MountMemory, name
		case "hugetlbfs":
			return volume{}, false
		}
	}
	return vol, true
}

// subpathVolume finds the volume that a subPath of the kubelet's lies in. A subPath of what the kubelet rewrites stays as it is
// when it is mounted, so it is a share of its own.
func subpathVolume(source, pod string, table []mountPoint) (volume, bool) {
	at, ok := mountOf(table, source)
	if !ok || at.point != source || strings.HasSuffix(at.root, "//deleted") {
		return volume{}, false
	}
	dirs, _ := filepath.Glob(filepath.Join(pod, "volumes", "*", "*"))
	mounted, _ := filepath.Glob(filepath.Join(pod, "volumes", "*", "*", "mount"))
	for _, dir := range append(mounted, dirs...) {
		parts := podVolume.FindStringSubmatch(dir)
		of, ok := mountOf(table, dir)
		if parts == nil || !ok || of.device != at.device {
			continue
		}
		base := filepath.Join(of.root, strings.TrimPrefix(dir, of.point))
		rel, err := filepath.Rel(base, at.root)
		if err != nil || !filepath.IsLocal(rel) || rel == "." {
			continue
		}
		vol, ok := podsVolume(dir, parts, table)
		vol.sub = rel
		return vol, ok && vol.kind != contract.MountWatch
	}
	return volume{}, false
}

// system tells what Kata and the guest treat on their own.
func system(path string) bool {
	path = filepath.Clean(path)
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return path == "/"
}

// leftToKata tells whether the mount is a file or device, or is attached as a disk.
func (v *volumes) leftToKata(m ociMount, vol volume) bool {
	info, err := os.Stat(vol.dir)
	if err != nil || !info.IsDir() {
		return true
	}
	_, err = os.Lstat(filepath.Join(v.direct, base64.URLEncoding.EncodeToString([]byte(m.Source)))) // as Kata names them
	return err == nil
}

// place makes the volume available and points the mount at it.
func (v *volumes) place(m *ociMount, vol volume) error {
	var options []string
	for _, o := range m.Options {
		if o != "bind" && o != "rbind" { // Kata takes any mount with these for its own
			options = append(options, o)
		}
	}
	if vol.sub != "" {
		options = append(options, contract.OptionSub+vol.sub)
	}
	source := filepath.Join(contract.GuestVolumes, vol.name)
	if vol.kind == contract.MountMemory {
		source = filepath.Join(contract.GuestMemory, vol.name)
		tmpfs, err := tmpfsOptions(vol.dir)
		if err != nil {
			return err
		}
		options = append(options, contract.OptionTmpfs+tmpfs)
	} else if err := v.export(vol.name, vol.dir, vol.ro); err != nil {
		return err
	}
	m.Source, m.Type, m.Options = source, vol.kind, options
	if m.Destination == "/dev/shm" {
		m.Destination += "/" // Kata has its own idea of what goes there
	}
	return nil
}

// tmpfsOptions describes the tmpfs that the kubelet has made, so that the guest makes the same.
func tmpfsOptions(dir string) (string, error) {
	var size unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(dir, &size), unix.Stat(dir, &st)); err != nil {
		return "", err
	}
	return fmt.Sprintf("size=%d,mode=%04o,uid=%d,gid=%d", size.Blocks*uint64(size.Bsize), st.Mode&0o7777, st.Uid, st.Gid), nil
}

// export mounts dir as volumes/name in the directory that virtiofsd serves; done before, it stays. The mount lies on that
// directory and not, as Kata's, on the one behind it: when Kata detaches the former the exports go with it, and what Kata
// then deletes in the latter are empty folders. No link in it is followed out of it.
func (v *volumes) export(name, dir string, ro bool) error {
	point := filepath.Join(contract.VolumesDir, name)
	folders, err := os.OpenRoot(v.mounts)
	if err != nil {
		return err
	}
	defer folders.Close()
	if err := folders.MkdirAll(point, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(v.shared)
	if err != nil {
		return err
	}
	defer root.Close()
	at, err := root.Open(point)
	if err != nil {
		return err
	}
	defer at.Close()
	base, err := root.Open(".")
	if err != nil {
		return err
	}
	defer base.Close()
	above, err := mountID(base)
	if err != nil {
		return err
	}
	if here, err := mountID(at); err != nil || here != above {
		return err // a mount of its own: exported for another container
	}
	tree, err := v.show(dir, ro)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	// What a guest makes in a volume is nothing that the host would run with rights of its own, or take for a device.
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE, Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if ro {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	err = unix.MoveMount(tree, "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

func mountID(f *os.File) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, os.NewSyscallError("statx", err)
	}
	return st.Mnt_id, nil
}
