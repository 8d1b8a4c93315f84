package vmm

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCutFileSystemIsWhole asks e2fsck, which knows ext4 better. The file system is made as scripts/build-bundle.sh does.
func TestCutFileSystemIsWhole(t *testing.T) {
	for _, tool := range []string{"mke2fs", "e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: no %s here; it is of Debian's package e2fsprogs", tool)
		}
	}
	template := filepath.Join(t.TempDir(), "template")
	out, err := exec.CommandContext(t.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-G", "256", "-m", "0",
		"-O", "^has_journal,^64bit,^resize_inode,^metadata_csum,uninit_bg,sparse_super2,extent,flex_bg,dir_index,filetype,ext_attr,large_file,huge_file,dir_nlink,extra_isize",
		"-E", "num_backup_sb=0,assume_storage_prezeroed=1", template, "128G").CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v, %s", err, out)
	}
	for _, gib := range []int64{21, 32, 33, 50, 127, 128} {
		disks := t.TempDir()
		s, err := newScratch(template, disks, "abc")
		must(t, err)
		must(t, cut(s.file, gib))
		info, err := s.file.Stat()
		must(t, err)
		out, err := exec.CommandContext(t.Context(), "e2fsck", "-fn", s.path).CombinedOutput()
		// Blocks that stay taken without need are all that it finds: "-" is what its bitmap would have less.
		problems := regexp.MustCompile(`(?m)^(Pass .*|e2fsck .*|Fix\? no|Block bitmap differences: ( -\([0-9-]+\))+|.*WARNING: Filesystem still has errors.*|.* files .*|)$`).ReplaceAllString(string(out), "")
		if strings.TrimSpace(problems) != "" || info.Size() != gib<<30 {
			t.Errorf("%d GiB: %d bytes; e2fsck: %v\n%s", gib, info.Size(), err, out)
		}
		must(t, s.remove())
	}
	s, err := newScratch(template, t.TempDir(), "abc")
	must(t, err)
	if err := cut(s.file, 129); err == nil || !strings.Contains(err.Error(), "cut to 129 GiB") {
		t.Errorf("more than the template has: %v", err)
	}
	must(t, s.file.Truncate(0))
	must(t, s.file.Truncate(1<<30))
	if err := cut(s.file, 1); err == nil || !strings.Contains(err.Error(), "no ext4") {
		t.Errorf("a file of zeros: %v", err)
	}
	must(t, s.remove())
	if _, err := os.Stat(s.path); err == nil {
		t.Error("the disk is still there")
	}
}
