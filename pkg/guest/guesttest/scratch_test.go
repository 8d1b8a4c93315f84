package guesttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
)

// TestScratchGrows: the guest grows the template's file system to the Pod's disk, whatever its size, and hardly anything is written for it.
func TestScratchGrows(t *testing.T) {
	needVM(t)
	template := setting(t, "NODELESS_GUEST_SCRATCH", "../../../dist/bundle/guest/scratch.ext4")
	for _, gib := range []int64{20, 21, 33, 100, 500, 2048} {
		t.Run(fmt.Sprint(gib), func(t *testing.T) {
			scratch := filepath.Join(t.TempDir(), "scratch.ext4")
			run(t, "cp", "--sparse=always", template, scratch)
			run(t, "truncate", "-s", fmt.Sprintf("%dG", gib), scratch)
			v := bootOn(t, scratch)
			answered := time.Now()
			stats, err := v.GetVolumeStats(t.Context(), &pb.VolumeStatsRequest{VolumeGuestPath: root})
			if err != nil {
				t.Fatal(err)
			}
			ready := time.Since(answered)
			// Inode tables take 1.6 % of a file system with 256 bytes for each 16 KiB.
			if bytes := int64(stats.Usage[0].Total); bytes < (gib<<30)*98/100 || bytes > gib<<30 {
				t.Errorf("a disk of %d GiB has room for %d bytes", gib, bytes)
			}
			var disk unix.Stat_t
			if err := unix.Stat(scratch, &disk); err != nil {
				t.Fatal(err)
			}
			if allocated := disk.Blocks * 512; allocated > 8<<20 {
				t.Errorf("%d bytes are allocated on the host", allocated)
			}
			t.Logf("booted in %v, file system ready %v later; %d KiB allocated", v.booted, ready, disk.Blocks/2)
		})
	}
}

// TestScratchThatDoesNotGrow: a guest whose disk is larger than its file system can become ends, and says why. Its Pod would have less
// than it asked for.
func TestScratchThatDoesNotGrow(t *testing.T) {
	needVM(t)
	scratch := filepath.Join(t.TempDir(), "scratch.ext4")
	run(t, "truncate", "-s", "1G", scratch)
	run(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal,^resize_inode,sparse_super2", scratch)
	run(t, "truncate", "-s", "2G", scratch)
	v := bootOn(t, scratch)
	if _, err := v.GetVolumeStats(t.Context(), &pb.VolumeStatsRequest{VolumeGuestPath: root}); err == nil {
		t.Error("the guest works with less than its disk")
	}
	until(t, "the console says why", func() bool {
		console, err := os.ReadFile(filepath.Join(v.dir, "console"))
		return err == nil && strings.Contains(string(console), "grow file system")
	})
}
