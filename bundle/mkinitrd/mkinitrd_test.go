package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArchiveLayout(t *testing.T) {
	var a archive
	a.dir("d")
	a.device("d/c", 5, 1)
	a.file("d/f", []byte("hello"), 0o755)
	got := a.bytes()
	want := "070701" + "00000001" + "000041ed" + zeros(2) + "00000001" + zeros(1) + "00000000" + zeros(4) + "00000002" + zeros(1) + "d\x00" +
		"070701" + "00000002" + "00002180" + zeros(2) + "00000001" + zeros(1) + "00000000" + zeros(2) + "00000005" + "00000001" + "00000004" + zeros(1) + "d/c\x00\x00\x00" +
		"070701" + "00000003" + "000081ed" + zeros(2) + "00000001" + zeros(1) + "00000005" + zeros(4) + "00000004" + zeros(1) + "d/f\x00\x00\x00" + "hello\x00\x00\x00" +
		"070701" + "00000004" + "00000000" + zeros(2) + "00000001" + zeros(1) + "00000000" + zeros(4) + "0000000b" + zeros(1) + "TRAILER!!!\x00"
	if len(got)%512 != 0 {
		t.Errorf("length %d is no multiple of 512", len(got))
	}
	if diff := cmp.Diff(want, strings.TrimRight(string(got), "\x00")+"\x00"); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
}

func zeros(n int) string { return strings.Repeat("00000000", n) }

// The kernel package is too large for testdata: this runs where the bundle was built.
func TestModulesComeAfterThoseTheyNeed(t *testing.T) {
	dirs, err := filepath.Glob("../../dist/kernel/usr/lib/modules/*")
	if err != nil || len(dirs) != 1 {
		t.Skip("skipped: no unpacked kernel package; run scripts/build-bundle.sh first")
	}
	tree, err := openModules(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	files, err := tree.order([]string{"virtiofs", "nfs", "ext4", "virtio_net"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		needed, err := dependencies(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range needed {
			if !seen[n] && !tree.builtin[n] {
				t.Errorf("%s comes before %s, which it needs", moduleName(file), n)
			}
		}
		seen[moduleName(file)] = true
	}
	for name, want := range map[string]bool{"virtiofs": false, "nfs": true, "sunrpc": true, "net_failover": true, "ext4": false} {
		if seen[name] != want {
			t.Errorf("module %s is listed: %v, want %v", name, seen[name], want)
		}
	}
	if _, err := tree.order([]string{"no_such_module"}); err == nil || !strings.Contains(err.Error(), "no_such_module") {
		t.Errorf("an unknown module gave %v", err)
	}
}

func TestAssembleIsReproducible(t *testing.T) {
	module := filepath.Join(t.TempDir(), "virtio-rng.ko")
	if err := os.WriteFile(module, []byte("module"), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := assemble([]byte("program"), []string{module})
	if err != nil {
		t.Fatal(err)
	}
	two, err := assemble([]byte("program"), []string{module})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same input gave two archives")
	}
	for _, want := range []string{"init\x00", "dev/console\x00", "modules/virtio_rng.ko\x00", "virtio_rng.ko\n"} {
		if !bytes.Contains(one, []byte(want)) {
			t.Errorf("archive lacks %q", want)
		}
	}
}
