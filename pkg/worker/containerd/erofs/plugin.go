package erofs

import (
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/nodeless/nodeless/pkg/converter"
)

// pluginID is the name of both plugins. Kata looks for "io.containerd.snapshotter.v1.erofs" in paths.
const pluginID = "erofs"

// settings are the table of both plugins in containerd's configuration, the same for both.
type settings struct {
	Converter string `toml:"converter"` // the program that converts layers
	Cgroup    string `toml:"cgroup"`    // that its processes are in; empty: none
	Memory    int64  `toml:"memory"`    // that they may have together, in bytes
}

// shared is what both plugins have of memory.
type shared struct {
	once sync.Once
	mem  *memory // set once
}

// Register makes the snapshotter and the differ known to containerd. Call it once, before containerd starts. The handler
// that mounts images for the mount manager is containerd's own (plugins/mount/erofs).
func Register() {
	s := &shared{} // one for both
	registry.Register(&plugin.Registration{Type: plugins.SnapshotPlugin, ID: pluginID, Config: &settings{}, InitFn: s.initSnapshotter})
	registry.Register(&plugin.Registration{Type: plugins.DiffPlugin, ID: pluginID, Config: &settings{}, Requires: []plugin.Type{plugins.MetadataPlugin}, InitFn: s.initDiffer})
}

// of gives what the settings allow.
func (s *shared) of(ic *plugin.InitContext) *memory {
	s.once.Do(func() {
		conf := ic.Config.(*settings)
		run := &converter.Runner{Program: conf.Converter, Cgroup: conf.Cgroup, Bound: conf.Memory}
		if err := run.Prepare(); err != nil {
			log.G(ic.Context).WithError(err).Warn("the memory of conversions is not bounded by the kernel's cgroups")
			run.Cgroup = ""
		}
		s.mem = newMemory(run)
	})
	return s.mem
}

func (s *shared) initSnapshotter(ic *plugin.InitContext) (any, error) {
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	// Layers may be unpacked side by side and told their parents at commit.
	ic.Meta.Capabilities = append(ic.Meta.Capabilities, snapshots.RebaseCap)
	root := ic.Properties[plugins.PropertyRootDir]
	ic.Meta.Exports[plugins.SnapshotterRootDir] = root
	return newSnapshotterIn(ic.Context, root, s.of(ic))
}

func (s *shared) initDiffer(ic *plugin.InitContext) (any, error) {
	found, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, fmt.Errorf("find content store: %w", err)
	}
	db, ok := found.(*metadata.DB)
	if !ok {
		return nil, fmt.Errorf("find content store: metadata plugin is %T", found)
	}
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	return newDiffer(db.ContentStore(), s.of(ic)), nil
}
