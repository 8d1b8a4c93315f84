package container

import (
	"io/fs"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// SpecFromProto converts the container description of the agent protocol to an OCI one. Hooks are
// dropped: they belong to the host. In the protocol zero means unset, so zero becomes nil here.
func SpecFromProto(p *pb.Spec) *specs.Spec {
	s := &specs.Spec{
		Version:     p.GetVersion(),
		Hostname:    p.GetHostname(),
		Annotations: p.GetAnnotations(),
		Process:     ProcessFromProto(p.GetProcess()),
		Root:        &specs.Root{Path: p.GetRoot().GetPath(), Readonly: p.GetRoot().GetReadonly()},
		Linux:       linuxFromProto(p.GetLinux()),
	}
	for _, m := range p.GetMounts() {
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: m.GetDestination(), Source: m.GetSource(), Type: m.GetType(), Options: m.GetOptions(),
		})
	}
	return s
}

// ProcessFromProto converts a process description.
func ProcessFromProto(p *pb.Process) *specs.Process {
	if p == nil {
		return nil
	}
	adj := int(p.GetOOMScoreAdj())
	out := &specs.Process{
		Terminal: p.GetTerminal(),
		User: specs.User{
			UID: p.GetUser().GetUID(), GID: p.GetUser().GetGID(),
			AdditionalGids: p.GetUser().GetAdditionalGids(), Username: p.GetUser().GetUsername(),
		},
		Args:            p.GetArgs(),
		Env:             p.GetEnv(),
		Cwd:             p.GetCwd(),
		NoNewPrivileges: p.GetNoNewPrivileges(),
		OOMScoreAdj:     &adj,
	}
	if b := p.GetConsoleSize(); b.GetHeight() != 0 || b.GetWidth() != 0 {
		out.ConsoleSize = &specs.Box{Height: uint(b.GetHeight()), Width: uint(b.GetWidth())}
	}
	if c := p.GetCapabilities(); c != nil {
		out.Capabilities = &specs.LinuxCapabilities{
			Bounding: c.GetBounding(), Effective: c.GetEffective(), Inheritable: c.GetInheritable(),
			Permitted: c.GetPermitted(), Ambient: c.GetAmbient(),
		}
	}
	for _, r := range p.GetRlimits() {
		out.Rlimits = append(out.Rlimits, specs.POSIXRlimit{Type: r.GetType(), Hard: r.GetHard(), Soft: r.GetSoft()})
	}
	return out
}

func linuxFromProto(p *pb.Linux) *specs.Linux {
	out := &specs.Linux{
		Sysctl:            p.GetSysctl(),
		Resources:         ResourcesFromProto(p.GetResources()),
		CgroupsPath:       p.GetCgroupsPath(),
		RootfsPropagation: p.GetRootfsPropagation(),
		MaskedPaths:       p.GetMaskedPaths(),
		ReadonlyPaths:     p.GetReadonlyPaths(),
		UIDMappings:       idMappings(p.GetUIDMappings()),
		GIDMappings:       idMappings(p.GetGIDMappings()),
		Seccomp:           seccompFromProto(p.GetSeccomp()),
	}
	for _, n := range p.GetNamespaces() {
		out.Namespaces = append(out.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(n.GetType()), Path: n.GetPath()})
	}
	for _, d := range p.GetDevices() {
		out.Devices = append(out.Devices, specs.LinuxDevice{
			Path: d.GetPath(), Type: d.GetType(), Major: d.GetMajor(), Minor: d.GetMinor(),
			FileMode: nonzero(fs.FileMode(d.GetFileMode())), UID: nonzero(d.GetUID()), GID: nonzero(d.GetGID()),
		})
	}
	return out
}

func idMappings(in []*pb.LinuxIDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerID(), HostID: m.GetHostID(), Size: m.GetSize()})
	}
	return out
}

// ResourcesFromProto converts resource limits.
func ResourcesFromProto(p *pb.LinuxResources) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if m := p.GetMemory(); m != nil {
		out.Memory = &specs.LinuxMemory{
			Limit: nonzero(m.GetLimit()), Reservation: nonzero(m.GetReservation()), Swap: nonzero(m.GetSwap()),
			Swappiness: nonzero(m.GetSwappiness()),
		}
	}
	if c := p.GetCPU(); c != nil {
		out.CPU = &specs.LinuxCPU{
			Shares: nonzero(c.GetShares()), Quota: nonzero(c.GetQuota()), Period: nonzero(c.GetPeriod()),
			Cpus: c.GetCpus(), Mems: c.GetMems(),
		}
	}
	if l := p.GetPids().GetLimit(); l != 0 {
		out.Pids = &specs.LinuxPids{Limit: &l}
	}
	for _, h := range p.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPagesize(), Limit: h.GetLimit()})
	}
	for _, d := range p.GetDevices() {
		major, minor := d.GetMajor(), d.GetMinor()
		out.Devices = append(out.Devices, specs.LinuxDeviceCgroup{
			Allow: d.GetAllow(), Type: d.GetType(), Major: &major, Minor: &minor, Access: d.GetAccess(),
		})
	}
	return out
}

func seccompFromProto(p *pb.LinuxSeccomp) *specs.LinuxSeccomp {
	if p == nil {
		return nil
	}
	out := &specs.LinuxSeccomp{DefaultAction: specs.LinuxSeccompAction(p.GetDefaultAction())}
	for _, a := range p.GetArchitectures() {
		out.Architectures = append(out.Architectures, specs.Arch(a))
	}
	for _, f := range p.GetFlags() {
		out.Flags = append(out.Flags, specs.LinuxSeccompFlag(f))
	}
	for _, c := range p.GetSyscalls() {
		sc := specs.LinuxSyscall{Names: c.GetNames(), Action: specs.LinuxSeccompAction(c.GetAction())}
		if e, ok := c.GetErrnoRet().(*pb.LinuxSyscall_Errnoret); ok {
			n := uint(e.Errnoret)
			sc.ErrnoRet = &n
		}
		for _, a := range c.GetArgs() {
			sc.Args = append(sc.Args, specs.LinuxSeccompArg{
				Index: uint(a.GetIndex()), Value: a.GetValue(), ValueTwo: a.GetValueTwo(), Op: specs.LinuxSeccompOperator(a.GetOp()),
			})
		}
		out.Syscalls = append(out.Syscalls, sc)
	}
	return out
}

// nonzero returns a pointer to v, or nil when it is zero.
func nonzero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
