// Package cidr does arithmetic on IPv4 address ranges: the share of one host, the n-th address, overlap.
// The network parts of pkg/server and pkg/worker and the CNI plugin call it. It is pure.
package cidr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// ErrTooSmall marks a range that does not have the address or the sub-range that was asked for.
var ErrTooSmall = errors.New("range too small")

// First gives the first sub-range of the given length: First(10.42.0.0/16, 24) is 10.42.0.0/24.
func First(p netip.Prefix, bits int) (netip.Prefix, error) {
	if !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("divide %s: not an IPv4 range", p)
	}
	if bits < p.Bits() || bits > 32 {
		return netip.Prefix{}, fmt.Errorf("divide %s into /%d: %w", p, bits, ErrTooSmall)
	}
	return netip.PrefixFrom(p.Masked().Addr(), bits), nil
}

// Nth gives the n-th address of a range, the network address being number 0.
func Nth(p netip.Prefix, n uint32) (netip.Addr, error) {
	if !p.Addr().Is4() {
		return netip.Addr{}, fmt.Errorf("count addresses of %s: not an IPv4 range", p)
	}
	if uint64(n) >= Size(p) {
		return netip.Addr{}, fmt.Errorf("take address %d of %s: %w", n, p, ErrTooSmall)
	}
	raw := p.Masked().Addr().As4()
	base := binary.BigEndian.Uint32(raw[:])
	binary.BigEndian.PutUint32(raw[:], base+n)
	return netip.AddrFrom4(raw), nil
}

// Size is the number of addresses of an IPv4 range, all of them.
func Size(p netip.Prefix) uint64 {
	return 1 << (32 - p.Bits())
}

// Contains tells whether every address of inner is in outer.
func Contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Overlap tells whether two ranges have an address in common.
func Overlap(a, b netip.Prefix) bool {
	return a.Overlaps(b)
}
