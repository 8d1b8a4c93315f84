// Package erofs holds two plugins of containerd: a snapshotter and a differ, both under the name "erofs". The containerd
// child registers them with Register; containerd's own plugins of that name are not linked.
//
// They differ from containerd's in what a microVM needs. The differ converts a layer with pkg/erofs, in a process of its own
// (pkg/converter), without a mkfs.erofs program. The snapshotter gives a container one read-only image, however many layers its image has:
// each disk costs a VM a slot and boot time. It merges the layers of a chain once, when the first container needs them, into a file that
// lives and dies with the topmost layer's snapshot.
//
// What the stock Kata shim wants is kept: paths below io.containerd.snapshotter.v1.erofs, files named layer.erofs, and
// mounts of the form "erofs, then an overlay over it with its upper directory here".
//
// On disk, below the snapshotter's root:
//
//	metadata.db                       containerd's snapshot metadata
//	snapshots/<id>/fs, work           upper and work directory of an active snapshot
//	snapshots/<id>/applied.erofs      the layer that the differ has converted, until commit
//	snapshots/<id>/layer.erofs        the layer of a committed snapshot
//	snapshots/<id>/merged/layer.erofs the layer with all below it
//	snapshots/new-*, */.tmp-*         unfinished; swept when the snapshotter starts
//
// Each file appears under its name only when it is whole and on disk, so a kill at any moment leaves nothing half-made.
package erofs
