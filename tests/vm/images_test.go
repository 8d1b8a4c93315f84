package vm_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nodeless/nodeless/tests/testregistry"
)

// netBindService is the file capability of that name, effective and permitted, as the kernel stores it.
const netBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// layered is an image of 60 layers with what layers can do to each other, in all three ways to travel.
func (s *space) layered() testregistry.Image {
	s.T.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		s.T.Fatal(err)
	}
	f, dir, link, hard := testregistry.File, testregistry.Dir, testregistry.Symlink, testregistry.Hardlink
	capable := testregistry.File("bin/busybox-capable", 0o755, string(busybox))
	capable.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": netBindService, "SCHILY.xattr.user.color": "blue"}
	does := map[int][]testregistry.Entry{
		10: {f("gone/a", 0o644, "a"), f("gone/b", 0o644, "b"), f("opaque/old", 0o644, "old"), f("hard/one", 0o644, "linked"), hard("hard/two", "hard/one")},
		20: {f("gone/.wh.a", 0, ""), f("opaque/.wh..wh..opq", 0, ""), f("opaque/new", 0o644, "new")},
		30: {f("hard/one", 0o644, "alone")},
		40: {link("shortcut", "/etc"), link("loop-a", "loop-b"), link("loop-b", "loop-a"), f("was-dir/x", 0o644, "x")},
		41: {f("shortcut/through", 0o644, "through"), f("was-dir", 0o644, "a file now"), f("loop-a/inside", 0o644, "no loop")},
		50: {capable, dir("sticky", 0o1777)},
	}
	var layers []testregistry.Layer
	for i := 1; i < 60; i++ {
		n := fmt.Sprint(i)
		entries := append([]testregistry.Entry{f("deep/"+n, 0o644, n), f("deep/last", 0o644, n)}, does[i]...)
		layers = append(layers, testregistry.Layer{Tar: testregistry.Tar(entries...), Format: []string{"gzip", "zstd", ""}[i%3]})
	}
	return s.image("amd64", shell(`
echo layers $(ls /deep | wc -l) $(cat /deep/1) $(cat /deep/59) $(cat /deep/last)
echo gone $(ls /gone) opaque $(ls /opaque)
echo hard $(cat /hard/one) $(cat /hard/two) $(stat -c %h /hard/one /hard/two)
echo through $(cat /etc/through) $(readlink /shortcut) $(cat /etc/passwd | grep -c root)
echo loop $(cat /loop-a/inside) $(readlink /loop-b) was $(cat /was-dir)
echo modes $(stat -c %a /sticky /bin/busybox-capable)
echo root $(grep CapPrm /proc/self/status)
su -s /bin/sh nobody -c 'echo plain $(busybox grep CapEff /proc/self/status)'
su -s /bin/sh nobody -c 'echo capable $(busybox-capable grep CapEff /proc/self/status)'
su -s /bin/sh nobody -c 'busybox nc -l -p 80 -w 1 </dev/null 2>&1 | grep -o denied'
su -s /bin/sh nobody -c 'timeout 1 busybox-capable nc -l -p 80 </dev/null; echo bound $?' 2>/dev/null
`), layers...)
}

const layeredSays = `layers 60 1 59 59
gone b opaque new
hard alone linked 1 1
through through /etc 1
loop no loop loop-a was a file now
modes 1777 755
root CapPrm: 00000000a80425fb
plain CapEff: 0000000000000000
capable CapEff: 0000000000000400
denied
bound 143`

// escape is an image that tries to leave its microVM: by paths, by a symlink, by a device.
func (s *space) escape(mark string) {
	f := testregistry.File
	disk := testregistry.Entry{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o666, Devmajor: 254, Devminor: 0}}
	s.push("hub/escape", shell(`
ls -d /tmp/`+mark+`* | wc -l; cat /etc/`+mark+`
dd if=/disk count=1 2>&1 >/dev/null | grep -o 'not permitted'; stat -c %F /disk; stat -c %a /bin/become
`), testregistry.Layer{Tar: testregistry.Tar(
		f("../../../../tmp/"+mark+"-up", 0o644, "x"), f("/tmp/"+mark+"-abs", 0o644, "x"), testregistry.Symlink("way", "../../../../etc"),
		f("way/"+mark, 0o644, "in my own etc\n"), disk, f("bin/become", 0o4755, "")), Format: "gzip"})
}

const escapeSays = "2\nin my own etc\nnot permitted\nblock special file\n4755"

// untouched looks for what the escape may have left on the host.
func (s *space) untouched(mark string) {
	s.T.Helper()
	for _, dir := range []string{"/tmp", "/etc", "/", "/var/lib/nodeless", "/var/lib/nodeless/agent/containerd"} {
		if out, err := s.Host.Exec(s.Ctx, "sh", "-c", "ls -a "+dir+" | grep "+mark+" || :"); err != nil || out != "" {
			s.T.Errorf("on the host, in %s: %q, %v", dir, out, err)
		}
	}
}

