package vmm

import (
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
)

func TestDiskJudgesWhoTakesTheLastRoom(t *testing.T) {
	d := Disk{ReservePercent: 10}
	const gib = 1 << 30
	full := func(free int64) room { return room{total: 100 * gib, free: free} }
	tests := []struct {
		name    string
		room    room
		written int64
		want    bool
	}{
		{name: "there is room", room: full(50 * gib), written: 10 * gib},
		{name: "the reserve is touched, and the Pod writes", room: full(9 * gib), written: 2 << 20, want: true},
		{name: "a Pod that writes next to nothing goes on", room: full(9 * gib), written: 1 << 19},
		{name: "a Pod that frees room goes on", room: full(gib), written: -gib},
		{name: "a Pod that writes nothing goes on", room: full(0), written: 0},
		{name: "half of the reserve is gone: nobody may take any", room: full(4 * gib), written: 4096, want: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := d.tooFull(tt.room, tt.written, time.Second); got != tt.want {
				t.Errorf("tooFull = %t, want %t", got, tt.want)
			}
		})
	}
	if d.goesOn(full(10*gib)) || !d.goesOn(full(11*gib)) {
		t.Error("a held Pod goes on where the reserve is just there, and is held again at once")
	}
	if d.refuses(full(5*gib)) != nil || d.refuses(full(4*gib)) == nil {
		t.Error("a new Pod is refused with half of the reserve there, or is not with less")
	}
	if (Disk{}).tooFull(full(0), gib, time.Second) || (Disk{}).refuses(full(0)) != nil {
		t.Error("a Pod is held where there is no reserve")
	}
	if got := d.pause(full(15*gib), false); got != closeInterval {
		t.Errorf("near the reserve the disk is looked at every %v", got)
	}
}

func TestSharerFindsItsOwn(t *testing.T) {
	const id = "abc"
	own := []string{"/b/qemu/lib/ld-linux-x86-64.so.2", "--library-path", "/b/qemu/lib", "/b/qemu/bin/virtiofsd", "--shared-dir=/run/kata-containers/shared/sandboxes/abc/shared"}
	other := []string{"/b/qemu/bin/virtiofsd", "--shared-dir=/run/kata-containers/shared/sandboxes/abcd/shared"}
	named := []string{"/bin/cat", "--shared-dir=/run/kata-containers/shared/sandboxes/abc/shared"}
	if !servesVolumes(own, id) || servesVolumes(other, id) || servesVolumes(named, id) {
		t.Error("the sandbox's virtiofsd is not told from another's, or from another program")
	}
	for kind, want := range map[string]bool{"empty-dir": true, "secret": false} {
		if got, files := sharedWith(mountOf("volumes/kubernetes.io~"+kind+"/v"), id); got != want || files {
			t.Errorf("%s: %t, want %t; and files: %t", kind, got, want, files)
		}
	}
	for path, want := range map[string]bool{"etc-hosts": true, "containers/main/0123": true, "volumes/kubernetes.io~secret/etc-hosts": false, "volumes/containers/v": false} {
		if volumes, got := sharedWith(mountOf(path), id); got != want || volumes {
			t.Errorf("%s: %t, want %t; and volumes: %t", path, got, want, volumes)
		}
	}
}

// mountOf are the mounts of a sandbox with whom something of its Pod's folder is shared.
func mountOf(path string) []*mountinfo.Info {
	return []*mountinfo.Info{{Root: "/", Mountpoint: "/"}, {Root: "/var/lib/nodeless/agent/kubelet/pods/u/" + path, Mountpoint: "/run/kata-containers/shared/sandboxes/abc/mounts/x"}}
}
