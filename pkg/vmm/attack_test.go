package vmm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/tests/attack"
)

// smallDisk gives the host's VMMs a file system of so many MiB for their disks. It lies in a mount namespace of its own; path is how
// it is reached from here.
func (h *host) smallDisk(t *testing.T, mebibytes int) (path string) {
	t.Helper()
	must(t, os.MkdirAll(h.cfg.ScratchDir, 0o700))
	keep := exec.Command("sh", "-c", `mount -t tmpfs -o size=$1m none "$0" && echo ready && exec cat`, h.cfg.ScratchDir, strconv.Itoa(mebibytes))
	keep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	_, err := keep.StdinPipe() // it ends with this process; a death signal comes when a thread ends, as that of openTap does
	must(t, err)
	out, err := keep.StdoutPipe()
	must(t, err)
	if err := keep.Start(); err != nil {
		t.Skipf("skipped: no mount namespace can be made here: %v", err)
	}
	t.Cleanup(func() {
		_ = keep.Process.Kill()
		_ = keep.Wait()
	})
	word := make([]byte, len("ready"))
	if _, err := out.Read(word); err != nil {
		t.Skipf("skipped: no file system can be mounted here: %v", err)
	}
	pid := strconv.Itoa(keep.Process.Pid)
	h.enter = func(dir string) []string { return []string{"nsenter", "-t", pid, "-m", "--wd=" + dir, "--"} }
	return "/proc/" + pid + "/root" + h.cfg.ScratchDir
}

func (g *guest) filled() int { return g.number("filled") }

// number asks for a number.
func (g *guest) number(question string) int {
	g.t.Helper()
	n, err := strconv.Atoi(g.ask(question)[0])
	must(g.t, err)
	return n
}

func free(t *testing.T, path string) int64 {
	t.Helper()
	r, err := roomIn(path)
	must(t, err)
	return r.free
}

// TestAttackDiskOfAllGuests: a guest writes to its disk without end. The host's file system keeps its reserve, the guest waits and is
// told of, its neighbour writes on, and when there is room again so does the guest.
func TestAttackDiskOfAllGuests(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	h.cfg.Disk = contract.Disk{ReservePercent: 40, BytesPerSecond: 64 * mib, OpsPerSecond: 30000}
	h.configure(t)
	disk := h.smallDisk(t, 640)
	const reserve = 256 * mib
	filler := filepath.Join(disk, "filler")
	must(t, os.WriteFile(filler, make([]byte, 64*mib), 0o600))
	attack.Try(t, "T7", "a guest fills the file system of all disks", func(t *testing.T) attack.Outcome {
		greedy, modest := h.launch(t, "greedy"), h.launch(t, "modest")
		for _, g := range []*guest{greedy, modest} {
			g.call("PUT", "vm.create", g.config(""), nil)
			g.call("PUT", "vm.boot", nil, nil)
		}
		greedy.ask("fill")
		eventually(t, "the guest is held", func() bool { said, err := ReadHeld(greedy.dir); return err == nil && said.Held })
		said, err := ReadHeld(greedy.dir)
		must(t, err)
		if said.Name == "" || said.Namespace == "" || said.Times != 1 {
			t.Errorf("what is said of it: %+v", said)
		}
		before := greedy.filled()
		for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			if left := free(t, disk); left < reserve/2 {
				log, _ := os.ReadFile(filepath.Join(h.cfg.LogDir, "greedy.log"))
				t.Fatalf("%d MiB are left of the host's disk, it was held at %d, has written %d and now %d\n%s", left/mib, said.Free/mib, before, greedy.filled(), log)
			}
		}
		if more := greedy.filled() - before; more > 4 {
			t.Errorf("it has written %d MiB after it was held", more)
		}
		if got := modest.ask("hello"); len(got) != 1 {
			t.Errorf("the neighbour says %q", got)
		}
		if _, err := ReadHeld(modest.dir); err == nil {
			t.Error("the neighbour is held as well")
		}
		must(t, os.Remove(filler))
		eventually(t, "the guest goes on when there is room", func() bool { return greedy.filled() > before+16 })
		t.Logf("held after %d MiB with %d MiB left; %d MiB in the end", before, said.Free/mib, greedy.filled())
		if t.Failed() {
			return attack.Succeeded
		}
		return attack.Contained
	})
}

