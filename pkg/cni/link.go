package cni

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/nodeless/nodeless/pkg/netdev"
)

// HostLink is the name of the host's end of a container's link. It follows from the container alone, so that
// DEL finds it when the Pod's namespace is gone.
func HostLink(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "/" + ifName))
	return fmt.Sprintf("%s%x", netdev.PodLinkPrefix, sum[:4])
}

// link is the two ends as made.
type link struct {
	host, pod net.Interface
}

// connect makes the link between the Pod's namespace and ours, with addresses and routes. The rules that let the Pod send are there
// before its end is up. On failure the caller disconnects.
func connect(conf *Conf, podNS ns.NetNS, hostLink, ifName string, addr netip.Addr) (made link, err error) {
	err = podNS.Do(func(hostNS ns.NetNS) error {
		host, pod, err := ip.SetupVethWithName(ifName, hostLink, conf.MTU, "", hostNS)
		if err != nil {
			return fmt.Errorf("make link %s: %w", hostLink, err)
		}
		made = link{host: host, pod: pod}
		return nil
	})
	if err != nil {
		return link{}, err
	}
	ports, err := conf.ports()
	if err != nil {
		return link{}, err
	}
	if len(ports) > 0 {
		if err := loopbackTo(hostLink); err != nil {
			return link{}, err
		}
	}
	own := conf.RuntimeConfig.Bandwidth
	if err := permit(conf, netdev.Link{Name: hostLink, MAC: made.pod.HardwareAddr.String(), Addr: addr, Ports: ports,
		Sent: bandwidth(own.EgressRate), Received: bandwidth(own.IngressRate)}); err != nil {
		return link{}, err
	}
	if err := podNS.Do(func(ns.NetNS) error { return configurePod(ifName, addr, conf.Gateway) }); err != nil {
		return link{}, err
	}
	return made, routeToPod(made.host, addr, conf.Gateway)
}

// disconnect undoes connect: the link goes first, so that nothing is sent while there are no rules for it.
func disconnect(conf *Conf, hostLink string) error {
	if err := netdev.RemoveLink(hostLink); err != nil {
		return err
	}
	return forbid(conf, hostLink)
}

// configurePod runs in the Pod's namespace. The on-link route to the gateway comes before the route by way of it.
func configurePod(ifName string, addr, gateway netip.Addr) error {
	if err := noIPv6(ifName); err != nil {
		return err
	}
	dev, err := netlink.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("find %s in the Pod: %w", ifName, err)
	}
	if err := netlink.AddrAdd(dev, &netlink.Addr{IPNet: single(addr)}); err != nil {
		return fmt.Errorf("set address %s on %s: %w", addr, ifName, err)
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return fmt.Errorf("bring up %s: %w", ifName, err)
	}
	index := dev.Attrs().Index
	routes := []*netlink.Route{
		{LinkIndex: index, Dst: single(gateway), Scope: netlink.SCOPE_LINK},
		{LinkIndex: index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Gw: gateway.AsSlice()},
	}
	for _, r := range routes {
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("add route to %s in the Pod: %w", r.Dst, err)
		}
	}
	return nil
}

// routeToPod makes the host reach the Pod, with the gateway address as its own.
func routeToPod(host net.Interface, addr, gateway netip.Addr) error {
	if err := noIPv6(host.Name); err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: host.Index, Dst: single(addr), Scope: netlink.SCOPE_LINK, Src: gateway.AsSlice()}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("add route to %s by way of %s: %w", addr, host.Name, err)
	}
	return nil
}

// placeholder is the link that a namespace keeps when its Pod is disconnected.
const placeholder = "gone0"

// placehold puts a link that leads nowhere into a Pod's namespace, which the runtime is about to remove. While it is
// there, the kubelet may be counting what the Pod's links have carried, and Kubernetes 1.37 panics when there is none
// (criInterfaceToSummary): in our one process, the control plane with it. A namespace that is gone needs none; if the
// kernel makes no such link, all is as it was.
func placehold(netns string) {
	if netns == "" {
		return
	}
	_ = ns.WithNetNSPath(netns, func(ns.NetNS) error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: placeholder}})
	})
}

// noIPv6 keeps link-local addresses off a device, in the namespace of the calling thread.
// A kernel without IPv6 has no such setting.
func noIPv6(dev string) error {
	path := filepath.Join("/proc/sys/net/ipv6/conf", dev, "disable_ipv6")
	err := os.WriteFile(path, []byte("1"), 0o644)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("turn off IPv6 on %s: %w", dev, err)
	}
	return nil
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

// loopbackTo lets the host send to a Pod what was meant for a port of its own loopback. What a Pod sends to a loopback address the packet
// rules drop.
func loopbackTo(dev string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", dev, "route_localnet"), []byte("1"), 0o644); err != nil {
		return fmt.Errorf("lead loopback to %s: %w", dev, err)
	}
	return nil
}
