package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/guest/mount"
)

// resolvFiles are where the sandbox's resolver configuration goes: Kata's place and the guest's own.
var resolvFiles = [...]string{contract.GuestRoot + "/sandbox/resolv.conf", "/etc/resolv.conf"}

// CreateSandbox mounts what the sandbox's containers share and sets its name and resolver.
func (a *Agent) CreateSandbox(ctx context.Context, req *pb.CreateSandboxRequest) (*emptypb.Empty, error) {
	a.mu.Lock()
	a.sandboxID = req.GetSandboxId()
	a.mu.Unlock()
	for _, s := range req.GetStorages() {
		if _, err := a.cfg.Mounts.Mount(ctx, storage(s)); err != nil {
			return nil, err
		}
	}
	if name := req.GetHostname(); name != "" {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return nil, fmt.Errorf("set hostname %q: %w", name, err)
		}
		if err := a.cfg.Containers.SetHostname(name); err != nil {
			return nil, fmt.Errorf("set hostname %q: %w", name, err)
		}
	}
	return empty(writeResolv(req.GetDns()))
}

func writeResolv(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	content := []byte(strings.Join(lines, "\n") + "\n")
	for _, file := range resolvFiles {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("write resolver configuration: %w", err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return fmt.Errorf("write resolver configuration: %w", err)
		}
	}
	return nil
}

// DestroySandbox removes all containers and writes everything to disk; the host ends the VM next.
func (a *Agent) DestroySandbox(ctx context.Context, _ *pb.DestroySandboxRequest) (*emptypb.Empty, error) {
	var errs []error
	for _, id := range a.cfg.Containers.IDs() {
		errs = append(errs, a.remove(ctx, id))
	}
	unix.Sync()
	return empty(errors.Join(errs...))
}

// UpdateEphemeralMounts sets the sizes of tmpfs volumes anew.
func (a *Agent) UpdateEphemeralMounts(_ context.Context, req *pb.UpdateEphemeralMountsRequest) (*emptypb.Empty, error) {
	for _, s := range req.GetStorages() {
		flags, data := mount.Flags(s.GetOptions())
		if err := unix.Mount("", s.GetMountPoint(), s.GetFstype(), flags|unix.MS_REMOUNT, data); err != nil {
			return nil, fmt.Errorf("remount %s: %w", s.GetMountPoint(), err)
		}
	}
	return &emptypb.Empty{}, nil
}

// RemoveStaleVirtiofsShareMounts unmounts file systems inside the shared directory whose host side has gone.
func (a *Agent) RemoveStaleVirtiofsShareMounts(context.Context, *pb.RemoveStaleVirtiofsShareMountsRequest) (*emptypb.Empty, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(contract.GuestShare))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range mounts {
		if m.Mountpoint == contract.GuestShare {
			continue
		}
		if _, err := os.Stat(m.Mountpoint); errors.Is(err, os.ErrNotExist) {
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	return &emptypb.Empty{}, nil
}

// storage converts a storage message.
func storage(s *pb.Storage) mount.Storage {
	out := mount.Storage{
		Driver: s.GetDriver(), DriverOptions: s.GetDriverOptions(), Source: s.GetSource(),
		FSType: s.GetFstype(), Options: s.GetOptions(), MountPoint: filepath.Clean(s.GetMountPoint()),
	}
	if g := s.GetFsGroup(); g != nil {
		out.Group = &mount.Group{ID: g.GetGroupId(), OnMismatch: g.GetGroupChangePolicy() == 1}
	}
	return out
}