// TestAttackDiskWithoutReserve: where no reserve is kept, a guest that finds no room stands still, and goes on when there is some.
func TestAttackDiskWithoutReserve(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	disk := h.smallDisk(t, 256)
	filler := filepath.Join(disk, "filler")
	must(t, os.WriteFile(filler, make([]byte, 128*mib), 0o600))
	attack.Try(t, "T7", "a guest takes the last block of the file system", func(t *testing.T) attack.Outcome {
		g := h.launch(t, "last")
		g.call("PUT", "vm.create", g.config(""), nil)
		g.call("PUT", "vm.boot", nil, nil)
		g.ask("fill")
		eventually(t, "the guest is held", func() bool { said, err := ReadHeld(g.dir); return err == nil && said.Held })
		for range 3 { // its agent answers: Kata does not take it for dead
			g.ask("hello")
			time.Sleep(time.Second)
		}
		must(t, os.Remove(filler))
		eventually(t, "the guest goes on when there is room", func() bool { said, err := ReadHeld(g.dir); return err == nil && (!said.Held || said.Times > 1) })
		if n := g.filled(); n < 64 {
			t.Errorf("it has written %d MiB, want as much as there was room for", n)
		}
		return attack.Contained
	})
}

// TestAttackDiskBandwidth: a guest that writes or reads as fast as it can gets no more than a Pod may have, of all its disks together.
func TestAttackDiskBandwidth(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	const most = 8
	h.cfg.Disk = contract.Disk{BytesPerSecond: most * mib}
	h.configure(t)
	g := h.launch(t, "fast")
	g.call("PUT", "vm.create", g.config(""), nil)
	g.call("PUT", "vm.boot", nil, nil)
	try := func(t *testing.T, done string) attack.Outcome {
		eventually(t, "it goes on", func() bool { return g.number(done) > 0 })
		before, began := g.number(done), time.Now()
		time.Sleep(4 * time.Second)
		pace := float64(g.number(done)-before) / time.Since(began).Seconds()
		t.Logf("%.1f MiB a second of %d", pace, most)
		if pace > 1.5*most {
			return attack.Succeeded
		}
		return attack.Contained
	}
	attack.Try(t, "T13", "a guest writes as fast as it can", func(t *testing.T) attack.Outcome {
		g.ask("fill")
		return try(t, "filled")
	})
	attack.Try(t, "T13", "a guest reads from several disks that were plugged in as fast as it can", func(t *testing.T) attack.Outcome {
		image := filepath.Join(h.dir, "image")
		must(t, os.WriteFile(image, make([]byte, 16*mib), 0o600))
		for _, c := range []object{{"path": image, "readonly": true}, {"path": image, "readonly": true, "direct": true}} {
			var info deviceInfo
			g.call("PUT", "vm.add-disk", c, &info)
			eventually(t, "the disk appears", func() bool { return strings.Contains(fmt.Sprint(g.ask("disks")), info.ID+" ") })
			g.ask("scan " + info.ID)
		}
		return try(t, "scanned")
	})
}

// TestAttackVolumeBandwidth: a guest that writes to a volume as fast as it can gets no more than a Pod may do to a disk.
func TestAttackVolumeBandwidth(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	const most = 64
	h.cfg.Disk = contract.Disk{BytesPerSecond: most * mib}
	h.configure(t)
	folder, socket := filepath.Join(h.dir, "pours", "shared"), filepath.Join(h.dir, "virtiofsd.sock")
	must(t, os.MkdirAll(folder, 0o700))
	h.beside, h.besideFile = virtiofsdCommand(t, h, socket, folder)
	g := h.launch(t, "pours")
	c := g.config("")
	c["fs"] = []object{{"tag": "kataShared", "socket": socket, "num_queues": 1, "queue_size": 1024, "pci_segment": 1}}
	g.call("PUT", "vm.create", c, nil)
	g.call("PUT", "vm.boot", nil, nil)
	g.ask("share kataShared")
	attack.Try(t, "T13", "a guest writes to a volume as fast as it can", func(t *testing.T) attack.Outcome {
		g.ask("pour")
		eventually(t, "it has to wait", func() bool { return slices.ContainsFunc(childrenOf(g.parent.Process.Pid), standsStill) })
		before, began := g.filled(), time.Now() // what it did at once, and until it was looked at first
		eventually(t, "it goes on", func() bool { return time.Since(began) > 4*time.Second && g.filled() > before })
		pace := float64(g.filled()-before) / time.Since(began).Seconds()
		t.Logf("%d MiB at first, then %.1f MiB a second of %d", before, pace, most)
		if pace > 1.5*most {
			return attack.Succeeded
		}
		return attack.Contained
	})
	qemu := g.qemu()
	g.call("PUT", "vmm.shutdown", nil, nil)
	g.wantNothing(qemu)
}

