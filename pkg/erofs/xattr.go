package erofs

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	xattrHeaderSize = 12
	xattrEntrySize  = 4
	maxXattrValue   = 65535
	maxXattrBytes   = 65534*xattrEntrySize + xattrHeaderSize // of one inode: the count has 16 bits
)

// xattrPrefixes are the name spaces an image can express, with their numbers. The two ACLs are whole names.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
}{
	{1, "user."},
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{4, "trusted."},
	{6, "security."},
}

// splitXattr returns the number of the name space and the rest of the name.
func splitXattr(name string) (index uint8, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, found := strings.CutPrefix(name, p.prefix); found {
			acl := p.index == 2 || p.index == 3
			return p.index, rest, acl == (rest == "")
		}
	}
	return 0, "", false
}

// setXattr keeps an attribute unless an image cannot have it: those of other name spaces, which no Linux file system has,
// and those by which a layer would talk to the overlay above it or to Merge.
func (n *node) setXattr(name, value string) {
	if _, _, ok := splitXattr(name); !ok || strings.HasPrefix(name, xattrOverlay) {
		return
	}
	if n.xattrs == nil {
		n.xattrs = map[string]string{}
	}
	n.xattrs[name] = value
}

func (n *node) checkXattrs() error {
	for name, value := range n.xattrs {
		if _, rest, _ := splitXattr(name); len(rest) > maxName || len(value) > maxXattrValue {
			return fmt.Errorf("attribute %.40q of %d bytes: %w", name, len(value), ErrTooLarge)
		}
	}
	if size := n.xattrSize(); size > maxXattrBytes {
		return fmt.Errorf("attributes of %d bytes: %w", size, ErrTooLarge)
	}
	return nil
}

// diskXattrs are the node's attributes with those that stand for its flags.
func (n *node) diskXattrs() map[string]string {
	if !n.opaque && !n.implied {
		return n.xattrs
	}
	all := maps.Clone(n.xattrs)
	if all == nil {
		all = map[string]string{}
	}
	if n.opaque {
		all[xattrOpaque] = "y"
	}
	if n.implied {
		all[xattrImplied] = "y"
	}
	return all
}

func (n *node) xattrSize() int {
	xattrs := n.diskXattrs()
	if len(xattrs) == 0 {
		return 0
	}
	size := xattrHeaderSize
	for name, value := range xattrs {
		_, rest, _ := splitXattr(name)
		size += align(xattrEntrySize+len(rest)+len(value), xattrEntrySize)
	}
	return size
}

// appendXattrs appends the attribute area that follows an inode.
func (n *node) appendXattrs(b []byte) []byte {
	xattrs := n.diskXattrs()
	if len(xattrs) == 0 {
		return b
	}
	b = binary.LittleEndian.AppendUint32(b, 0xffffffff) // no name filter
	b = append(b, make([]byte, xattrHeaderSize-4)...)
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		index, rest, _ := splitXattr(name)
		value := xattrs[name]
		b = append(b, uint8(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(b, rest...)
		b = append(b, value...)
		b = pad(b, xattrEntrySize)
	}
	return b
}

func align(n, to int) int { return (n + to - 1) / to * to }

// pad appends zeros up to a multiple.
func pad(b []byte, to int) []byte { return append(b, make([]byte, align(len(b), to)-len(b))...) }
