package robustness_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nodeless/nodeless/tests/testbed"
	"github.com/nodeless/nodeless/tests/testcluster"
)

// Bounds on what a guest may cost the host, whatever it does.
const (
	mostVMM    = 64 << 20  // resident memory of its nodeless-vmm
	mostShim   = 128 << 20 // and of its shim: ttrpc reads messages of up to 4 MiB
	mostGrowth = 96 << 20  // of the server, and of containerd
	mostLogs   = 2 << 20   // its files below /run/nodeless/vmm: console and nodeless-vmm, two of 256 KiB each
	mostSaid   = 512 << 10 // what the server's log grows by
	// answered is how long a neighbour's exec may take meanwhile, on a machine with two cores and no KVM.
	answered = 20 * time.Second
)

// behaviour is what a bad guest does and what becomes of its Pod.
type behaviour struct {
	name string
	fate string
	is   func(*patient, *corev1.Pod) bool
	in   time.Duration
}

func unsandboxed(p *patient, _ *corev1.Pod) bool { return p.told("FailedCreatePodSandBox") }
func over(p *patient, pod *corev1.Pod) bool {
	return failed(pod) && !p.told("FailedCreatePodSandBox")
}

// unharmed says that the Pod runs in that very guest, not in a good one after it.
func unharmed(p *patient, pod *corev1.Pod) bool {
	return alive(pod) && !p.told("FailedCreatePodSandBox")
}

// behaviours are those of tests/robustness/badguest. Kata waits 120 s for an agent to come up and for a container.
var behaviours = []behaviour{
	{"pings", "its sandbox is refused", unsandboxed, time.Minute},
	{"streams", "its sandbox is refused", unsandboxed, time.Minute},
	{"console", "it runs", unharmed, time.Minute},
	{"oom", "it runs", unharmed, time.Minute},
	{"empty", "it runs", unharmed, time.Minute},
	{"figures", "it runs", unharmed, time.Minute},
	{"long", "it has failed", over, time.Minute},
	{"exits", "it has failed", over, time.Minute},
	{"spin", "it has failed", over, hangNoticed},
	{"stuck", "its sandbox is refused", unsandboxed, 3 * time.Minute},
	{"mute", "its sandbox is refused", unsandboxed, 3 * time.Minute},
	{"noise", "its sandbox is refused", unsandboxed, 3 * time.Minute},
}

// TestFaultPodBadGuest: a guest that floods, lies or hangs costs its host little, its neighbours nothing, is found out
// where it matters, and can be deleted.
func TestFaultPodBadGuest(t *testing.T) {
	s := newSpace(t, sharedCluster(t), time.Hour)
	r := dice(t)
	all := slices.Clone(behaviours)
	if testing.Short() {
		all = all[:4] // the quick ones
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:1]
	}
	program := compile(t, "./badguest")
	neighbour := s.admit("neighbour", nurse("neighbour", "Always", false))
	neighbour.within(replaced, "runs", alive)
	for _, b := range all {
		t.Run(b.name, func(t *testing.T) { b.run(s.with(t), program) })
	}
	neighbour.discharge(deleted)
	s.clean()
}

func (b behaviour) run(s *space, program []byte) {
	before := s.cost(nil)
	bad, restore := s.infect(program, b.name)
	p := s.admit("bad-"+b.name, nurse("bad-"+b.name, "Never", false))
	p.boots(bad)
	restore() // the next microVM, and a second one of this Pod, boots as it should

	took := p.within(b.in, b.fate, func(pod *corev1.Pod) bool { return b.is(p, pod) })
	s.T.Logf("%s after %v", b.fate, took.Round(time.Second))
	began := time.Now()
	for round := 0; round < 3; round++ {
		s.bearable(before, s.cost(p))
		ask, cancel := context.WithTimeout(s.Ctx, answered)
		q := *s
		q.Ctx = ask
		if out, code := q.Exec("neighbour", "echo", "fine"); code != 0 || strings.TrimSpace(out) != "fine" {
			s.T.Errorf("the neighbour answers with code %d: %q", code, out)
		}
		cancel()
		pause(s.Ctx, 3*time.Second)
	}
	s.T.Logf("watched for %v; cost: %+v", time.Since(began).Round(time.Second), s.cost(p))
	s.T.Logf("deleted after %v", p.discharge(deleted).Round(time.Second))
}

