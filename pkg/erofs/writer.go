package erofs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// The on-disk format: https://docs.kernel.org/filesystems/erofs.html. Of its many variants an image has one: extended
// inodes, content flat in blocks, directories and symlinks behind their inode where they fit.
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superOffset = 1024
	superMagic  = 0xe0f5e1e2
	superSize   = 128

	slotSize   = 32 // unit of an inode's number: its place in the metadata area
	inodeSize  = 64
	firstSlot  = inodeSize // number 0 stays unused: readers of directories take it for a deleted name
	direntSize = 12

	layoutPlain  = 0
	layoutInline = 2
)

// errRead marks errors of the content's source, as opposed to those of the image's file.
var errRead = errors.New("read content")

// extent is a run of bytes in a file that is not the image being written.
type extent struct {
	src    io.ReaderAt // nil for a hole
	offset int64
	size   int64
}

// writer writes one image: first all content, then finish.
type writer struct {
	out   io.WriterAt
	trunc func(size int64) error
	next  int64 // offset of the next free block
	limit int64
	buf   []byte
}

func newWriter(out *os.File, limit int64) *writer {
	// Block numbers have 32 bits.
	return &writer{out: out, trunc: out.Truncate, next: blockSize, limit: min(limit, math.MaxUint32<<blockBits), buf: make([]byte, 256<<10)}
}

// reserve takes room for size bytes and returns its first block.
func (w *writer) reserve(size int64) (uint32, error) {
	if size < 0 || size > w.limit-w.next {
		return 0, fmt.Errorf("image of more than %d bytes: %w", w.limit, ErrTooLarge)
	}
	blk := uint32(w.next >> blockBits)
	w.next += (size + blockSize - 1) &^ (blockSize - 1)
	return blk, nil
}

// content copies exactly size bytes and returns their first block. Blocks of zeros become holes of the image's file.
func (w *writer) content(ctx context.Context, r io.Reader, size int64) (uint32, error) {
	blk, err := w.reserve(size)
	if err != nil {
		return 0, err
	}
	offset := int64(blk) << blockBits
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		b := w.buf[:min(size, int64(len(w.buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("%w: %w", errRead, err)
		}
		if err := w.writeSparse(b, offset); err != nil {
			return 0, err
		}
		offset += int64(len(b))
		size -= int64(len(b))
	}
	return blk, nil
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

// finish writes everything but content: directories, inodes, and last the superblock.
func (w *writer) finish(root *node) error {
	inodes := collect(root)
	if err := w.place(inodes); err != nil {
		return err
	}
	meta := w.next
	end := inodes[len(inodes)-1]
	size := int64(end.nid)*slotSize + int64(end.footprint())
	if _, err := w.reserve(size); err != nil {
		return err
	}
	if err := w.writeInodes(inodes, meta); err != nil {
		return fmt.Errorf("write inodes: %w", err)
	}
	if err := w.trunc(w.next); err != nil {
		return fmt.Errorf("set the image's size: %w", err)
	}
	if _, err := w.out.WriteAt(w.superblock(inodes, meta), superOffset); err != nil {
		return fmt.Errorf("write superblock: %w", err)
	}
	return nil
}

// collect returns every node once, a directory before its entries, and counts links.
func collect(root *node) []*node {
	inodes := []*node{root}
	root.nlink = 2
	seen := map[*node]bool{}
	var visit func(dir *node)
	visit = func(dir *node) {
		for _, name := range dir.names() {
			n := dir.entries[name]
			if seen[n] {
				n.nlink++
				continue
			}
			seen[n] = true
			inodes = append(inodes, n)
			n.nlink = 1
			if n.isDir() {
				n.nlink = 2
				dir.nlink++
				visit(n)
			}
		}
	}
	visit(root)
	return inodes
}

// place gives every inode its number, and a block to what does not fit behind an inode. An inode and what is behind it
// never cross a block's border, attributes excepted.
func (w *writer) place(inodes []*node) error {
	pos := firstSlot
	for _, n := range inodes {
		tail := n.tailSize()
		fixed := inodeSize + n.xattrSize()
		n.inline = tail > 0 && fixed+tail <= blockSize
		need := inodeSize
		if n.inline {
			need = fixed + tail
		} else if tail > 0 {
			var err error
			if n.blk, err = w.reserve(int64(tail)); err != nil {
				return err
			}
		}
		if pos%blockSize+need > blockSize {
			pos = align(pos, blockSize)
		}
		n.nid = uint64(pos / slotSize)
		pos += align(n.footprint(), slotSize)
	}
	return nil
}

// footprint is the inode's size in the metadata area.
func (n *node) footprint() int {
	size := inodeSize + n.xattrSize()
	if n.inline {
		size += n.tailSize()
	}
	return size
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

func (w *writer) writeInodes(inodes []*node, meta int64) error {
	parents := parentsOf(inodes)
	area := bufio.NewWriterSize(io.NewOffsetWriter(w.out, meta), 1<<20)
	pos := 0
	for i, n := range inodes {
		at := int(n.nid) * slotSize
		if _, err := area.Write(zeroBlock[:at-pos]); err != nil {
			return err
		}
		tail := n.tail(parents[n])
		b := n.appendInode(make([]byte, 0, inodeSize), i, len(tail))
		b = n.appendXattrs(b)
		if n.inline {
			b = append(b, tail...)
		} else if len(tail) > 0 {
			if _, err := w.out.WriteAt(tail, int64(n.blk)<<blockBits); err != nil {
				return err
			}
		}
		if _, err := area.Write(b); err != nil {
			return err
		}
		pos = at + len(b)
	}
	return area.Flush()
}

// parentsOf maps each directory to the one it is in. The root is its own parent.
func parentsOf(inodes []*node) map[*node]*node {
	parents := map[*node]*node{inodes[0]: inodes[0]}
	for _, n := range inodes {
		for _, child := range n.entries {
			if child.isDir() {
				parents[child] = n
			}
		}
	}
	return parents
}

func (n *node) tail(parent *node) []byte {
	switch n.kind() {
	case typeDir:
		return direntBytes(n, parent)
	case typeSymlink:
		return []byte(n.target)
	}
	return nil
}

func (n *node) appendInode(b []byte, index, tailSize int) []byte {
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
	b = le.AppendUint32(b, uint32(index)+1) // what stat shows on 32-bit machines
	b = le.AppendUint32(b, n.uid)
	b = le.AppendUint32(b, n.gid)
	b = le.AppendUint64(b, uint64(n.mtime.Unix()))
	b = le.AppendUint32(b, uint32(n.mtime.Nanosecond()))
	b = le.AppendUint32(b, n.nlink)
	return append(b, make([]byte, 16)...)
}

func (w *writer) superblock(inodes []*node, meta int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, superSize)
	le.PutUint32(b[0:], superMagic)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(inodes[0].nid))
	le.PutUint64(b[16:], uint64(len(inodes)))
	le.PutUint32(b[36:], uint32(w.next>>blockBits))
	le.PutUint32(b[40:], uint32(meta>>blockBits))
	return b
}
