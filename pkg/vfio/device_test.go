package vfio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/nodeless/nodeless/pkg/hint"
)

// function is a PCI function of a host that is not there.
type function struct {
	address, class, driver string
	group                  int // -1 for none
	virtual                bool
}

const (
	display = "0x030200"
	audio   = "0x040300"
	port    = "0x060400"
	nic     = "0x020000"
)

// bars are those of a large card: registers, 128 GiB, 32 MiB and a window of ports, which is none.
const bars = `0x00000000fb000000 0x00000000fbffffff 0x0000000000040200
0x0000002000000000 0x0000003fffffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000004000000000 0x0000004001ffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x000000000000f000 0x000000000000f07f 0x0000000000040101
0x00000000fc000000 0x00000000fc07ffff 0x0000000000046200
`

// sysfs is a /sys with functions.
func sysfs(functions ...function) fstest.MapFS {
	sys := fstest.MapFS{
		"devices/system/cpu/online":                  {Data: []byte("0-1\n")},
		"devices/virtual/0000:99:00.0/class":         {Data: []byte(display)},
		"bus/pci/devices/0000:98:00.0":               {Mode: os.ModeSymlink, Data: []byte("../../../devices/pci0000:00/0000:97:00.0")},
		"bus/pci/devices/0000:99:00.0":               {Mode: os.ModeSymlink, Data: []byte("../../../devices/virtual/0000:99:00.0")},
		"devices/pci0000:00/0000:97:00.0/class":      {Data: []byte(display)},
		"devices/platform/0000:96:00.0/class":        {Data: []byte(display)},
		"kernel/iommu_groups/90/devices/ACPI0007:00": {Data: []byte{}},
		"kernel/iommu_groups/91/name":                {Data: []byte("vfio-noiommu\n")},
	}
	link := func(at, to string) { sys[at] = &fstest.MapFile{Mode: os.ModeSymlink, Data: []byte(to)} }
	for _, f := range functions {
		dir := "devices/pci0000:00/0000:00:01.0/" + f.address
		link("bus/pci/devices/"+f.address, "../../../"+dir)
		sys[dir+"/class"] = &fstest.MapFile{Data: []byte(f.class + "\n")}
		sys[dir+"/resource"] = &fstest.MapFile{Data: []byte(bars)}
		if f.driver != "" {
			link(dir+"/driver", "../../../../bus/pci/drivers/"+f.driver)
		}
		if f.virtual {
			link(dir+"/physfn", "../0000:41:00.0")
		}
		if f.group >= 0 {
			link(dir+"/iommu_group", fmt.Sprintf("../../../../kernel/iommu_groups/%d", f.group))
			link(fmt.Sprintf("kernel/iommu_groups/%d/devices/%s", f.group, f.address), "../../../../"+dir)
		}
	}
	return sys
}

// card is a display with audio behind a bridge, in one group; another card, one of its virtual functions, and devices with faults.
func card() fstest.MapFS {
	return sysfs(
		function{"0000:40:00.0", port, "pcieport", 7, false}, function{"0000:41:00.0", display, Driver, 7, false}, function{"0000:41:00.1", audio, Driver, 7, false},
		function{"0000:42:00.0", display, Driver, 8, false},
		function{"0000:43:00.4", display, Driver, 9, true}, function{"0000:43:00.5", display, Driver, 10, true},
		function{"0000:44:00.0", display, "nvidia", 11, false}, function{"0000:45:00.0", display, "", 12, false}, function{"0000:46:00.0", display, Driver, -1, false},
		function{"0000:47:00.0", display, Driver, 13, false}, function{"0000:47:00.1", nic, "e1000e", 13, false},
		function{"0000:48:00.0", display, Driver, 14, false}, function{"0000:48:00.1", audio, "", 14, false},
		function{"0000:49:00.0", display, Driver, 15, false}, function{"0000:00:1f.0", "0x060100", "lpc_ich", 15, false},
		function{"0000:50:00.0", display, Driver, 90, false}, function{"0000:51:00.0", display, Driver, 91, false},
		function{"0000:52:00.0", display, Driver, 16, false}, function{"0000:53:00.0", "0x060400", "", 16, false},
	)
}

const inBus = "/sys/bus/pci/devices/"

