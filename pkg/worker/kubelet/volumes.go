package kubelet

import (
	"context"
	"log/slog"
	"slices"

	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/csi"
	"k8s.io/kubernetes/pkg/volume/downwardapi"
	"k8s.io/kubernetes/pkg/volume/emptydir"
	"k8s.io/kubernetes/pkg/volume/hostpath"
	"k8s.io/kubernetes/pkg/volume/image"
	"k8s.io/kubernetes/pkg/volume/local"
	"k8s.io/kubernetes/pkg/volume/nfs"
	"k8s.io/kubernetes/pkg/volume/projected"
	"k8s.io/kubernetes/pkg/volume/secret"
)

// volumePlugins are the kinds of volumes that this kubelet mounts: those that admission lets a Pod have, and those of which an operator
// makes PersistentVolumes. Upstream's list has more, which open devices of the host or its network by what an object says (fc takes a
// pattern of device names, iscsi logs in anywhere), and looks for programs to run (flexVolume). What is not here cannot be mounted
// whatever is asked for. The work on volumes ends with ctx.
func volumePlugins(ctx context.Context, log *slog.Logger) []volume.VolumePlugin {
	given := givers{ctx, log}
	return slices.Concat(
		given.emptyDirs(emptydir.ProbeVolumePlugins()), configmap.ProbeVolumePlugins(), secret.ProbeVolumePlugins(), podLimits(downwardapi.ProbeVolumePlugins()),
		podLimits(projected.ProbeVolumePlugins()),
		image.ProbeVolumePlugins(),
		// Of PersistentVolumes; a Pod has a path of the host by itself only where the operator says so.
		hostpath.ProbeVolumePlugins(volume.VolumeConfig{}), given.local(local.ProbeVolumePlugins()), nfs.ProbeVolumePlugins(volume.VolumeConfig{}), given.csi(csi.ProbeVolumePlugins()),
	)
}
