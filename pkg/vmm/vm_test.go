package vmm

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/vmm/qmp"
	"github.com/nodeless/nodeless/pkg/vmm/qmp/qmptest"
)

// runningVM is a microVM whose QEMU is a peer that answers as handle says.
func runningVM(t *testing.T, handle func(*qmptest.Peer, qmptest.Call) (any, *qmp.Error)) (*vm, *qmptest.Peer) {
	t.Helper()
	v := newVM("test", HostConfig{RootPorts: 2}, slog.New(slog.DiscardHandler))
	peer, conn := qmptest.Start(t, handle)
	client, err := qmp.New(t.Context(), conn, v.onEvent)
	must(t, err)
	t.Cleanup(func() { client.Close() })
	v.qmp, v.state = client, stateRunning
	v.config = map[string]json.RawMessage{"cpus": json.RawMessage(`{"boot_vcpus":1,"max_vcpus":4}`), "memory": json.RawMessage(`{"size":268435456}`)}
	v.spec = Spec{VCPUs: 1, MaxVCPUs: 4, Memory: 256 * mib, MaxMemory: 1024 * mib}
	return v, peer
}

func agree(*qmptest.Peer, qmptest.Call) (any, *qmp.Error) { return nil, nil }

func image(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer.erofs")
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	return path
}

func names(p *qmptest.Peer) []string {
	var list []string
	for _, c := range p.Calls()[1:] { // behind qmp_capabilities
		list = append(list, c.Name)
	}
	return list
}

func TestDiskIsOpenedAsKataAsks(t *testing.T) {
	v, peer := runningVM(t, agree)
	path := image(t)
	got, err := v.addDisk(t.Context(), diskConfig{Path: path, Readonly: true, Direct: true})
	if want := (deviceInfo{ID: "disk1", Bdf: "0000:00:12.0"}); err != nil || got != want {
		t.Fatalf("addDisk = %v, %v, want %v", got, err, want)
	}
	calls := peer.Calls()[1:]
	if string(calls[0].Args) != `{"fdset-id":2}` || !calls[0].File {
		t.Errorf("add-fd %s with a descriptor: %t", calls[0].Args, calls[0].File)
	}
	want := `{"driver":"raw","file":{"aio":"native","cache":{"direct":true},"driver":"file","filename":"/dev/fdset/2","locking":"off"},"node-name":"disk1","read-only":true}`
	if diff := cmp.Diff(want, string(calls[1].Args)); diff != "" {
		t.Errorf("blockdev-add (-want +got):\n%s", diff)
	}
	want = `{"addr":"0x12","bus":"plug","drive":"disk1","driver":"virtio-blk-pci","id":"disk1","num-queues":1,"serial":"disk1"}`
	if diff := cmp.Diff(want, string(calls[2].Args)); diff != "" {
		t.Errorf("device_add (-want +got):\n%s", diff)
	}
	node := blockNode("d", 2, diskConfig{Path: "/dev/loop0"}, os.ModeDevice)
	if driver := node["file"].(map[string]any)["driver"]; driver != "host_device" {
		t.Errorf("a device node is opened by %v, want host_device", driver)
	}
}

func TestPluggedDiskIsBoundLikeTheOthers(t *testing.T) {
	v, peer := runningVM(t, agree)
	v.cfg.Disk.BytesPerSecond = 1 << 30
	_, err := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	must(t, err)
	want := `{"discard":"unmap","driver":"throttle","file":{"discard":"unmap","driver":"raw","file":{"aio":"threads","driver":"file","filename":"/dev/fdset/2",` +
		`"locking":"off"},"read-only":false},"node-name":"disk1","read-only":false,"throttle-group":"pod"}`
	if diff := cmp.Diff(want, string(peer.Calls()[2].Args)); diff != "" {
		t.Errorf("blockdev-add (-want +got):\n%s", diff)
	}
}

