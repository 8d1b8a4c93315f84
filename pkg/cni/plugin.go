package cni

import (
	"errors"
	"fmt"
	"io/fs"
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

// add connects a Pod. When a later step fails, the link is removed and the address given back at once: nobody has used it.
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
	hostLink := HostLink(args.ContainerID, args.IfName)
	defer func() {
		if err != nil {
			err = errors.Join(err, disconnect(conf, hostLink), release(conf, args.ContainerID, args.IfName))
		}
	}()
	made, err := connect(conf, podNS, hostLink, args.IfName, addr)
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
	return leave(conf, args.ContainerID, args.IfName)
}

// leave takes a Pod off the network. Its address comes last: it must not be given out again while the host has a route, rules or
// connections of the old Pod.
func leave(conf *Conf, containerID, ifName string) error {
	if err := disconnect(conf, HostLink(containerID, ifName)); err != nil {
		return err
	}
	addr, found, err := reserved(conf, containerID, ifName)
	if err != nil || !found {
		return err
	}
	if err := netdev.ForgetFlows(addr); err != nil {
		return err
	}
	return retire(conf, containerID, ifName)
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
	valid := make(map[string]bool, len(conf.ValidAttachments))
	for _, a := range conf.ValidAttachments {
		valid[a.ContainerID+disk.LineBreak+a.IfName] = true
	}
	files, err := reservations(filepath.Join(conf.DataDir, conf.Name))
	if err != nil {
		return err
	}
	var errs []error
	for _, owner := range files {
		if valid[owner] {
			continue
		}
		containerID, ifName, _ := strings.Cut(owner, disk.LineBreak)
		errs = append(errs, leave(conf, containerID, ifName))
	}
	return errors.Join(errs...)
}

// reservations reads the address store: the file of each address that somebody holds, and who.
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
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read reservation: %w", err)
		}
		if text := strings.TrimSpace(string(owner)); text != retired {
			found[path] = text
		}
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
