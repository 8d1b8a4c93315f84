package erofs

import (
	"encoding/binary"
	"slices"
)

// fileTypes are the numbers by which directories know the types.
var fileTypes = map[uint16]uint8{
	typeRegular: 1, typeDir: 2, typeChar: 3, typeBlock: 4, typeFifo: 5, typeSocket: 6, typeSymlink: 7,
}

// direntBlock is the part of a directory that one block holds: the heads of all its entries, then all their names.
type direntBlock struct {
	names []string
	size  int
}

// direntBlocks spreads a directory's names, "." and ".." among them in byte order, over blocks.
func direntBlocks(dir *node) []direntBlock {
	names := append(dir.names(), ".", "..")
	slices.Sort(names)
	var blocks []direntBlock
	start, size := 0, 0
	for i, name := range names {
		need := direntSize + len(name)
		if size+need > blockSize {
			blocks = append(blocks, direntBlock{names[start:i], size})
			start, size = i, 0
		}
		size += need
	}
	return append(blocks, direntBlock{names[start:], size})
}

// direntBytes is a directory's content once every inode has its number.
func direntBytes(dir *node) []byte {
	blocks := direntBlocks(dir)
	b := make([]byte, 0, len(blocks)*blockSize)
	for _, block := range blocks {
		b = pad(b, blockSize)
		nameAt := len(block.names) * direntSize
		for _, name := range block.names {
			n := dir.entries[name]
			switch name {
			case ".":
				n = dir
			case "..":
				n = dir.parent
			}
			b = binary.LittleEndian.AppendUint64(b, n.nid)
			b = binary.LittleEndian.AppendUint16(b, uint16(nameAt))
			b = append(b, fileTypes[n.kind()], 0)
			nameAt += len(name)
		}
		for _, name := range block.names {
			b = append(b, name...)
		}
	}
	return b
}
