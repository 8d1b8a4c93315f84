// Package containerd runs containerd as a child of the same program and feeds it the images that come with the host:
// those of the bundle and the archives an operator has put into the data dir. pkg/worker runs the component;
// pkg/cli calls Main for the hidden command `nodeless containerd`, which is the child, and CtrMain for `nodeless ctr`.
//
// containerd's own settings and Kata's are rendered by pure functions from Config. It needs root, a mount
// namespace whose root is shared, and the files of the bundle as real files.
package containerd
