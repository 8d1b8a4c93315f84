package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inMountNamespace runs f on a thread with mounts of its own; the thread ends with it.
func inMountNamespace(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: mounting needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// kataDirs makes a sandbox's directories as Kata does, the shared one a read-only slave of the other.
func kataDirs(sandbox string) (*volumes, error) {
	mounts, shared := filepath.Join(sandbox, "mounts"), filepath.Join(sandbox, "shared")
	return &volumes{mounts: mounts, shared: shared, show: (&daemon{}).show}, errors.Join(
		os.MkdirAll(mounts, 0o755), os.MkdirAll(shared, 0o755),
		unix.Mount("tmpfs", mounts, "tmpfs", 0, ""), unix.Mount("", mounts, "", unix.MS_SHARED, ""),
		unix.Mount(mounts, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SLAVE, ""),
		unix.Mount(mounts, shared, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
		unix.Mount("", shared, "", unix.MS_SHARED, "")) // as before virtiofsd starts (daemon.go)
}

func TestExportIsSeenByVirtiofsdAndNeverDeletedThrough(t *testing.T) {
	dir := t.TempDir()
	inMountNamespace(t, func() error {
		precious := filepath.Join(dir, "volume", "precious")
		v, err := kataDirs(filepath.Join(dir, "sandbox"))
		daemon := filepath.Join(dir, "daemon") // what the daemon sees: a copy of the shared directory, made before the export
		err = errors.Join(err, os.MkdirAll(daemon, 0o755), os.MkdirAll(filepath.Dir(precious), 0o755), os.WriteFile(precious, []byte("x"), 0o600),
			unix.Mount(v.shared, daemon, "", unix.MS_BIND, ""), unix.Mount("", daemon, "", unix.MS_SLAVE, ""))
		if err != nil {
			return err
		}
		for range 2 { // for a second container it is there already
			if err := v.export("v", filepath.Dir(precious), false); err != nil {
				return err
			}
		}
		if err := v.export("v-ro", filepath.Dir(precious), true); err != nil {
			return err
		}
		seen := filepath.Join(daemon, "volumes")
		if _, err := os.Stat(filepath.Join(seen, "v/precious")); err != nil {
			t.Errorf("the daemon does not see the export: %v", err)
		}
		if err := os.WriteFile(filepath.Join(seen, "v/more"), nil, 0o600); err != nil {
			t.Errorf("the daemon cannot write: %v", err)
		}
		if err := os.WriteFile(filepath.Join(seen, "v-ro/more"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing a read-only export: %v, want EROFS", err)
		}
		for _, name := range []string{"v", "v-ro"} {
			var st unix.Statfs_t
			if err := unix.Statfs(filepath.Join(seen, name), &st); err != nil || st.Flags&unix.ST_NOSUID == 0 || st.Flags&unix.ST_NODEV == 0 {
				t.Errorf("export %s has the flags %#x, %v, want nosuid and nodev", name, st.Flags, err)
			}
		}
		if entries, err := os.ReadDir(filepath.Join(v.mounts, "volumes/v")); err != nil || len(entries) != 0 {
			t.Errorf("the folder that Kata deletes holds %v, %v, want nothing", entries, err)
		}
		// Kata's end of a sandbox.
		if err := unix.Unmount(v.shared, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(filepath.Join(v.mounts, "volumes")), os.RemoveAll(v.shared)); err != nil {
			return err
		}
		_, err = os.Stat(precious)
		return err
	})
}

func TestExportFollowsNoLinkOfTheGuest(t *testing.T) {
	dir := t.TempDir()
	inMountNamespace(t, func() error {
		v, err := kataDirs(filepath.Join(dir, "sandbox"))
		target := filepath.Join(dir, "target")
		err = errors.Join(err, os.MkdirAll(target, 0o755), os.MkdirAll(filepath.Join(v.mounts, "volumes"), 0o755), os.Symlink(target, filepath.Join(v.mounts, "volumes/v")))
		if err != nil {
			return err
		}
		if err := v.export("v", v.shared, false); err == nil {
			t.Error("a link that leads out of the shared directory was followed")
		}
		return nil
	})
}
