package container

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestGuestDevices(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("skipped: needs root to make device files")
	}
	dir := t.TempDir()
	for _, sub := range []string{"pts", "mapper"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, dev := range map[string]struct {
		mode         uint32
		major, minor uint32
	}{
		"vda": {unix.S_IFBLK | 0o660, 254, 0}, "kmsg": {unix.S_IFCHR | 0o600, 1, 11}, "null": {unix.S_IFCHR | 0o666, 1, 3},
		"mapper/control": {unix.S_IFCHR | 0o600, 10, 236}, "pts/0": {unix.S_IFCHR | 0o600, 136, 0},
		"vport1p1": {unix.S_IFCHR | 0o600, 248, 1}, "console": {unix.S_IFCHR | 0o600, 5, 1},
	} {
		if err := unix.Mknod(filepath.Join(dir, name), dev.mode, int(unix.Mkdev(dev.major, dev.minor))); err != nil {
			t.Skip("skipped: device files cannot be made here:", err)
		}
	}
	s := &specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 7, Minor: 7}}}}
	if err := addGuestDevices(s, dir); err != nil {
		t.Fatal(err)
	}
	got := map[string]specs.LinuxDevice{}
	for _, d := range s.Linux.Devices {
		got[d.Path] = d
	}
	if len(got) != 4 || len(s.Linux.Devices) != 4 {
		t.Errorf("devices = %v, want null, vda, kmsg and mapper/control", got)
	}
	if d := got["/dev/vda"]; d.Type != "b" || d.Major != 254 || d.Minor != 0 || d.FileMode == nil || *d.FileMode&^0o660 != 0 {
		t.Errorf("/dev/vda = %+v", d)
	}
	if d := got["/dev/mapper/control"]; d.Type != "c" || d.Major != 10 || d.Minor != 236 {
		t.Errorf("/dev/mapper/control = %+v", d)
	}
	if d := got["/dev/null"]; d.Major != 7 {
		t.Errorf("/dev/null of the description was replaced: %+v", d)
	}
}
