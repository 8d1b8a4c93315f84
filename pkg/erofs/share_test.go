package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMergedImageSharesBlocksWithItsLayers: on XFS a merged image takes little more than its names, and it is the same,
// byte for byte, as one that was copied.
func TestMergedImageSharesBlocksWithItsLayers(t *testing.T) {
	needMounts(t)
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Skipf("skipped: %v (Debian's package is xfsprogs)", err)
	}
	disk, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 400<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v\n%s", err, out)
	}
	large := make([]byte, 8<<20+5)
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	lower := makeTar(t, member{Header: tar.Header{Name: "large", Mode: 0o644}, content: string(large)}, member{Header: tar.Header{Name: "small", Mode: 0o644}, content: "small"})
	upper := makeTar(t, member{Header: tar.Header{Name: "odd", Mode: 0o644}, content: string(large[:shareSize+1])})
	copied, err := os.ReadFile(merge(t, convert(t, lower), convert(t, upper)).Name())
	if err != nil {
		t.Fatal(err)
	}
	inMounts(t, func() error {
		if out, err := exec.Command("mount", "-o", "loop", disk, at).CombinedOutput(); err != nil {
			return fmt.Errorf("mount XFS: %w\n%s", err, out)
		}
		layers := make([]*os.File, 3)
		for i := range layers {
			f, err := os.Create(filepath.Join(at, fmt.Sprint(i)))
			if err != nil {
				return err
			}
			defer f.Close()
			layers[i] = f
		}
		for i, data := range [][]byte{lower, upper} {
			if err := Convert(t.Context(), bytes.NewReader(data), layers[i], DefaultLimits()); err != nil {
				return err
			}
		}
		before, err := free(at)
		if err != nil {
			return err
		}
		if err := Merge(t.Context(), layers[:2], layers[2], DefaultLimits()); err != nil {
			return err
		}
		after, err := free(at)
		if err != nil {
			return err
		}
		shared, err := io.ReadAll(io.NewSectionReader(layers[2], 0, int64(len(copied))+1))
		if err != nil {
			return err
		}
		if !bytes.Equal(shared, copied) {
			t.Errorf("the image of %d bytes that shares blocks is not the one of %d bytes that was copied", len(shared), len(copied))
		}
		if took := before - after; took > 1<<20 {
			t.Errorf("merging took %d bytes of the disk", took)
		}
		return nil
	})
}

// free is the room on a file system once everything is written out.
func free(dir string) (int64, error) {
	d, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	err = unix.Fstatfs(int(d.Fd()), &st)
	return int64(st.Bfree) * st.Bsize, err
}
