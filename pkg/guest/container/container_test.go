package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestProtoStatsNamesMemoryForBothCgroupGenerations(t *testing.T) {
	s := cgroups.NewStats()
	s.CpuStats.CpuUsage = cgroups.CpuUsage{TotalUsage: 9000, UsageInKernelmode: 3000, UsageInUsermode: 6000}
	s.CpuStats.ThrottlingData = cgroups.ThrottlingData{Periods: 4, ThrottledPeriods: 2, ThrottledTime: 100}
	s.MemoryStats.Usage = cgroups.MemoryData{Usage: 500, MaxUsage: 800, Limit: 1000}
	s.MemoryStats.Stats = map[string]uint64{"file": 100, "anon": 300, "inactive_file": 40, "file_mapped": 7, "pgfault": 5}
	s.PidsStats = cgroups.PidsStats{Current: 3, Limit: 10}
	s.BlkioStats.IoServiceBytesRecursive = []cgroups.BlkioStatEntry{
		{Major: 254, Op: "Read", Value: 10}, {Major: 254, Op: "Write", Value: 1},
		{Major: 254, Minor: 16, Op: "Read", Value: 5},
	}
	got := protoStats(s)
	m := got.MemoryStats
	for key, want := range map[string]uint64{
		"file": 100, "anon": 300, "inactive_file": 40, "pgfault": 5, // v2
		"cache": 100, "rss": 300, "mapped_file": 7, "total_cache": 100, "total_rss": 300, "total_inactive_file": 40, // v1
	} {
		if m.Stats[key] != want {
			t.Errorf("memory stat %s = %d, want %d", key, m.Stats[key], want)
		}
	}
	if m.Usage.Usage != 500 || m.Usage.Limit != 1000 || !m.UseHierarchy {
		t.Errorf("memory = %v", m)
	}
	if c := got.CpuStats; c.CpuUsage.TotalUsage != 9000 || c.ThrottlingData.ThrottledTime != 100 {
		t.Errorf("cpu = %v", c)
	}
	type entry struct {
		Op    string
		Value uint64
	}
	var io []entry
	for _, e := range got.BlkioStats.IoServiceBytesRecursive {
		io = append(io, entry{e.Op, e.Value})
	}
	if diff := cmp.Diff([]entry{{"read", 15}, {"write", 1}}, io); diff != "" {
		t.Errorf("io (-want +got):\n%s", diff)
	}
}

func TestOOMKills(t *testing.T) {
	const file = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"
	if got := oomKills([]byte(file)); got != 2 {
		t.Errorf("oomKills = %d, want 2", got)
	}
	if got := oomKills(nil); got != 0 {
		t.Errorf("oomKills of nothing = %d", got)
	}
}

func TestSpecFromProto(t *testing.T) {
	got := SpecFromProto(&pb.Spec{
		Process: &pb.Process{
			Args: []string{"a"}, User: &pb.User{UID: 1, AdditionalGids: []uint32{2}}, OOMScoreAdj: -5,
			Rlimits: []*pb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 8, Soft: 4}},
		},
		Root:  &pb.Root{Path: "/r", Readonly: true},
		Hooks: &pb.Hooks{Prestart: []*pb.Hook{{Path: "/evil"}}},
		Linux: &pb.Linux{
			Resources: &pb.LinuxResources{Memory: &pb.LinuxMemory{Limit: 64}, CPU: &pb.LinuxCPU{Quota: -1}},
			Seccomp: &pb.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO", Syscalls: []*pb.LinuxSyscall{
				{Names: []string{"clone3"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: &pb.LinuxSyscall_Errnoret{Errnoret: 38}},
			}},
		},
	})
	adj, limit, quota, errno := -5, int64(64), int64(-1), uint(38)
	want := &specs.Spec{
		Process: &specs.Process{
			Args: []string{"a"}, User: specs.User{UID: 1, AdditionalGids: []uint32{2}}, OOMScoreAdj: &adj,
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 8, Soft: 4}},
		},
		Root: &specs.Root{Path: "/r", Readonly: true},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Quota: &quota}},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_ERRNO", Syscalls: []specs.LinuxSyscall{
				{Names: []string{"clone3"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: &errno},
			}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

