package erofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The on-disk format: https://docs.kernel.org/filesystems/erofs.html. Of its many variants an image has one: extended
// inodes, content flat in blocks, or right behind the inode if there is little of it. An inode's number is its place in the
// image in units of 32 bytes, so inodes may lie anywhere between the content; only the root must be near the start.
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superOffset = 1024
	superMagic  = 0xe0f5e1e2
	superSize   = 128

	slotSize   = 32 // unit of an inode's number
	inodeSize  = 64
	nlinkAt    = 44 // in an inode
	rootOffset = superOffset + superSize
	direntSize = 12

	layoutPlain  = 0
	layoutInline = 2

	// smallSize is the size up to which an inode and the content of a file are kept together: two go into one block.
	smallSize = blockSize / 2

	// How much of the disk stays free, and after how many bytes written that is looked at again.
	spareShare = 20 // a twentieth
	spareCheck = 64 << 20
)

// errRead marks errors of the content's source, as opposed to those of the image's file.
var errRead = errors.New("read content")

// extent is a run of bytes in a file that is not the image being written.
type extent struct {
	src    io.ReaderAt // nil for a hole
	offset int64
	size   int64
}

// writer writes one image: first all files, then finish.
type writer struct {
	out   io.WriterAt
	trunc func(size int64) error
	spare func() error // fails when too little of the disk is free
	spent int64        // bytes written since it was asked
	next  int64        // offset of the next free block
	limit int64
	buf   []byte

	unshared bool // the file system cannot share blocks with the layers

	free, end int64 // what is left of the block that inodes are being put into

	pending   []byte // inodes not yet written
	pendingAt int64
}

func newWriter(out *os.File, limit int64) *writer {
	// Block numbers have 32 bits.
	spare := func() error { return spareRoom(out) }
	return &writer{out: out, trunc: out.Truncate, spare: spare, next: blockSize, limit: min(limit, math.MaxUint32<<blockBits), buf: make([]byte, 256<<10)}
}

// spareRoom fails when an image fills the disk it is written to: what else lives there, the cluster's own data as a rule,
// is worth more than one image.
func spareRoom(out *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(out.Fd()), &st); err != nil {
		return fmt.Errorf("look for room on the disk: %w", err)
	}
	if st.Bavail < st.Blocks/spareShare {
		return fmt.Errorf("less than 1/%d of the disk would stay free: %w", spareShare, ErrDiskFull)
	}
	return nil
}

// reserve takes whole blocks for size bytes and returns the first one.
func (w *writer) reserve(size int64) (uint32, error) {
	if size < 0 || size > w.limit-w.next {
		return 0, fmt.Errorf("image of more than %d bytes: %w", w.limit, ErrTooLarge)
	}
	blk := uint32(w.next >> blockBits)
	w.next += (size + blockSize - 1) &^ (blockSize - 1)
	return blk, nil
}

// allot takes room for an inode and what is behind it and sets the node's number. It crosses no block's border unless it
// is larger than a block, which only attributes can make it.
func (w *writer) allot(n *node, size int) error {
	if w.free+int64(size) > w.end {
		blk, err := w.reserve(int64(max(size, blockSize)))
		if err != nil {
			return err
		}
		w.free, w.end = int64(blk)<<blockBits, w.next
	}
	n.nid = uint64(w.free / slotSize)
	w.free += int64(align(size, slotSize))
	return nil
}

// file writes a file's content, exactly size bytes.
func (w *writer) file(ctx context.Context, n *node, r io.Reader, size int64) (err error) {
	n.size = size
	fixed := inodeSize + n.xattrSize()
	if n.inline = size > 0 && int64(fixed)+size <= smallSize; !n.inline {
		n.blk, err = w.content(ctx, r, size)
		return err
	}
	if err := w.allot(n, fixed+int(size)); err != nil {
		return err
	}
	if err := readFull(r, w.buf[:size]); err != nil {
		return err
	}
	n.nlink, n.written = 1, true // finish knows the links better
	return w.put(n, w.buf[:size])
}

