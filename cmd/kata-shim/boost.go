package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
)

// boostTime bounds a boost: a Pod whose image has to be pulled first starts none of its containers for a while.
const boostTime = 30 * time.Second

// boost lets a microVM boot and end with all the CPUs it can get. The host's limit on a Pod is its spec, and a quarter of a core would
// make the boot, which is nobody's workload, four times as long, and nodeless-vmm late in seeing the end. The limit is back before
// the first container runs.
type boost struct {
	mu   sync.Mutex
	pod  string // the Pod's cgroup, as the runtime specification writes that of the sandbox; guarded by mu
	file string // the control file of the Pod's cgroup; empty while there is no boost; guarded by mu
	back string // what was in it; guarded by mu

	// least is what the Pod may use whatever its limits are, in thousandths of a CPU; guarded by mu. The limits of a Pod that keeps its own
	// figures are those of its containers, to which the guest holds them. With one of a hundredth of a core the guest itself would hardly run.
	least int64
}

// atLeast sets what the host lets the Pod use whatever its limits are.
func (b *boost) atLeast(cpu int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.least = cpu
}

// hold raises the limit, where it is lower, to the least. The kubelet lowers it when it makes and when it resizes the Pod.
func (b *boost) hold(root string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pod == "" || b.file != "" || b.least == 0 {
		return
	}
	for _, f := range quotaFiles(root, filepath.Dir(filepath.Clean("/"+b.pod))) {
		raw, err := os.ReadFile(f.path)
		if err != nil {
			continue
		}
		if now := strings.TrimSpace(string(raw)); b.raised(root, now) != now {
			_ = os.WriteFile(f.path, []byte(b.raised(root, now)), 0) // fails when the Pod has gone
		}
		return
	}
}

// raised is a limit as the control file has it ("25000" of a period of its own, or "25000 100000"), or the least if that is more; mu is held.
func (b *boost) raised(root, limit string) string {
	fields := strings.Fields(limit)
	if len(fields) == 0 {
		return limit
	}
	period := fields[len(fields)-1]
	if len(fields) == 1 {
		raw, err := os.ReadFile(filepath.Join(root, "sys/fs/cgroup/cpu", filepath.Dir(filepath.Clean("/"+b.pod)), "cpu.cfs_period_us"))
		if err != nil {
			return limit
		}
		period = strings.TrimSpace(string(raw))
	}
	quota, err := strconv.ParseInt(fields[0], 10, 64)
	each, periodErr := strconv.ParseInt(period, 10, 64)
	if err != nil || periodErr != nil || quota < 0 || quota*1000 >= b.least*each {
		return limit
	}
	fields[0] = strconv.FormatInt(b.least*each/1000, 10)
	return strings.Join(fields, " ")
}

// quotaFile is the control file for a cgroup's CPU time, and what it says when there is no limit.
type quotaFile struct{ path, unlimited string }

func quotaFiles(root, cgroup string) []quotaFile {
	return []quotaFile{
		{filepath.Join(root, "sys/fs/cgroup", cgroup, "cpu.max"), "max"},
		{filepath.Join(root, "sys/fs/cgroup/cpu", cgroup, "cpu.cfs_quota_us"), "-1"},
	}
}

// begin lifts the limit on the parent of the sandbox's cgroup, the Pod's own. Where that cannot be done the boot takes longer.
func (b *boost) begin(root, cgroupsPath string) {
	b.mu.Lock()
	b.pod = cgroupsPath
	b.mu.Unlock()
	b.again(root)
}

// again lifts the limit once more, on the Pod that begin was about.
func (b *boost) again(root string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pod == "" || b.file != "" {
		return
	}
	for _, f := range quotaFiles(root, filepath.Dir(filepath.Clean("/"+b.pod))) {
		raw, err := os.ReadFile(f.path)
		if err != nil {
			continue
		}
		limit := strings.TrimSpace(string(raw))
		if strings.HasPrefix(limit, f.unlimited) || os.WriteFile(f.path, []byte(f.unlimited), 0) != nil {
			return
		}
		b.file, b.back = f.path, b.raised(root, limit)
		time.AfterFunc(boostTime, b.end)
		return
	}
}

// end puts the limit back, unless the kubelet has set another one meanwhile. It may be called again.
func (b *boost) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == "" {
		return
	}
	raw, err := os.ReadFile(b.file)
	if now := strings.TrimSpace(string(raw)); err == nil && (now == "-1" || strings.HasPrefix(now, "max")) {
		_ = os.WriteFile(b.file, []byte(b.back), 0) // fails when the Pod has gone
	}
	b.file = ""
}

// Start starts a container; the boot is over.
func (s service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	if r.ID == s.sandbox.id {
		return s.Shim.Start(ctx, r)
	}
	s.boost.end()
	s.boost.hold(s.sandbox.root)
	if r.ExecID != "" {
		return s.Shim.Start(ctx, r)
	}
	return s.startContainer(ctx, r)
}
