package guesttest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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
			out, err := exec.CommandContext(t.Context(), "du", "-k", scratch).CombinedOutput()
			t.Logf("booted in %v, file system ready %v later; allocated in KiB: %s, %v", v.booted, ready, out, err)
		})
	}
}
