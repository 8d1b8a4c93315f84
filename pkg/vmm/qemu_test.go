package vmm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodeless/nodeless/pkg/contract"
)

// These tests boot real microVMs under emulation and speak to the VMM as Kata does.

func TestLifeOfAMicroVM(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	g := h.launch(t, "life")
	g.call("PUT", "vm.create", g.config(""), nil)
	var info infoReply
	g.call("GET", "vm.info", nil, &info)
	if info.State != "Created" {
		t.Errorf("state after create = %q", info.State)
	}
	g.addNet("02:00:00:00:00:01", openTap(t))
	begun := time.Now()
	g.call("PUT", "vm.boot", nil, nil)
	g.call("GET", "vm.info", nil, &info)
	if info.State != "Running" {
		t.Errorf("state after boot = %q", info.State)
	}
	if got := g.ask("hello"); len(got) != 1 {
		t.Errorf("hello = %q", got)
	}
	t.Logf("boot to answering agent: %v", time.Since(begun).Round(time.Millisecond))
	if got := g.ask("nets"); !has(got, "02:00:00:00:00:01") {
		t.Errorf("NICs = %q", got)
	}
	if got := g.ask("disks"); !has(got, "scratch 02 ro=0") {
		t.Errorf("disks = %q, want the scratch disk", got)
	}
	hotplugs(t, g)
	resizes(t, g)
	console, err := os.ReadFile(filepath.Join(h.cfg.LogDir, "life.console.log"))
	if err != nil || !strings.Contains(string(console), "testguest: up") {
		t.Errorf("console log = %q, %v", console, err)
	}
	t.Logf("VMM memory: %s", pss(g.pid))
	qemu := g.qemu()
	g.call("PUT", "vmm.shutdown", nil, nil)
	g.wantNothing(qemu)
	left, err := filepath.Glob(h.cfg.LogDir + "/life*")
	if err != nil || len(left) > 0 {
		t.Errorf("logs left after a clean end: %q, %v", left, err)
	}
}

