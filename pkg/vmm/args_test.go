package vmm

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/vfio"
)

var update = flag.Bool("update", false, "write testdata/*.args anew")

func TestArgs(t *testing.T) {
	base := Spec{
		Name: "abc", Accel: AccelTCG, Firmware: "/b/qemu/share", Kernel: "/b/guest/vmlinux", Initrd: "/b/guest/initrd",
		Cmdline: "console=ttyS0 quiet", Memory: 256 * mib, MaxMemory: 256 * mib, VCPUs: 1, MaxVCPUs: 1, RootPorts: 2,
		QMPFD: 3, ConsoleFD: 4, AgentFD: 5, ScratchFD: 9,
	}
	tests := []struct {
		name   string // and file
		change func(*Spec)
	}{
		{name: "tcg", change: func(*Spec) {}},
		{name: "kvm-shared-net", change: func(s *Spec) {
			s.Accel, s.SharedMemory, s.VCPUs, s.MaxVCPUs, s.MaxMemory = AccelKVM, true, 6, 8, 1024*mib
			s.Share = &ShareSpec{Tag: "kataShared", Socket: "/run/vc/vm/a,b/virtiofsd.sock", FD: 10, QueueSize: 1024}
			s.Nets = []NetSpec{{ID: "net0", MAC: "02:00:00:00:00:01", TapFDs: []int{6}, VhostFDs: []int{7}}}
			s.RootPortWindowMiB = 65536
		}},
		{name: "kvm-devices", change: func(s *Spec) {
			s.Accel, s.RootPortWindowMiB, s.FillThreads = AccelKVM, 65536, 16
			s.RootPorts = 1
			s.Devices = []HostDevice{
				{Device: vfio.Device{Address: "0000:41:00.0", Group: 7}, Port: 0x10, Slot: 0, Together: true},
				{Device: vfio.Device{Address: "0000:41:00.1", Group: 7}, Port: 0x10, Slot: 1, Together: true},
				{Device: vfio.Device{Address: "0000:42:00.0", Group: 8}, Port: 0x11},
			}
		}},
		{name: "tcg-device", change: func(s *Spec) {
			s.RootPorts, s.HugePages, s.FillThreads = 0, true, 2
			s.Devices = []HostDevice{{Device: vfio.Device{Address: "0000:43:00.4", Group: 9}, Port: 0x10}}
		}},
		{name: "bounded-disk", change: func(s *Spec) { s.Disk = Disk{BytesPerSecond: 1 << 30, OpsPerSecond: 30000} }},
		{name: "huge-multiqueue-bare", change: func(s *Spec) {
			s.HugePages, s.ScratchFD, s.AgentFD, s.RootPorts = true, 0, 0, 0
			s.Nets = []NetSpec{{ID: "net0", MAC: "02:00:00:00:00:01", TapFDs: []int{6, 7}}, {ID: "net1", MAC: "02:00:00:00:00:02", TapFDs: []int{8}}}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := base
			tt.change(&s)
			got := strings.Join(Args(s), "\n") + "\n"
			golden := filepath.Join("testdata", tt.name+".args")
			if *update {
				must(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("Args (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWhatIsForTheEmulatorNeverReachesKVM: there the CPU is the host's, with what its strings are fast by and what its mitigations need.
func TestWhatIsForTheEmulatorNeverReachesKVM(t *testing.T) {
	kvm, tcg := strings.Join(Args(Spec{Accel: AccelKVM}), " "), strings.Join(Args(Spec{Accel: AccelTCG}), " ")
	for _, words := range []string{"erms=", "fsrm=", "-cpu max", "tb-size"} {
		if strings.Contains(kvm, words) || !strings.Contains(tcg, words) {
			t.Errorf("%q: on KVM %q, emulated %q", words, kvm, tcg)
		}
	}
	if !strings.Contains(kvm, "-cpu host,host-phys-bits=on ") {
		t.Errorf("on KVM the CPU is not the host's: %q", kvm)
	}
}

// TestVhostIsKVMs: one for each queue, on KVM only, and none at all where one cannot be opened.
func TestVhostIsKVMs(t *testing.T) {
	device := filepath.Join(t.TempDir(), "vhost-net")
	must(t, os.WriteFile(device, nil, 0o600))
	for _, tt := range []struct {
		accel, path string
		want        int
	}{{AccelKVM, device, 3}, {AccelTCG, device, 0}, {AccelKVM, device + ".none", 0}} {
		files := openVhost(tt.accel, tt.path, 3)
		if len(files) != tt.want {
			t.Errorf("%s has %d of %s, want %d", tt.accel, len(files), tt.path, tt.want)
		}
		closeFiles(files)
	}
}

func TestUnsafeKernelOptionsNeverReachKVM(t *testing.T) {
	got := KernelCommandLine("quiet", 1, HostConfig{Accel: AccelKVM, TSCKHz: 2_600_000})
	for _, p := range []string{"mitigations=", "nospectre", "nosmt", "pti=", "kpti", "mds=", "l1tf=", "spec_store_bypass_disable=", "spectre_v2=", "retbleed=", "nokaslr", "init_on_alloc=1", "tsc=reliable", "tsc_early_khz", "lpj="} {
		if strings.Contains(got, p) {
			t.Errorf("%q is among %q", p, got)
		}
	}
}

func TestKernelCommandLine(t *testing.T) {
	kata := "root=/dev/pmem0p1 rootflags=dax,data=ordered,errors=remount-ro ro rootfstype=ext4 panic=1 no_timer_check noreplace-smp " +
		"quiet agent.log=info console=hvc0 systemd.unit=kata.target loglevel=7"
	common := "console=ttyS0 8250.nr_uarts=1 panic=-1 cryptomgr.notests audit=0 apparmor=0 random.trust_cpu=on no_timer_check memhp_default_state=online maxcpus=3 "
	tests := []struct {
		name string
		cfg  HostConfig
		want string
	}{
		{name: "the operator's settings come last and win", cfg: HostConfig{Accel: AccelKVM}, want: common + "quiet loglevel=1 agent.log=info loglevel=7"},
		{name: "debug is not quiet", cfg: HostConfig{Accel: AccelKVM, Debug: true}, want: common + "agent.log=info loglevel=7"},
		{name: "emulation knows its clock", cfg: HostConfig{Accel: AccelTCG, TSCKHz: 2596124}, want: common + "quiet loglevel=1 " +
			"mitigations=off nokaslr init_on_alloc=1 nowatchdog rcupdate.rcu_expedited=1 numa=off tsc_early_khz=2596124 tsc=reliable lpj=10384496 agent.log=info loglevel=7"},
		{name: "emulation without a known clock measures it", cfg: HostConfig{Accel: AccelTCG}, want: common + "quiet loglevel=1 " +
			"mitigations=off nokaslr init_on_alloc=1 nowatchdog rcupdate.rcu_expedited=1 numa=off agent.log=info loglevel=7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, KernelCommandLine(kata, 3, tt.cfg)); diff != "" {
				t.Errorf("KernelCommandLine (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHostConfigValidate(t *testing.T) {
	err := HostConfig{Bundle: "b", Accel: "xen", ScratchDir: "/s", RootPorts: 99, RootPortWindowMiB: -1, RecordDir: "l"}.Validate()
	for _, field := range []string{"bundle", "accel", "logDir", "rootPorts", "rootPortWindowMiB", "lifespanDir"} {
		if err == nil || !strings.Contains(err.Error(), field+":") {
			t.Errorf("Validate = %v, want a fault in %s", err, field)
		}
	}
	if err := (HostConfig{Bundle: "/b", Accel: AccelTCG, ScratchDir: "/s", LogDir: "/l"}).Validate(); err != nil {
		t.Errorf("Validate of a good one = %v", err)
	}
}

func TestLimitsOfGrowth(t *testing.T) {
	for _, tt := range []struct{ size, hotplug, want int64 }{
		{256 * mib, 0, 256 * mib},
		{256 * mib, 300 * mib, 256 * mib},
		{256 * mib, 1000 * mib, 896 * mib},
		{256 * mib, 1 << 40, 2048 * mib},
	} {
		if got := maxMemory(memoryConfig{Size: tt.size, HotplugSize: tt.hotplug}); got != tt.want {
			t.Errorf("maxMemory(%d, %d) = %d MiB, want %d", tt.size/mib, tt.hotplug/mib, got/mib, tt.want/mib)
		}
	}
	if got := maxVCPUs(4); got != 11 {
		t.Errorf("maxVCPUs(4) = %d, want 11", got)
	}
}
