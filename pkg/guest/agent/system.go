package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/guest/boot"
	"github.com/nodeless/nodeless/pkg/guest/mount"
)

// GetGuestDetails describes the guest.
func (a *Agent) GetGuestDetails(_ context.Context, req *pb.GuestDetailsRequest) (*pb.GuestDetailsResponse, error) {
	out := &pb.GuestDetailsResponse{AgentDetails: &pb.AgentDetails{
		Version:         a.cfg.Version,
		InitDaemon:      true,
		DeviceHandlers:  deviceTypes(),
		StorageHandlers: mount.Drivers(),
		SupportsSeccomp: seccomp.Enabled,
	}}
	if !req.GetMemBlockSize() {
		return out, nil
	}
	raw, err := fs.ReadFile(a.sys, "devices/system/memory/block_size_bytes")
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read memory block size: %w", err)
	}
	if out.MemBlockSizeBytes, err = strconv.ParseUint(strings.TrimSpace(string(raw)), 16, 64); err != nil {
		return nil, fmt.Errorf("read memory block size: %w", err)
	}
	return out, nil
}

// OnlineCPUMem has NbCpus processors in use altogether, so that the call can be repeated, and all memory that has been plugged in. Every
// processor that the microVM may ever have is there from the boot; the kernel brings up as many as its parameter maxcpus says.
func (a *Agent) OnlineCPUMem(_ context.Context, req *pb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	if err := a.fitCPUs(int(req.GetNbCpus())); err != nil {
		return nil, err
	}
	if req.GetCpuOnly() {
		return &emptypb.Empty{}, nil
	}
	files, err := filepath.Glob("/sys/devices/system/memory/memory*/online")
	if err == nil {
		_, err = flip(files, "1", -1)
	}
	return empty(err)
}

// fitCPUs brings processors up, or takes the last ones down, until n are in use. The first one cannot be taken down.
func (a *Agent) fitCPUs(n int) error {
	raw, err := fs.ReadFile(a.sys, "devices/system/cpu/online")
	if err != nil {
		return fmt.Errorf("count processors: %w", err)
	}
	up, err := countCPUs(strings.TrimSpace(string(raw)))
	if err != nil || n < 1 || up == n {
		return err
	}
	files, err := cpuFiles()
	if err != nil {
		return err
	}
	want, change := "1", n-up
	if up > n {
		want, change = "0", up-n
		slices.Reverse(files)
	}
	done, err := flip(files, want, change)
	if err == nil && done < change {
		err = fmt.Errorf("have %d processors in use: %d of the %d to change could be", n, done, change)
	}
	return err
}

// cpuFiles are what processors are brought up and taken down by, in the order of their numbers.
func cpuFiles() ([]string, error) {
	files, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/online")
	if err != nil {
		return nil, fmt.Errorf("list processors: %w", err)
	}
	slices.SortFunc(files, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	return files, nil
}

// countCPUs counts a list in the kernel's form, such as "0-3,6".
func countCPUs(list string) (n int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err1 := strconv.Atoi(low)
		last, err2 := strconv.Atoi(high)
		if err := errors.Join(err1, err2); err != nil {
			return 0, fmt.Errorf("count processors in %q: %w", list, err)
		}
		n += last - first + 1
	}
	return n, nil
}

// flip writes want, "0" or "1", into up to limit files that hold the other, into all with a negative limit.
func flip(files []string, want string, limit int) (done int, err error) {
	for _, f := range files {
		if done == limit {
			break
		}
		raw, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(raw)) == want {
			continue
		}
		if err := os.WriteFile(f, []byte(want), 0o644); err != nil {
			return done, fmt.Errorf("switch %s to %s: %w", f, want, err)
		}
		done++
	}
	return done, nil
}

// ReseedRandomDev adds entropy.
func (a *Agent) ReseedRandomDev(_ context.Context, req *pb.ReseedRandomDevRequest) (*emptypb.Empty, error) {
	return empty(boot.AddEntropy(req.GetData()))
}

// SetGuestDateTime sets the clock.
func (a *Agent) SetGuestDateTime(_ context.Context, req *pb.SetGuestDateTimeRequest) (*emptypb.Empty, error) {
	return empty(boot.SetClock(time.Unix(req.GetSec(), req.GetUsec()*1000)))
}

// GetVolumeStats returns how full a volume is.
func (a *Agent) GetVolumeStats(_ context.Context, req *pb.VolumeStatsRequest) (*pb.VolumeStatsResponse, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(req.GetVolumeGuestPath(), &st); err != nil {
		return nil, fmt.Errorf("read usage of volume %s: %w", req.GetVolumeGuestPath(), err)
	}
	size := uint64(st.Bsize)
	return &pb.VolumeStatsResponse{
		Usage: []*pb.VolumeUsage{
			{Total: st.Blocks * size, Available: st.Bavail * size, Used: (st.Blocks - st.Bfree) * size, Unit: pb.VolumeUsage_BYTES},
			{Total: st.Files, Available: st.Ffree, Used: st.Files - st.Ffree, Unit: pb.VolumeUsage_INODES},
		},
		VolumeCondition: &pb.VolumeCondition{},
	}, nil
}

// ResizeVolume grows the ext4 file system of a volume to its disk.
func (a *Agent) ResizeVolume(_ context.Context, req *pb.ResizeVolumeRequest) (*emptypb.Empty, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(req.GetVolumeGuestPath(), &st); err != nil {
		return nil, fmt.Errorf("grow volume %s: %w", req.GetVolumeGuestPath(), err)
	}
	if st.Type != unix.EXT4_SUPER_MAGIC {
		return nil, missing("ResizeVolume of a file system other than ext4")
	}
	if err := mount.GrowExt4(req.GetVolumeGuestPath(), int64(req.GetSize())); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
