package net

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	linkWait  = 50 * time.Second // for a hot-plugged NIC; the shim waits for a minute
	linkPause = 2 * time.Millisecond
	linkPoll  = 25 * time.Millisecond
)

// ErrNoLink says that there is no interface with the hardware address or name asked for.
var ErrNoLink = errors.New("no such network interface")

// UpdateInterface brings an interface, found by its hardware address, to the wanted name, addresses,
// MTU and flags, and up. It waits for a hot-plugged one to appear.
func UpdateInterface(ctx context.Context, want *pb.Interface) error {
	link, err := awaitLink(ctx, want.GetHwAddr(), want.GetName())
	if err != nil {
		return fmt.Errorf("update interface %s: %w", want.GetName(), err)
	}
	for _, step := range []func(netlink.Link, *pb.Interface) error{rename, setMTU, setARP, setAddresses, setUp} {
		if err := step(link, want); err != nil {
			return fmt.Errorf("update interface %s: %w", want.GetName(), err)
		}
	}
	return nil
}

func awaitLink(ctx context.Context, hw, name string) (netlink.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	for pause := linkPause; ; pause = min(2*pause, linkPoll) {
		link, err := findLink(hw, name)
		if !errors.Is(err, ErrNoLink) {
			return link, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// findLink finds a link by hardware address, or by name when the host gives no address.
func findLink(hw, name string) (netlink.Link, error) {
	links, err := stable(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if hw != "" && strings.EqualFold(a.HardwareAddr.String(), hw) || hw == "" && a.Name == name {
			return l, nil
		}
	}
	return nil, fmt.Errorf("%w: address %q", ErrNoLink, hw)
}

// rename gives the link its name, moving another one that carries it out of the way.
func rename(link netlink.Link, want *pb.Interface) error {
	a := link.Attrs()
	if want.GetName() == "" || a.Name == want.GetName() {
		return nil
	}
	if other, err := netlink.LinkByName(want.GetName()); err == nil {
		if err := setName(other, "old"+strconv.Itoa(other.Attrs().Index)); err != nil {
			return err
		}
	}
	return setName(link, want.GetName())
}

func setName(link netlink.Link, name string) error {
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("take %s down: %w", link.Attrs().Name, err)
	}
	if err := netlink.LinkSetName(link, name); err != nil {
		return fmt.Errorf("rename %s to %s: %w", link.Attrs().Name, name, err)
	}
	return nil
}

func setMTU(link netlink.Link, want *pb.Interface) error {
	mtu := int(want.GetMtu())
	if mtu == 0 || link.Attrs().MTU == mtu {
		return nil
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	return nil
}

func setARP(link netlink.Link, want *pb.Interface) error {
	if want.GetRawFlags()&unix.IFF_NOARP == 0 || link.Attrs().RawFlags&unix.IFF_NOARP != 0 {
		return nil
	}
	if err := netlink.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("turn ARP off: %w", err)
	}
	return nil
}

// setAddresses adds what is missing and removes what the host does not name, link-local IPv6 excepted.
func setAddresses(link netlink.Link, want *pb.Interface) error {
	var wanted []*net.IPNet
	for _, a := range want.GetIPAddresses() {
		n, err := address(a)
		if err != nil {
			return err
		}
		wanted = append(wanted, n)
	}
	have, err := addresses(link)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, h := range have {
		named := slices.ContainsFunc(wanted, func(n *net.IPNet) bool { return n.String() == h.IPNet.String() })
		if named || h.IP.To4() == nil && h.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(link, &h); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", h.IPNet, err)
		}
	}
	for _, n := range wanted {
		a := &netlink.Addr{IPNet: n}
		if n.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return fmt.Errorf("add address %s: %w", n, err)
		}
	}
	return nil
}

func setUp(link netlink.Link, _ *pb.Interface) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// LoopbackUp brings lo up.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return setUp(lo, nil)
}

// ListInterfaces describes all interfaces but the loopback.
func ListInterfaces() ([]*pb.Interface, error) {
	links, err := stable(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []*pb.Interface
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		i := &pb.Interface{Device: a.Name, Name: a.Name, Mtu: uint64(a.MTU), HwAddr: a.HardwareAddr.String(), Type: l.Type()}
		addrs, err := addresses(l)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", a.Name, err)
		}
		for _, h := range addrs {
			ones, _ := h.Mask.Size()
			ip := &pb.IPAddress{Address: h.IP.String(), Mask: strconv.Itoa(ones)}
			if h.IP.To4() == nil {
				ip.Family = pb.IPFamily_v6
			}
			i.IPAddresses = append(i.IPAddresses, ip)
		}
		out = append(out, i)
	}
	return out, nil
}

// Counter is one interface's traffic.
type Counter struct {
	Name string
	netlink.LinkStatistics
}

// Counters returns the traffic of all interfaces but the loopback.
func Counters() ([]Counter, error) {
	links, err := stable(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Counter
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 && a.Statistics != nil {
			out = append(out, Counter{Name: a.Name, LinkStatistics: *a.Statistics})
		}
	}
	return out, nil
}

func addresses(link netlink.Link) ([]netlink.Addr, error) {
	return stable(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
}

// stable lists again what has changed while it was listed, as it does when the kernel is slow to give a new NIC its addresses.
func stable[T any](list func() ([]T, error)) (found []T, err error) {
	const tries = 20
	for range tries {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}
