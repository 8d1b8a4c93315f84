package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/kubernetes/pkg/volume/emptydir"

	"github.com/nodeless/nodeless/tests/attack"
)

// tall makes folders below each other and returns the lowest, open.
func tall(t *testing.T, root string, depth int) int {
	t.Helper()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range depth {
		if err == nil {
			err = unix.Mkdirat(fd, "dddddddddddddddd", 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		above := fd
		fd, err = unix.Openat(above, "dddddddddddddddd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(above)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestUsage(t *testing.T) {
	if p, ok := (givers{}).emptyDirs(emptydir.ProbeVolumePlugins())[0].(emptyDirs); !ok {
		t.Errorf("emptyDirs are counted by upstream: %T", p)
	}
	root := t.TempDir()
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), make([]byte, 4096), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"again", "and-again"} {
		if err := os.Link(filepath.Join(root, "0"), filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := usage(root, leastOfFile)
	if err != nil || got.inodes != 3001 || got.bytes < 3000*4096 || got.bytes > 3000*4096+(1<<20) || got.tooDeep {
		t.Errorf("usage = %+v, %v", got, err)
	}
}

func TestWhatAFileCountsAs(t *testing.T) {
	const gib = 1 << 30
	for _, tc := range []struct {
		name                  string
		capacity, files, want int64
	}{
		{"as many as there are blocks", 100 * gib, 100 * gib / 4096, 4096},
		{"ext4 as it is made by default", 100 * gib, 100 * gib / 16384, 16384},
		{"files on demand", 100 * gib, 0, 4096},
		{"made for large files", 100 * gib, 100 * gib >> 20, 16384},
		{"made for small files", 100 * gib, 100 * gib >> 10, 4096},
	} {
		if got := ofFile(tc.capacity, tc.files); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// TestAttackAVolumeOfEmptyFiles: they take no block of the host's disk, and its files are as limited as its bytes.
func TestAttackAVolumeOfEmptyFiles(t *testing.T) {
	attack.Try(t, "T7", "empty files without end", func(t *testing.T) attack.Outcome {
		root := t.TempDir()
		for i := range 500 {
			if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("x", filepath.Join(root, fmt.Sprint("link", i))); err != nil {
				t.Fatal(err)
			}
		}
		got, err := (&emptyDir{Mounter: &mounted{dir: root}, onDisk: true}).GetMetrics()
		if err != nil {
			t.Fatal(err)
		}
		if used := got.Used.Value(); used < 1000*leastOfFile || used < 1000*ofFile(got.Capacity.Value(), got.Inodes.Value()) {
			t.Errorf("a thousand empty files count as %d bytes", used)
		}
		return attack.Contained
	})
}

// TestAttackAVolumeThatCannotBeCounted: a guest fills its emptyDir with what a reader on the host may stumble over.
func TestAttackAVolumeThatCannotBeCounted(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"loop": ".", "out": "/", "shadow": "/etc/shadow"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	attack.Try(t, "T4", "links and a FIFO in an emptyDir", func(t *testing.T) attack.Outcome {
		if got, err := usage(root, leastOfFile); err != nil || got.inodes != 5 {
			t.Errorf("usage = %+v, %v; want the five that are there", got, err)
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "content behind a path that is too long to name", func(t *testing.T) attack.Outcome {
		fd := tall(t, root, 400) // 6,800 bytes of path
		defer unix.Close(fd)
		f, err := unix.Openat(fd, "hidden", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(f)
		if _, err := unix.Write(f, make([]byte, 8<<20)); err != nil {
			t.Fatal(err)
		}
		if got, err := usage(root, leastOfFile); err != nil || got.bytes < 8<<20 {
			t.Errorf("usage = %+v, %v; want the hidden 8 MiB in it", got, err)
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "folders without end below each other", func(t *testing.T) attack.Outcome {
		unix.Close(tall(t, t.TempDir(), 10))
		deep := t.TempDir()
		unix.Close(tall(t, deep, deepest+100))
		if got, err := usage(deep, leastOfFile); err != nil || !got.tooDeep {
			t.Errorf("usage = %+v, %v; want it too deep", got, err)
		}
		return attack.Contained
	})
	attack.Try(t, "T4", "sixty thousand names in one folder", func(t *testing.T) attack.Outcome {
		many := t.TempDir()
		dir, err := unix.Open(many, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(dir)
		const names = 60_000
		if err := unix.Mkdirat(dir, "0", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(many, "first"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range names {
			if err := unix.Mknodat(dir, fmt.Sprintf("%0250d", i), unix.S_IFREG|0o644, 0); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("made in %s", time.Since(began))
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		got, err := usage(many, leastOfFile)
		runtime.ReadMemStats(&after)
		if err != nil || got.inodes != names+3 {
			t.Errorf("usage = %+v, %v", got, err)
		}
		if want := int64(names * leastOfFile); got.bytes < want {
			t.Errorf("so many files count as %d bytes, want %d", got.bytes, want)
		}
		if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 8<<20 {
			t.Errorf("counting took %d MiB", grown>>20)
		}
		return attack.Contained
	})
}
