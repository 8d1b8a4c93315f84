package contract

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestWordsStay: a Pod that was started by another version is spoken to in these words. Where one has to change, add another and read both.
func TestWordsStay(t *testing.T) {
	for got, want := range map[string]string{
		PIDTarget: "io.nodeless.pid-target", ContainerAnnotations: "io.nodeless.", PodAnnotations: "nodeless.dev/",
		Spec: "nodeless.dev/spec", SpecType: "nodeless.dev/spec-type", ChargeType: "nodeless.dev/charge-type", Workload: "nodeless.dev/workload",
		RootDisk: "nodeless.dev/root-disk", Sizing: "nodeless.dev/sizing", SizingLimits: "limits", SizingOpen: "open", SizingWhole: "whole",
		ResourceTag: "eks.tke.cloud.tencent.com/resource-tag", CRISandbox: "io.kubernetes.cri.sandbox-", CRINamespace: "k8s.io",
		ConfigEnv: "NODELESS_VMM_CONFIG", AccelKVM: "kvm", AccelTCG: "tcg", Shim: "containerd-shim-kata-v2", VMM: "nodeless-vmm",
		strings.Join(SandboxDirs("/", "ab"), " "): "/run/vc/sbs/ab /run/vc/vm/ab /run/kata-containers/shared/sandboxes/ab /run/kata-containers/ab",
		KataShared: "run/kata-containers/shared", Cgroup: "kata_", DiskSuffix: ".ext4",
		APISocket: "clh-api.sock", AgentSocket: "clh.sock", APIPrefix: "/api/v1/", HeldFile: "held.json",
		CallInfo: "vm.info", CallResize: "vm.resize", CallEffort: "vm.effort",
		AgentPortName: "agent", ScratchSerial: "scratch",
		GuestRoot: "/run/kata-containers", GuestShare: "/run/kata-containers/shared/containers", VolumesDir: "volumes",
		GuestVolumes: "/run/kata-containers/shared/containers/volumes", GuestMemory: "/run/kata-containers/sandbox/ephemeral",
		MountShare: "nodeless-share", MountWatch: "nodeless-watch", MountMemory: "nodeless-memory", OptionSub: "nodeless.sub=", OptionTmpfs: "nodeless.tmpfs=",
	} {
		if got != want {
			t.Errorf("%q was %q", got, want)
		}
	}
	if numbers := []uint32{NoInput, PlugBridge, AgentPort, ForwardPort, ClockPort, uint32(ForwardOK), uint32(ForwardFailed)}; numbers[0] != 4294967295 ||
		numbers[1] != 30 || numbers[2] != 1024 || numbers[3] != 1025 || numbers[4] != 1026 || numbers[5] != 1 || numbers[6] != 0 {
		t.Errorf("the numbers are %d", numbers)
	}
}

// TestShapesStay: the same of what is written as JSON.
func TestShapesStay(t *testing.T) {
	info := Info{}
	info.Config.Memory.Size, info.Config.CPUs.Boot = 1, 2
	for _, tt := range []struct {
		value any
		want  string
	}{
		{HostConfig{}, `{"bundle":"","accel":"","scratchDir":"","logDir":"","debug":false,"disk":{}}`},
		{
			HostConfig{
				Bundle: "/b", Accel: AccelKVM, TSCKHz: 1, ScratchDir: "/s", KubeletDir: "/k", LogDir: "/l", Debug: true, RecordDir: "/r", NodeName: "n", ClusterID: "c",
				Disk: Disk{BytesPerSecond: 2, OpsPerSecond: 3, ReservePercent: 4}, LogRate: 5, RootPorts: 6, RootPortWindowMiB: 7,
			},
			`{"bundle":"/b","accel":"kvm","tscKHz":1,"scratchDir":"/s","kubeletDir":"/k","logDir":"/l","debug":true,"lifespanDir":"/r","nodeName":"n","clusterID":"c",` +
				`"disk":{"bytesPerSecond":2,"opsPerSecond":3,"reservePercent":4},"logRate":5,"rootPorts":6,"rootPortWindowMiB":7}`,
		},
		{info, `{"config":{"memory":{"size":1},"cpus":{"boot_vcpus":2}}}`},
		{Resize{VCPUs: 1, Memory: 2, SpecCPU: 3, SpecMemory: 4}, `{"desired_vcpus":1,"desired_ram":2,"nodeless_spec_cpu":3,"nodeless_spec_memory":4}`},
		{Effort{CPU: time.Second, Wants: true}, `{"cpu":1000000000,"wants":true}`},
		{Hold{Held: true, Times: 1, Free: 2, Reserve: 3}, `{"held":true,"times":1,"free":2,"reserve":3}`},
	} {
		if got, err := json.Marshal(tt.value); err != nil || string(got) != tt.want {
			t.Errorf("%T is\n%s, %v, and was\n%s", tt.value, got, err, tt.want)
		}
	}
}

