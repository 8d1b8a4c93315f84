package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nodeless/nodeless/pkg/contract"
)

// hostTable is a host with two disks, and a Pod with one volume of each kind and parts of them.
func hostTable(pod string) []mountPoint {
	return []mountPoint{
		{device: "8:1", root: "/", point: "/", fstype: "ext4"},
		{device: "8:2", root: "/", point: "/mnt/disk one", fstype: "xfs"},
		{device: "0:50", root: "/", point: pod + "/volumes/kubernetes.io~secret/keys", fstype: "tmpfs"},
		{device: "0:51", root: "/", point: pod + "/volumes/kubernetes.io~empty-dir/memory", fstype: "tmpfs"},
		{device: "0:52", root: "/", point: pod + "/volumes/kubernetes.io~empty-dir/huge", fstype: "hugetlbfs"},
		{device: "8:2", root: "/data", point: pod + "/volumes/kubernetes.io~local-volume/pv-1", fstype: "xfs"},
		{device: "8:2", root: "/data/deep/er", point: pod + "/volume-subpaths/pv-1/main/0", fstype: "xfs"},
		{device: "0:51", root: "/x", point: pod + "/volume-subpaths/memory/main/1", fstype: "tmpfs"},
		{device: "0:50", root: "/..2026/password", point: pod + "/volume-subpaths/keys/main/2", fstype: "tmpfs"},
		{device: "8:1", root: pod + "/volumes/kubernetes.io~empty-dir/scratch/a", point: pod + "/volume-subpaths/scratch/main/3", fstype: "ext4"},
		{device: "8:1", root: pod + "/volumes/kubernetes.io~empty-dir/scratch/a//deleted", point: pod + "/volume-subpaths/scratch/main/4", fstype: "ext4"},
		{device: "8:1", root: "/elsewhere", point: pod + "/volume-subpaths/path/main/5", fstype: "ext4"},
	}
}

