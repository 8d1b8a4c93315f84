package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
)

// boostTime bounds a boost after the boot. A Pod whose image has to be pulled first starts none of its containers for a while. The boot
// itself is not bounded: on a busy host it takes as long as it takes, and nobody's workload runs meanwhile.
const boostTime = 30 * time.Second

// boost lets a microVM boot and end with all the CPUs it can get. The host's limit on a Pod is its spec, and a quarter of a core would
// make the boot, which is nobody's workload, four times as long, and nodeless-vmm late in seeing the end. The limit is back before
// the first container runs.
//
// The kubelet sets the limit once, when it makes the Pod's cgroup. So a lifted limit is on record in the sandbox's bundle, from which
// `delete` puts it back when this process does not, and a Pod that has none in spite of its spec is given the spec's at the end.
type boost struct {
	mu     sync.Mutex
	pod    string // the Pod's cgroup, as the runtime specification writes that of the sandbox; guarded by mu
	bundle string // of the sandbox; guarded by mu
	lifted lifted // guarded by mu

	// least is what the Pod may use whatever its limits are; guarded by mu. The limits of a Pod that keeps its own figures are those of its
	// containers, to which the guest holds them. With one of a hundredth of a core the guest itself would hardly run.
	least quota
}

// atLeast sets what the host lets the Pod use whatever its limits are.
func (b *boost) atLeast(q quota) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.least = q
}

// hold raises the limit, where it is lower, to the least. The kubelet lowers it when it makes and when it resizes the Pod.
func (b *boost) hold(root string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pod == "" || b.lifted.File != "" {
		return
	}
	for _, f := range quotaFiles(root, filepath.Dir(filepath.Clean("/"+b.pod))) {
		raw, err := os.ReadFile(f.path)
		if err != nil {
			continue
		}
		if now := strings.TrimSpace(string(raw)); b.raised(f, now) != now {
			_ = os.WriteFile(f.path, []byte(b.raised(f, now)), 0) // fails when the Pod has gone
		}
		return
	}
}

// raised is a limit as the control file has it, or the least if that is more; mu is held.
func (b *boost) raised(f quotaFile, limit string) string {
	have := quota{period: b.least.period} // of cgroup v1, where the kubelet's period is that of every sandbox
	if n, _ := fmt.Sscan(limit, &have.quota, &have.period); n == 0 || have.quota < 0 || have.quota*b.least.period >= b.least.quota*have.period {
		return limit
	}
	return f.write(b.least)
}

// lifted is a limit that is not in force.
type lifted struct {
	File string `json:"file"` // the control file of the Pod's cgroup; empty while there is no boost
	Back string `json:"back"` // what belongs into it
}

// liftedRecord is the name of its record in the sandbox's bundle.
const liftedRecord = "nodeless-lifted-cpu-limit.json"

// quota is a limit of CPU time in microseconds; without one, quota is not above zero.
type quota struct{ quota, period int64 }

// quotaFile is the control file for a cgroup's CPU time, what it says when there is no limit, and how it writes one.
type quotaFile struct {
	path, unlimited string
	write           func(quota) string
}

func quotaFiles(root, cgroup string) []quotaFile {
	return []quotaFile{
		{
			filepath.Join(root, "sys/fs/cgroup", cgroup, "cpu.max"), "max",
			func(q quota) string { return fmt.Sprintf("%d %d", q.quota, q.period) },
		},
		{
			filepath.Join(root, "sys/fs/cgroup/cpu", cgroup, "cpu.cfs_quota_us"), "-1",
			func(q quota) string { return fmt.Sprint(q.quota) }, // the period stays as the kubelet has set it
		},
	}
}

// unlimited says whether the content of such a file, of either kind, is no limit.
func unlimited(content string) bool { return content == "-1" || strings.HasPrefix(content, "max") }

// begin lifts the limit on the parent of the sandbox's cgroup, the Pod's own. Where that cannot be done the boot takes longer. spec is
// the limit that the sandbox says its Pod has: where there is none, another sandbox of the Pod has lifted it and came to a bad end.
func (b *boost) begin(root, bundle, cgroupsPath string, spec quota) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pod, b.bundle = cgroupsPath, bundle
	b.lift(root, spec)
}

// again lifts the limit once more, on the Pod that begin was about.
func (b *boost) again(root string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lift(root, quota{})
	time.AfterFunc(boostTime, b.end)
}

// booted begins to count the time that is left until the first container has to run.
func (b *boost) booted() { time.AfterFunc(boostTime, b.end) }

// lift is called with mu held.
func (b *boost) lift(root string, spec quota) {
	if b.pod == "" || b.lifted.File != "" {
		return
	}
	for _, f := range quotaFiles(root, filepath.Dir(filepath.Clean("/"+b.pod))) {
		raw, err := os.ReadFile(f.path)
		if err != nil {
			continue
		}
		limit := strings.TrimSpace(string(raw))
		free := unlimited(limit)
		if free && spec.quota <= 0 {
			return
		}
		if free {
			limit = f.write(spec)
		}
		l := lifted{File: f.path, Back: b.raised(f, limit)}
		if l.record(b.bundle) != nil || !free && os.WriteFile(f.path, []byte(f.unlimited), 0) != nil {
			return
		}
		b.lifted = l
		return
	}
}

// end puts the limit back, unless the kubelet has set another one meanwhile. It may be called again.
func (b *boost) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lifted.File == "" {
		return
	}
	_ = b.lifted.restore() // fails when the Pod has gone
	b.lifted = lifted{}
	_ = os.Remove(filepath.Join(b.bundle, liftedRecord))
}

// record writes down what is about to be lifted.
func (l lifted) record(bundle string) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, liftedRecord), raw, 0o600)
}

// restore puts the limit back where there is none.
func (l lifted) restore() error {
	raw, err := os.ReadFile(l.File)
	if err != nil {
		return err
	}
	if !unlimited(strings.TrimSpace(string(raw))) {
		return nil
	}
	return os.WriteFile(l.File, []byte(l.Back), 0)
}

// restoreLifted puts back what the shim of a sandbox lifted and left so, by the record in its bundle.
func restoreLifted(bundle string) error {
	raw, err := os.ReadFile(filepath.Join(bundle, liftedRecord))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var l lifted
	if err == nil {
		err = json.Unmarshal(raw, &l)
	}
	if err == nil {
		err = l.restore()
	}
	if errors.Is(err, fs.ErrNotExist) { // the Pod has gone
		return nil
	}
	if err != nil {
		return fmt.Errorf("put the Pod's CPU limit back: %w", err)
	}
	return nil
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
