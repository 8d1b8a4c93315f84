package erofs

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// shareSize is the size from which on content is shared with the image it comes from: below, copying is cheaper.
const shareSize = 64 << 10

// fromImage writes a file whose content is in another image. On file systems that can (XFS, btrfs) the two images then
// share the blocks of large files, so that a merged image takes next to nothing beside its layers.
func (w *writer) fromImage(ctx context.Context, n *node, out *os.File) (err error) {
	if w.unshared || n.size < shareSize || len(n.extents) != 1 {
		return w.file(ctx, n, n.reader(), n.size)
	}
	if n.blk, err = w.reserve(n.size); err != nil {
		return err
	}
	offset := int64(n.blk) << blockBits
	if w.unshared = !share(out, offset, n.extents[0]); w.unshared {
		return w.fill(ctx, n.reader(), offset, n.size)
	}
	return nil
}

// share makes whole blocks of out the same as those of the extent, and tells whether that could be done. An image's
// content begins on a block, and what follows its end in the last one is zeros.
func share(out *os.File, offset int64, e extent) bool {
	src, ok := e.src.(*os.File)
	if !ok || e.offset%blockSize != 0 {
		return false
	}
	return unix.IoctlFileCloneRange(int(out.Fd()), &unix.FileCloneRange{
		Src_fd: int64(src.Fd()), Src_offset: uint64(e.offset), Src_length: uint64(align(int(e.size), blockSize)), Dest_offset: uint64(offset),
	}) == nil
}
