// Package erofs holds the two containerd plugins that make a container's root file system one read-only disk: the
// snapshotter "erofs", which is containerd's own with all layers of an image merged into one file, and the differ
// "erofs", which converts OCI layers in process by pkg/erofs. pkg/worker/containerd registers them in the containerd child.
//
// Kata's shim recognises the result by names: the snapshotter's folder "io.containerd.snapshotter.v1.erofs" and the
// file "layer.erofs" (virtcontainers/container.go, IsErofsRootFS). A VM has room for about 26 disks and an image may have
// more layers than that, hence the merging (docs/adr/0006).
package erofs

import (
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/plugins"
	stock "github.com/containerd/containerd/v2/plugins/snapshots/erofs"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

const id = "erofs"

// Register adds the plugins to containerd's registry, in place of containerd's own of the same name.
func Register() {
	registry.Register(&plugin.Registration{
		Type: plugins.SnapshotPlugin,
		ID:   id,
		InitFn: func(ic *plugin.InitContext) (any, error) {
			ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
			inner, err := stock.NewSnapshotter(ic.Properties[plugins.PropertyRootDir])
			if err != nil {
				return nil, err
			}
			return newSnapshotter(inner), nil
		},
	})
	registry.Register(&plugin.Registration{
		Type:     plugins.DiffPlugin,
		ID:       id,
		Requires: []plugin.Type{plugins.MetadataPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
			db, err := ic.GetSingle(plugins.MetadataPlugin)
			if err != nil {
				return nil, err
			}
			return &differ{store: db.(*metadata.DB).ContentStore()}, nil
		},
	})
}
