package cni

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"

	"github.com/nodeless/nodeless/pkg/cidr"
)

// ErrCodeExhausted is the plugin's own CNI error code (100 and up are free) for a range without a free address.
const ErrCodeExhausted = 111

// allocate reserves an address for the container's interface.
func allocate(conf *Conf, containerID, ifName string) (netip.Addr, error) {
	store, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("open address store %s: %w", conf.DataDir, err)
	}
	defer store.Close()
	set, err := rangeSet(conf)
	if err != nil {
		return netip.Addr{}, err
	}
	got, err := allocator.NewIPAllocator(set, store, 0).Get(containerID, ifName, nil)
	if err != nil {
		if used := inUse(conf); used >= capacity(conf) {
			return netip.Addr{}, types.NewError(ErrCodeExhausted,
				fmt.Sprintf("no free address in Pod range %s: all %d are in use", conf.PodCIDR, used),
				"delete Pods, or start the server with a larger --cluster-cidr")
		}
		return netip.Addr{}, fmt.Errorf("allocate address in %s: %w", conf.PodCIDR, err)
	}
	addr, ok := netip.AddrFromSlice(got.Address.IP.To4())
	if !ok {
		return netip.Addr{}, fmt.Errorf("allocate address in %s: got %s, which is not IPv4", conf.PodCIDR, got.Address.IP)
	}
	return addr, nil
}

// release gives the container's address back. Nothing reserved is success.
func release(conf *Conf, containerID, ifName string) error {
	store, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return fmt.Errorf("open address store %s: %w", conf.DataDir, err)
	}
	defer store.Close()
	set, err := rangeSet(conf)
	if err != nil {
		return err
	}
	if err := allocator.NewIPAllocator(set, store, 0).Release(containerID, ifName); err != nil {
		return fmt.Errorf("release address of %s: %w", containerID, err)
	}
	return nil
}

// reserved gives the address that the container holds, if any.
func reserved(conf *Conf, containerID, ifName string) (netip.Addr, bool, error) {
	store, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return netip.Addr{}, false, fmt.Errorf("open address store %s: %w", conf.DataDir, err)
	}
	defer store.Close()
	for _, ip := range store.GetByID(containerID, ifName) {
		if addr, ok := netip.AddrFromSlice(ip.To4()); ok {
			return addr, true, nil
		}
	}
	return netip.Addr{}, false, nil
}

func rangeSet(conf *Conf) (*allocator.RangeSet, error) {
	masked := conf.PodCIDR.Masked()
	subnet := net.IPNet{IP: masked.Addr().AsSlice(), Mask: net.CIDRMask(masked.Bits(), 32)}
	set := &allocator.RangeSet{{Subnet: types.IPNet(subnet), Gateway: conf.Gateway.AsSlice()}}
	if err := set.Canonicalize(); err != nil {
		return nil, fmt.Errorf("use Pod range %s: %w", conf.PodCIDR, err)
	}
	return set, nil
}

// capacity is the number of addresses for Pods: all but network, broadcast and gateway.
func capacity(conf *Conf) int {
	return int(cidr.Size(conf.PodCIDR)) - 3
}

// inUse counts reservations: the store keeps a file for each, named after the address.
func inUse(conf *Conf) int {
	entries, err := os.ReadDir(filepath.Join(conf.DataDir, conf.Name))
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			n++
		}
	}
	return n
}
