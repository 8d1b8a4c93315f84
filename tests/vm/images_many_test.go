package vm_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nodeless/nodeless/tests/testregistry"
)

// TestImagesOfManyFiles: an image of half a million files, about as many as one may have, is unpacked in bounded memory, and its Pod
// finds each of them. A small download that becomes more names than an image may have is refused with the bound.
func TestImagesOfManyFiles(t *testing.T) {
	needRegistry(t)
	s := newQuietSpace(t, 6*time.Minute)
	s.push("hub/many", shell("n=0; for d in /many/*; do set -- $d/*; n=$((n+$#)); done; echo $n; cat /many/499/999; touch /many/000/more && ls /many/000 | wc -l"),
		testregistry.Layer{Tar: manyFiles(), Format: "zstd"})
	again := testregistry.Tar(testregistry.File("again", 0o644, ""))[:512]
	s.push("hub/endless", shell("true"), testregistry.Layer{Tar: bytes.Repeat(again, 512<<10+1), Format: "zstd"})

	containerd := s.Processes(t, " containerd --config ")
	if len(containerd) != 1 {
		t.Fatalf("processes of containerd: %v, want one", containerd)
	}
	before := peak(t, containerd[0])
	s.Apply(fmt.Sprintf(oneShot, "many", "none") + containers([3]string{"many", "many:1"}, [3]string{"endless", "endless:1"}))
	if got, want := s.ended("many", "many"), "500000\nlast\n1001"; got != want {
		t.Errorf("the Pod of half a million files says %q, want %q", got, want)
	}
	s.refused("many", "endless", "library/endless", "more than 524288 names", "layer is too large")
	if grown := peak(t, containerd[0]) - before; grown > 768<<20 {
		t.Errorf("containerd took %d MB to unpack it, want at most 768 MB", grown>>20)
	} else {
		t.Logf("containerd's peak grew by %d MB", grown>>20)
	}
}

// manyFiles is a tar of five hundred directories with a thousand files each; the last has content.
func manyFiles() []byte {
	var all []testregistry.Entry
	for i := range 500_000 {
		all = append(all, testregistry.File(fmt.Sprintf("many/%03d/%03d", i/1000, i%1000), 0o644, ""))
	}
	all[len(all)-1].Data = []byte("last\n")
	return testregistry.Tar(all...)
}

// peak is the most memory that a process has had, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		t.Fatalf("no VmHWM in\n%s", status)
	}
	kb, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
