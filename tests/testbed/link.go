package testbed

import (
	"fmt"
	"net"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// Addresses of the cable between two hosts, the first end's and the other's.
const (
	LinkIP  = "10.98.0.1"
	OtherIP = "10.98.0.2"
)

// Link lays a cable from this host to another one, which until now sees nothing of it. The other one reaches the networks named, such as
// "10.43.0.0/16", through this one. A host can have one such cable, until either end is closed.
func (h *Host) Link(other *Host, networks ...string) error {
	here, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := ns.GetNS(fmt.Sprintf("/proc/%d/ns/net", other.Pid()))
	if err != nil {
		return err
	}
	defer there.Close()
	const name = "cable"
	err = here.Do(func(ns.NetNS) error {
		cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name, PeerNamespace: netlink.NsFd(there.Fd())}
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("add cable: %w", err)
		}
		_, err := connect(name, LinkIP)
		return err
	})
	if err != nil {
		return err
	}
	err = there.Do(func(ns.NetNS) error {
		end, err := connect(name, OtherIP)
		if err != nil {
			return err
		}
		for _, network := range networks {
			_, to, err := net.ParseCIDR(network)
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: end.Attrs().Index, Dst: to, Gw: net.ParseIP(LinkIP)}); err != nil {
				return fmt.Errorf("add route to %s: %w", network, err)
			}
		}
		return carries(name)
	})
	if err != nil {
		return err
	}
	return here.Do(func(ns.NetNS) error { return carries(name) })
}

// carries waits until the kernel sends through a link of this network namespace. Until it has noticed that both ends are up, which on a
// busy machine takes up to a second, it drops what is sent.
func carries(name string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		state := link.Attrs().OperState
		if state == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is %s ten seconds after both its ends were set up", name, state)
		}
	}
}

// connect sets a link of this network namespace up, with an address.
func connect(name, ip string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	addr, err := netlink.ParseAddr(ip + "/24")
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return nil, fmt.Errorf("add address to %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	return link, nil
}
