package container

import (
	"fmt"
	"strings"

	pb "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
)

// Stats returns what a container uses; for the pause container, what the whole sandbox uses.
func (m *Manager) Stats(id string) (*pb.CgroupStats, error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	if c.lc == nil {
		mgr, err := fs2.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, cgroupRoot+podCgroup)
		if err != nil {
			return nil, fmt.Errorf("read sandbox cgroup: %w", err)
		}
		s, err := mgr.GetStats()
		if err != nil {
			return nil, fmt.Errorf("read sandbox cgroup: %w", err)
		}
		return protoStats(s), nil
	}
	s, err := c.lc.Stats()
	if err != nil {
		return nil, fmt.Errorf("read cgroup of container %s: %w", id, err)
	}
	return protoStats(s.CgroupStats), nil
}

// protoStats converts cgroup v2 figures to the protocol's form, which is that of v1. Kata makes v1 or
// v2 metrics of it according to the host, so memory figures go under both generations' names.
func protoStats(s *cgroups.Stats) *pb.CgroupStats {
	out := &pb.CgroupStats{
		CpuStats: &pb.CpuStats{
			CpuUsage: &pb.CpuUsage{
				TotalUsage:        s.CpuStats.CpuUsage.TotalUsage,
				PercpuUsage:       s.CpuStats.CpuUsage.PercpuUsage,
				UsageInKernelmode: s.CpuStats.CpuUsage.UsageInKernelmode,
				UsageInUsermode:   s.CpuStats.CpuUsage.UsageInUsermode,
			},
			ThrottlingData: &pb.ThrottlingData{
				Periods:          s.CpuStats.ThrottlingData.Periods,
				ThrottledPeriods: s.CpuStats.ThrottlingData.ThrottledPeriods,
				ThrottledTime:    s.CpuStats.ThrottlingData.ThrottledTime,
			},
		},
		MemoryStats:  memoryStats(&s.MemoryStats),
		PidsStats:    &pb.PidsStats{Current: s.PidsStats.Current, Limit: s.PidsStats.Limit},
		BlkioStats:   &pb.BlkioStats{IoServiceBytesRecursive: ioTotals(s.BlkioStats.IoServiceBytesRecursive)},
		HugetlbStats: map[string]*pb.HugetlbStats{},
	}
	for size, h := range s.HugetlbStats {
		out.HugetlbStats[size] = &pb.HugetlbStats{Usage: h.Usage, MaxUsage: h.MaxUsage, Failcnt: h.Failcnt}
	}
	return out
}

func memoryStats(m *cgroups.MemoryStats) *pb.MemoryStats {
	stats := make(map[string]uint64, len(m.Stats)+8)
	for k, v := range m.Stats {
		stats[k] = v
	}
	for v1, v2 := range map[string]string{
		"cache": "file", "rss": "anon", "mapped_file": "file_mapped", "inactive_file": "inactive_file",
	} {
		stats[v1], stats["total_"+v1] = m.Stats[v2], m.Stats[v2]
	}
	return &pb.MemoryStats{
		Cache:        m.Stats["file"],
		Usage:        memoryData(m.Usage),
		SwapUsage:    memoryData(m.SwapUsage),
		KernelUsage:  memoryData(m.KernelUsage),
		UseHierarchy: true,
		Stats:        stats,
	}
}

func memoryData(d cgroups.MemoryData) *pb.MemoryData {
	return &pb.MemoryData{Usage: d.Usage, MaxUsage: d.MaxUsage, Failcnt: d.Failcnt, Limit: d.Limit}
}

// ioTotals adds the devices up: the host folds the entries into one, taking the last of each kind.
func ioTotals(in []cgroups.BlkioStatEntry) []*pb.BlkioStatsEntry {
	var out []*pb.BlkioStatsEntry
	byOp := map[string]*pb.BlkioStatsEntry{}
	for _, e := range in {
		op := strings.ToLower(e.Op)
		if byOp[op] == nil {
			byOp[op] = &pb.BlkioStatsEntry{Major: e.Major, Minor: e.Minor, Op: op}
			out = append(out, byOp[op])
		}
		byOp[op].Value += e.Value
	}
	return out
}