func hotplugs(t *testing.T, g *guest) {
	t.Helper()
	image := filepath.Join(g.h.dir, "image")
	must(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	var first, second deviceInfo
	g.call("PUT", "vm.add-disk", object{"path": image, "readonly": true, "num_queues": 1, "queue_size": 1024}, &first)
	slot := first.Bdf[len("0000:00:"):len("0000:00:10")]
	eventually(t, "the disk appears read-only in its slot", func() bool { return has(g.ask("disks"), "disk1 1e/"+slot+" ro=1") })
	other := filepath.Join(g.h.dir, "other")
	must(t, os.WriteFile(other, make([]byte, 1<<20), 0o600))
	g.call("PUT", "vm.add-disk", object{"path": other, "direct": true}, &second)
	eventually(t, "the writable disk appears", func() bool {
		return slices.ContainsFunc(g.ask("disks"), func(d string) bool {
			return strings.HasPrefix(d, "disk2 1e/") && strings.HasSuffix(d, " ro=0")
		})
	})
	g.call("PUT", "vm.remove-device", object{"id": first.ID}, nil)
	if got := g.ask("disks"); has(got, "disk1 1e/"+slot+" ro=1") {
		t.Errorf("disks after remove-device = %q", got)
	}
	g.call("PUT", "vm.add-disk", object{"path": image, "readonly": true}, &first)
	if first.Bdf != "0000:00:"+slot+".0" {
		t.Errorf("the freed slot is not used again: %v", first)
	}
	for i := range 12 { // a Pod of many containers: each has a disk
		var info deviceInfo
		g.call("PUT", "vm.add-disk", object{"path": image, "readonly": true}, &info)
		eventually(t, "each disk appears", func() bool { return len(g.ask("disks")) == 3+i+1 })
	}
	g.call("PUT", "vm.remove-device", object{"id": first.ID}, nil)
	g.call("PUT", "vm.remove-device", object{"id": first.ID}, nil) // it has gone: that is what was asked for
	if err := g.try("PUT", "vm.remove-device", object{"id": "no-such-device"}, nil); err == nil {
		t.Error("a device that never was is said to be removed")
	}
	if err := g.try("PUT", "vm.add-disk", object{"path": "/no/such/file"}, nil); err == nil {
		t.Error("a missing disk was added")
	}
	g.addNet("02:00:00:00:00:02", openTap(t))
	eventually(t, "the second NIC appears", func() bool { return has(g.ask("nets"), "02:00:00:00:00:02") })
}

func resizes(t *testing.T, g *guest) {
	t.Helper()
	before := g.ask("memory")
	if got := g.ask("cpus none"); !has(got, "0") {
		t.Errorf("vCPUs in use after the boot: %q, want the first", got)
	}
	g.call("PUT", "vm.resize", object{"desired_ram": 512 * mib, "desired_vcpus": 2}, nil)
	if got := g.ask("cpus 1"); !has(got, "0-1") {
		t.Errorf("vCPUs in use: %q, want two", got)
	}
	if after := g.ask("memory"); after[0] <= before[0] {
		t.Errorf("memory after resize = %s kB, before %s kB", after[0], before[0])
	}
	var info infoReply
	g.call("GET", "vm.info", nil, &info)
	if !strings.Contains(string(info.Config["memory"]), `"size":536870912`) || info.MemoryActualSize != 512*mib {
		t.Errorf("info after resize: memory %s, actual %d", info.Config["memory"], info.MemoryActualSize)
	}
	grown := kilobytes(g.ask("memory"))
	g.call("PUT", "vm.resize", object{"desired_ram": 300 * mib, "desired_vcpus": 2}, nil)
	if after := kilobytes(g.ask("memory")); after != grown-212<<10 {
		t.Errorf("the guest has %d kB after it shrank by 212 MiB, before %d kB", after, grown)
	}
	g.call("PUT", "vm.resize", object{"desired_ram": 512 * mib, "desired_vcpus": 2}, nil) // it comes back without a new DIMM
	eventually(t, "the guest has its memory back", func() bool { return kilobytes(g.ask("memory")) == grown })
}

// kilobytes reads "MemTotal: 123 kB".
func kilobytes(memTotal []string) (n int) {
	_, _ = fmt.Sscanf(memTotal[0], "MemTotal: %d", &n)
	return n
}

func pss(pid int) string {
	raw, _ := os.ReadFile(filepath.Join("/proc", itoa(pid), "smaps_rollup"))
	var found []string
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "Rss:") || strings.HasPrefix(line, "Pss:") {
			found = append(found, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(found, ", ")
}

func TestNothingIsLeftWhen(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	tests := []struct {
		name string
		end  func(g *guest, qemu int)
		// A killed VMM cannot tidy up; what it leaves is for orphan collection.
		orphans bool
	}{
		{name: "the shim is killed", end: func(g *guest, _ int) { must(t, g.parent.Process.Kill()) }},
		{name: "QEMU is killed", end: func(_ *guest, qemu int) { must(t, syscall.Kill(qemu, syscall.SIGKILL)) }},
		{name: "the VMM is told to end", end: func(g *guest, _ int) { must(t, syscall.Kill(g.pid, syscall.SIGTERM)) }},
		{name: "the guest powers off", end: func(g *guest, _ int) { powerOff(g) }},
		{name: "the VMM is killed", end: func(g *guest, _ int) { must(t, syscall.Kill(g.pid, syscall.SIGKILL)) }, orphans: true},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := h.launch(t, "end"+itoa(i))
			g.call("PUT", "vm.create", g.config(""), nil)
			g.call("PUT", "vm.boot", nil, nil)
			qemu := g.qemu()
			g.wantRecord(qemu, false)
			tt.end(g, qemu)
			if tt.orphans {
				eventually(t, "QEMU ends with the VMM", func() bool { return !alive(qemu) && !alive(g.pid) })
				disks, err := filepath.Glob(filepath.Join(h.cfg.ScratchDir, "*"+contract.DiskSuffix))
				if err != nil || len(disks) != 1 {
					t.Fatalf("disks left over: %q, %v, want one", disks, err)
				}
				must(t, errors.Join(os.Remove(disks[0]), os.Remove(g.api()), os.Remove(g.agent())))
			}
			g.wantNothing(qemu)
			g.wantRecord(qemu, !tt.orphans)
		})
	}
}

// TestStoppedQEMU: a QEMU that stands still, as with a guest that spins, keeps neither Kata's calls waiting nor itself alive.
func TestStoppedQEMU(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	g := h.launch(t, "stopped")
	g.call("PUT", "vm.create", g.config(""), nil)
	g.call("PUT", "vm.boot", nil, nil)
	var disk deviceInfo
	g.call("PUT", "vm.add-disk", object{"path": h.initrd, "readonly": true}, &disk)
	qemu := g.qemu()
	must(t, syscall.Kill(qemu, syscall.SIGSTOP))
	for _, call := range []struct {
		method, name string
		body         any
		most         time.Duration
	}{
		{"GET", "vmm.ping", nil, time.Second},
		{"GET", "vm.info", nil, time.Second},
		{"PUT", "vm.add-disk", object{"path": h.initrd}, hotplugBudget + time.Second},
		{"PUT", "vm.remove-device", object{"id": disk.ID}, hotplugBudget + time.Second},
		{"PUT", "vmm.shutdown", nil, time.Second},
	} {
		begun := time.Now()
		err := g.try(call.method, call.name, call.body, nil)
		if took := time.Since(begun); took > call.most {
			t.Errorf("%s took %v, more than %v", call.name, took, call.most)
		}
		t.Logf("%s: %v after %v", call.name, err, time.Since(begun).Round(time.Millisecond))
	}
	begun := time.Now()
	g.wantNothing(qemu)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the microVM ended after %v, want within 5 s", took)
	}
}