func TestUpdateForgetsAnOldSwapLimitBelowTheNewMemoryLimit(t *testing.T) {
	limit := int64(100)
	r := &cgroups.Resources{Memory: 50, MemorySwap: 50, CpuQuota: 7}
	applyResources(r, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	if r.Memory != 100 || r.MemorySwap != 0 || r.CpuQuota != 7 {
		t.Errorf("resources = memory %d swap %d quota %d", r.Memory, r.MemorySwap, r.CpuQuota)
	}
}

func TestEndedExecsAreForgottenRunningOnesNot(t *testing.T) {
	c := &container{id: "c", procs: map[string]*process{}}
	running := &process{done: make(chan struct{})}
	if err := c.reserve("running", running); err != nil {
		t.Fatal(err)
	}
	if err := c.reserve("running", running); !errors.Is(err, ErrExists) {
		t.Errorf("reserve twice = %v, want ErrExists", err)
	}
	for i := range 3 * keepExecs {
		p := &process{done: make(chan struct{})}
		p.finish(int32(i % 100))
		if err := c.reserve(fmt.Sprintf("exec%d", i), p); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.procs) > keepExecs || len(c.recent) != len(c.procs) {
		t.Errorf("%d processes are kept, %d listed, want at most %d", len(c.procs), len(c.recent), keepExecs)
	}
	if p, err := c.process("running"); p != running || err != nil {
		t.Errorf("running process = %v, %v", p, err)
	}
}

func TestStreamKeepsWhatACallerThatLeftWouldHaveRead(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := &stream{f: r}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := s.read(ctx, 10)
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted read = %v, want Canceled", err)
	}
	if _, err := w.WriteString("late"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	gone, leave := context.WithCancel(t.Context())
	leave()
	_, _ = s.read(gone, 10) // may or may not have read; nothing may be lost
	ctx2, cancel2 := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel2()
	data, err := s.read(ctx2, 10)
	if string(data) != "late" || err != nil {
		t.Errorf("read = %q, %v, want what was written", data, err)
	}
	if _, err := s.read(ctx2, 10); !errors.Is(err, io.EOF) {
		t.Errorf("read at the end = %v, want EOF", err)
	}
}

func TestInputThatNobodyIsAtEndsAtOnce(t *testing.T) {
	for _, nobody := range []bool{false, true} {
		var s stdio
		var p libcontainer.Process
		if err := s.pipes(&p, nobody); err != nil {
			t.Fatal(err)
		}
		if in := p.Stdin.(*os.File); (in.Name() == os.DevNull) != nobody || (s.stdin == nil) != nobody {
			t.Errorf("nobody at the input is %v: the process reads %s, and the agent's end is %v", nobody, in.Name(), s.stdin)
		}
		if nobody {
			if _, err := s.write(t.Context(), []byte("x")); !errors.Is(err, os.ErrClosed) {
				t.Errorf("write to nobody's input = %v, want ErrClosed", err)
			}
			s.closeStdin()
		}
		s.close()
	}
}

// What is executed in a container that gave up new privileges gives them up as well: Kata does not say so, and "no" would be an order.
func TestExecHasThePrivilegesOfItsContainer(t *testing.T) {
	if p := libcontainerProcess(ProcessFromProto(&pb.Process{})); p.NoNewPrivileges != nil {
		t.Errorf("no new privileges = %v, want the container's", *p.NoNewPrivileges)
	}
	if p := libcontainerProcess(ProcessFromProto(&pb.Process{NoNewPrivileges: true})); p.NoNewPrivileges == nil || !*p.NoNewPrivileges {
		t.Error("no new privileges is lost")
	}
}
