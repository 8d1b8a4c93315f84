// Package converter makes EROFS images in processes of their own: of a layer that a registry has sent, and of the layers of an image.
// What comes from strangers is decompressed, read and held in memory there, not in containerd. So a layer that fills memory or finds a
// flaw ends its own pull alone. pkg/worker/containerd/erofs starts a process for each by Runner; cmd/nodeless-converter is the program,
// and calls Main.
//
// The process begins as its parent's user, with a network of its own that has nothing. Before it reads a byte it gives up everything but
// the files that it was handed, by descriptor. It has another user then, no capability, no right to new ones, an empty root, and no room
// for another file. Its memory is bounded by limits of its own, and by a cgroup where there is one. It dies with who started it.
package converter
