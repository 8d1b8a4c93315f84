package erofs

import (
	"fmt"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// pluginID is the name of both plugins. Kata looks for "io.containerd.snapshotter.v1.erofs" in paths.
const pluginID = "erofs"

// Register makes the snapshotter and the differ known to containerd. Call it once, before containerd starts. The handler
// that mounts images for the mount manager is containerd's own (plugins/mount/erofs).
func Register() {
	mem := newMemory(processMemory()) // one for both
	registry.Register(&plugin.Registration{Type: plugins.SnapshotPlugin, ID: pluginID, InitFn: mem.initSnapshotter})
	registry.Register(&plugin.Registration{Type: plugins.DiffPlugin, ID: pluginID, Requires: []plugin.Type{plugins.MetadataPlugin}, InitFn: mem.initDiffer})
}

func (m *memory) initSnapshotter(ic *plugin.InitContext) (any, error) {
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	// Layers may be unpacked side by side and told their parents at commit.
	ic.Meta.Capabilities = append(ic.Meta.Capabilities, snapshots.RebaseCap)
	root := ic.Properties[plugins.PropertyRootDir]
	ic.Meta.Exports[plugins.SnapshotterRootDir] = root
	return newSnapshotterIn(ic.Context, root, m)
}

func (m *memory) initDiffer(ic *plugin.InitContext) (any, error) {
	found, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, fmt.Errorf("find content store: %w", err)
	}
	db, ok := found.(*metadata.DB)
	if !ok {
		return nil, fmt.Errorf("find content store: metadata plugin is %T", found)
	}
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	return newDiffer(db.ContentStore(), m), nil
}