// content copies to blocks and returns the first. Blocks of zeros become holes of the image's file.
func (w *writer) content(ctx context.Context, r io.Reader, size int64) (uint32, error) {
	blk, err := w.reserve(size)
	if err != nil {
		return 0, err
	}
	return blk, w.fill(ctx, r, int64(blk)<<blockBits, size)
}

// fill copies size bytes to an offset.
func (w *writer) fill(ctx context.Context, r io.Reader, offset, size int64) error {
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := w.buf[:min(size, int64(len(w.buf)))]
		if err := readFull(r, b); err != nil {
			return err
		}
		if err := w.writeSparse(b, offset); err != nil {
			return err
		}
		offset += int64(len(b))
		size -= int64(len(b))
	}
	return nil
}

func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errRead, err)
	}
	return nil
}

var zeroBlock [blockSize]byte

// writeSparse writes b, which begins on a block, without its blocks of zeros.
func (w *writer) writeSparse(b []byte, offset int64) error {
	for start := 0; start < len(b); {
		end := start
		for end < len(b) && !zeros(b, end) {
			end = min(end+blockSize, len(b))
		}
		if end > start {
			if _, err := w.out.WriteAt(b[start:end], offset+int64(start)); err != nil {
				return fmt.Errorf("write content: %w", err)
			}
			if w.spent += int64(end - start); w.spent >= spareCheck {
				w.spent = 0
				if err := w.spare(); err != nil {
					return err
				}
			}
		}
		for start = end; start < len(b) && zeros(b, start); {
			start = min(start+blockSize, len(b))
		}
	}
	return nil
}

// zeros says whether the block of b that begins at i is all zeros.
func zeros(b []byte, i int) bool {
	block := b[i:min(i+blockSize, len(b))]
	return bytes.Equal(block, zeroBlock[:len(block)])
}

// put writes an inode with its attributes and tail to the place it was allotted. It gathers what follows each other.
func (w *writer) put(n *node, tail []byte) error {
	at := int64(n.nid) * slotSize
	gap := at - w.pendingAt - int64(len(w.pending))
	if gap < 0 || gap >= slotSize || len(w.pending) >= len(w.buf) { // between them is something else
		if err := w.flush(); err != nil {
			return err
		}
		w.pendingAt, gap = at, 0
	}
	w.pending = append(w.pending, zeroBlock[:gap]...)
	w.pending = n.appendInode(w.pending, len(tail))
	w.pending = n.appendXattrs(w.pending)
	if n.inline {
		w.pending = append(w.pending, tail...)
	}
	return nil
}

func (w *writer) flush() error {
	if _, err := w.out.WriteAt(w.pending, w.pendingAt); err != nil {
		return fmt.Errorf("write inodes: %w", err)
	}
	w.pending = w.pending[:0]
	return nil
}

