package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodeless/nodeless/pkg/contract"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/sandboxrecord"
)

const (
	// heartbeatInterval is how far off the end of a microVM may be told. It matters when this process is killed with it and no server runs
	// that would see it.
	heartbeatInterval = time.Second
	// longestConfig bounds what is read of a sandbox's OCI configuration.
	longestConfig = 4 << 20
)

// life writes down when QEMU started and ended.
type life struct {
	dir     sandboxrecord.Dir
	log     *slog.Logger
	written chan struct{} // closed when the end is written, or cannot be

	mu     sync.Mutex
	record sandboxrecord.Record // guarded by mu, except for what never changes
}

// record writes that QEMU has started, and sees to it that its end is written. A microVM that cannot be recorded must not run.
func (v *vm) record(p *process) error {
	if v.cfg.RecordDir == "" {
		return nil
	}
	r, err := v.newRecord(p)
	if err != nil {
		return fmt.Errorf("record the microVM's start: %w", err)
	}
	l := &life{dir: sandboxrecord.Dir(v.cfg.RecordDir), record: r, log: v.log, written: make(chan struct{})}
	if err := l.dir.Write(r); err != nil {
		return fmt.Errorf("record the microVM's start: %w", err)
	}
	p.life = l
	go l.follow(p)
	return nil
}

func (v *vm) newRecord(p *process) (sandboxrecord.Record, error) {
	proc := os.DirFS("/proc")
	self, _, err := sandboxrecord.Find(proc, os.Getpid())
	id, bootErr := sandboxrecord.BootID(proc)
	now, clockErr := bootTime()
	if err := errors.Join(p.startErr, err, bootErr, clockErr); err != nil {
		return sandboxrecord.Record{}, err
	}
	start := p.started.Boot()
	return sandboxrecord.Record{
		Sandbox: v.id, Pod: v.readPod(), Cluster: v.cfg.ClusterID, Node: v.cfg.NodeName, BootID: id, QEMU: p.started, VMM: self,
		Start: time.Now().Add(start - now).UTC(), StartBoot: start,
	}, nil
}

// readPod finds out whose microVM this is. One that nobody can be asked for runs all the same.
func (v *vm) readPod() sandboxrecord.Pod {
	annotations, err := readAnnotations(filepath.Join(v.sandbox, "config.json"))
	if err != nil {
		v.log.Warn("it is not known whose microVM this is", "err", err)
		return sandboxrecord.Pod{}
	}
	pod, err := sandboxrecord.PodOf(annotations)
	if err != nil {
		v.log.Warn("the record of this microVM's life is incomplete", "err", err)
	}
	return pod
}

// readAnnotations reads the annotations of an OCI configuration.
func readAnnotations(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read OCI configuration: %w", err)
	}
	defer f.Close()
	var config struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(io.LimitReader(f, longestConfig)).Decode(&config); err != nil {
		return nil, fmt.Errorf("read OCI configuration %s: %w", path, err)
	}
	return config.Annotations, nil
}

// follow sends heartbeats until QEMU has ended, and writes the end. The last heartbeat says the same, for it needs no room on a full disk.
func (l *life) follow(p *process) {
	defer close(l.written)
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	for running := true; running; {
		if now, err := bootTime(); err == nil { // the same call worked at the start
			l.heartbeat(now)
		}
		select {
		case <-ticker.C:
		case <-p.done:
			running = false
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heartbeat(p.ended)
	l.record.EndBoot = p.ended
	if err := l.dir.Write(l.record); err != nil {
		l.log.Error("the end of the microVM cannot be recorded, it will be estimated from the last beat", "err", err)
	}
}

// recordResize writes that the Pod has another spec from now on. It is an error that the kubelet tries again after.
func (v *vm) recordResize(c contract.Resize) error {
	v.mu.Lock()
	var l *life
	if v.proc != nil {
		l = v.proc.life
	}
	v.mu.Unlock()
	if l == nil || c.SpecCPU <= 0 || c.SpecMemory <= 0 {
		return nil
	}
	now, err := bootTime()
	if err != nil {
		return err
	}
	return l.resize(podsize.Size{CPU: c.SpecCPU, Memory: c.SpecMemory}, now)
}

// resize writes another spec down, unless it is the one that the Pod has. The type and the GPUs stay.
func (l *life) resize(to podsize.Size, now time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.record.EndBoot != 0 {
		return errors.New("record the Pod's new spec: the microVM has ended")
	}
	have, kind := l.record.Spec, l.record.SpecType
	if n := len(l.record.Resizes); n > 0 {
		have, kind = l.record.Resizes[n-1].Spec, l.record.Resizes[n-1].SpecType
	}
	before, err := podsize.ParseSize(have, kind)
	if err != nil {
		return nil // the Pod has none
	}
	to.Type, to.GPU = before.Type, before.GPU
	if to == before {
		return nil
	}
	changed := l.record
	changed.Resizes = append(slices.Clone(l.record.Resizes), sandboxrecord.Resize{At: now, Spec: to.String(), SpecType: kind})
	if err := l.dir.Write(changed); err != nil {
		return fmt.Errorf("record the Pod's new spec: %w", err)
	}
	l.record = changed
	return nil
}

func (l *life) heartbeat(at time.Duration) {
	if err := l.dir.Heartbeat(l.record.Sandbox, at); err != nil {
		l.log.Warn("it cannot be noted that the microVM runs", "err", err)
	}
}

// lastWord notes that QEMU still runs, in case nobody is left to note the end.
func (l *life) lastWord() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now, err := bootTime(); err == nil && l.record.EndBoot == 0 { // the same call worked at the start
		l.heartbeat(now)
	}
}

// wait returns when the end is written. QEMU has ended.
func (l *life) wait() {
	if l != nil {
		<-l.written
	}
}

// bootTime reads CLOCK_BOOTTIME, which nobody can set.
func bootTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the time since the boot: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
