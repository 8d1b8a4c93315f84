package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	"github.com/vishvananda/netlink"

	"github.com/nodeless/nodeless/pkg/netdev"
)

// Funcs are the plugin's commands, for skel.
func Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}
}

// add connects a Pod. When a later step fails, the address is given back and the link removed.
func add(args *skel.CmdArgs) (err error) {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	podNS, err := ns.GetNS(args.Netns)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", args.Netns, err)
	}
	defer podNS.Close()

	addr, err := allocate(conf, args.ContainerID, args.IfName)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, release(conf, args.ContainerID, args.IfName))
		}
	}()
	made, err := connect(podNS, HostLink(args.ContainerID, args.IfName), args.IfName, addr, conf.Gateway, conf.MTU)
	if err != nil {
		return err
	}
	return types.PrintResult(result(conf, made, args.Netns, addr), conf.CNIVersion)
}

func result(conf *Conf, made link, netns string, addr netip.Addr) *current.Result {
	inPod := 1
	gateway := net.IP(conf.Gateway.AsSlice())
	return &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: made.host.Name, Mac: made.host.HardwareAddr.String(), Mtu: conf.MTU},
			{Name: made.pod.Name, Mac: made.pod.HardwareAddr.String(), Mtu: conf.MTU, Sandbox: netns},
		},
		IPs: []*current.IPConfig{{Interface: &inPod, Address: *single(addr), Gateway: gateway}},
		Routes: []*types.Route{
			{Dst: *single(conf.Gateway)},
			{Dst: net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, GW: gateway},
		},
	}
}

// del disconnects a Pod. It needs no namespace and may be repeated.
func del(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	placehold(args.Netns)
	// The link goes first: an address must not be given out again while the host still has a route to the old Pod.
	if err := netdev.RemoveLink(HostLink(args.ContainerID, args.IfName)); err != nil {
		return err
	}
	return release(conf, args.ContainerID, args.IfName)
}

// check compares what is there with what add made.
func check(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	addr, found, err := reserved(conf, args.ContainerID, args.IfName)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("check %s: no address is reserved for it", args.ContainerID)
	}
	hostLink := HostLink(args.ContainerID, args.IfName)
	if _, err := netlink.LinkByName(hostLink); err != nil {
		return fmt.Errorf("find %s: %w", hostLink, err)
	}
	return ns.WithNetNSPath(args.Netns, func(ns.NetNS) error {
		dev, err := netlink.LinkByName(args.IfName)
		if err != nil {
			return fmt.Errorf("find %s in the Pod: %w", args.IfName, err)
		}
		addrs, err := netlink.AddrList(dev, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", args.IfName, err)
		}
		for _, a := range addrs {
			if a.IP.Equal(addr.AsSlice()) {
				return nil
			}
		}
		return fmt.Errorf("check %s: %s does not have address %s", args.ContainerID, args.IfName, addr)
	})
}

// gc removes links and addresses of containers that the runtime no longer knows.
func gc(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	store, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return fmt.Errorf("open address store %s: %w", conf.DataDir, err)
	}
	defer store.Close()
	if err := store.Lock(); err != nil {
		return fmt.Errorf("lock address store %s: %w", conf.DataDir, err)
	}
	defer store.Unlock() //nolint:errcheck // the lock ends with the process anyway

	valid := make(map[string]bool, len(conf.ValidAttachments))
	for _, a := range conf.ValidAttachments {
		valid[a.ContainerID+disk.LineBreak+a.IfName] = true
	}
	files, err := reservations(filepath.Join(conf.DataDir, conf.Name))
	if err != nil {
		return err
	}
	var errs []error
	for path, owner := range files {
		if valid[owner] {
			continue
		}
		containerID, ifName, _ := strings.Cut(owner, disk.LineBreak)
		if err := netdev.RemoveLink(HostLink(containerID, ifName)); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// reservations reads the address store: the file of each address and who holds it.
func reservations(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list address store: %w", err)
	}
	found := make(map[string]string, len(entries))
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err != nil {
			continue
		}
		path := filepath.Join(dir, e.Name())
		owner, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read reservation: %w", err)
		}
		found[path] = strings.TrimSpace(string(owner))
	}
	return found, nil
}

// status tells whether Pods can be connected now: the host must carry the gateway address.
func status(args *skel.CmdArgs) error {
	conf, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of the host: %w", err)
	}
	for _, a := range addrs {
		if a.IP.Equal(conf.Gateway.AsSlice()) {
			return nil
		}
	}
	return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("the host does not have the gateway address %s", conf.Gateway), "")
}