// TestImages looks from inside at what images can be made of.
func TestImages(t *testing.T) {
	needRegistry(t)
	s := newSpace(t, 6*time.Minute)
	if _, err := registry.Push("hub/layered", "1", s.layered()); err != nil {
		t.Fatal(err)
	}
	people := testregistry.Layer{Tar: testregistry.Tar(
		testregistry.File("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1234:5678:app:/home/app:/bin/sh\n"),
		testregistry.File("etc/group", 0o644, "root:x:0:\nweb:x:4321:\nmore:x:999:app\n"),
	), Format: "gzip"}
	who := shell("echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' ') $(pwd); echo kept > /data/kept && cat /data/kept; touch /made 2>/dev/null || echo not root")
	who.WorkingDir, who.Volumes = "/not/there/yet", map[string]struct{}{"/data": {}}
	data := testregistry.Layer{Tar: testregistry.Tar(testregistry.Dir("data", 0o777))}
	for name, user := range map[string]string{"hub/name": "app", "hub/name-group": "app:web", "hub/numbers": "1234:77", "hub/nobody-knows": "stranger"} {
		who.User = user
		s.push(name, who, people, data)
	}
	s.push("hub/order", v1.ImageConfig{
		Entrypoint: []string{"/bin/sh", "-c", `echo entry "$@" $A $B $C`, "-"}, Cmd: []string{"image-cmd"}, Env: []string{"PATH=/bin", "A=image-a", "B=image-b"},
	})
	mark := fmt.Sprintf("nodeless-escape-%d", os.Getpid())
	s.escape(mark)
	const size = 4<<30 + 4096 + 5
	s.push("hub/big", shell("stat -c %s /big; dd if=/big bs=4096 skip=1048577 2>/dev/null; echo; dd if=/big bs=4096 skip=1048576 count=1 2>/dev/null | tr -d '\\0' | wc -c"),
		testregistry.Layer{Tar: testregistry.Sparse("big", size, "tail."), Format: "zstd"})

	pod := strings.Replace(fmt.Sprintf(oneShot, "odd", "none"), "spec:\n", "spec:\n  securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"1024\"}]}\n", 1)
	s.Apply(pod + containers(
		[3]string{"layered", "layered:1"}, [3]string{"big", "big:1"},
		[3]string{"name", "name:1"}, [3]string{"name-group", "name-group:1"}, [3]string{"numbers", "numbers:1"}, [3]string{"stranger", "nobody-knows:1"},
		[3]string{"image-says", "order:1"}, [3]string{"args", "order:1", "args: [pod-arg], env: [{name: B, value: pod-b}, {name: C, value: $(B)-c}]"},
		[3]string{"command", "order:1", "command: [/bin/echo, only-me]"}, [3]string{"escape", "escape:1"},
	))
	for container, want := range map[string]string{
		"layered": layeredSays,
		"big":     "4294971397\ntail.\n0",
		"name":    "1234 5678 999 5678 /not/there/yet\nkept\nnot root",
		// As in every Kubernetes, the group of USER does not count: the kubelet reads the user from it, and names that to CRI.
		"name-group": "1234 5678 999 5678 /not/there/yet\nkept\nnot root",
		"numbers":    "1234 5678 999 5678 /not/there/yet\nkept\nnot root",
		"image-says": "entry image-cmd image-a image-b",
		"args":       "entry pod-arg image-a pod-b pod-b-c",
		"command":    "only-me",
		"escape":     escapeSays,
	} {
		if got := s.ended("odd", container); got != want {
			t.Errorf("container %s says\n%s\nwant\n%s", container, got, want)
		}
	}
	s.refused("odd", "stranger", "no users found")
	s.untouched(mark)
}

// TestFullDiskRemovesUnusedImages: a kubelet that finds too little room removes what can be pulled again, and only that.
func TestFullDiskRemovesUnusedImages(t *testing.T) {
	h := newHost(t, "")
	registry, err := newRegistry(h)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	layer := testregistry.Layer{Tar: testregistry.Tar(testregistry.File("x", 0o644, "x"))}
	if _, err := registry.Push("hub/unused", "1", testregistry.Image{Layers: []testregistry.Layer{layer}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server, err := h.StartServer("--kubelet-arg=eviction-hard=imagefs.available<99%", "--kubelet-arg=minimum-image-ttl-duration=1s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	}()
	err = server.Until(ctx, "an image is pulled", func(ctx context.Context) (bool, error) {
		_, err := h.Nodeless(ctx, "crictl", "pull", "unused:1")
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = server.Until(ctx, "it is gone again, and nothing else", func(ctx context.Context) (bool, error) {
		out, err := h.Nodeless(ctx, "crictl", "images")
		if err == nil && strings.Contains(out, "nodeless/pause") && strings.Contains(out, "nodeless/hello") && !strings.Contains(out, "library/unused") {
			return true, nil
		}
		return false, errors.Join(err, fmt.Errorf("images are\n%s", out))
	})
	if err != nil {
		t.Error(err)
	}
}
