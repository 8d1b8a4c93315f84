package pull

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/local"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	_ "github.com/containerd/containerd/v2/core/transfer/archive" // what clients may name as source and destination
	_ "github.com/containerd/containerd/v2/core/transfer/image"

	"github.com/nodeless/nodeless/pkg/registries"
)

// settings are the plugin's table in containerd's configuration.
type settings struct {
	Certs      string `toml:"config_path"` // folders of registries with containerd's hosts.toml; the same as CRI's
	Registries string `toml:"registries"`  // the operator's file, checked before containerd was started
	Unpacker   string `toml:"unpacker"`    // name of the snapshotter and the differ that layers are unpacked with
	Timeout    string `toml:"pull_timeout"`
	Rate       int64  `toml:"pull_rate"` // bytes a second
	Window     string `toml:"pull_window"`

	Denied  []string `toml:"denied"`  // ranges that no Pod reaches, and so no pull
	Cluster []string `toml:"cluster"` // ranges of Pods and Services
}

// reach is where pulls go, as the settings have it.
func (s *settings) reach() (*reach, error) {
	var ranges [2][]netip.Prefix
	for i, texts := range [][]string{s.Denied, s.Cluster} {
		for _, text := range texts {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("ranges that pulls do not reach: %w", err)
			}
			ranges[i] = append(ranges[i], p)
		}
	}
	return newReach(ranges[0], ranges[1]), nil
}

// Register makes the plugin known to containerd. Call it once, before containerd starts.
func Register() {
	registry.Register(&plugin.Registration{
		Type: plugins.TransferPlugin, ID: "local", Config: &settings{}, InitFn: initTransfer,
		Requires: []plugin.Type{plugins.LeasePlugin, plugins.MetadataPlugin, plugins.DiffPlugin, plugins.SnapshotPlugin},
	})
}

func initTransfer(ic *plugin.InitContext) (any, error) {
	conf := ic.Config.(*settings)
	known, err := registries.Load(conf.Registries, false)
	if err != nil {
		return nil, err
	}
	db, err := get[*metadata.DB](ic.GetSingle(plugins.MetadataPlugin))
	if err != nil {
		return nil, err
	}
	lm, err := get[leases.Manager](ic.GetSingle(plugins.LeasePlugin))
	if err != nil {
		return nil, err
	}
	applier, err := get[diff.Applier](ic.GetByID(plugins.DiffPlugin, conf.Unpacker))
	if err != nil {
		return nil, err
	}
	snapshotter := ic.Plugins().Get(plugins.SnapshotPlugin, conf.Unpacker)
	if snapshotter == nil || db.Snapshotter(conf.Unpacker) == nil {
		return nil, fmt.Errorf("snapshotter %q: %w", conf.Unpacker, plugin.ErrPluginNotFound)
	}
	cs := store{db.ContentStore()}
	transferrer := func(lock unpack.KeyedLocker) transfer.Transferrer {
		return local.NewTransferService(cs, metadata.NewImageStore(db), local.TransferConfig{
			Leases: lm, MaxConcurrentUploadedLayers: 3, MaxConcurrentUnpacks: 1, // downloads are bounded here
			DuplicationSuppressor: lock,
			UnpackPlatforms: []unpack.Platform{{
				// Of an index CRI takes what fits this machine. A lone manifest of another architecture is taken as it is, as everywhere.
				Platform:       platforms.OnlyOS(platforms.DefaultSpec()),
				SnapshotterKey: conf.Unpacker, Snapshotter: db.Snapshotter(conf.Unpacker),
				SnapshotterExports: snapshotter.Meta.Exports, SnapshotterCapabilities: snapshotter.Meta.Capabilities,
				Applier: applier,
			}},
		})
	}
	limits, err := conf.limits()
	if err != nil {
		return nil, err
	}
	reach, err := conf.reach()
	if err != nil {
		return nil, err
	}
	return &Service{
		Transferrer: transferrer(newKeyedLock()), certs: conf.Certs, known: known, store: db.ContentStore(), reach: reach, places: newPlaces(limits),
		locks: &tenantLocks{locks: map[string]*tenantLock{}}, transferrer: transferrer,
	}, nil
}

// limits are those of pulls, as the settings have them.
func (s *settings) limits() (Limits, error) {
	l := Limits{Rate: s.Rate}
	var errs [2]error
	l.Timeout, errs[0] = time.ParseDuration(s.Timeout)
	l.Window, errs[1] = time.ParseDuration(s.Window)
	if err := errors.Join(errs[:]...); err != nil || l.Timeout < 0 || l.Rate < 0 || l.Window <= 0 {
		return Limits{}, fmt.Errorf("limits of pulls: timeout %q, rate %d, window %q: %w", s.Timeout, s.Rate, s.Window, errors.Join(err, errdefs.ErrInvalidArgument))
	}
	return l, nil
}

// get asserts what a plugin's instance can do.
func get[T any](instance any, err error) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	able, ok := instance.(T)
	if !ok {
		return none, fmt.Errorf("plugin %T is no %T", instance, &none)
	}
	return able, nil
}