func TestFailedPlugLeavesNothing(t *testing.T) {
	v, peer := runningVM(t, func(_ *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) {
		if c.Name == "device_add" {
			return nil, &qmp.Error{Class: "GenericError", Desc: "no room"}
		}
		return nil, nil
	})
	for range len(plugSlots()) + 1 {
		if _, err := v.addDisk(t.Context(), diskConfig{Path: image(t)}); err == nil || errors.Is(err, errNoSlot) {
			t.Fatalf("addDisk = %v, want QEMU's refusal", err)
		}
	}
	if diff := cmp.Diff([]string{"add-fd", "blockdev-add", "device_add", "blockdev-del", "remove-fd"}, names(peer)[:5]); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestSlotsRunOut(t *testing.T) {
	v, peer := runningVM(t, agree)
	disk := diskConfig{Path: image(t), Readonly: true}
	for range len(plugSlots()) {
		_, err := v.addDisk(t.Context(), disk)
		must(t, err)
	}
	calls := peer.Calls()
	if last := string(calls[len(calls)-1].Args); !strings.Contains(last, `"bus":"rp11"`) {
		t.Errorf("the last disk is added by %s, want a root port when the bridge is full", last)
	}
	if _, err := v.addDisk(t.Context(), disk); !errors.Is(err, errNoSlot) {
		t.Errorf("one disk more than slots = %v, want errNoSlot", err)
	}
}

func TestRemoveWaitsForTheGuest(t *testing.T) {
	var deletions atomic.Int32
	v, peer := runningVM(t, func(p *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) {
		if c.Name == "device_del" && deletions.Add(1) == 2 { // the first request falls on deaf ears
			p.Event("DEVICE_DELETED", map[string]string{"path": "/machine/peripheral/disk1/virtio-backend"})
			p.Event("DEVICE_DELETED", map[string]string{"device": "disk1", "path": "/machine/peripheral/disk1"})
		}
		return nil, nil
	})
	info, err := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	must(t, err)
	must(t, v.remove(t.Context(), info.ID))
	if diff := cmp.Diff([]string{"add-fd", "blockdev-add", "device_add", "device_del", "device_del", "blockdev-del", "remove-fd"}, names(peer)); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	again, err := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	if err != nil || again.Bdf != info.Bdf {
		t.Errorf("next disk = %v, %v, want the freed slot %s", again, err, info.Bdf)
	}
	if err := v.remove(t.Context(), info.ID); err != nil {
		t.Errorf("second remove = %v: missing on removal is success", err)
	}
}

// stubborn is a guest that lets go of disk1 when it is told to, and not when it is asked to.
type stubborn struct {
	*qmptest.Peer
	gone atomic.Bool
}

func stubbornVM(t *testing.T) (*vm, *stubborn, deviceInfo) {
	t.Helper()
	guest := &stubborn{}
	v, peer := runningVM(t, func(_ *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) {
		if c.Name == "device_del" && guest.gone.Load() {
			return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "Device 'disk1' not found"}
		}
		return nil, nil
	})
	guest.Peer = peer
	v.patience = patience{answer: time.Millisecond, again: time.Millisecond, limit: time.Minute}
	info, err := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	must(t, err)
	return v, guest, info
}

func (g *stubborn) letGo() {
	g.gone.Store(true)
	g.Event("DEVICE_DELETED", map[string]string{"device": "disk1", "path": "/machine/peripheral/disk1"})
}

// backEnds counts how often what disk1 was made of was taken away.
func (g *stubborn) backEnds() (n int) {
	for _, name := range names(g.Peer) {
		if name == "blockdev-del" {
			n++
		}
	}
	return n
}

// A removal is no success while QEMU has the device. Afterwards its slot is free once, however many have asked.
func TestRemovalFromAGuestThatDoesNotAnswer(t *testing.T) {
	v, guest, info := stubbornVM(t)
	for range 3 {
		if err := v.remove(t.Context(), info.ID); !errors.Is(err, errHeld) {
			t.Fatalf("remove while the guest holds the disk = %v, want errHeld", err)
		}
	}
	if guest.backEnds() != 0 {
		t.Error("what the disk is made of was taken away while the guest had it")
	}
	next, err := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	if err != nil || next.Bdf == info.Bdf {
		t.Errorf("next disk = %v, %v, want another slot than %s", next, err, info.Bdf)
	}
	v.patience.answer = time.Minute
	both := make(chan error, 2)
	for range 2 {
		go func() { both <- v.remove(t.Context(), info.ID) }()
	}
	guest.letGo()
	must(t, errors.Join(<-both, <-both))
	must(t, v.remove(t.Context(), info.ID)) // it has gone
	if n := guest.backEnds(); n != 1 {
		t.Errorf("what the disk is made of was taken away %d times", n)
	}
	first, err1 := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	second, err2 := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	if must(t, errors.Join(err1, err2)); first.Bdf != info.Bdf || second.Bdf == first.Bdf || second.Bdf == next.Bdf {
		t.Errorf("disks after the removal are at %s and %s, want the first at %s and the second elsewhere", first.Bdf, second.Bdf, info.Bdf)
	}
}

