package erofs

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

const (
	xattrHeaderSize = 12
	xattrEntrySize  = 4
	maxXattrValue   = 65535
	xattrCost       = 64                                     // bytes of memory that an attribute takes beside its name and value
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
		if strings.HasPrefix(name, "system.posix_acl_") && !validACL(value) {
			return fmt.Errorf("attribute %s is no access control list: %w", name, ErrFormat)
		}
	}
	if size := n.xattrSize(); size > maxXattrBytes {
		return fmt.Errorf("attributes of %d bytes: %w", size, ErrTooLarge)
	}
	return nil
}

// validACL says whether the kernel would take an access control list, as it checks those that are set (posix_acl_valid):
// with any other it denies all access to the file. It is a version and entries of a tag, permissions and an id, in the
// order owner, users, group, groups, mask, others; the mask may only be left out where nobody is named.
func validACL(value string) bool {
	const head, entry, version = 4, 8, 2
	const owner, user, group, namedGroup, mask, other = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
	b := []byte(value)
	if len(b) < head || (len(b)-head)%entry != 0 || binary.LittleEndian.Uint32(b) != version {
		return false
	}
	last, named := uint16(0), false
	for b = b[head:]; len(b) > 0; b = b[entry:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		fits := false
		switch tag {
		case owner:
			fits = last == 0
		case user:
			fits, named = last == owner || last == user, true
		case group:
			fits = last == owner || last == user
		case namedGroup:
			fits, named = last == group || last == namedGroup, true
		case mask:
			fits = last == group || last == namedGroup
		case other:
			fits = last == mask || last == group && !named
		}
		if nobody := (tag == user || tag == namedGroup) && id == math.MaxUint32; !fits || nobody || perm > 7 {
			return false
		}
		last = tag
	}
	return last == other || last == 0
}

// diskXattrs are the node's attributes with those that stand for its flags.
func (n *node) diskXattrs() map[string]string {
	if !n.opaque && !n.implied && n.link == "" {
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
	if n.link != "" {
		all[xattrLink] = n.link
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
