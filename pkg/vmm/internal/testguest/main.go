// Command testguest is a guest for the tests of pkg/vmm: it runs as /init of a microVM, answers on the
// agent port and tells what hardware it sees. The tests append it to the bundle's initrd, from which it
// takes the kernel modules.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/agentmux"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("testguest:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	fmt.Println("testguest: up")
	if strings.Contains(string(cmdline), "testguest.fail") {
		return fmt.Errorf("asked to fail")
	}
	if err := loadModules(); err != nil {
		return err
	}
	if strings.Contains(string(cmdline), "testguest.devices") {
		useDevices()
	}
	port, err := agentPort()
	if err != nil {
		return err
	}
	l, err := agentmux.Listen(context.Background(), port, agentmux.Guest{})
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go serve(c)
	}
}

func loadModules() error {
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		if filepath.Ext(name) != ".ko" {
			name += ".ko"
		}
		f, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

func agentPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if name := read(n); name == "agent" {
			dev := "/dev/" + filepath.Base(filepath.Dir(n))
			fd, err := unix.Open(dev, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open %s: %w", dev, err)
			}
			return os.NewFile(uintptr(fd), dev), nil
		}
	}
	return nil, fmt.Errorf("find agent port: not among %v", names)
}

// serve answers one question a line, the answer ended by an empty line.
func serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewScanner(c)
	for in.Scan() {
		for _, line := range answer(in.Text()) {
			fmt.Fprintln(c, line)
		}
		fmt.Fprintln(c)
	}
}

func answer(question string) []string {
	var lines []string
	word, rest, _ := strings.Cut(question, " ")
	switch word {
	case "disks": // serial, way on the PCI buses, whether it is read-only
		for _, d := range glob("/sys/block/vd*") {
			path, _ := filepath.EvalSymlinks(d)
			lines = append(lines, fmt.Sprintf("%s %s ro=%s", read(d+"/serial"), way(path), read(d+"/ro")))
		}
	case "nets":
		for _, d := range glob("/sys/class/net/*/device") {
			lines = append(lines, read(filepath.Dir(d)+"/address"))
		}
	case "pci":
		lines = append(lines, pci()...)
	case "cpus":
		for _, f := range glob("/sys/devices/system/cpu/cpu[" + rest + "]/online") { // the numbers of those to bring up
			_ = os.WriteFile(f, []byte("1"), 0)
		}
		lines = append(lines, read("/sys/devices/system/cpu/online"))
	case "memory":
		lines = append(lines, strings.Join(strings.Fields(strings.SplitN(read("/proc/meminfo"), "\n", 2)[0]), " "))
	case "share":
		lines = append(lines, share(rest))
	case "fill": // the scratch disk, from now on
		go fill()
		lines = append(lines, "filling")
	case "pour": // into the folder that "share" has mounted, from now on
		go pour()
		lines = append(lines, "pouring")
	case "scan": // the disk of that serial, over and over, from now on
		go scan(rest)
		lines = append(lines, "scanning")
	case "scanned": // MiB
		lines = append(lines, strconv.FormatInt(scanned.Load(), 10))
	case "filled": // MiB
		lines = append(lines, strconv.FormatInt(filled.Load(), 10))
	case "device": // made in the folder that "share" has mounted
		lines = append(lines, fmt.Sprint(unix.Mknod("/tmp/device", unix.S_IFCHR|0o666, 1<<8|3)))
	case "poweroff":
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "hello":
		lines = append(lines, "hello from "+runtime.Version())
	}
	sort.Strings(lines)
	return lines
}

// filled is how many MiB fill has written.
var filled atomic.Int64

// fill writes what cannot be left out, a MiB at a time, each to the disk before the next.
func fill() {
	for _, d := range glob("/sys/block/vd*") {
		if read(d+"/serial") != "scratch" {
			continue
		}
		f, err := os.OpenFile("/dev/"+filepath.Base(d), os.O_WRONLY|unix.O_SYNC, 0)
		if err != nil {
			fmt.Println("testguest:", err)
			return
		}
		block := bytes.Repeat([]byte("not zero"), 1<<17)
		for {
			if _, err := f.Write(block); err != nil {
				fmt.Println("testguest:", err)
				return
			}
			filled.Add(1)
		}
	}
}

// scanned is how many MiB all scans have read.
var scanned atomic.Int64

// scan reads a disk past the guest's cache, a MiB at a time, from its begin again at its end.
func scan(serial string) {
	block, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // aligned, as O_DIRECT asks
	if err != nil {
		fmt.Println("testguest:", err)
		return
	}
	for _, d := range glob("/sys/block/vd*") {
		if read(d+"/serial") != serial {
			continue
		}
		fd, err := unix.Open("/dev/"+filepath.Base(d), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		for at := int64(0); err == nil; {
			var n int
			if n, err = unix.Pread(fd, block, at); n < len(block) {
				at = 0
				continue
			}
			at += int64(n)
			scanned.Add(1)
		}
		fmt.Println("testguest:", err)
	}
}

// pour writes to a file of the shared folder, over and over, a MiB at a time.
func pour() {
	f, err := os.Create("/tmp/poured")
	if err != nil {
		fmt.Println("testguest:", err)
		return
	}
	block := bytes.Repeat([]byte("not zero"), 1<<17)
	for n := int64(0); ; n++ {
		if _, err := f.WriteAt(block, n%64<<20); err != nil {
			fmt.Println("testguest:", err)
			return
		}
		filled.Add(1)
	}
}

// share mounts a shared folder, answers with what its file "host" holds and writes a file "guest".
func share(tag string) string {
	const dir = "/tmp"
	if err := unix.Mount(tag, dir, "virtiofs", 0, ""); err != nil {
		return "mount: " + err.Error()
	}
	if err := os.WriteFile(dir+"/guest", []byte("from the guest"), 0o600); err != nil {
		return err.Error()
	}
	return read(dir + "/host")
}

// way is the slot of each bridge to a device and its own, such as 1e/10: behind the plug bridge. A function other than the first is named:
// 10/00.1.
func way(path string) string {
	var slots []string
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, "0000:") {
			slots = append(slots, strings.TrimSuffix(part[len("0000:00:"):], ".0"))
		}
	}
	return strings.Join(slots, "/")
}

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

func read(path string) string {
	raw, _ := os.ReadFile(path)
	return strings.TrimSpace(string(raw))
}
