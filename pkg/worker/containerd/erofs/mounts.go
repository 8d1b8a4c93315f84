package erofs

import (
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// mounts says how to mount a snapshot. lowers are the images below it, topmost first.
func (f files) mounts(snap storage.Snapshot, lowers []string) []mount.Mount {
	active := snap.Kind == snapshots.KindActive
	switch {
	case len(lowers) == 0:
		mode := "ro"
		if active {
			mode = "rw"
		}
		return []mount.Mount{{Type: "bind", Source: f.snapshot(snap.ID, upperDir), Options: []string{mode, "rbind"}}}
	case len(lowers) == 1 && !active:
		return []mount.Mount{imageMount(lowers[0])}
	}
	var all []mount.Mount
	for _, lower := range lowers {
		all = append(all, imageMount(lower))
	}
	// The mount manager mounts the images and puts the places in.
	lower := "lowerdir={{ mount 0 }}"
	if len(lowers) > 1 {
		lower = fmt.Sprintf("lowerdir={{ overlay 0 %d }}", len(lowers)-1)
	}
	options := []string{lower}
	if active {
		options = []string{"workdir=" + f.snapshot(snap.ID, workDir), "upperdir=" + f.snapshot(snap.ID, upperDir), lower}
	}
	return append(all, mount.Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: options})
}

// imageMount mounts an image; "loop" is for those who mount it themselves on a kernel that mounts no plain files.
func imageMount(path string) mount.Mount {
	return mount.Mount{Type: "erofs", Source: path, Options: []string{"ro", "loop"}}
}
