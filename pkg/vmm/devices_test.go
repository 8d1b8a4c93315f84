package vmm

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/hint"
	"github.com/nodeless/nodeless/pkg/jail"
	"github.com/nodeless/nodeless/pkg/vfio"
	"github.com/nodeless/nodeless/pkg/vmm/qmp"
	"github.com/nodeless/nodeless/pkg/vmm/qmp/qmptest"
)

// withDevices gives a microVM a host with devices that are bound to vfio-pci, each address in a group of its own: 1 the first, and so on.
func withDevices(t *testing.T, v *vm, addresses ...string) {
	t.Helper()
	sys := fstest.MapFS{}
	link := func(at, to string) { sys[at] = &fstest.MapFile{Mode: os.ModeSymlink, Data: []byte(to)} }
	v.groups = vfio.Holder{Sys: t.TempDir(), Dev: t.TempDir()}
	for i, a := range addresses {
		dir := "devices/pci0000:00/" + a
		link("bus/pci/devices/"+a, "../../../"+dir)
		link(dir+"/driver", "../../../bus/pci/drivers/vfio-pci")
		link(dir+"/iommu_group", fmt.Sprintf("../../../kernel/iommu_groups/%d", i+1))
		link(fmt.Sprintf("kernel/iommu_groups/%d/devices/%s", i+1, a), "../../../../"+dir)
		sys[dir+"/resource"] = &fstest.MapFile{Data: []byte("0x0 0x0 0x0\n0x2000000000 0x3fffffffff 0x14220c\n")}
		must(t, os.MkdirAll(filepath.Join(v.groups.Sys, "kernel/iommu_groups", fmt.Sprint(i+1)), 0o755))
		must(t, os.WriteFile(filepath.Join(v.groups.Dev, fmt.Sprint(i+1)), nil, 0o600))
	}
	v.sys = sys
}

func askFor(addresses ...string) []deviceConfig {
	var list []deviceConfig
	for _, a := range addresses {
		list = append(list, deviceConfig{Path: "/sys/bus/pci/devices/" + a})
	}
	return list
}

