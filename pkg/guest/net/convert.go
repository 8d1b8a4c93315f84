package net

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// address converts one address of an interface.
func address(a *pb.IPAddress) (*net.IPNet, error) {
	ip := net.ParseIP(a.GetAddress())
	if ip == nil {
		return nil, fmt.Errorf("parse address %q: not an IP address", a.GetAddress())
	}
	bits := 128
	if v4 := ip.To4(); v4 != nil {
		ip, bits = v4, 32
	}
	ones, err := strconv.Atoi(a.GetMask())
	if err != nil || ones < 0 || ones > bits {
		return nil, fmt.Errorf("parse address %s: prefix length %q", a.GetAddress(), a.GetMask())
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(ones, bits)}, nil
}

// desired converts the host's routes, those without a gateway first: a gateway must be on a link before
// it can be used. linkIndex finds the interface by its name.
func desired(routes []*pb.Route, linkIndex func(name string) (int, error)) ([]netlink.Route, error) {
	out := make([]netlink.Route, 0, len(routes))
	for _, r := range routes {
		nr, err := route(r, linkIndex)
		if err != nil {
			return nil, err
		}
		out = append(out, nr)
	}
	slices.SortStableFunc(out, func(a, b netlink.Route) int {
		return cmp.Compare(b2i(a.Gw != nil), b2i(b.Gw != nil))
	})
	return out, nil
}

func route(r *pb.Route, linkIndex func(string) (int, error)) (netlink.Route, error) {
	index, err := linkIndex(r.GetDevice())
	if err != nil {
		return netlink.Route{}, fmt.Errorf("route to %q: %w", r.GetDest(), err)
	}
	nr := netlink.Route{
		LinkIndex: index,
		Scope:     netlink.Scope(r.GetScope()),
		Flags:     int(r.GetFlags()),
		MTU:       int(r.GetMtu()),
		Family:    unix.AF_INET,
		Table:     unix.RT_TABLE_MAIN,
		Protocol:  unix.RTPROT_STATIC,
	}
	if r.GetFamily() == pb.IPFamily_v6 {
		nr.Family = unix.AF_INET6
	}
	if nr.Dst, err = destination(r.GetDest(), nr.Family); err != nil {
		return nr, err
	}
	if s := r.GetGateway(); s != "" {
		if nr.Gw = net.ParseIP(s); nr.Gw == nil {
			return nr, fmt.Errorf("route to %q: gateway %q is not an IP address", r.GetDest(), s)
		}
	}
	if s := r.GetSource(); s != "" {
		if nr.Src = net.ParseIP(s); nr.Src == nil {
			return nr, fmt.Errorf("route to %q: source %q is not an IP address", r.GetDest(), s)
		}
	}
	return nr, nil
}

// destination parses a prefix; empty means the default route.
func destination(dest string, family int) (*net.IPNet, error) {
	if dest == "" {
		if family == unix.AF_INET6 {
			return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, nil
		}
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, nil
	}
	if ip := net.ParseIP(dest); ip != nil {
		if v4 := ip.To4(); v4 != nil {
			return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}, nil
		}
		return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}, nil
	}
	_, n, err := net.ParseCIDR(dest)
	if err != nil {
		return nil, fmt.Errorf("parse route destination %q: %w", dest, err)
	}
	return n, nil
}

// described converts a route back for the host.
func described(r netlink.Route, linkName func(index int) string) *pb.Route {
	out := &pb.Route{
		Device: linkName(r.LinkIndex),
		Scope:  uint32(r.Scope),
		Flags:  uint32(r.Flags),
		Mtu:    uint32(r.MTU),
	}
	if r.Family == unix.AF_INET6 {
		out.Family = pb.IPFamily_v6
	}
	if r.Dst != nil && !isDefault(r.Dst) {
		out.Dest = r.Dst.String()
	}
	if r.Gw != nil {
		out.Gateway = r.Gw.String()
	}
	if r.Src != nil {
		out.Source = r.Src.String()
	}
	return out
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0
}

// stale says whether an existing route is one the host no longer wants. The kernel's own routes, which
// come and go with the addresses, are never stale.
func stale(have netlink.Route, want []netlink.Route) bool {
	if have.Protocol == unix.RTPROT_KERNEL || have.Protocol == unix.RTPROT_RA || have.Type != unix.RTN_UNICAST {
		return false
	}
	return !slices.ContainsFunc(want, func(w netlink.Route) bool {
		return w.LinkIndex == have.LinkIndex && sameNet(w.Dst, have.Dst) && w.Gw.Equal(have.Gw)
	})
}

// sameNet compares destinations; nil is the default route.
func sameNet(a, b *net.IPNet) bool {
	if a == nil || b == nil {
		return (a == nil || isDefault(a)) && (b == nil || isDefault(b))
	}
	return a.String() == b.String()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
