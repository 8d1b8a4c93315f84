// Package erofs turns OCI layers into EROFS images: Convert makes one of a layer's tar, FromDir one of a directory, and
// Merge lays any number of them over each other into a single image. The EROFS snapshotter and differ of
// pkg/worker/containerd/erofs call it, so that a microVM needs one read-only disk per container image.
//
// An image is written while the tar streams in: content goes straight to its place, names and attributes stay in memory
// until the end, the superblock comes last. So memory grows with the number of names and never with the size of files,
// and a half-written image has no superblock and cannot be mounted. Images are uncompressed, have 4 KiB blocks, and depend
// on nothing but their input: the same layers give the same bytes.
//
// Images are read back with github.com/erofs/go-erofs. They are not written with it: its writer has no hard links, holds
// the content of small files in memory, writes all content twice and stores POSIX ACLs under a name the kernel does not
// know (docs/adr/0015).
package erofs
