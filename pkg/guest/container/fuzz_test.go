package container

import (
	"path"
	"slices"
	"strings"
	"testing"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// requests are containers to begin a search with: a usual one and odd ones.
func requests() []*pb.CreateContainerRequest {
	usual := &pb.Spec{
		Version: "1.1.0", Root: &pb.Root{Path: "/run/kata-containers/x/rootfs"}, Hostname: "h", Annotations: map[string]string{"a": "b"},
		Process: &pb.Process{Args: []string{"sh"}, Cwd: "/", Env: []string{"A=B"}, User: &pb.User{UID: 1, AdditionalGids: []uint32{2}},
			ConsoleSize: &pb.Box{Height: 1, Width: 70000}, Rlimits: []*pb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1, Soft: 2}},
			Capabilities: &pb.LinuxCapabilities{Bounding: []string{"CAP_SYS_ADMIN", "CAP_SYS_RAWIO"}}, Terminal: true},
		Mounts: []*pb.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid"}}, {Destination: "/v", Type: "bind", Source: "/x", Options: []string{"rbind", "ro"}}},
		Linux: &pb.Linux{
			CgroupsPath: "/kubepods/x", RootfsPropagation: "rslave", MaskedPaths: []string{"/proc/kcore"}, Sysctl: map[string]string{"net.a": "1"},
			Namespaces: []*pb.LinuxNamespace{{Type: "network", Path: "/proc/1/ns/net"}, {Type: "mount"}, {Type: "ipc"}, {Type: "user"}},
			Devices:    []*pb.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: 0o666}},
			Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{Limit: 1 << 20, Swap: -1}, CPU: &pb.LinuxCPU{Quota: -1, Period: 1, Cpus: "0-1"},
				Pids: &pb.LinuxPids{Limit: 9}, HugepageLimits: []*pb.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}, Devices: []*pb.LinuxDeviceCgroup{{Access: "rwm", Type: "a"}}},
			Seccomp: &pb.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO", Architectures: []string{"SCMP_ARCH_X86_64"},
				Syscalls: []*pb.LinuxSyscall{{Names: []string{"read"}, Action: "SCMP_ACT_ALLOW", Args: []*pb.LinuxSeccompArg{{Index: 9, Op: "SCMP_CMP_EQ"}}}}},
		},
	}
	return []*pb.CreateContainerRequest{
		{ContainerId: "x", OCI: usual},
		{ContainerId: "../..", OCI: &pb.Spec{Process: &pb.Process{}, Linux: &pb.Linux{}}},
		{ContainerId: "y", OCI: &pb.Spec{}},
		{ContainerId: "z"},
	}
}

// FuzzSpec is the description of a container, of which a Pod chooses much: it is refused, or it becomes a container of this
// sandbox and no other, below the Pod's cgroup.
func FuzzSpec(f *testing.F) {
	for _, req := range requests() {
		raw, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	ns := &namespaces{dir: "/state/ns"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var req pb.CreateContainerRequest
		if proto.Unmarshal(raw, &req) != nil || CheckID(req.GetContainerId()) != nil {
			return
		}
		id, spec := req.GetContainerId(), SpecFromProto(req.GetOCI())
		if spec.Process == nil {
			return // prepareSpec refuses it
		}
		adapt(id, spec, "", ns)
		completeResources(spec, bounds{})
		lp := libcontainerProcess(spec.Process)
		if lp.UID < 0 || lp.GID < 0 {
			t.Errorf("user %d:%d", lp.UID, lp.GID)
		}
		if got := path.Clean(spec.Linux.CgroupsPath); path.Dir(got) != podCgroup {
			t.Errorf("the cgroup %s is not below %s", got, podCgroup)
		}
		var own []specs.LinuxNamespaceType
		for _, n := range spec.Linux.Namespaces {
			switch n.Type {
			case specs.IPCNamespace, specs.UTSNamespace:
				if !strings.HasPrefix(n.Path, ns.dir+"/") {
					t.Errorf("%s namespace %q is not the sandbox's", n.Type, n.Path)
				}
			case specs.PIDNamespace, specs.CgroupNamespace, specs.MountNamespace, specs.UserNamespace:
			default:
				t.Errorf("%s namespace of its own, which the sandbox does not give", n.Type)
			}
			own = append(own, n.Type)
		}
		for _, kind := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace, specs.CgroupNamespace} {
			if !slices.Contains(own, kind) {
				t.Errorf("no %s namespace", kind)
			}
		}
		config, err := libcontainerConfig(id, spec)
		if err != nil {
			return
		}
		if len(config.Hooks) > 0 || len(config.Sysctl) > 0 || config.Hostname != "" {
			t.Errorf("hooks %v, sysctl %v, host name %q reach the runtime", config.Hooks, config.Sysctl, config.Hostname)
		}
	})
}

func TestContainersHaveNamesThatLeadNowhereElse(t *testing.T) {
	for _, id := range []string{"", ".", "..", "a/b", "../pod", "a b", "a\n", "ä", strings.Repeat("x", 256)} {
		if CheckID(id) == nil {
			t.Errorf("%q is a name for a container", id)
		}
	}
	for _, id := range []string{"a", "0123456789abcdef", "a.b_c-d+e", "..a"} {
		if err := CheckID(id); err != nil {
			t.Error(err)
		}
	}
}