// A device that the guest did not let go of keeps its slot, and is taken away when it does after all.
func TestLostDevice(t *testing.T) {
	v, guest, info := stubbornVM(t)
	v.patience = patience{answer: time.Minute, again: time.Millisecond, limit: time.Millisecond}
	if err := v.remove(t.Context(), info.ID); !errors.Is(err, errHeld) {
		t.Fatalf("remove = %v, want errHeld", err)
	}
	state := func() (deviceState, bool) {
		v.mu.Lock()
		defer v.mu.Unlock()
		d, there := v.devices[info.ID]
		if !there {
			return 0, false
		}
		return d.state, true
	}
	if s, there := state(); !there || s != lost {
		t.Errorf("the device is there: %v, in state %v, want lost", there, s)
	}
	v.patience.limit = time.Minute
	guest.letGo()
	for there := true; there; _, there = state() {
		time.Sleep(time.Millisecond)
	}
	if n := guest.backEnds(); n != 1 {
		t.Errorf("what the disk is made of was taken away %d times", n)
	}
}

// What was never there is not removed.
func TestRemovalOfWhatWasNeverThere(t *testing.T) {
	v, _ := runningVM(t, agree)
	for _, id := range []string{"", "disk1", "disk01", "scratch", "disk99999999999999999999"} {
		if err := v.remove(t.Context(), id); !errors.Is(err, errNoDevice) {
			t.Errorf("remove %q = %v, want errNoDevice", id, err)
		}
	}
}

// A device is not removed before it is there.
func TestRemovalOfADeviceThatIsStillBeingAttached(t *testing.T) {
	attach := make(chan struct{})
	v, peer := runningVM(t, func(p *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) {
		switch c.Name {
		case "device_add":
			<-attach
		case "device_del":
			p.Event("DEVICE_DELETED", map[string]string{"device": "disk1", "path": "/machine/peripheral/disk1"})
		}
		return nil, nil
	})
	v.patience.answer = time.Millisecond
	added := make(chan error, 1)
	path := image(t)
	go func() {
		_, err := v.addDisk(t.Context(), diskConfig{Path: path})
		added <- err
	}()
	for len(names(peer)) < 3 {
		time.Sleep(time.Millisecond)
	}
	if err := v.remove(t.Context(), "disk1"); !errors.Is(err, errHeld) {
		t.Errorf("remove of a disk that is being attached = %v, want errHeld", err)
	}
	close(attach)
	must(t, <-added)
	v.patience.answer = time.Minute
	must(t, v.remove(t.Context(), "disk1"))
	if diff := cmp.Diff([]string{"add-fd", "blockdev-add", "device_add", "device_del", "blockdev-del", "remove-fd"}, names(peer)); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestDeviceThatWentByItselfIsRemoved(t *testing.T) {
	v, _ := runningVM(t, func(_ *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) {
		if c.Name == "device_del" {
			return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "Device 'disk1' not found"}
		}
		return nil, nil
	})
	info, err := v.addDisk(t.Context(), diskConfig{Path: image(t)})
	must(t, err)
	must(t, v.remove(t.Context(), info.ID))
}

func TestNICAfterBootTravelsByDescriptor(t *testing.T) {
	v, peer := runningVM(t, agree)
	add := func() {
		f, err := os.Open(os.DevNull)
		must(t, err)
		_, err = v.addNet(t.Context(), netConfig{Mac: "02:00:00:00:00:01"}, []*os.File{f})
		must(t, err)
	}
	add()
	if diff := cmp.Diff([]string{"getfd", "netdev_add", "device_add"}, names(peer)); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if got := string(peer.Calls()[2].Args); got != `{"fds":"nic1fds-0","id":"nic1","type":"tap"}` {
		t.Errorf("netdev_add = %s", got)
	}
	add() // Kata sends all its NICs again with each new one
	if got := len(names(peer)); got != 3 {
		t.Errorf("%d commands after the same NIC came again, want no more than 3", got)
	}
	if _, err := v.addNet(t.Context(), netConfig{Mac: "02:00:00:00:00:02"}, nil); err == nil {
		t.Error("a NIC without a tap was added")
	}
}

