package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetFlows has the kernel forget the connections of an address, so that none of them is carried on to who gets it next.
// A kernel that cannot list them keeps them until they time out.
func ForgetFlows(addr netip.Addr) error {
	for range 3 {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, ofAddress(addr.AsSlice()))
		switch {
		case errors.Is(err, netlink.ErrDumpInterrupted): // some may have been left out
			continue
		case err == nil, noConntrack(err):
			return nil
		}
		return fmt.Errorf("forget connections of %s: %w", addr, err)
	}
	return nil
}

// noConntrack tells whether the kernel cannot list connections.
func noConntrack(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// ofAddress matches a flow that the address has opened, that was opened to it, or that was translated to it.
type ofAddress net.IP

// MatchConntrackFlow is asked for each flow.
func (a ofAddress) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, ip := range []net.IP{flow.Forward.SrcIP, flow.Forward.DstIP, flow.Reverse.SrcIP, flow.Reverse.DstIP} {
		if ip.Equal(net.IP(a)) {
			return true
		}
	}
	return false
}
