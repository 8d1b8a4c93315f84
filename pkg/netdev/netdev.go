// Package netdev makes the network devices and packet rules that one host needs for its Pods: the bridge that
// carries the gateway address, forwarding, the masquerade of what leaves the cluster, and the tables of nftables that say what
// Pods may send, what they reach and who reaches them. pkg/worker/network keeps them in place while the server runs, pkg/cni
// enters each Pod's link, pkg/teardown removes them. It needs root and the programs iptables and nft.
package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Bridge is the device that carries the gateway address. It has no ports: Pods are reached by routes.
const Bridge = "nodeless0"

// PodLinkPrefix begins the name of the host's end of each Pod's link.
const PodLinkPrefix = "nl"

// Config says what the host's network must look like.
type Config struct {
	Gateway     netip.Addr   // address of this host towards its Pods, such as 10.42.0.1
	ClusterCIDR netip.Prefix // range of all Pods
	Guard       Guard
	// IPTables and NFT are the programs that set packet rules; empty means the ones in PATH.
	IPTables, NFT string
	// ProcSys is where kernel settings are; empty means /proc/sys.
	ProcSys string
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	if !c.Gateway.Is4() {
		errs = append(errs, fmt.Errorf("gateway %s: not an IPv4 address", c.Gateway))
	}
	if !c.ClusterCIDR.IsValid() || !c.ClusterCIDR.Addr().Is4() {
		errs = append(errs, fmt.Errorf("cluster range %s: not an IPv4 range", c.ClusterCIDR))
	} else if !c.ClusterCIDR.Contains(c.Gateway) {
		errs = append(errs, fmt.Errorf("gateway %s: outside of the cluster range %s", c.Gateway, c.ClusterCIDR))
	}
	return errors.Join(errs...)
}

// Apply makes the host look as c says but for what Rules sets, whatever was there before. It may be called again and again.
func Apply(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := applyBridge(c.Gateway); err != nil {
		return err
	}
	if err := applyRoute(c.ClusterCIDR); err != nil {
		return err
	}
	if err := applyRules(c); err != nil {
		return err
	}
	return applySysctls(c.ProcSys) // after the rules: with them the kernel gets the settings of what they use
}

// Remove takes away what Apply and the CNI plugin made: packet rules, a route, the bridge, and left-over Pod links.
// What is already gone counts as removed. Kernel settings stay: others may have come to rely on them.
func Remove(c Config) error {
	errs := []error{removeRules(c), removeTables(c), removeRoutes(func(netlink.Route) bool { return true })}
	links, err := PodLinks()
	errs = append(errs, err)
	for _, name := range append(links, Bridge) {
		errs = append(errs, RemoveLink(name))
	}
	return errors.Join(errs...)
}

// PodLinks lists the host's ends of Pod links, by name.
func PodLinks() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Type() == "veth" && isPodLink(l.Attrs().Name) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// isPodLink recognises the names that pkg/cni gives: the prefix and eight hexadecimal digits.
func isPodLink(name string) bool {
	hex, found := strings.CutPrefix(name, PodLinkPrefix)
	return found && len(hex) == 8 && strings.Trim(hex, "0123456789abcdef") == ""
}

func applyBridge(gateway netip.Addr) error {
	link, err := netlink.LinkByName(Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = Bridge
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return &hint.Error{Op: "make bridge", On: Bridge, Err: err,
				Do: "run as root on a kernel with bridge support (modprobe bridge)"}
		}
		link, err = netlink.LinkByName(Bridge)
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", Bridge, err)
	}
	if link.Type() != "bridge" {
		return &hint.Error{Op: "use device", On: Bridge, Err: fmt.Errorf("it is a %s, not a bridge", link.Type()),
			Do: "remove or rename the device " + Bridge}
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: gateway.AsSlice(), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("set address %s on %s: %w", gateway, Bridge, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", Bridge, err)
	}
	return dropOtherAddresses(link, gateway)
}

// dropOtherAddresses removes what an earlier run with another range left on the bridge.
func dropOtherAddresses(link netlink.Link, gateway netip.Addr) error {
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", Bridge, err)
	}
	for _, a := range addrs {
		if a.IP.Equal(gateway.AsSlice()) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s from %s: %w", a.IP, Bridge, err)
		}
	}
	return nil
}

// RemoveLink removes a device, and the other end of a veth with it. One that is not there counts as removed.
func RemoveLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

const defaultProcSys = "/proc/sys"

const (
	// trackedFlows is how many connections the kernel shall track at least. It takes memory only for those that are there.
	trackedFlows = 1 << 20
	// neighbours is how many hosts of attached networks the kernel shall know at least: one Pod that asks for all addresses of
	// such a network makes it look for some 6,000 at a time.
	neighbours = 1 << 15
)

// setting is one of the kernel's.
type setting struct {
	path string
	min  int
	must bool // the others are what is better, and may be read-only
}

func settings() []setting {
	return []setting{
		{path: "net/ipv4/ip_forward", min: 1, must: true},
		{path: "net/netfilter/nf_conntrack_max", min: trackedFlows},
		{path: "net/ipv4/neigh/default/gc_thresh3", min: neighbours},
		{path: "net/ipv4/neigh/default/gc_thresh2", min: neighbours / 2},
	}
}

// applySysctls turns on forwarding, and widens tables that all Pods share with the host. A value that is already right is not
// written, so that a read-only /proc/sys with the right values is fine.
func applySysctls(root string) error {
	if root == "" {
		root = defaultProcSys
	}
	for _, s := range settings() {
		if err := s.apply(filepath.Join(root, s.path)); err != nil && s.must {
			return err
		}
	}
	return nil
}

func (s setting) apply(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read kernel setting %s: %w", path, err)
	}
	if have, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && have >= s.min {
		return nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(s.min)), 0o644); err != nil {
		return &hint.Error{Op: "change kernel setting", On: path, Err: err,
			Do: fmt.Sprintf("run `sysctl -w %s=%d`", strings.ReplaceAll(s.path, "/", "."), s.min)}
	}
	return nil
}