// boots waits until a QEMU of the Pod has mapped that initrd: before, it would take the one that is in its place then.
func (p *patient) boots(initrd string) {
	p.T.Helper()
	info, err := os.Stat(initrd)
	if err != nil {
		p.T.Fatal(err)
	}
	inode := fmt.Sprintf(" %d ", info.Sys().(*syscall.Stat_t).Ino)
	for end := time.Now().Add(time.Minute); p.Ctx.Err() == nil && time.Now().Before(end); pause(p.Ctx, 3*time.Millisecond) {
		for _, pid := range p.own(qemu) {
			if maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid)); bytes.Contains(maps, []byte(inode)) {
				return
			}
		}
	}
	p.T.Fatalf("Pod %s: no QEMU has mapped %s after a minute", p.pod, initrd)
}

// infect makes the next microVMs boot the program from a bad initrd, and returns it and how to end that.
func (s *space) infect(program []byte, behaviour string) (bad string, restore func()) {
	s.T.Helper()
	initrd := filepath.Join(filepath.Dir(s.Host.Program), "..", "guest", "initrd")
	base, err := os.ReadFile(initrd)
	if err != nil {
		s.T.Fatal(err)
	}
	bad = filepath.Join(s.T.TempDir(), "initrd")
	more := cpio(map[string][]byte{"init": program, "behaviour": []byte(behaviour)})
	if err := os.WriteFile(bad, append(base, more...), 0o644); err != nil {
		s.T.Fatal(err)
	}
	if _, err := s.Host.Exec(s.Ctx, "mount", "--bind", bad, initrd); err != nil {
		s.T.Fatal(err)
	}
	done := false
	restore = func() {
		if done {
			return
		}
		done = true
		if _, err := s.Host.Exec(context.Background(), "umount", "--lazy", initrd); err != nil {
			s.T.Error(err)
		}
	}
	s.T.Cleanup(restore)
	return bad, restore
}

// compile builds a static program of this repository.
func compile(t *testing.T, pkg string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cpio is an archive of programs; the kernel unpacks several archives one over the other.
func cpio(files map[string][]byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, (4-b.Len()%4)%4))
		b.Write(content)
		b.Write(make([]byte, (4-b.Len()%4)%4))
	}
	for name, content := range files {
		entry(name, 0o100755, content)
	}
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// cost is what a Pod takes of the host.
type cost struct {
	VMM, Shim, Server, Containerd int64 // resident memory
	Logs, Said                    int64 // bytes of log files: the microVMs', the server's
}

func (s *space) cost(p *patient) cost {
	s.T.Helper()
	var c cost
	if pid, err := s.Server.Pid(); err == nil {
		c.Server = rss(pid)
	}
	for _, pid := range s.Processes(s.T, " containerd --config ") {
		c.Containerd = rss(pid)
	}
	if p != nil {
		for _, pid := range p.own(vmm) {
			c.VMM = max(c.VMM, rss(pid))
		}
		for _, pid := range p.own(shim) {
			c.Shim = max(c.Shim, rss(pid))
		}
	}
	_ = filepath.WalkDir(s.Host.Path("/run/nodeless/vmm"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				c.Logs += info.Size()
			}
		}
		return nil
	})
	if info, err := os.Stat(s.Server.Log); err == nil {
		c.Said = info.Size()
	}
	return c
}

func rss(pid int) int64 {
	u, err := testbed.UsageOf(pid)
	if err != nil {
		return 0 // it has ended
	}
	return u.RSS
}

// bearable compares costs with their bounds.
func (s *space) bearable(before, now cost) {
	s.T.Helper()
	for _, c := range []struct {
		what      string
		got, most int64
	}{
		{"memory of nodeless-vmm", now.VMM, mostVMM},
		{"memory of the shim", now.Shim, mostShim},
		{"growth of the server", now.Server - before.Server, mostGrowth},
		{"growth of containerd", now.Containerd - before.Containerd, mostGrowth},
		{"logs of the microVM", now.Logs - before.Logs, mostLogs},
		{"log of the server", now.Said - before.Said, mostSaid},
	} {
		if c.got > c.most {
			s.T.Errorf("%s: %d KiB, more than %d KiB", c.what, c.got>>10, c.most>>10)
		}
	}
}

