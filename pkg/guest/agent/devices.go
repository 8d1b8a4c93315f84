package agent

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/guest/mount"
)

// deviceTypes names the device kinds this agent knows, for its self-description.
func deviceTypes() []string { return []string{"blk", "vfio-pci-gk"} }

// addDevices waits for the container's devices and gives the guest's numbers to its device nodes.
func (a *Agent) addDevices(ctx context.Context, spec *specs.Spec, devices []*pb.Device) error {
	spec.Linux.Devices = guestDevices(spec.Linux.Devices, devices, guestNumber)
	for _, d := range devices {
		var err error
		switch d.GetType() {
		case "blk":
			err = a.addDisk(ctx, spec, d)
		case "vfio-pci-gk":
			err = a.awaitPCI(ctx, d)
		default:
			err = fmt.Errorf("%w: device type %q", mount.ErrUnsupported, d.GetType())
		}
		if err != nil {
			return fmt.Errorf("add device %s: %w", d.GetContainerPath(), err)
		}
	}
	return nil
}

// guestDevices replaces the host's numbers of character devices by those the guest has at the same
// paths, and drops devices it does not have: a host's number may be another device here, the disk of
// all containers even. Devices the host describes separately are left to their own treatment.
func guestDevices(in []specs.LinuxDevice, separate []*pb.Device, number func(path string) (kind string, major, minor int64)) []specs.LinuxDevice {
	var out []specs.LinuxDevice
	for _, d := range in {
		described := slices.ContainsFunc(separate, func(s *pb.Device) bool { return s.GetContainerPath() == d.Path })
		kind, major, minor := number(d.Path)
		switch {
		case d.Type == "p" || described:
		case kind == "c" && (d.Type == "c" || d.Type == "u"):
			d.Major, d.Minor = major, minor
		default:
			continue
		}
		out = append(out, d)
	}
	return out
}

// guestNumber reads the number of a device node of the guest.
func guestNumber(path string) (kind string, major, minor int64) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", 0, 0
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	}
	return kind, int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
}

// addDisk makes a raw block volume of a hot-plugged disk.
func (a *Agent) addDisk(ctx context.Context, spec *specs.Spec, d *pb.Device) error {
	disk, err := mount.WaitDisk(ctx, a.sys, d.GetId())
	if err != nil {
		return err
	}
	for i := range spec.Linux.Devices {
		if spec.Linux.Devices[i].Path == d.GetContainerPath() {
			spec.Linux.Devices[i].Type = "b"
			spec.Linux.Devices[i].Major = int64(disk.Major)
			spec.Linux.Devices[i].Minor = int64(disk.Minor)
			return nil
		}
	}
	mode := fs.FileMode(0o660)
	spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
		Path: d.GetContainerPath(), Type: "b", Major: int64(disk.Major), Minor: int64(disk.Minor), FileMode: &mode,
	})
	return nil
}

// awaitPCI waits for devices that the guest's own drivers take over: each option is "<host>=<guest path>".
func (a *Agent) awaitPCI(ctx context.Context, d *pb.Device) error {
	for _, o := range d.GetOptions() {
		_, path, ok := strings.Cut(o, "=")
		if !ok {
			return fmt.Errorf("parse device option %q: no guest path", o)
		}
		if _, err := mount.WaitPCI(ctx, a.sys, path); err != nil {
			return err
		}
	}
	return nil
}
