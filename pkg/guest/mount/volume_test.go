package mount

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMemoryVolumeHasTheSizeOfTheHostsTmpfs(t *testing.T) {
	tests := []struct{ name, options, want string }{
		{"a limit", "size=1048576,mode=1777,uid=0,gid=2000", "mount tmpfs /m tmpfs mode=1777,uid=0,gid=2000,size=1048576"},
		{"more than the guest has is no limit", "size=34359738368,mode=0777,uid=0,gid=0", "mount tmpfs /m tmpfs mode=0777,uid=0,gid=0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := new(recorder)
			table := newTable(sys(), t.TempDir(), r)
			s := Storage{Driver: "memory", Source: "tmpfs", FSType: "tmpfs", MountPoint: "/m", Options: []string{tt.options}}
			if _, err := table.Mount(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if err := table.Release("/m"); err != nil { // it outlives its first container
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tt.want}, r.did); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPartIsCreatedLikeItsVolumeAndLeftAsItIs(t *testing.T) {
	volume := t.TempDir()
	if err := os.Chmod(volume, 0o770); err != nil {
		t.Fatal(err)
	}
	if err := createPart(volume, "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a", "a/b"} {
		if info, err := os.Stat(filepath.Join(volume, dir)); err != nil || info.Mode().Perm() != 0o770 {
			t.Errorf("%s: %v, %v, want permissions 770", dir, info, err)
		}
	}
	file := filepath.Join(volume, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := createPart(volume, "file"); err != nil {
		t.Errorf("a part that is a file: %v", err)
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(volume, "out")); err != nil {
		t.Fatal(err)
	}
	if err := createPart(volume, "out/new"); err == nil {
		t.Error("a part was made outside of the volume")
	}
}

func TestPartIsNotFollowedOutOfItsVolume(t *testing.T) {
	volume := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(volume, "out")); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"out", "..", "../x", "out/x"} {
		if err := (kernel{}).BindPart(volume, sub, filepath.Join(t.TempDir(), "point")); err == nil || errors.Is(err, fs.ErrPermission) {
			t.Errorf("part %q: %v, want it refused", sub, err)
		}
	}
}
