package testbed

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	initName = "nodeless-testhost-init" // argv[0] of a host's init
	// NodeIP is the address of each test host; hosts do not see each other unless Link joins them.
	NodeIP = "10.99.0.2"
)

// Reexec turns this process into a test host's init when it was started as one, and then never returns.
func Reexec() {
	if os.Args[0] != initName {
		return
	}
	if err := hostInit(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "testhost init:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// hostInit is PID 1 of a host: it lays out the mounts and the network, says "ready" on fd 4, reaps orphans, and
// ends when fd 3, whose other end the maker holds, is closed.
func hostInit(root, hostname, dataSize string) error {
	if err := mounts(root, dataSize); err != nil {
		return err
	}
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if err := network(); err != nil {
		return err
	}
	go reap()
	ready := os.NewFile(4, "ready")
	if _, err := ready.WriteString("ready"); err != nil {
		return err
	}
	if err := ready.Close(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.NewFile(3, "alive"))
	return err
}

func mounts(root, dataSize string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{"/etc", "/var", "/usr/local"} {
		if err := overlay(root, dir); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := wholeProc(root); err != nil {
		return err
	}
	if err := bootID(root); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/log"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// The data dir must not lie on an overlay: the kernel refuses an overlay whose upper layer is one.
	data := "/var/lib/nodeless"
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if err := mountData(root, data, dataSize); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil { // Kata needs it
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// mountData gives the host its data dir: a folder of the machine, or a file system of the size.
func mountData(root, data, size string) error {
	if size != "0" {
		if err := unix.Mount("tmpfs", data, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size="+size); err != nil {
			return fmt.Errorf("mount %s: %w", data, err)
		}
		return nil
	}
	if err := unix.Mount(filepath.Join(root, "data"), data, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", data, err)
	}
	return nil
}

// wholeProc mounts a second /proc, of which nothing is hidden, as on a machine: without one the kernel lets no user namespace mount
// another, and virtiofsd would be root (pkg/contract/owners). The file of bootID hides a part of the first.
func wholeProc(root string) error {
	dir := filepath.Join(root, "proc")
	if err := os.MkdirAll(dir, 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", dir, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

// bootID makes each start of a host another boot, as the kernel does for a machine.
func bootID(root string) error {
	random, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	file := filepath.Join(root, "boot_id")
	if err := os.WriteFile(file, random, 0o444); err != nil {
		return err
	}
	if err := unix.Mount(file, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind boot_id: %w", err)
	}
	return nil
}

// overlay makes dir writable without consequences for the machine.
func overlay(root, dir string) error {
	upper, work := filepath.Join(root, "upper", dir), filepath.Join(root, "work", dir)
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, opts); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", dir, err)
	}
	return nil
}

// network gives the host a NIC with carrier (both ends of the veth are here) and a default route, as a server has.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	nic := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "uplink"}
	if err := netlink.LinkAdd(nic); err != nil {
		return fmt.Errorf("add eth0: %w", err)
	}
	peer, err := netlink.LinkByName("uplink")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(NodeIP + "/24")
	if err != nil {
		return err
	}
	for _, l := range []netlink.Link{lo, peer, nic} {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth0, addr); err != nil {
		return fmt.Errorf("add address: %w", err)
	}
	gateway := netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: addr.IP.To4()}
	gateway.Gw = append([]byte(nil), gateway.Gw...)
	gateway.Gw[3] = 1
	if err := netlink.RouteAdd(&gateway); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// reap waits for every orphan that lands on PID 1.
func reap() {
	for {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(-1, &status, 0, nil); errors.Is(err, syscall.ECHILD) {
			waitForChild()
		}
	}
}
