package mount

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// sys is a q35 machine: a plain device in slot 2, root ports in slots 8 (with a disk), 9 (empty) and
// 0a (a switch with a disk in slot 3 behind it).
func sys() fstest.MapFS {
	const root = pciRoot + "/"
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	return fstest.MapFS{
		root + "0000:00:02.0/class":                                           file("0x010000\n"),
		root + "0000:00:02.0/virtio1/block/vdb/dev":                           file("254:16\n"),
		root + "0000:00:08.0/class":                                           file("0x060400\n"),
		root + "0000:00:08.0/0000:01:00.0/class":                              file("0x010000\n"),
		root + "0000:00:08.0/0000:01:00.0/virtio4/block/vdc/dev":              file("254:32\n"),
		root + "0000:00:08.0/pci_bus/0000:01/cpuaffinity":                     file("1\n"),
		root + "0000:00:09.0/class":                                           file("0x060400\n"),
		root + "0000:00:0a.0/class":                                           file("0x060400\n"),
		root + "0000:00:0a.0/0000:03:03.0/class":                              file("0x010000\n"),
		root + "0000:00:0a.0/0000:03:03.0/virtio5/block/vdd/dev":              file("254:48\n"),
		root + "0000:00:0b.0/class":                                           file("0x060400\n"),
		root + "0000:00:0b.0/0000:04:00.0/class":                              file("0x060400\n"),
		root + "0000:00:0b.0/0000:04:00.0/0000:05:00.0/class":                 file("0x010000\n"),
		root + "0000:00:0b.0/0000:04:00.0/0000:05:00.0/virtio6/block/vde/dev": file("254:64\n"),
		"block/vda/serial":                                                    file("scratch\n"),
		"block/vda/dev":                                                       file("254:0\n"),
		"block/vdb/serial":                                                    file("other\n"),
		"block/vdb/dev":                                                       file("254:16\n"),
	}
}

func TestResolvePCIPath(t *testing.T) {
	for _, tc := range []struct {
		name, path string
		want       Disk
		err        error
	}{
		{name: "device on the root bus", path: "02", want: Disk{"vdb", 254, 16}},
		{name: "device behind a root port, by the port alone", path: "08", want: Disk{"vdc", 254, 32}},
		{name: "device behind a root port, by both slots", path: "08/00", want: Disk{"vdc", 254, 32}},
		{name: "slot on the second bus", path: "0a/03", want: Disk{"vdd", 254, 48}},
		{name: "two bridges", path: "0b/00/00", want: Disk{"vde", 254, 64}},
		{name: "empty root port", path: "09", err: ErrNoDevice},
		{name: "empty root port with slot", path: "09/00", err: ErrNoDevice},
		{name: "no such slot", path: "1f", err: ErrNoDevice},
		{name: "wrong slot behind the port", path: "08/01", err: ErrNoDevice},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := ParsePCIPath(tc.path)
			if err != nil {
				t.Fatal(err)
			}
			var got Disk
			dir, err := p.Resolve(sys())
			if err == nil {
				got, err = diskAt(sys(), dir)
			}
			if !errors.Is(err, tc.err) {
				t.Errorf("error = %v, want %v", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("disk (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParsePCIPathRefusesNonsense(t *testing.T) {
	for _, s := range []string{"", "8", "20", "zz", "08/", "/08", "08/100", "-1"} {
		if p, err := ParsePCIPath(s); err == nil {
			t.Errorf("ParsePCIPath(%q) = %v, want an error", s, p)
		}
	}
}

func TestWaitDiskWaitsForHotPlug(t *testing.T) {
	calls := 0
	got, err := await(t.Context(), func() (string, error) {
		if calls++; calls < 3 {
			return "", ErrNoDevice
		}
		return "there", nil
	})
	if got != "there" || err != nil || calls != 3 {
		t.Errorf("await = %q, %v after %d calls", got, err, calls)
	}
	broken := errors.New("broken")
	if _, err := await(t.Context(), func() (string, error) { return "", broken }); !errors.Is(err, broken) {
		t.Errorf("await = %v, want the fault at once", err)
	}
}

func TestFindDiskBySerial(t *testing.T) {
	got, err := FindDisk(sys(), "scratch")
	if want := (Disk{"vda", 254, 0}); err != nil || got != want {
		t.Errorf("FindDisk = %v, %v, want %v", got, err, want)
	}
	if _, err := FindDisk(sys(), "none"); !errors.Is(err, ErrNoDevice) {
		t.Errorf("FindDisk = %v, want ErrNoDevice", err)
	}
}