// finish writes everything that file did not: directories, the other inodes, and last the superblock.
func (w *writer) finish(root *node) error {
	inodes := collect(root)
	for _, n := range inodes {
		if n.written {
			continue
		}
		if err := w.place(n, n == root); err != nil {
			return err
		}
	}
	for _, n := range inodes {
		if n.written {
			continue
		}
		tail := n.tail()
		if !n.inline && len(tail) > 0 {
			if _, err := w.out.WriteAt(tail, int64(n.blk)<<blockBits); err != nil {
				return fmt.Errorf("write directory: %w", err)
			}
		}
		if err := w.put(n, tail); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.writeLinks(inodes); err != nil {
		return err
	}
	if err := w.trunc(w.next); err != nil {
		return fmt.Errorf("set the image's size: %w", err)
	}
	if _, err := w.out.WriteAt(w.superblock(inodes), superOffset); err != nil {
		return fmt.Errorf("write superblock: %w", err)
	}
	return nil
}

// collect returns every node once, a directory before its entries, counts links and sets parents.
func collect(root *node) []*node {
	inodes := []*node{root}
	root.nlink, root.parent = 2, root
	var visit func(dir *node)
	visit = func(dir *node) {
		for _, name := range dir.names() {
			n := dir.entries[name]
			if n.seen {
				n.nlink++
				continue
			}
			n.seen = true
			inodes = append(inodes, n)
			n.nlink = 1
			if n.isDir() {
				n.nlink, n.parent = 2, dir
				dir.nlink++
				visit(n)
			}
		}
	}
	visit(root)
	for _, n := range inodes {
		n.seen = false
	}
	return inodes
}

// place gives an inode its number, and a block to its tail if that does not fit behind it.
func (w *writer) place(n *node, root bool) error {
	tail, need, room := n.tailSize(), inodeSize+n.xattrSize(), blockSize
	if root {
		room = blockSize - rootOffset // behind the superblock
	}
	if tail > 0 && need+tail <= room {
		n.inline = true
		need += tail
	} else if tail > 0 {
		var err error
		if n.blk, err = w.reserve(int64(tail)); err != nil {
			return err
		}
	}
	if !root {
		return w.allot(n, need)
	}
	if need > room {
		return fmt.Errorf("attributes of the root directory: %w", ErrTooLarge)
	}
	n.nid = rootOffset / slotSize
	return nil
}

// writeLinks corrects the number of links of the inodes that were written before it was known.
func (w *writer) writeLinks(inodes []*node) error {
	for _, n := range inodes {
		if !n.written || n.nlink == 1 {
			continue
		}
		if _, err := w.out.WriteAt(binary.LittleEndian.AppendUint32(nil, n.nlink), int64(n.nid)*slotSize+nlinkAt); err != nil {
			return fmt.Errorf("write number of links: %w", err)
		}
	}
	return nil
}

// tailSize is the size of what a directory or symlink has to say.
func (n *node) tailSize() int {
	switch n.kind() {
	case typeDir:
		size := 0
		for _, block := range direntBlocks(n) {
			size = align(size, blockSize) + block.size
		}
		return size
	case typeSymlink:
		return len(n.target)
	}
	return 0
}

func (n *node) tail() []byte {
	switch n.kind() {
	case typeDir:
		return direntBytes(n)
	case typeSymlink:
		return []byte(n.target)
	}
	return nil
}

func (n *node) appendInode(b []byte, tailSize int) []byte {
	layout, data, size := uint16(layoutPlain), n.blk, n.size
	if n.inline {
		layout = layoutInline
	}
	switch n.kind() {
	case typeDir, typeSymlink:
		size = int64(tailSize)
	case typeRegular:
	default:
		data = n.rdev
	}
	xattrs := n.xattrSize()
	if xattrs > 0 {
		xattrs = (xattrs-xattrHeaderSize)/xattrEntrySize + 1
	}
	le := binary.LittleEndian
	b = le.AppendUint16(b, layout<<1|1) // 1: extended
	b = le.AppendUint16(b, uint16(xattrs))
	b = le.AppendUint16(b, n.mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, uint64(size))
	b = le.AppendUint32(b, data)
	b = le.AppendUint32(b, uint32(n.nid)) // what stat shows on 32-bit machines
	b = le.AppendUint32(b, n.uid)
	b = le.AppendUint32(b, n.gid)
	b = le.AppendUint64(b, uint64(n.mtime.Unix()))
	b = le.AppendUint32(b, uint32(n.mtime.Nanosecond()))
	b = le.AppendUint32(b, n.nlink)
	return append(b, make([]byte, 16)...)
}

func (w *writer) superblock(inodes []*node) []byte {
	le := binary.LittleEndian
	b := make([]byte, superSize)
	le.PutUint32(b[0:], superMagic)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(inodes[0].nid))
	le.PutUint64(b[16:], uint64(len(inodes)))
	le.PutUint32(b[36:], uint32(w.next>>blockBits))
	if slices.ContainsFunc(inodes, func(n *node) bool { return n.link != "" }) {
		copy(b[volumeName:], labelLinks)
	}
	return b
}