// TestBoundedDiskIsPluggedAndUnplugged: QEMU takes a disk that is added later into the group of the others, and lets it go.
func TestBoundedDiskIsPluggedAndUnplugged(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	h.cfg.Disk = contract.Disk{BytesPerSecond: 64 * mib, OpsPerSecond: 1000}
	h.configure(t)
	g := h.launch(t, "bounded")
	g.call("PUT", "vm.create", g.config(""), nil)
	g.call("PUT", "vm.boot", nil, nil)
	image := filepath.Join(h.dir, "image")
	must(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	for _, c := range []object{{"path": image, "readonly": true}, {"path": image, "direct": true}} {
		var info deviceInfo
		g.call("PUT", "vm.add-disk", c, &info)
		eventually(t, "the disk appears", func() bool { return strings.Contains(fmt.Sprint(g.ask("disks")), info.ID+" ") })
		g.call("PUT", "vm.remove-device", object{"id": info.ID}, nil)
	}
}

// TestAttackRightsOfQEMU: who breaks out of the emulated hardware, or speaks to the daemon of its volumes as it likes, finds a process
// without capabilities, dumps and new privileges; a device of the host's cannot be made in a volume.
func TestAttackRightsOfQEMU(t *testing.T) {
	t.Parallel()
	h := needHost(t)
	g := h.launch(t, "rights")
	folder := filepath.Join(h.dir, "folder")
	must(t, os.Mkdir(folder, 0o700))
	socket := filepath.Join(g.dir, "virtiofsd.sock")
	daemon := startVirtiofsd(t, h, socket, folder)
	c := g.config("")
	c["fs"] = []object{{"tag": "kataShared", "socket": socket, "num_queues": 1, "queue_size": 1024, "pci_segment": 1}}
	g.call("PUT", "vm.create", c, nil)
	g.call("PUT", "vm.boot", nil, nil)
	attack.Try(t, "T5", "a guest breaks out into QEMU and uses its rights", func(t *testing.T) attack.Outcome {
		wantJailed(t, g)
		wantNoDumps(t, g.qemu())
		wantNoDumps(t, g.pid)
		const kept = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_KILL | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_SYS_RESOURCE
		few := fmt.Sprintf("%016x", kept&capabilities(t)) // who goes on into nodeless-vmm finds these
		wantStatus(t, g.pid, map[string]string{"CapEff": few, "CapPrm": few, "CapBnd": few, "CapInh": fmt.Sprintf("%016x", 0), "NoNewPrivs": "1", "Seccomp": "2"})
		return attack.Contained
	})
	attack.Try(t, "T5", "a device of the host's is made in a volume", func(t *testing.T) attack.Outcome {
		g.ask("share kataShared")
		if got := g.ask("device"); !has(got, "operation not permitted") {
			t.Errorf("mknod = %q", got)
		}
		for _, pid := range append(childrenOf(daemon), daemon) {
			wantStatus(t, pid, map[string]string{"NoNewPrivs": "1"})
			wantNoDumps(t, pid)
		}
		return attack.Refused
	})
}

// capabilities are those that this process has: a root of a container may lack some.
func capabilities(t *testing.T) uint64 {
	t.Helper()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	must(t, unix.Capget(&head, &sets[0]))
	return uint64(sets[1].Effective)<<32 | uint64(sets[0].Effective)
}

// wantStatus compares fields of a process' status.
func wantStatus(t *testing.T, pid int, want map[string]string) {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		if w, ok := want[name]; ok && strings.TrimSpace(value) != w {
			t.Errorf("%s of process %d is %s, want %s", name, pid, strings.TrimSpace(value), w)
		}
	}
}

func wantNoDumps(t *testing.T, pid int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	must(t, err)
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok && strings.Join(strings.Fields(rest), " ") != "0 0 bytes" {
			t.Errorf("core files of process %d: %s", pid, strings.TrimSpace(rest))
		}
	}
}
