package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/kubelet/events"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/util"
	"k8s.io/mount-utils"
	"k8s.io/utils/keymutex"
)

// givers make volumes a Pod's by its fsGroup, also those in which others write meanwhile.
type givers struct {
	ctx context.Context // ends with the server
	log *slog.Logger
}

// giver is what to do for one volume.
func (g givers) giver(plugin volume.VolumePlugin, spec *volume.Spec, m volume.Mounter, dir string, args volume.MounterArgs) *ownership {
	return &ownership{
		ctx: g.ctx, log: g.log, dir: dir, group: *args.FsGroup, readOnly: m.GetAttributes().ReadOnly, policy: args.FSGroupChangePolicy,
		done: util.FSGroupCompleteHook(plugin, spec),
	}
}

// csiPlugin is all that the kubelet looks for in upstream's plugin of that name.
type csiPlugin interface {
	volume.AttachableVolumePlugin
	volume.BlockVolumePlugin
	volume.NodeExpandableVolumePlugin
}

// csiVolumes is upstream's plugin, which decides whether the driver or the kubelet gives a volume to a Pod, with our way to do it.
type csiVolumes struct {
	csiPlugin
	givers
}

func (g givers) csi(plugins []volume.VolumePlugin) []volume.VolumePlugin {
	var all []volume.VolumePlugin
	for _, p := range plugins {
		if whole, ok := p.(csiPlugin); ok {
			p = csiVolumes{whole, g}
		}
		all = append(all, p)
	}
	return all
}

// NewMounter is upstream's.
func (c csiVolumes) NewMounter(spec *volume.Spec, pod *v1.Pod) (volume.Mounter, error) {
	m, err := c.csiPlugin.NewMounter(spec, pod)
	if err != nil {
		return nil, err
	}
	return &csiVolume{m, c, spec}, nil
}

type csiVolume struct {
	volume.Mounter
	plugin csiVolumes
	spec   *volume.Spec
}

// SetUp mounts the volume where it belongs.
func (c *csiVolume) SetUp(args volume.MounterArgs) error { return c.SetUpAt(c.GetPath(), args) }

// SetUpAt mounts it there.
func (c *csiVolume) SetUpAt(dir string, args volume.MounterArgs) error {
	if args.FsGroup != nil {
		args.VolumeOwnershipApplicator = c.plugin.giver(c.plugin, c.spec, c.Mounter, dir, args)
	}
	return c.Mounter.SetUpAt(dir, args)
}

// localPlugin is all that the kubelet looks for in upstream's plugin of that name.
type localPlugin interface {
	volume.DeviceMountableVolumePlugin
	volume.BlockVolumePlugin
	volume.NodeExpandableVolumePlugin
	volume.PersistentVolumePlugin
}

// localVolumes is upstream's plugin, which is told of no fsGroup.
type localVolumes struct {
	localPlugin
	givers
	paths keymutex.KeyMutex // one Pod after the other sets up a folder
	host  volume.VolumeHost
}

func (g givers) local(plugins []volume.VolumePlugin) []volume.VolumePlugin {
	var all []volume.VolumePlugin
	for _, p := range plugins {
		if whole, ok := p.(localPlugin); ok {
			p = &localVolumes{localPlugin: whole, givers: g, paths: keymutex.NewHashed(0)}
		}
		all = append(all, p)
	}
	return all
}

// Init is upstream's.
func (l *localVolumes) Init(host volume.VolumeHost) error {
	l.host = host
	return l.localPlugin.Init(host)
}

// NewMounter is upstream's.
func (l *localVolumes) NewMounter(spec *volume.Spec, pod *v1.Pod) (volume.Mounter, error) {
	m, err := l.localPlugin.NewMounter(spec, pod)
	if err != nil {
		return nil, err
	}
	return &localVolume{m, l, spec, pod}, nil
}

type localVolume struct {
	volume.Mounter
	plugin *localVolumes
	spec   *volume.Spec
	pod    *v1.Pod
}

// SetUp mounts the volume where it belongs.
func (l *localVolume) SetUp(args volume.MounterArgs) error { return l.SetUpAt(l.GetPath(), args) }

// SetUpAt mounts it there. As upstream has it, a volume is given to the group of the first Pod that has it, and stays as it is while
// others have it.
func (l *localVolume) SetUpAt(dir string, args volume.MounterArgs) error {
	if args.FsGroup == nil {
		return l.Mounter.SetUpAt(dir, args)
	}
	path := l.spec.PersistentVolume.Spec.Local.Path
	l.plugin.paths.LockKey(path)
	defer func() { _ = l.plugin.paths.UnlockKey(path) }() // it always succeeds
	mounter := l.plugin.host.GetMounter()
	if not, err := mount.IsNotMountPoint(mounter, dir); err == nil && !not {
		return nil // by an earlier call
	}
	giver := l.plugin.giver(l.plugin, nil, l.Mounter, dir, args)
	giver.AddProgressNotifier(l.pod, args.Recorder)
	args.FsGroup = nil
	if err := l.Mounter.SetUpAt(dir, args); err != nil || giver.readOnly {
		return err
	}
	shared, err := l.others(mounter, dir)
	switch {
	case err != nil:
	case shared && args.Recorder != nil && !giver.isGroup():
		args.Recorder.Eventf(l.pod, v1.EventTypeWarning, events.WarnAlreadyMountedVolume,
			"Other Pods have volume %s, so it is not given to group %d", l.spec.Name(), giver.group)
	case !shared:
		err = giver.ChangePermissions()
	}
	if err != nil { // what is mounted is taken for done
		return errors.Join(err, mount.CleanupMountPoint(dir, mounter, true))
	}
	return nil
}

// others tells whether other Pods have what is mounted in a folder.
func (l *localVolume) others(mounter mount.Interface, dir string) (bool, error) {
	refs, err := mounter.GetMountRefs(dir)
	return slices.ContainsFunc(refs, func(ref string) bool {
		return ref != dir && strings.HasPrefix(ref, l.plugin.host.GetPodsDir()+"/")
	}), err
}
