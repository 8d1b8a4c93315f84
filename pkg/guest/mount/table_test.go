package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// recorder is a system that writes down what it is asked to do.
type recorder struct {
	mu  sync.Mutex
	did []string
	err error
}

func (r *recorder) Mount(source, target, fstype string, _ uintptr, data string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.did = append(r.did, "mount "+source+" "+target+" "+fstype+" "+data)
	return r.err
}

func (r *recorder) Unmount(target string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.did = append(r.did, "unmount "+target)
	return nil
}

func (r *recorder) BindPart(volume, sub, target string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.did = append(r.did, "bind "+volume+" "+sub+" "+target)
	return r.err
}

func (r *recorder) Share(string) error { return nil }

func (r *recorder) Memory() uint64 { return 256 << 20 }

var layer = Storage{Driver: "blk", Source: "08", FSType: "erofs", Options: []string{"ro"}, MountPoint: "/layers/a"}

func TestSharedLayerIsMountedOnceAndUnmountedAfterItsLastUser(t *testing.T) {
	r := new(recorder)
	table := newTable(sys(), t.TempDir(), r)
	for range 3 {
		source, err := table.Mount(t.Context(), layer)
		if err != nil || source != "/layers/a" {
			t.Fatalf("Mount = %q, %v", source, err)
		}
	}
	for range 2 {
		if err := table.Release("/layers/a"); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"mount /dev/vdc /layers/a erofs "}, r.did); diff != "" {
		t.Errorf("before the last release (-want +got):\n%s", diff)
	}
	for range 2 { // once more than mounted: success, as nothing is there
		if err := table.Release("/layers/a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := table.Mount(t.Context(), layer); err != nil {
		t.Fatal(err)
	}
	want := []string{"mount /dev/vdc /layers/a erofs ", "unmount /layers/a", "mount /dev/vdc /layers/a erofs "}
	if diff := cmp.Diff(want, r.did); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestFailedMountCanBeTriedAgain(t *testing.T) {
	r := &recorder{err: unix.EIO}
	table := newTable(sys(), t.TempDir(), r)
	if _, err := table.Mount(t.Context(), layer); !errors.Is(err, unix.EIO) {
		t.Fatalf("Mount = %v, want EIO", err)
	}
	r.err = nil
	if _, err := table.Mount(t.Context(), layer); err != nil {
		t.Errorf("second try = %v", err)
	}
}

func TestConcurrentUsersMountOnce(t *testing.T) {
	r := new(recorder)
	table := newTable(sys(), t.TempDir(), r)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := table.Mount(context.Background(), layer); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(r.did) != 1 {
		t.Errorf("calls = %v, want one mount", r.did)
	}
}

func TestEmptyDirsOutliveTheirContainers(t *testing.T) {
	r := new(recorder)
	local := t.TempDir()
	table := newTable(sys(), local, r)
	dir := Storage{Driver: "local", MountPoint: "/shared/box/local/vol", Options: []string{"mode=0777"}}
	mem := Storage{Driver: "ephemeral", Source: "tmpfs", FSType: "tmpfs", MountPoint: "/sandbox/ephemeral/vol"}
	for range 2 {
		source, err := table.Mount(t.Context(), dir)
		if want := filepath.Join(local, "vol"); err != nil || source != want {
			t.Errorf("Mount = %q, %v, want %q", source, err, want)
		}
		if _, err := table.Mount(t.Context(), mem); err != nil {
			t.Error(err)
		}
		if err := errors.Join(table.Release(dir.MountPoint), table.Release(mem.MountPoint)); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"mount tmpfs /sandbox/ephemeral/vol tmpfs "}, r.did); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestWatchableBindMountsNothing(t *testing.T) {
	r := new(recorder)
	s := Storage{Driver: "watchable-bind", Source: "/shared/cm", MountPoint: "/shared/watchable/cm"}
	source, err := newTable(sys(), t.TempDir(), r).Mount(t.Context(), s)
	if source != "/shared/cm" || err != nil || len(r.did) != 0 {
		t.Errorf("Mount = %q, %v, calls %v", source, err, r.did)
	}
}

func TestUnknownDriverIsNamed(t *testing.T) {
	_, err := newTable(sys(), t.TempDir(), new(recorder)).Mount(t.Context(), Storage{Driver: "scsi"})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("Mount = %v, want ErrUnsupported", err)
	}
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options []string
		flags   uintptr
		data    string
	}{
		{name: "none"},
		{name: "flags and data", options: []string{"ro", "nosuid", "mode=1777", "size=1k"}, flags: unix.MS_RDONLY | unix.MS_NOSUID, data: "mode=1777,size=1k"},
		{name: "joined by commas", options: []string{"pagesize=2097152,size=4194304", "ro,nodev"}, flags: unix.MS_RDONLY | unix.MS_NODEV, data: "pagesize=2097152,size=4194304"},
		{name: "the last one wins", options: []string{"ro", "rw", "noexec", "exec"}},
		{name: "recursive bind", options: []string{"rbind", "ro"}, flags: unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY},
	} {
		t.Run(tc.name, func(t *testing.T) {
			flags, data := Flags(tc.options)
			if flags != tc.flags || data != tc.data {
				t.Errorf("Flags = %#x, %q, want %#x, %q", flags, data, tc.flags, tc.data)
			}
		})
	}
}

func TestTake(t *testing.T) {
	value, rest := take([]string{"fsgid=2000,mode=0777", "ro"}, "fsgid")
	if diff := cmp.Diff([]string{"mode=0777", "ro"}, rest); value != "2000" || diff != "" {
		t.Errorf("take = %q, rest (-want +got):\n%s", value, diff)
	}
}

// late is a system whose disk cannot be mounted yet the first times, as on a busy host.
type late struct {
	recorder
	refusals []error
}

func (l *late) Mount(source, target, fstype string, flags uintptr, data string) error {
	if len(l.refusals) > 0 {
		err := l.refusals[0]
		l.refusals = l.refusals[1:]
		return os.NewSyscallError("mount", err)
	}
	return l.recorder.Mount(source, target, fstype, flags, data)
}

// Seen with eight Pods at once: sysfs showed the disk, mount said "no such file or directory" or "no such device or address".
func TestDiskThatCannotBeOpenedYetIsWaitedFor(t *testing.T) {
	l := &late{refusals: []error{unix.ENOENT, unix.ENOENT, unix.ENXIO, unix.ENXIO}}
	if _, err := newTable(sys(), t.TempDir(), l).Mount(t.Context(), layer); err != nil {
		t.Fatal(err)
	}
	if len(l.refusals) != 0 || len(l.did) != 1 {
		t.Errorf("%d refusals left, did %q; want one mount after four refusals", len(l.refusals), l.did)
	}
}
