package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EndRefused has the kernel forget the connections that the rules refuse. Rules look at new connections: those that were opened while there
// were none would live on.
func EndRefused(c Config) error {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of the host: %w", err)
	}
	judge := judge{Config: c, local: make(map[netip.Addr]bool)}
	for _, a := range addrs {
		judge.local[address(a.IP)] = true
	}
	_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, judge)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !noConntrack(err) {
		return fmt.Errorf("end connections that the rules refuse: %w", err)
	}
	return nil
}

// judge says of connections what the rules say of their first packets.
type judge struct {
	Config
	local map[netip.Addr]bool // of the host
}

// MatchConntrackFlow tells whether the flow is refused. It leads from the source to where the answers come from, which is somewhere else
// than what was asked for if it was translated.
func (j judge) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	from, asked, to := address(flow.Forward.SrcIP), address(flow.Forward.DstIP), address(flow.Reverse.SrcIP)
	translated := asked != to
	switch {
	case contain(j.Guard.Denied, to) && !j.local[from]:
		return j.isPod(from) || translated
	case j.isPod(from):
		return j.local[to] && !j.opens(to, flow.Forward.Protocol, flow.Reverse.SrcPort)
	case j.local[from] || contain(j.Guard.AllowFrom, from):
		return false
	case j.isPod(to), j.local[to] && translated:
		return !translated || j.Guard.Services.IsValid() && j.Guard.Services.Contains(asked)
	}
	return to == j.Gateway
}

func (j judge) isPod(a netip.Addr) bool { return j.ClusterCIDR.Contains(a) && !j.local[a] }

// opens tells whether Pods reach the port of the host.
func (j judge) opens(to netip.Addr, protocol uint8, port uint16) bool {
	name, known := map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[protocol]
	switch {
	case !known:
		return protocol == unix.IPPROTO_ICMP
	case port == 53 && to == j.Gateway, name == "tcp" && int(port) == j.Guard.APIPort:
		return true
	}
	return slices.Contains(j.Guard.HostPorts, fmt.Sprintf("%d/%s", port, name))
}

func contain(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