// TestControlStays: the same of a control frame, to the byte.
func TestControlStays(t *testing.T) {
	c := Control{Kind: KindHello, Nonce: 7, Hello: Hello{Time: time.Unix(0, 9), Entropy: [EntropySize]byte{1, 31: 2}}}
	want := "ffffffffffffffff" + hex.EncodeToString([]byte("nodeless-agent/1H")) + "0000000000000007" + "0000000000000009" +
		"01" + strings.Repeat("00", 30) + "02" + "2b62f5e6"
	frame := c.Encode()
	if got := hex.EncodeToString(frame); got != want {
		t.Errorf("the frame is\n%s, and was\n%s", got, want)
	}
	body := frame[MarkerRun:]
	if got, err := DecodeControl(body); err != nil || got.Kind != c.Kind || got.Nonce != c.Nonce || !got.Hello.Time.Equal(c.Hello.Time) || got.Hello.Entropy != c.Hello.Entropy {
		t.Errorf("read again it is %+v, %v", got, err)
	}
	for i := range body {
		damaged := bytes.Clone(body)
		damaged[i] ^= 1
		if got, err := DecodeControl(damaged); err == nil {
			t.Errorf("with byte %d changed it is read as %+v", i, got)
		}
	}
	for _, short := range [][]byte{nil, body[:1], body[:len(body)-1]} {
		if _, err := DecodeControl(short); err == nil {
			t.Errorf("%d bytes of it are a frame", len(short))
		}
	}
}

// TestNamesSandbox: an argument names a sandbox by a whole run of 64 digits, and by nothing that is more or less.
func TestNamesSandbox(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for arg, want := range map[string]bool{
		id: true, "/run/vc/vm/" + id + "/clh.sock": true, "kata_" + id: true, "x\x00" + id + "\x00y": true, id + "-" + id: true,
		"": false, id[1:]: false, id + "0": false, "f" + id: false, id + "F": false, strings.ToUpper(id): false,
	} {
		if got := NamesSandbox(arg, id); got != want {
			t.Errorf("%q names the sandbox: %v, want %v", arg, got, want)
		}
	}
	for _, other := range []string{"", "e", id[1:], id + "0", strings.ToUpper(id), id + "\n", "../" + id[3:]} {
		if IsSandboxID(other) || NamesSandbox(other, other) {
			t.Errorf("%q is the id of a sandbox", other)
		}
	}
}

func TestConnect(t *testing.T) {
	if got := Connect(AgentPort) + Connected(ForwardPort); got != "CONNECT 1024\nOK 1025\n" {
		t.Errorf("the lines are %q", got)
	}
	for line, want := range map[string]uint32{"CONNECT 1024": 1024, "CONNECT 4294967295": 4294967295} {
		if got, err := ParseConnect(line); err != nil || got != want {
			t.Errorf("%q names %d, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "CONNECT", "CONNECT ", "CONNECT -1", "CONNECT 4294967296", "connect 1", "CONNECT 1 2", "OK 1"} {
		if got, err := ParseConnect(line); err == nil {
			t.Errorf("%q names %d", line, got)
		}
	}
}
