package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/netdev"
)

// namespaces is where runtimes keep network namespaces by name.
const namespaces = "/run/netns"

// linkFile holds what a Pod's link may send. It is there before the rules that follow from it, and goes after them.
func linkFile(dataDir, hostLink string) string {
	return filepath.Join(dataDir, "links", hostLink+".json")
}

// lockLinks keeps others from changing the files of links, and the rules that follow from them.
func lockLinks(dataDir string) (unlock func(), err error) {
	path := filepath.Join(dataDir, "links", "lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of links: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of links: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { f.Close() }, nil //nolint:errcheck // nothing was written to it
}

// permit lets a new link's Pod send.
func permit(conf *Conf, l netdev.Link) error {
	unlock, err := lockLinks(conf.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := free(conf.DataDir, l); err != nil {
		return err
	}
	if err := writeLink(conf.DataDir, l); err != nil {
		return err
	}
	if err := netdev.Permit(conf.host(), l); err != nil || len(l.Ports) == 0 {
		return err
	}
	return netdev.ForgetPorts(l.Ports)
}

// free tells whether nobody has the ports of the host that a link asks for: no other Pod's link, and no program of the host.
func free(dataDir string, l netdev.Link) error {
	if len(l.Ports) == 0 {
		return nil
	}
	there, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	others, err := known(dataDir, there)
	if err != nil {
		return err
	}
	for _, p := range l.Ports {
		for _, o := range others {
			if o.Name != l.Name && slices.ContainsFunc(o.Ports, p.Clashes) {
				return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("port %s of the host is another Pod's, with address %s", p, o.Addr), "it is free when that Pod has gone")
			}
		}
		if listening(p) {
			return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("port %s of the host is taken by a program of the host", p), "choose another hostPort")
		}
	}
	return nil
}

// listening tells whether a program of the host has a port, by trying to have it.
func listening(p netdev.HostPort) bool {
	host := "0.0.0.0"
	if p.HostIP.IsValid() {
		host = p.HostIP.String()
	}
	at := net.JoinHostPort(host, strconv.Itoa(p.Port))
	var held io.Closer
	var err error
	switch p.Protocol {
	case "tcp":
		held, err = net.Listen("tcp4", at)
	case "udp":
		held, err = net.ListenPacket("udp4", at)
	default:
		return false // Go has no word for the others
	}
	if err != nil {
		return errors.Is(err, unix.EADDRINUSE)
	}
	return held.Close() != nil
}

// forbid undoes permit. What was never permitted is no fault.
func forbid(conf *Conf, hostLink string) error {
	unlock, err := lockLinks(conf.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := readLink(linkFile(conf.DataDir, hostLink))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = netdev.Forbid(conf.host(), l)
	}
	if err != nil {
		return err
	}
	return removeFile(linkFile(conf.DataDir, hostLink))
}

// WithLinks calls f with all Pods' links that are there now, while none comes or goes. Files of links that are gone are removed; links
// without a file, of Pods from before there were such files, get one.
func WithLinks(dataDir string, f func([]netdev.Link) error) error {
	unlock, err := lockLinks(dataDir)
	if err != nil {
		return err
	}
	defer unlock()
	there, err := netdev.PodLinks()
	if err != nil {
		return err
	}
	links, err := known(dataDir, there)
	if err != nil {
		return err
	}
	strangers := slices.DeleteFunc(there, func(name string) bool {
		return slices.ContainsFunc(links, func(l netdev.Link) bool { return l.Name == name })
	})
	if len(strangers) > 0 {
		adopted, err := adopt(dataDir, strangers)
		if err != nil {
			return err
		}
		links = append(links, adopted...)
	}
	return f(links)
}

// known reads the files of links. A file that cannot be read is as good as none: its link is looked at again.
func known(dataDir string, there []string) ([]netdev.Link, error) {
	files, err := filepath.Glob(linkFile(dataDir, "*"))
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var links []netdev.Link
	for _, path := range files {
		l, err := readLink(path)
		if err != nil || !slices.Contains(there, l.Name) || linkFile(dataDir, l.Name) != path {
			if err := removeFile(path); err != nil {
				return nil, err
			}
			continue
		}
		links = append(links, l)
	}
	return links, nil
}

// adopt finds what links without a file belong to: the address store knows whose they are, the Pod's namespace the rest.
func adopt(dataDir string, strangers []string) ([]netdev.Link, error) {
	owners, err := reservations(filepath.Join(dataDir, Type))
	if err != nil {
		return nil, err
	}
	var links []netdev.Link
	for path, owner := range owners {
		id, ifName, _ := strings.Cut(owner, disk.LineBreak)
		l := netdev.Link{Name: HostLink(id, ifName)}
		if !slices.Contains(strangers, l.Name) {
			continue
		}
		if l.Addr, err = netip.ParseAddr(filepath.Base(path)); err != nil {
			continue
		}
		if l.MAC = hardwareAddress(l.Addr, ifName); l.MAC == "" {
			continue // its namespace is going, and the link with it
		}
		if err := writeLink(dataDir, l); err != nil {
			return nil, err
		}
		links = append(links, l)
	}
	return links, nil
}

// hardwareAddress looks in all namespaces for the link that has the address.
func hardwareAddress(addr netip.Addr, ifName string) (mac string) {
	paths, err := filepath.Glob(filepath.Join(namespaces, "*"))
	if err != nil {
		return ""
	}
	for _, path := range paths {
		_ = ns.WithNetNSPath(path, func(ns.NetNS) error { // one that is going is not the one
			dev, err := netlink.LinkByName(ifName)
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(dev, netlink.FAMILY_V4)
			for _, a := range addrs {
				if a.IP.Equal(addr.AsSlice()) {
					mac = dev.Attrs().HardwareAddr.String()
				}
			}
			return err
		})
		if mac != "" {
			return mac
		}
	}
	return ""
}

func readLink(path string) (netdev.Link, error) {
	var l netdev.Link
	raw, err := os.ReadFile(path)
	if err != nil {
		return l, fmt.Errorf("read link: %w", err)
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fmt.Errorf("read link %s: %w", path, err)
	}
	return l, nil
}

func writeLink(dataDir string, l netdev.Link) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write link %s: %w", l.Name, err)
	}
	return atomicfile.Write(linkFile(dataDir, l.Name), raw, 0o600)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
