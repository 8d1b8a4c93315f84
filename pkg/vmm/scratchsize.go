package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// FreeScratch is the size of the ordinary writable disk and LargestScratch that of the largest, in GiB.
const (
	FreeScratch    = 20
	LargestScratch = 2048
)

// Where ext4 keeps what cut below changes: offsets in its superblock, which begins at byte 1024, and in a group's descriptor
// (Linux, Documentation/filesystems/ext4/super.rst and group_descr.rst).
const (
	superOffset     = 1024
	superSize       = 1024
	superMagic      = 0x38
	superInodes     = 0x00
	superBlocks     = 0x04
	superFreeBlocks = 0x0C
	superFreeInodes = 0x10
	superPerGroup   = 0x20 // blocks
	superInodesPer  = 0x28
	superOverhead   = 0x248
	descriptorSize  = 32
	descriptorFree  = 0x0C // blocks, and behind them inodes
	descriptorFlags = 0x12
	descriptorSum   = 0x1E
	blockUninit     = 0x2 // the bitmap of blocks is not written: all are free
	superUUID       = 0x68
	ext4Magic       = 0xEF53
	ext4Block       = 4096
)

// cut makes the empty file system of a template smaller: to so many GiB. The groups beyond are left out; what the others keep for them
// (bitmaps and tables, since groups are packed together) stays taken. A file system that grows in the guest would need more of the
// guest's kernel, and time.
func cut(f *os.File, gib int64) error {
	super := make([]byte, superSize)
	if _, err := f.ReadAt(super, superOffset); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	perGroup, inodesPer := le.Uint32(super[superPerGroup:]), le.Uint32(super[superInodesPer:])
	if le.Uint16(super[superMagic:]) != ext4Magic || perGroup == 0 {
		return errors.New("read superblock: the template is no ext4")
	}
	blocks := gib << 30 / ext4Block
	if blocks > int64(le.Uint32(super[superBlocks:])) || blocks%int64(perGroup) != 0 {
		return fmt.Errorf("cut to %d GiB: the template has %d blocks in groups of %d", gib, le.Uint32(super[superBlocks:]), perGroup)
	}
	groups := blocks / int64(perGroup)
	table := make([]byte, groups*descriptorSize)
	if _, err := f.ReadAt(table, ext4Block); err != nil {
		return fmt.Errorf("read group descriptors: %w", err)
	}
	var freeBlocks, freeInodes uint32
	for d := table; len(d) > 0; d = d[descriptorSize:] {
		freeBlocks += uint32(le.Uint16(d[descriptorFree:]))
		freeInodes += uint32(le.Uint16(d[descriptorFree+2:]))
	}
	// The last group has a bitmap by the rules; its blocks are free, and so its zeros are right.
	last := table[len(table)-descriptorSize:]
	le.PutUint16(last[descriptorFlags:], le.Uint16(last[descriptorFlags:])&^blockUninit)
	le.PutUint16(last[descriptorSum:], descriptorChecksum(super[superUUID:superUUID+16], uint32(groups-1), last))
	if _, err := f.WriteAt(last, ext4Block+int64(len(table)-descriptorSize)); err != nil {
		return fmt.Errorf("write group descriptor: %w", err)
	}
	le.PutUint32(super[superInodes:], uint32(groups)*inodesPer)
	le.PutUint32(super[superBlocks:], uint32(blocks))
	le.PutUint32(super[superFreeBlocks:], freeBlocks)
	le.PutUint32(super[superFreeInodes:], freeInodes)
	le.PutUint32(super[superOverhead:], 0) // counted again at the mount
	if _, err := f.WriteAt(super, superOffset); err != nil {
		return fmt.Errorf("write superblock: %w", err)
	}
	return f.Truncate(gib << 30)
}

// descriptorChecksum is the CRC-16 of the file system's UUID, the group's number and its descriptor up to the checksum.
func descriptorChecksum(uuid []byte, group uint32, descriptor []byte) uint16 {
	sum := crc16(0xFFFF, uuid)
	sum = crc16(sum, binary.LittleEndian.AppendUint32(nil, group))
	return crc16(sum, descriptor[:descriptorSum])
}

// crc16 is that of ARC: the polynomial 0x8005, the lowest bit first.
func crc16(sum uint16, data []byte) uint16 {
	for _, b := range data {
		sum ^= uint16(b)
		for range 8 {
			odd := sum&1 != 0
			if sum >>= 1; odd {
				sum ^= 0xA001
			}
		}
	}
	return sum
}
