package guesttest

import (
	"context"
	"strings"
	"testing"
	"time"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const root = "/run/kata-containers"

// capabilities are containerd's defaults.
var capabilities = strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID " +
	"CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE")

func process(args ...string) *pb.Process {
	return &pb.Process{
		User: &pb.User{}, Args: args, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/"},
		Capabilities: &pb.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
	}
}

func shell(script string) *pb.Process { return process("sh", "-c", script) }

// createRequest describes a container as Kata does: image layer, overlay, the usual mounts.
func createRequest(id, slot string, p *pb.Process) *pb.CreateContainerRequest {
	layer := root + "/virtual-volumes/layer-" + slot
	dir := root + "/" + id
	const create = "io.katacontainers.volume.overlayfs.create_directory="
	return &pb.CreateContainerRequest{
		ContainerId: id, ExecId: id,
		Storages: []*pb.Storage{
			{Driver: "blk", Source: slot, Fstype: "erofs", Options: []string{"ro"}, MountPoint: layer},
			{
				Driver: "overlayfs", Source: "none", Fstype: "overlay", MountPoint: dir + "/rootfs",
				DriverOptions: []string{create + dir + "/fs", create + dir + "/work"},
				Options:       []string{"lowerdir=" + layer, "upperdir=" + dir + "/fs", "workdir=" + dir + "/work"},
			},
		},
		OCI: &pb.Spec{
			Version: "1.1.0", Process: p, Root: &pb.Root{Path: dir + "/rootfs"},
			Mounts: []*pb.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
				{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
				{Destination: "/dev/shm", Type: "bind", Source: root + "/sandbox/shm", Options: []string{"rbind"}},
			},
			Annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
			Linux: &pb.Linux{
				Resources:     &pb.LinuxResources{Memory: &pb.LinuxMemory{}, CPU: &pb.LinuxCPU{Shares: 102}},
				CgroupsPath:   "/kubepods/burstable/pod1/" + id,
				Namespaces:    []*pb.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
				MaskedPaths:   []string{"/proc/kcore", "/proc/keys"},
				ReadonlyPaths: []string{"/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
}

// start creates and starts a container.
func (v *vm) start(t *testing.T, req *pb.CreateContainerRequest) {
	t.Helper()
	if _, err := v.CreateContainer(t.Context(), req); err != nil {
		t.Fatalf("create %s: %v", req.ContainerId, err)
	}
	if _, err := v.StartContainer(t.Context(), &pb.StartContainerRequest{ContainerId: req.ContainerId}); err != nil {
		t.Fatalf("start %s: %v", req.ContainerId, err)
	}
}

func (v *vm) wait(t *testing.T, id, exec string) int32 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := v.WaitProcess(ctx, &pb.WaitProcessRequest{ContainerId: id, ExecId: exec})
	if err != nil {
		t.Fatalf("wait for %s/%s: %v", id, exec, err)
	}
	return r.Status
}

// output reads a stream to its end.
func (v *vm) output(t *testing.T, id, exec string, stderr bool) string {
	t.Helper()
	read := v.ReadStdout
	if stderr {
		read = v.ReadStderr
	}
	var out strings.Builder
	for {
		r, err := read(t.Context(), &pb.ReadStreamRequest{ContainerId: id, ExecId: exec, Len: 32 << 10})
		if status.Code(err) == codes.OutOfRange {
			return out.String()
		}
		if err != nil {
			t.Fatalf("read %s/%s: %v", id, exec, err)
		}
		out.Write(r.Data)
	}
}

// exec runs a process to its end.
func (v *vm) exec(t *testing.T, id, exec string, p *pb.Process) (string, int32) {
	t.Helper()
	if _, err := v.ExecProcess(t.Context(), &pb.ExecProcessRequest{ContainerId: id, ExecId: exec, Process: p}); err != nil {
		t.Fatalf("exec %s/%s: %v", id, exec, err)
	}
	out := v.output(t, id, exec, false)
	return out, v.wait(t, id, exec)
}

func (v *vm) remove(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := v.RemoveContainer(t.Context(), &pb.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
	}
}

func (v *vm) signal(t *testing.T, id, exec string, sig uint32) {
	t.Helper()
	if _, err := v.SignalProcess(t.Context(), &pb.SignalProcessRequest{ContainerId: id, ExecId: exec, Signal: sig}); err != nil {
		t.Fatalf("signal %s/%s: %v", id, exec, err)
	}
}

// until repeats a condition that another process brings about.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not seen in time", what)
		}
	}
}
