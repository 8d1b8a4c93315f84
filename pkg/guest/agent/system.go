package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// OnlineCPUMem brings hot-plugged processors and memory into use. NbCpus is how many are to be online altogether, so
// that the call can be repeated.
func (a *Agent) OnlineCPUMem(ctx context.Context, req *pb.OnlineCPUMemRequest) (*emptypb.Empty, error) {
	if err := a.onlineCPUs(ctx, int(req.GetNbCpus())); err != nil {
		return nil, err
	}
	if req.GetCpuOnly() {
		return &emptypb.Empty{}, nil
	}
	_, err := online("/sys/devices/system/memory/memory*/online", -1)
	return empty(err)
}

const (
	cpuWait  = 20 * time.Second
	cpuPause = 10 * time.Millisecond
)

// onlineCPUs brings processors up until n are, waiting for hot-plug to deliver them.
func (a *Agent) onlineCPUs(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, cpuWait)
	defer cancel()
	for {
		raw, err := fs.ReadFile(a.sys, "devices/system/cpu/online")
		if err != nil {
			return fmt.Errorf("count processors: %w", err)
		}
		up, err := countCPUs(strings.TrimSpace(string(raw)))
		if err != nil {
			return err
		}
		if up >= n {
			return nil
		}
		done, err := online("/sys/devices/system/cpu/cpu*/online", n-up)
		if err != nil {
			return err
		}
		if up+done >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("bring processors up: %d of %d have appeared: %w", up+done, n, ctx.Err())
		case <-time.After(cpuPause):
		}
	}
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

// online switches on up to limit things that are off, all with a negative limit.
func online(pattern string, limit int) (done int, err error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return 0, fmt.Errorf("bring up: %w", err)
	}
	for _, f := range files {
		if done == limit {
			break
		}
		raw, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(raw)) != "0" {
			continue
		}
		if err := os.WriteFile(f, []byte("1"), 0o644); err != nil {
			return done, fmt.Errorf("bring up: %w", err)
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
