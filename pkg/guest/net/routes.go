package net

import (
	"errors"
	"fmt"
	"net"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// UpdateRoutes makes the main table hold exactly the wanted routes besides the kernel's own.
func UpdateRoutes(want []*pb.Route) error {
	routes, err := desired(want, linkIndex)
	if err != nil {
		return fmt.Errorf("update routes: %w", err)
	}
	for i := range routes {
		if err := replace(&routes[i]); err != nil {
			return fmt.Errorf("update route %s: %w", routes[i].Dst, err)
		}
	}
	have, err := mainTable()
	if err != nil {
		return fmt.Errorf("update routes: %w", err)
	}
	for _, h := range have {
		if !stale(h, routes) {
			continue
		}
		if err := netlink.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", h.Dst, err)
		}
	}
	return nil
}

// replace sets a route. A gateway outside all on-link prefixes is declared on-link: with a /32 address
// the host's route to it may have been left out by the host.
func replace(r *netlink.Route) error {
	err := netlink.RouteReplace(r)
	if r.Gw != nil && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)) {
		onLink := *r
		onLink.SetFlag(netlink.FLAG_ONLINK)
		err = netlink.RouteReplace(&onLink)
	}
	return err
}

// mainTable lists the main routing table, without loopback.
func mainTable() ([]netlink.Route, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	routes, err := stable(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	lo, err := linkIndex("lo")
	if err != nil {
		return nil, err
	}
	out := routes[:0]
	for _, r := range routes {
		if r.LinkIndex != lo {
			out = append(out, r)
		}
	}
	return out, nil
}

// ListRoutes describes the main table.
func ListRoutes() ([]*pb.Route, error) {
	routes, err := mainTable()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	linkName := func(index int) string {
		if _, ok := names[index]; !ok {
			if l, err := netlink.LinkByIndex(index); err == nil {
				names[index] = l.Attrs().Name
			}
		}
		return names[index]
	}
	var out []*pb.Route
	for _, r := range routes {
		out = append(out, described(r, linkName))
	}
	return out, nil
}

func linkIndex(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find interface %s: %w", name, err)
	}
	return l.Attrs().Index, nil
}

// AddNeighbours sets fixed ARP entries.
func AddNeighbours(neighbours []*pb.ARPNeighbor) error {
	for _, n := range neighbours {
		if err := setNeighbour(n); err != nil {
			return fmt.Errorf("add neighbour %s: %w", n.GetToIPAddress().GetAddress(), err)
		}
	}
	return nil
}

func setNeighbour(n *pb.ARPNeighbor) error {
	index, err := linkIndex(n.GetDevice())
	if err != nil {
		return err
	}
	ip := net.ParseIP(n.GetToIPAddress().GetAddress())
	if ip == nil {
		return fmt.Errorf("%q is not an IP address", n.GetToIPAddress().GetAddress())
	}
	entry := &netlink.Neigh{LinkIndex: index, State: int(n.GetState()), Flags: int(n.GetFlags()), IP: ip}
	if entry.State == 0 {
		entry.State = netlink.NUD_PERMANENT
	}
	if s := n.GetLladdr(); s != "" {
		if entry.HardwareAddr, err = net.ParseMAC(s); err != nil {
			return err
		}
	}
	return netlink.NeighSet(entry)
}
