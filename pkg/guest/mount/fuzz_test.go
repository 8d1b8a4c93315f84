package mount

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// FuzzOptions splits mount options: flags and data together say what they said, and nothing is said twice.
func FuzzOptions(f *testing.F) {
	f.Add("ro,nosuid", "size=1m,mode=0777", "mode")
	f.Add("bind,rbind,,rw", "fsgid=5,fsgid=6", "fsgid")
	f.Add(",", "defaults", "")
	f.Fuzz(func(t *testing.T, a, b, key string) {
		options := []string{a, b}
		flags, data := Flags(options)
		again, same := Flags([]string{data})
		if again != 0 || same != data {
			t.Errorf("Flags(%q) leaves data %q, in which there are flags %x and data %q", options, data, again, same)
		}
		if all, _ := Flags([]string{a + "," + b}); all != flags {
			t.Errorf("flags of %q are %x apart and %x together", options, flags, all)
		}
		if key == "" || strings.ContainsAny(key, ",=") {
			return
		}
		value, rest := take(options, key)
		if strings.Contains(value, ",") {
			t.Errorf("take(%q, %q) = %q, which is more than one", options, key, value)
		}
		for _, o := range strings.Split(strings.Join(rest, ","), ",") {
			if strings.HasPrefix(o, key+"=") {
				t.Errorf("take(%q, %q) leaves %q", options, key, rest)
			}
		}
	})
}

// FuzzPCIPath follows a path through a machine with a bridge, a bridge behind it and a bridge with nothing behind.
func FuzzPCIPath(f *testing.F) {
	bridge := &fstest.MapFile{Data: []byte("0x060400\n")}
	device := &fstest.MapFile{Data: []byte("0x010000\n")}
	const root = "devices/pci0000:00/"
	sys := fstest.MapFS{
		root + "0000:00:01.0/class":                              device,
		root + "0000:00:10.0/class":                              bridge,
		root + "0000:00:10.0/0000:01:00.0/class":                 device,
		root + "0000:00:10.0/0000:01:00.0/virtio3/block/vdb/dev": {Data: []byte("254:16\n")},
		root + "0000:00:11.0/class":                              bridge,
		root + "0000:00:11.0/0000:02:00.0/class":                 bridge,
		root + "0000:00:11.0/0000:02:00.0/0000:03:00.0/class":    device,
		root + "0000:00:12.0/class":                              bridge,
	}
	for _, s := range []string{"01", "10", "10/00", "11/00/00", "12", "", "../..", "0x/00", "1f/1f/1f", "00/", strings.Repeat("00/", 1000) + "00"} {
		f.Add(s, "254:16")
	}
	f.Fuzz(func(t *testing.T, s, number string) {
		p, err := ParsePCIPath(s)
		if err != nil {
			return
		}
		if slices.ContainsFunc(p, func(n uint8) bool { return n > 0x1f }) || 3*len(p) != len(s)+1 {
			t.Errorf("ParsePCIPath(%q) = %v", s, p)
		}
		dir, err := p.Resolve(sys)
		if err != nil {
			return
		}
		if !strings.HasPrefix(dir, root) || strings.Contains(dir, "..") {
			t.Errorf("%q leads to %s", s, dir)
		}
		if d, err := diskAt(sys, dir); err == nil && d.Name != "vdb" {
			t.Errorf("%q has disk %+v", s, d)
		}
		odd := fstest.MapFS{"d/virtio0/block/x/dev": {Data: []byte(number)}}
		if d, err := diskAt(odd, "d"); err == nil && d.Path() != "/dev/x" {
			t.Errorf("disk %+v of number %q", d, number)
		}
	})
}
