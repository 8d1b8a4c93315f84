package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks routes as ours. It is one of those that nobody has been given.
const routeProtocol = 110

// applyRoute makes addresses of the cluster that no Pod has unreachable. What is sent to them, such as to a Pod that has just gone, would
// leave the host by its default route, and somebody there could answer. A Pod's own route is narrower.
func applyRoute(cluster netip.Prefix) error {
	want := netlink.Route{
		Dst:  &net.IPNet{IP: cluster.Masked().Addr().AsSlice(), Mask: net.CIDRMask(cluster.Bits(), 32)},
		Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN,
	}
	if err := netlink.RouteReplace(&want); err != nil {
		return fmt.Errorf("make %s unreachable: %w", cluster, err)
	}
	return removeRoutes(func(r netlink.Route) bool { return r.Dst == nil || r.Dst.String() != want.Dst.String() })
}

// removeRoutes removes those of our routes that match, such as that of an earlier run with another range.
func removeRoutes(match func(netlink.Route) bool) error {
	ours := &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, ours, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for _, r := range routes {
		if !match(r) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}
