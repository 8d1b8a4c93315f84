package cni

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/cidr"
)

// ErrCodeExhausted is the plugin's own CNI error code (100 and up are free) for a range without a free address.
const ErrCodeExhausted = 111

const (
	// retired is what the file of an address says while nobody holds it and nobody may have it.
	retired = "retired"
	// rest is for how long an address is not given out again: longer than the rest of the cluster takes to learn that its Pod has gone.
	rest = time.Minute
)

// allocate reserves an address for the container's interface. Where all others are in use, the one that has rested longest is given.
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
	if _, err := wake(conf, store, false); err != nil {
		return netip.Addr{}, err
	}
	got, err := allocator.NewIPAllocator(set, store, 0).Get(containerID, ifName, nil)
	for err != nil && inUse(conf) >= capacity(conf) {
		woken, wakeErr := wake(conf, store, true)
		if wakeErr != nil {
			return netip.Addr{}, wakeErr
		}
		if !woken {
			break
		}
		got, err = allocator.NewIPAllocator(set, store, 0).Get(containerID, ifName, nil)
	}
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

// wake frees the addresses that have rested for long enough, and with need the one that has rested longest. It tells whether there was one.
func wake(conf *Conf, store *disk.Store, need bool) (bool, error) {
	if err := store.Lock(); err != nil {
		return false, fmt.Errorf("lock address store %s: %w", conf.DataDir, err)
	}
	defer store.Unlock() //nolint:errcheck // the lock ends with the process anyway
	dir := filepath.Join(conf.DataDir, conf.Name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("list address store: %w", err)
	}
	oldest, since, woken := "", time.Time{}, false
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		text, err := os.ReadFile(path)
		if err != nil || string(text) != retired {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue
		}
		if age := time.Since(info.ModTime()); age < 0 || age >= rest { // a clock that was set back is no reason to wait
			if err := removeFile(path); err != nil {
				return woken, err
			}
			woken = true
			continue
		}
		if oldest == "" || info.ModTime().Before(since) {
			oldest, since = path, info.ModTime()
		}
	}
	if woken || !need || oldest == "" {
		return woken, nil
	}
	return true, removeFile(oldest)
}

// retire takes the address away from the container and lets it rest. Nothing reserved is success.
func retire(conf *Conf, containerID, ifName string) error {
	store, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return fmt.Errorf("open address store %s: %w", conf.DataDir, err)
	}
	defer store.Close()
	if err := store.Lock(); err != nil {
		return fmt.Errorf("lock address store %s: %w", conf.DataDir, err)
	}
	defer store.Unlock() //nolint:errcheck // the lock ends with the process anyway
	for _, ip := range store.GetByID(containerID, ifName) {
		if err := atomicfile.Write(filepath.Join(conf.DataDir, conf.Name, ip.String()), []byte(retired), 0o600); err != nil {
			return fmt.Errorf("release address of %s: %w", containerID, err)
		}
	}
	return nil
}

// release gives the container's address back at once. Nothing reserved is success.
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