func TestCardsAndTheirPorts(t *testing.T) {
	for _, tt := range []struct {
		name string
		ask  []string
		want []string // port, function behind it, whether with others
	}{
		{"one", []string{"0000:41:00.0"}, []string{"10.0 false"}},
		{"two functions of a card, and another card", []string{"0000:41:00.0", "0000:41:00.1", "0000:42:00.0"}, []string{"10.0 true", "10.1 true", "11.0 false"}},
		{"in another order", []string{"0000:41:00.1", "0000:42:00.0", "0000:41:00.0"}, []string{"10.1 true", "11.0 false", "10.0 true"}},
		{"a card without its first function", []string{"0000:41:00.3", "0000:41:00.1"}, []string{"10.2 true", "10.0 true"}},
		{"the same slot of two domains", []string{"0000:41:00.0", "0001:41:00.1"}, []string{"10.0 false", "11.0 false"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newVM("test", HostConfig{Accel: AccelKVM}, slog.New(slog.DiscardHandler))
			withDevices(t, v, tt.ask...)
			devices, err := v.takeDevices(askFor(tt.ask...))
			must(t, err)
			defer v.letGo()
			var got []string
			for _, d := range devices {
				got = append(got, fmt.Sprintf("%02x.%d %t", d.Port, d.Slot, d.Together))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("places (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNumberOfCardsIsBounded(t *testing.T) {
	var addresses []string
	for i := range maxCards + 1 {
		addresses = append(addresses, fmt.Sprintf("0000:%02x:00.0", i+1))
	}
	v := newVM("test", HostConfig{}, slog.New(slog.DiscardHandler))
	withDevices(t, v, addresses...)
	if _, err := v.takeDevices(askFor(addresses...)); !errors.Is(err, errNoSlot) || len(hint.Of(err)) == 0 || v.held != nil {
		t.Errorf("%d cards: %v, %d groups are held", len(addresses), err, len(v.held))
	}
	devices, err := v.takeDevices(askFor(addresses[:maxCards]...))
	must(t, err)
	defer v.letGo()
	s := newSlots(Spec{Devices: devices}.cards(), maxRootPorts)
	for n := 0; ; n++ {
		slot, err := s.take()
		if err != nil {
			if want := len(plugSlots()) - maxCards; n != want {
				t.Errorf("beside %d cards there are %d slots, want %d", maxCards, n, want)
			}
			break
		}
		if slices.ContainsFunc(devices, func(d HostDevice) bool { return d.Port == slot }) {
			t.Errorf("slot %#x is a card's and given away", slot)
		}
	}
}

// TestDeviceOfAnotherMicroVM: of two microVMs that want a device the second is told, and has it when the first has gone.
func TestDeviceOfAnotherMicroVM(t *testing.T) {
	const address = "0000:41:00.0"
	first, second := newVM("a", HostConfig{}, slog.New(slog.DiscardHandler)), newVM("b", HostConfig{}, slog.New(slog.DiscardHandler))
	withDevices(t, first, address)
	second.sys, second.groups = first.sys, first.groups
	_, err := first.takeDevices(askFor(address))
	must(t, err)
	if _, err := second.takeDevices(askFor(address)); !errors.Is(err, vfio.ErrInUse) || len(hint.Of(err)) == 0 {
		t.Errorf("the second: %v, want ErrInUse", err)
	}
	must(t, first.cleanup(false))
	if _, err = second.takeDevices(askFor(address)); err != nil {
		t.Errorf("after the first one's end: %v", err)
	}
	must(t, second.cleanup(false))
}

// TestMicroVMThatIsNotMadeHoldsNoDevices, so that it can be asked for once more.
func TestMicroVMThatIsNotMadeHoldsNoDevices(t *testing.T) {
	const address = "0000:41:00.0"
	v := newVM("test", HostConfig{LogDir: t.TempDir(), ScratchDir: t.TempDir(), Bundle: t.TempDir()}, slog.New(slog.DiscardHandler))
	withDevices(t, v, address)
	err := v.create([]byte(`{"cpus":{"boot_vcpus":1},"memory":{"size":268435456},"payload":{"kernel":"/k","initramfs":"/i"},"vsock":{"socket":"` + t.TempDir() +
		`/s"},"devices":[{"path":"/sys/bus/pci/devices/` + address + `"}]}`))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a writable disk: %v", err)
	}
	if _, err := v.takeDevices(askFor(address)); err != nil {
		t.Errorf("the device, once more: %v", err)
	}
	must(t, v.cleanup(false))
}

func TestDevicesAreRefusedWhenTheMicroVMIsMade(t *testing.T) {
	create := func(devices string) error {
		v := newVM("test", HostConfig{LogDir: t.TempDir()}, slog.New(slog.DiscardHandler))
		withDevices(t, v, "0000:41:00.0")
		err := v.create([]byte(`{"cpus":{"boot_vcpus":1},"memory":{"size":268435456},"payload":{"kernel":"/k","initramfs":"/i"},"vsock":{"socket":"` + t.TempDir() + `/s"},"devices":[` + devices + `]}`))
		must(t, v.cleanup(false))
		return err
	}
	for devices, want := range map[string]error{
		`{"path":"/sys/bus/pci/devices/0000:42:00.0"}`: vfio.ErrNoDevice, `{"path":"/etc/passwd"}`: vfio.ErrNotPCI, `{}`: vfio.ErrNotPCI,
		`{"path":"/sys/bus/pci/devices/0000:41:00.0"},{"path":"/sys/bus/pci/devices/0000:41:00.0"}`: vfio.ErrTwice,
	} {
		if err := create(devices); !errors.Is(err, want) || len(hint.Of(err)) == 0 {
			t.Errorf("create with %s: %v, %q, want %v", devices, err, hint.Of(err), want)
		}
	}
	if err := create(`{"path":"/sys/bus/pci/devices/0000:41:00.0","iommu":true}`); err == nil || !contains(err, "no IOMMU") {
		t.Errorf("a device behind an IOMMU of the guest: %v", err)
	}
	v := newVM("test", HostConfig{}, slog.New(slog.DiscardHandler))
	if _, err := v.addDevice(deviceConfig{Path: "/sys/bus/pci/devices/0000:41:00.0"}); !errors.Is(err, errHotPlug) || len(hint.Of(err)) == 0 {
		t.Errorf("a device for a running guest: %v, want errHotPlug", err)
	}
}

// TestJailOfAMicroVMWithDevices has what they take; that of others has none of it.
func TestJailOfAMicroVMWithDevices(t *testing.T) {
	limit := func(p jail.Plan) uint64 {
		for _, l := range p.Limits {
			if l.Resource == unix.RLIMIT_MEMLOCK {
				return l.Most
			}
		}
		return ^uint64(0)
	}
	cfg, spec := HostConfig{Bundle: "/b"}, Spec{Accel: AccelKVM, Memory: 256 * mib, MaxMemory: 1024 * mib}
	bare := cfg.plan(spec)
	if diff := cmp.Diff([]string{"/dev/kvm"}, bare.Devices); diff != "" || bare.Links != nil || limit(bare) != 0 {
		t.Errorf("without devices: links %v, %d bytes may be locked, devices (-want +got):\n%s", bare.Links, limit(bare), diff)
	}
	for i, group := range []int{7, 7, 9} {
		spec.Devices = append(spec.Devices, HostDevice{Device: vfio.Device{Address: fmt.Sprintf("0000:41:00.%d", i), Group: group}})
	}
	p := cfg.plan(spec)
	if diff := cmp.Diff([]string{"/dev/kvm", "/dev/vfio/vfio", "/dev/vfio/7", "/dev/vfio/9"}, p.Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if want := (jail.Link{Path: "/sys/bus/pci/devices/0000:41:00.2/iommu_group", Target: "../../../../kernel/iommu_groups/9"}); len(p.Links) != 3 || p.Links[2] != want {
		t.Errorf("links %v, want three and the last %v", p.Links, want)
	}
	if limit(p) != 1280*mib {
		t.Errorf("%d MiB may be locked, want the most that the guest can have, and 256", limit(p)/mib)
	}
	if diff := cmp.Diff(bare.Shown, p.Shown); diff != "" || len(p.Calls.Allow) != len(bare.Calls.Allow) {
		t.Errorf("devices show more, or allow more calls (-without +with):\n%s", diff)
	}
}

func TestMemoryOfAMicroVMWithDevicesIsFilled(t *testing.T) {
	if n := fillThreads(nil); n != 0 {
		t.Errorf("%d threads fill the memory of a microVM without devices", n)
	}
	if n := fillThreads(make([]HostDevice, 1)); n < 1 || n > maxFillThreads {
		t.Errorf("%d threads", n)
	}
	if b := dimmBackend(Spec{FillThreads: 3}, mib); b["prealloc"] != true || b["prealloc-threads"] != 3 {
		t.Errorf("a DIMM is %v", b)
	}
	few := bootBounds(AccelKVM)
	if got := few.with(0, 1<<40); got != few {
		t.Errorf("without devices a boot may take %+v, want %+v", got, few)
	}
	if got, more := few.with(1, 480<<30), 13*time.Minute; got != (bounds{few.idle + more, few.silent + more, few.most + more}) {
		t.Errorf("with devices and 480 GiB a boot may take %+v, want %v more than %+v", got, more, few)
	}
}

// TestDeviceThatIsNotPlaced: a guest that came up without a BAR of a card is no microVM with the card.
func TestDeviceThatIsNotPlaced(t *testing.T) {
	bus := func(regions string) string {
		return `[{"bus":0,"devices":[{"qdev_id":"rp10","regions":[],"pci_bridge":{"bus":{"number":1},"devices":[{"qdev_id":"host0","regions":[` + regions + `]}]}},{"qdev_id":"","regions":[]}]}]`
	}
	const ports, small = `{"bar":0,"type":"io","address":4096,"size":32}`, `{"bar":2,"type":"memory","address":4261412864,"size":4096}`
	for _, tt := range []struct{ name, answer, want string }{
		{"placed", bus(ports + "," + small + `,{"bar":1,"type":"memory","address":137438953472,"size":137438953472}`), ""},
		{"one without an address", bus(small + `,{"bar":1,"type":"memory","address":-1,"size":137438953472}`), "BAR 1, 131072 MiB"},
		{"one that is missing", bus(small), "BAR 1, 131072 MiB"},
		{"one that is smaller", bus(small + `,{"bar":1,"type":"memory","address":137438953472,"size":4096}`), "BAR 1, 131072 MiB"},
		{"a device that is missing", `[]`, "BAR 1, 131072 MiB"},
		{"nonsense", `{"x":1}`, "decode answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, peer := runningVM(t, func(_ *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) { return rawJSON(tt.answer), nil })
			v.spec.Devices = []HostDevice{{Device: vfio.Device{Address: "0000:41:00.0", BARs: []vfio.BAR{{Number: 1, Size: 128 << 30}, {Number: 2, Size: 4096}}}}}
			err := v.checkPlaced(t.Context())
			if (err == nil) != (tt.want == "") || err != nil && !contains(err, tt.want) || strings.HasPrefix(tt.want, "BAR") && !errors.Is(err, errNotPlaced) {
				t.Errorf("checkPlaced = %v, want %q", err, tt.want)
			}
			v.spec.Devices = nil
			before := len(peer.Calls())
			if err := v.checkPlaced(t.Context()); err != nil || len(peer.Calls()) != before {
				t.Errorf("without devices: %v, %d commands", err, len(peer.Calls())-before)
			}
		})
	}
}

// TestGuestWithoutItsDeviceIsEnded: its agent answers, and where its devices are cannot be found out.
func TestGuestWithoutItsDeviceIsEnded(t *testing.T) {
	v, _ := recordedVM(t, played)
	v.spec.Devices = []HostDevice{{Device: vfio.Device{BARs: []vfio.BAR{{Number: 1, Size: 128 << 30}}}}}
	close(v.agent.ready)
	if err := v.start(t.Context(), bootBounds(AccelTCG)); err == nil || !contains(err, "query-pci") {
		t.Errorf("start = %v", err)
	}
	select {
	case <-v.ended:
	default:
		t.Error("QEMU still runs")
	}
}

// rawJSON is an answer as it stands.
type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func TestQEMUThatEndsWithDevicesIsExplained(t *testing.T) {
	cause := errors.New("qemu ended")
	if err := explain(cause, 0); err != cause {
		t.Errorf("without devices: %v", err)
	}
	if err := explain(cause, 2); !errors.Is(err, cause) || !strings.Contains(strings.Join(hint.Of(err), ""), "dmesg") {
		t.Errorf("with devices: %v, %q", err, hint.Of(err))
	}
}

// standIn is a card with one BAR, which uses no memory: QEMU's ivshmem-plain.
func standIn(n, gib int, bus string) []string {
	return []string{
		"-object", fmt.Sprintf("memory-backend-ram,id=card%d,size=%dG,reserve=off", n, gib),
		"-device", fmt.Sprintf("ivshmem-plain,id=%s,memdev=card%d,bus=%s", hostID(n), n, bus),
	}
}

func rootPort(slot int, more string) []string {
	return []string{"-device", fmt.Sprintf("pcie-root-port,id=rp%02x,bus=pcie.0,addr=0x%02x,chassis=%d,slot=%d%s", slot, slot, slot, slot, more)}
}

// TestWindowsOfCards: what gpu-sized BARs take of firmware and kernel, with stand-ins for cards.
func TestWindowsOfCards(t *testing.T) {
	h := needHost(t)
	cold := func(n, gib int) (args []string) {
		for i := range n {
			args = append(append(args, rootPort(0x10+i, "")...), standIn(i, gib, portID(0x10+i))...)
		}
		return args
	}
	for _, tt := range []struct {
		name   string
		bits   int
		args   []string
		hot    int // GiB, plugged in behind the first port; 0 for none
		placed int // of BARs
		of     int
		gib    int64
	}{
		{"one of 128 GiB", 46, cold(1, 128), 0, 1, 1, 128},
		{"eight of 256 GiB", 46, cold(8, 256), 0, 8, 8, 256},
		{"eight of 256 GiB, in 1 TiB of addresses", 40, cold(8, 256), 0, 0, 8, 256},
		{"plugged in, no window", 46, rootPort(0x10, ""), 128, 0, 1, 128},
		{"plugged in, a window of its size", 46, rootPort(0x10, ",pref64-reserve=128G"), 128, 0, 1, 128},
		{"plugged in, a window of its size and a quarter", 46, rootPort(0x10, ",pref64-reserve=160G"), 128, 0, 1, 128},
		{"plugged in, a window of twice its size", 46, rootPort(0x10, ",pref64-reserve=256G"), 128, 1, 1, 128},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := windowed(t, h, tt.bits, tt.args)
			if tt.hot > 0 {
				client, err := v.client()
				must(t, err)
				must(t, client.Execute(t.Context(), "object-add", object{"qom-type": "memory-backend-ram", "id": "hot", "size": int64(tt.hot) << 30, "reserve": false}, nil))
				must(t, client.Execute(t.Context(), "device_add", object{"driver": "ivshmem-plain", "id": hostID(0), "memdev": "hot", "bus": portID(0x10)}, nil))
			}
			g := &guest{t: t, h: h, dir: v.disk.dir}
			var all, placed int
			eventually(t, "the cards are seen", func() bool {
				all, placed = 0, 0
				for _, line := range g.ask("pci") {
					if strings.Contains(line, " 1af4:1110 0:") { // the small one always finds a place
						all++
						if strings.Contains(line, " 2:") {
							placed++
						}
					}
				}
				return all == tt.of
			})
			if placed != tt.placed {
				t.Errorf("%d of %d BARs are placed, want %d", placed, tt.of, tt.placed)
			}
			v.mu.Lock()
			v.spec.Devices = slices.Repeat([]HostDevice{{Device: vfio.Device{BARs: []vfio.BAR{{Number: 2, Size: tt.gib << 30}}}}}, tt.of)
			v.mu.Unlock()
			if err := v.checkPlaced(t.Context()); (err == nil) != (placed == tt.of) || err != nil && !errors.Is(err, errNotPlaced) {
				t.Errorf("checkPlaced = %v, and %d of %d BARs are placed", err, placed, tt.of)
			}
		})
	}
}

// windowed boots a guest whose QEMU has more arguments.
func windowed(t *testing.T, h *host, bits int, args []string) *vm {
	t.Helper()
	dir := t.TempDir()
	cfg := h.cfg
	cfg.ScratchDir, cfg.LogDir, cfg.RecordDir = dir, dir, ""
	v := newVM("windows", cfg, slog.New(slog.DiscardHandler))
	v.disk.dir = dir
	v.jailed = func(cmd *exec.Cmd, p jail.Plan) error {
		for i, a := range p.Argv {
			if strings.HasPrefix(a, "max,") {
				p.Argv[i] += fmt.Sprintf(",phys-bits=%d", bits)
			}
		}
		p.Argv, p.Proc = append(p.Argv, args...), true // memory of a stand-in is not reserved, for which QEMU looks into /proc
		return jail.Start(jail.Self, cmd, p)
	}
	t.Cleanup(func() {
		v.shutdown()
		must(t, v.cleanup(false))
	})
	body := fmt.Appendf(nil, `{"cpus":{"boot_vcpus":1},"memory":{"size":268435456},"vsock":{"socket":"%s/clh.sock"},"payload":{"kernel":"%s","initramfs":"%s","cmdline":"rdinit=/testguest"}}`,
		dir, h.kernel(), h.initrd)
	must(t, v.create(body))
	must(t, v.start(t.Context(), bootBounds(AccelTCG)))
	return v
}