func TestResize(t *testing.T) {
	actual := 500 * mib
	v, peer := runningVM(t, func(p *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) {
		switch c.Name {
		case "query-balloon": // the guest takes its time
			actual -= 50 * mib
			return object{"actual": actual}, nil
		default:
			answerDIMM(p, c, 0)
			return nil, nil
		}
	})
	must(t, v.resize(t.Context(), contract.Resize{VCPUs: 3, Memory: 400 * mib}))
	want := []string{"object-add", "device_add", "balloon", "query-balloon", "query-balloon"}
	if diff := cmp.Diff(want, names(peer)); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	info, err := v.info()
	must(t, err)
	if cpus, memory := string(info.Config["cpus"]), string(info.Config["memory"]); cpus != `{"boot_vcpus":3,"max_vcpus":4}` || memory != `{"size":536870912}` {
		t.Errorf("info = %s, %s", cpus, memory)
	}
	var size contract.Info // as the shim reads it
	raw, err := json.Marshal(info)
	must(t, errors.Join(err, json.Unmarshal(raw, &size)))
	if size.Config.CPUs.Boot != 3 || size.Config.Memory.Size != 512*mib {
		t.Errorf("the shim reads %+v", size)
	}
	before := len(names(peer))
	for _, most := range []struct {
		want contract.Resize
		text string
	}{
		{contract.Resize{VCPUs: 5, Memory: 512 * mib}, "5 vCPUs: this microVM was started for at most 4"},
		{contract.Resize{VCPUs: 4, Memory: 4096 * mib}, "4096 MiB of memory: this microVM was started for at most 1024 MiB"},
	} {
		if err := v.resize(t.Context(), most.want); err == nil || !strings.Contains(err.Error(), most.text) {
			t.Errorf("resize(%+v) = %v, want %q", most.want, err, most.text)
		}
	}
	if got := names(peer)[before:]; len(got) > 0 {
		t.Errorf("a resize that is too large in one thing did %q first", got)
	}
	must(t, v.resize(t.Context(), contract.Resize{VCPUs: 3, Memory: 300*mib - 1}))
	if got := names(peer)[before:]; !slices.Equal(got, []string{"balloon", "query-balloon", "query-balloon"}) {
		t.Errorf("a resize to less memory did %q, want it to wait for the balloon", got)
	}
	must(t, v.resize(t.Context(), contract.Resize{VCPUs: 1}))
	if got, _ := v.info(); string(got.Config["cpus"]) != `{"boot_vcpus":1,"max_vcpus":4}` {
		t.Errorf("after shrinking: %s", got.Config["cpus"])
	}
}

// answerDIMM plays the guest that is given a DIMM and reports an ACPI status.
func answerDIMM(p *qmptest.Peer, c qmptest.Call, status int) {
	var args struct{ Driver, ID string }
	if c.Name == "device_add" && json.Unmarshal(c.Args, &args) == nil && args.Driver == "pc-dimm" {
		p.Event("ACPI_DEVICE_OST", object{"info": object{"device": args.ID, "source": 1, "status": status, "slot": "0", "slot-type": "DIMM"}})
	}
}

func TestMemoryThatTheGuestRefusesIsWithdrawn(t *testing.T) {
	withdrawn := make(chan struct{})
	v, _ := runningVM(t, func(p *qmptest.Peer, c qmptest.Call) (any, *qmp.Error) {
		answerDIMM(p, c, 0x80)
		switch c.Name {
		case "device_del":
			return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound} // it has gone by now
		case "object-del":
			close(withdrawn)
		}
		return nil, nil
	})
	if err := v.resize(t.Context(), contract.Resize{Memory: 512 * mib}); err == nil || !strings.Contains(err.Error(), "refuses") {
		t.Errorf("resize = %v, want the guest's refusal", err)
	}
	<-withdrawn
	if got, _ := v.info(); got.MemoryActualSize != 256*mib {
		t.Errorf("the refused memory is counted: %d MiB", got.MemoryActualSize/mib)
	}
}

func TestCallsOutOfOrderAreRefused(t *testing.T) {
	v := newVM("test", HostConfig{}, slog.New(slog.DiscardHandler))
	a := &api{vm: v, stop: func() {}}
	for _, call := range []string{"vm.boot", "vm.add-disk", "vm.resize"} {
		body := []byte(`{"path":"/dev/null","desired_vcpus":2}`)
		if _, err := a.handle(t.Context(), request{method: "PUT", path: contract.APIPrefix + call, body: body}); !errors.Is(err, errState) {
			t.Errorf("%s before create = %v, want errState", call, err)
		}
	}
	if _, err := a.handle(t.Context(), request{method: "GET", path: contract.APIPrefix + "vm.info"}); !errors.Is(err, errState) {
		t.Errorf("vm.info before create = %v, want errState", err)
	}
}

func TestConfigFaultsAreAllNamed(t *testing.T) {
	_, _, err := parseVMConfig([]byte(`{"disks":[{}],"fs":[{},{}]}`))
	for _, field := range []string{"cpus", "memory", "payload", "disks", "vsock", "fs"} {
		if err == nil || !contains(err, field) {
			t.Errorf("parseVMConfig = %v, want a fault in %s", err, field)
		}
	}
}

func TestLateOperationsGoOn(t *testing.T) {
	hold := make(chan struct{})
	err, late := within(t.Context(), 0, func(context.Context) error { <-hold; return errNoSlot })
	if err != nil || late == nil {
		t.Fatalf("within = %v, %v, want an answer before the work is done", err, late)
	}
	close(hold)
	if err := <-late; !errors.Is(err, errNoSlot) {
		t.Errorf("late result = %v", err)
	}
}