func powerOff(g *guest) {
	c, err := net.Dial("unix", g.agent())
	must(g.t, err)
	g.t.Cleanup(func() { c.Close() })
	_, err = c.Write([]byte("CONNECT 1024\npoweroff\n"))
	must(g.t, err)
}

func TestFailedBootIsReported(t *testing.T) {
	h := needHost(t)
	tests := []struct {
		name, cmdline string
		change        func(object)
		want          []string
	}{
		{name: "the guest gives up", cmdline: "testguest.fail", change: func(object) {}, want: []string{"boot VM: qemu ended", "asked to fail"}},
		{name: "the kernel is no kernel", change: func(c object) { c["payload"].(object)["kernel"] = h.initrd }, want: []string{"boot VM: qemu ended", "qemu"}},
		{name: "the guest panics", cmdline: "rdinit=/none panic=0", change: func(object) {}, want: []string{"boot VM: qemu ended", "Kernel panic"}},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := h.launch(t, "fail"+itoa(i))
			c := g.config(tt.cmdline)
			tt.change(c)
			g.call("PUT", "vm.create", c, nil)
			err := g.try("PUT", "vm.boot", nil, nil)
			if err == nil {
				t.Fatal("boot succeeded")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("boot = %v, want it to contain %q", err, w)
				}
			}
			t.Log(err)
			if got := handshake(t, g); got != "OK 1024\n" {
				t.Errorf("agent handshake after a failed boot = %q, want one that ends Kata's redialling", got)
			}
			g.call("PUT", "vmm.shutdown", nil, nil)
			g.wantNothing(g.pid)
		})
	}
}

func handshake(t *testing.T, g *guest) string {
	t.Helper()
	c, err := net.Dial("unix", g.agent())
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("CONNECT 1024\n"))
	must(t, err)
	buf := make([]byte, 64)
	n, _ := c.Read(buf)
	return string(buf[:n])
}

func TestSharedFolder(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	g := h.launch(t, "share")
	folder := filepath.Join(h.dir, "folder")
	must(t, os.Mkdir(folder, 0o700))
	must(t, os.WriteFile(folder+"/host", []byte("from the host"), 0o600))
	socket := filepath.Join(g.dir, "virtiofsd.sock")
	daemon := startVirtiofsd(t, h, socket, folder)
	c := g.config("")
	c["fs"] = []object{{"tag": "kataShared", "socket": socket, "num_queues": 1, "queue_size": 1024, "pci_segment": 1}}
	g.call("PUT", "vm.create", c, nil)
	g.call("PUT", "vm.boot", nil, nil)
	if got := g.ask("share kataShared"); !has(got, "from the host") {
		t.Errorf("the guest reads %q", got)
	}
	if got, err := os.ReadFile(folder + "/guest"); err != nil || string(got) != "from the guest" {
		t.Errorf("the host reads %q, %v", got, err)
	}
	before := g.ask("memory")
	g.call("PUT", "vm.resize", object{"desired_ram": 512 * mib}, nil) // virtiofsd must map the new memory too
	if after := g.ask("memory"); after[0] <= before[0] {
		t.Errorf("memory after resize = %s kB, before %s kB", after[0], before[0])
	}
	qemu := g.qemu()
	g.call("PUT", "vmm.shutdown", nil, nil)
	g.wantNothing(qemu)
	eventually(t, "virtiofsd ends with QEMU", func() bool { return !alive(daemon) })
}

// startVirtiofsd starts the daemon as Kata does: it inherits the listening socket as descriptor 3.
func startVirtiofsd(t *testing.T, h *host, socket, folder string) int {
	t.Helper()
	argv, f := virtiofsdCommand(t, h, socket, folder)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "NODELESS_BUNDLE="+h.cfg.Bundle)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: contract.VirtiofsdNamespaces} // as the shim starts it
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// virtiofsdCommand is the daemon's command line, and the socket that it inherits.
func virtiofsdCommand(t *testing.T, h *host, socket, folder string) (argv []string, listening *os.File) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return []string{filepath.Join(filepath.Dir(h.prog), "nodeless-virtiofsd"), "--syslog", "--cache=auto", "--shared-dir=" + folder, "--fd=3",
		"--thread-pool-size=1", "--announce-submounts"}, f
}