// TestFaultPodHang: QEMU stands still, as a guest does whose kernel spins with interrupts off. The Pod is found out and replaced. One
// that is deleted goes. Its neighbour notices nothing.
func TestFaultPodHang(t *testing.T) {
	full(t)
	s := newSpace(t, sharedCluster(t), 20*time.Minute)
	neighbour := s.admit("neighbour", nurse("neighbour", "Always", false))
	neighbour.within(replaced, "runs", alive)
	for _, victim := range []string{qemu, vmm, virtiofsd} {
		t.Run(victim, func(t *testing.T) { hang(s.with(t), victim) })
	}
	neighbour.discharge(deleted)
	s.clean()
}

func hang(s *space, victim string) {
	stays := s.admit("stays", nurse("stays", "Always", false))
	stays.within(replaced, "runs", alive)
	stays.signal(victim, syscall.SIGSTOP)
	began := time.Now()
	goes := s.admit("goes", nurse("goes", "Always", false))
	goes.within(replaced, "runs", alive)
	goes.signal(victim, syscall.SIGSTOP)

	s.T.Logf("deleted after %v", goes.discharge(deleted).Round(time.Second))
	if got := s.MustExec("neighbour", "echo", "fine"); got != "fine" {
		s.T.Errorf("the neighbour says %q", got)
	}
	if victim != virtiofsd { // only who touches a volume notices that one
		stays.within(hangNoticed-time.Since(began)+replaced, "was restarted", restarted)
		s.T.Logf("restarted after %v", time.Since(began).Round(time.Second))
		if !stays.told("SandboxChanged", "BackOff", "Unhealthy") {
			s.T.Error("no event tells what happened to the Pod")
		}
	}
	stays.discharge(deleted)
}

// TestFaultPodDiskFull: a Pod fills its writable disk. It gets ENOSPC, works on, and is deleted like any other; its neighbour
// writes as before, and the host's disk was never asked for the space. An emptyDir lies on the host and has its own limit.
func TestFaultPodDiskFull(t *testing.T) {
	s := newSpace(t, sharedCluster(t), 10*time.Minute)
	greedy := s.admit("greedy", nurse("greedy", "Always", false))
	greedy.within(replaced, "runs", alive)
	neighbour := s.admit("neighbour", nurse("neighbour", "Always", false))
	neighbour.within(replaced, "runs", alive)

	// Space is reserved in the guest alone; what little is left is written in full.
	s.MustExec("greedy", "sh", "-c", `n=20000; i=0; while [ $n -gt 8 ]; do fallocate -l ${n}M /fill-$i 2>/dev/null && i=$((i+1)) || n=$((n/2)); done`)
	if out, code := s.Exec("greedy", "dd", "if=/dev/urandom", "of=/more", "bs=1M", "count=64"); code == 0 || !strings.Contains(out, "No space left on device") {
		t.Errorf("64 MB more: code %d, %s", code, out)
	}
	if got := s.MustExec("greedy", "echo", "still here"); got != "still here" {
		t.Errorf("the full Pod says %q", got)
	}
	if out, code := s.Exec("neighbour", "dd", "if=/dev/urandom", "of=/more", "bs=1M", "count=16"); code != 0 {
		t.Errorf("the neighbour cannot write: code %d, %s", code, out)
	}
	s.MustExec("greedy", "sh", "-c", "rm -f /fill-* /more; sync; echo again >/more")
	pod, err := greedy.now()
	if err != nil || !alive(pod) || pod.Status.ContainerStatuses[0].RestartCount > 0 {
		t.Errorf("the Pod that filled its disk is %v, %v", testcluster.States(pod), err)
	}
	greedy.discharge(deleted)
	neighbour.discharge(deleted)
	s.clean()
}