func TestFind(t *testing.T) {
	size := []BAR{{0, 16 << 20}, {1, 128 << 30}, {3, 32 << 20}}
	for _, tt := range []struct {
		name  string
		paths []string
		want  []Device
	}{
		{"none", nil, nil},
		{"both functions of a card, behind a bridge", []string{inBus + "0000:41:00.0", inBus + "0000:41:00.1"}, []Device{
			{"0000:41:00.0", "0000:41:00", 0, 7, size}, {"0000:41:00.1", "0000:41:00", 1, 7, size}}},
		{"one of them: the other is guarded all the same", []string{inBus + "0000:41:00.1"}, []Device{{"0000:41:00.1", "0000:41:00", 1, 7, size}}},
		{"where the path leads to", []string{"/sys/devices/pci0000:00/0000:00:01.0/0000:42:00.0"}, []Device{{"0000:42:00.0", "0000:42:00", 0, 8, size}}},
		{"virtual functions are cards of their own", []string{inBus + "0000:43:00.5", inBus + "0000:43:00.4"}, []Device{
			{"0000:43:00.5", "0000:43:00.5", 5, 10, size}, {"0000:43:00.4", "0000:43:00.4", 4, 9, size}}},
		{"a bridge without a driver in the group", []string{inBus + "0000:52:00.0"}, []Device{{"0000:52:00.0", "0000:52:00", 0, 16, size}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Find(card(), tt.paths)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("Find = %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		want       error
		do         string // in the remedy
	}{
		{"another driver has it", inBus + "0000:44:00.0", ErrUnbound, "echo 0000:44:00.0 > /sys/bus/pci/devices/0000:44:00.0/driver/unbind; echo 0000:44:00.0 > /sys/bus/pci/drivers_probe"},
		{"no driver has it", inBus + "0000:45:00.0", ErrUnbound, "modprobe vfio-pci; echo vfio-pci > /sys/bus/pci/devices/0000:45:00.0/driver_override; echo 0000"},
		{"no IOMMU", inBus + "0000:46:00.0", ErrNoIOMMU, "intel_iommu=on"},
		{"vfio without an IOMMU", inBus + "0000:51:00.0", ErrNoIOMMU, "intel_iommu=on"},
		{"a stranger in the group", inBus + "0000:47:00.0", ErrNotViable, "0000:47:00.1/driver/unbind"},
		{"a function without a driver in the group", inBus + "0000:48:00.0", ErrNotViable, "ACS"},
		{"a bridge with a driver of its own in the group", inBus + "0000:49:00.0", ErrNotViable, "0000:00:1f.0"},
		{"what is not of PCI in the group", inBus + "0000:50:00.0", ErrNotViable, "ACS"},
		{"no such device", inBus + "0000:60:00.0", ErrNoDevice, "lspci"},
		{"empty", "", ErrNotPCI, "lspci"},
		{"only an address", "0000:42:00.0", ErrNotPCI, ""},
		{"an address in upper case", inBus + "0000:AB:00.0", ErrNotPCI, ""},
		{"relative", "sys/bus/pci/devices/0000:42:00.0", ErrNotPCI, ""},
		{"by way of the folder above", inBus + "../devices/0000:42:00.0", ErrNotPCI, ""},
		{"out of /sys", inBus + "../../../../tmp/0000:42:00.0", ErrNotPCI, ""},
		{"with two slashes", inBus + "/0000:42:00.0", ErrNotPCI, ""},
		{"with a slash behind", inBus + "0000:42:00.0/", ErrNotPCI, ""},
		{"a file of it", inBus + "0000:42:00.0/resource0", ErrNotPCI, ""},
		{"its driver", "/sys/bus/pci/drivers/vfio-pci/0000:42:00.0", ErrNotPCI, ""},
		{"by its group", "/sys/kernel/iommu_groups/8/devices/0000:42:00.0", ErrNotPCI, ""},
		{"where another device is", "/sys/devices/pci0000:00/0000:00:01.0/0000:42:00.1", ErrNotPCI, ""},
		{"a name that leads to another device", inBus + "0000:98:00.0", ErrNotPCI, ""},
		{"a name that leads to what is none", inBus + "0000:99:00.0", ErrNotPCI, ""},
		{"what is none itself", "/sys/devices/virtual/0000:99:00.0", ErrNotPCI, ""},
		{"a folder of the same name elsewhere", "/sys/devices/platform/0000:96:00.0", ErrNotPCI, ""},
		{"the CPUs", "/sys/devices/system/cpu", ErrNotPCI, ""},
		{"a file of the host", "/etc/shadow", ErrNotPCI, ""},
		{"options of QEMU", inBus + "0000:42:00.0,x-no-mmap=on", ErrNotPCI, ""},
		{"a line break", inBus + "0000:42:00.0\n", ErrNotPCI, ""},
		{"a long one", inBus + strings.Repeat("a/../", 1000) + "0000:42:00.0", ErrNotPCI, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Find(card(), []string{tt.path})
			if !errors.Is(err, tt.want) || got != nil {
				t.Fatalf("Find = %v, %v, want %v", got, err, tt.want)
			}
			if do := strings.Join(hint.Of(err), "\n"); do == "" || !strings.Contains(do, tt.do) {
				t.Errorf("what to do is %q, want %q in it", do, tt.do)
			}
			if len(err.Error()) > 500 || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is %d bytes long: %q", len(err.Error()), err)
			}
		})
	}
}

func TestSeveralFaultsAreAllNamed(t *testing.T) {
	_, err := Find(card(), []string{inBus + "0000:42:00.0", inBus + "0000:42:00.0", inBus + "0000:44:00.0", inBus + "0000:47:00.0"})
	for _, want := range []error{ErrTwice, ErrUnbound, ErrNotViable} {
		if !errors.Is(err, want) {
			t.Errorf("Find = %v, want %v in it", err, want)
		}
	}
	same := []string{inBus + "0000:42:00.0", "/sys/devices/pci0000:00/0000:00:01.0/0000:42:00.0"}
	if _, err := Find(card(), same); !errors.Is(err, ErrTwice) {
		t.Errorf("a device by both of its names: %v, want ErrTwice", err)
	}
	if _, err := Find(card(), make([]string, MostDevices+1)); !errors.Is(err, ErrTooMany) {
		t.Errorf("more than any microVM has: %v, want ErrTooMany", err)
	}
}

func TestResourcesThatCannotBeRead(t *testing.T) {
	sys := card()
	sys["devices/pci0000:00/0000:00:01.0/0000:42:00.0/resource"].Data = []byte("0x0 x\n")
	if _, err := Find(sys, []string{inBus + "0000:42:00.0"}); err == nil {
		t.Error("a device whose BARs are not known is passed through")
	}
}

func TestGroups(t *testing.T) {
	got := Groups([]Device{{Group: 9}, {Group: 7}, {Group: 9}})
	if diff := cmp.Diff([]int{7, 9}, got); diff != "" {
		t.Errorf("Groups (-want +got):\n%s", diff)
	}
}

// FuzzFind: no path that a stranger writes is taken for a device that it does not name.
func FuzzFind(f *testing.F) {
	f.Add(inBus + "0000:42:00.0")
	f.Add("/sys/devices/pci0000:00/0000:00:01.0/0000:42:00.0")
	f.Add(inBus + "0000:98:00.0")
	f.Add(inBus + "../../../0000:42:00.0")
	sys := card()
	f.Fuzz(func(t *testing.T, path string) {
		got, err := Find(sys, []string{path})
		if err == nil && path != inBus+got[0].Address && path != "/sys/devices/pci0000:00/0000:00:01.0/"+got[0].Address {
			t.Errorf("%q is taken for %s", path, got[0].Address)
		}
	})
}

func TestHold(t *testing.T) {
	h := Holder{Sys: t.TempDir(), Dev: t.TempDir()}
	for _, group := range []string{"4", "5"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(h.Sys, groupDir, group), 0o755), os.WriteFile(filepath.Join(h.Dev, group), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	held, err := h.Hold([]int{4, 5})
	if err != nil || len(held) != 2 {
		t.Fatalf("Hold = %d files, %v", len(held), err)
	}
	if _, err := h.Hold([]int{5}); !errors.Is(err, ErrInUse) || len(hint.Of(err)) == 0 {
		t.Errorf("a group that another holds: %v with the hints %q, want ErrInUse", err, hint.Of(err))
	}
	for _, f := range held {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Hold([]int{4, 6}); err == nil {
		t.Error("a group that is not there is held")
	}
	again, err := h.Hold([]int{4}) // what failed has let go of it
	if err != nil {
		t.Fatalf("a group that was let go of: %v", err)
	}
	_ = again[0].Close() // a lock
	if err := os.Remove(filepath.Join(h.Dev, "4")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hold([]int{4}); err == nil || !strings.Contains(strings.Join(hint.Of(err), ""), "modprobe vfio-pci") {
		t.Errorf("a group without a device: %v, %q", err, hint.Of(err))
	}
}