func TestFind(t *testing.T) {
	pod := filepath.Join(t.TempDir(), "pods/0f0f")
	table := hostTable(pod)
	for _, m := range table {
		if strings.Contains(m.point, "/volumes/") {
			if err := os.MkdirAll(m.point, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.MkdirAll(pod+"/volumes/kubernetes.io~empty-dir/scratch", 0o755); err != nil {
		t.Fatal(err)
	}
	volumes := pod + "/volumes/kubernetes.io~"
	tests := []struct {
		name    string
		source  string
		options []string
		want    volume // no name: left to Kata
	}{
		{name: "emptyDir on disk", source: volumes + "empty-dir/scratch", want: volume{name: "empty-dir~scratch", kind: contract.MountShare}},
		{name: "reader and writer share one", source: volumes + "empty-dir/scratch", options: []string{"ro"}, want: volume{name: "empty-dir~scratch", kind: contract.MountShare}},
		{name: "emptyDir in memory", source: volumes + "empty-dir/memory", want: volume{name: "memory", kind: contract.MountMemory}},
		{name: "huge pages are Kata's", source: volumes + "empty-dir/huge"},
		{name: "Secret", source: volumes + "secret/keys", want: volume{name: "secret~keys", kind: contract.MountWatch, ro: true}},
		{name: "projected", source: volumes + "projected/token", want: volume{name: "projected~token", kind: contract.MountWatch, ro: true}},
		{name: "volume of a CSI driver", source: volumes + "csi/pv-2/mount", want: volume{name: "csi~pv-2", kind: contract.MountShare}},
		{name: "part of a disk's folder", source: pod + "/volume-subpaths/pv-1/main/0", want: volume{name: "local-volume~pv-1", kind: contract.MountShare, sub: "deep/er", dir: volumes + "local-volume/pv-1"}},
		{name: "part of a volume in memory", source: pod + "/volume-subpaths/memory/main/1", want: volume{name: "memory", kind: contract.MountMemory, sub: "x", dir: volumes + "empty-dir/memory"}},
		{name: "part of a Secret stays as it is mounted", source: pod + "/volume-subpaths/keys/main/2"},
		{name: "part of an emptyDir", source: pod + "/volume-subpaths/scratch/main/3", want: volume{name: "empty-dir~scratch", kind: contract.MountShare, sub: "a", dir: volumes + "empty-dir/scratch"}},
		{name: "part that has been deleted", source: pod + "/volume-subpaths/scratch/main/4"},
		{name: "part of a hostPath", source: pod + "/volume-subpaths/path/main/5"},
		{name: "/etc/hosts", source: pod + "/etc-hosts"},
		{name: "termination log", source: pod + "/containers/main/1234"},
		{name: "the host's /sys", source: "/sys/fs"},
		{name: "hostPath", source: "/srv", want: volume{name: hostName("/srv", false), kind: contract.MountShare}},
		{name: "hostPath to read", source: "/srv", options: []string{"rro"}, want: volume{name: hostName("/srv", false) + "~ro", kind: contract.MountShare, ro: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := find(ociMount{Source: tt.source, Destination: "/d", Options: tt.options}, table)
			if ok != (tt.want.name != "") {
				t.Fatalf("find(%s) = %+v, %v", tt.source, got, ok)
			}
			if tt.want.dir == "" && ok {
				tt.want.dir = tt.source
			}
			if ok && got != tt.want {
				t.Errorf("find(%s) = %+v, want %+v", tt.source, got, tt.want)
			}
		})
	}
}

func TestPrepareRewritesVolumesOnly(t *testing.T) {
	root := t.TempDir()
	bundle, memory := filepath.Join(root, "bundle"), filepath.Join(root, "pods/0f0f/volumes/kubernetes.io~empty-dir/memory")
	v := newVolumes(root, "s", (&daemon{}).show)
	v.table = func() ([]mountPoint, error) {
		return []mountPoint{{device: "0:1", root: "/", point: "/", fstype: "ext4"}, {device: "0:2", root: "/", point: memory, fstype: "tmpfs"}}, nil
	}
	for _, dir := range []string{bundle, memory, v.shared} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(bundle, "config.json")
	spec := `{"future":{"a":1},"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
		{"destination":"/etc/hosts","type":"bind","source":"` + root + `/pods/0f0f/etc-hosts","options":["rbind"]},
		{"destination":"/dev/shm","type":"bind","source":"` + memory + `","options":["rbind","rprivate","rw"]}]}`
	if err := os.WriteFile(file, []byte(spec), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := v.prepare(bundle); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Future map[string]int
		Mounts []ociMount
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got.Future["a"] != 1 || len(got.Mounts) != 3 || got.Mounts[0].Type != "proc" || got.Mounts[1].Type != "bind" {
		t.Errorf("what is no volume has changed: %s", raw)
	}
	shm := got.Mounts[2]
	if shm.Type != contract.MountMemory || shm.Source != contract.GuestMemory+"/memory" || shm.Destination != "/dev/shm/" || len(shm.Options) != 3 ||
		!reflect.DeepEqual(shm.Options[:2], []string{"rprivate", "rw"}) || !strings.HasPrefix(shm.Options[2], contract.OptionTmpfs+"size=") {
		t.Errorf("the volume in memory became %+v", shm)
	}
}

func TestParseMounts(t *testing.T) {
	const text = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 8:2 /a\040b /mnt/one\040two\134 rw - xfs /dev/sdb rw
`
	got, err := parseMounts(strings.NewReader(text))
	want := []mountPoint{{device: "8:1", root: "/", point: "/", fstype: "ext4"}, {device: "8:2", root: "/a b", point: `/mnt/one two\`, fstype: "xfs"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parseMounts = %+v, %v, want %+v", got, err, want)
	}
	if m, ok := mountOf(got, `/mnt/one two\/x`); !ok || m.device != "8:2" {
		t.Errorf("mountOf below the second = %+v, %v", m, ok)
	}
	if m, ok := mountOf(got, "/mnt/one two"); !ok || m.device != "8:1" {
		t.Errorf("mountOf beside the second = %+v, %v", m, ok)
	}
}
