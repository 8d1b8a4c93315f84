package container

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What the containers together never get, so that the agent can always answer and start a process: memory, and
// places in the table of processes.
const (
	agentMemory    = 32 << 20
	agentProcesses = 256
)

// guestSize is what a guest has.
type guestSize struct {
	total, available uint64 // bytes of memory
	threads          uint64 // kernel.threads-max
}

// bounds is what all containers together may take. Whatever they do then ends as a kill or a refused fork in one
// of their cgroups, never in the agent.
type bounds struct{ memory, processes uint64 }

func (g guestSize) bounds() bounds {
	return bounds{
		memory:    g.available - min(agentMemory, g.available/2),
		processes: g.threads - min(agentProcesses, g.threads/2),
	}
}

// readGuestSize reads it below proc.
func readGuestSize(proc string) (g guestSize, err error) {
	meminfo, err := os.ReadFile(filepath.Join(proc, "meminfo"))
	if err != nil {
		return g, fmt.Errorf("measure guest: %w", err)
	}
	threads, err := os.ReadFile(filepath.Join(proc, "sys/kernel/threads-max"))
	if err != nil {
		return g, fmt.Errorf("measure guest: %w", err)
	}
	var errs [3]error
	g.total, errs[0] = memoryLine(string(meminfo), "MemTotal:")
	g.available, errs[1] = memoryLine(string(meminfo), "MemAvailable:")
	g.threads, errs[2] = strconv.ParseUint(strings.TrimSpace(string(threads)), 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return g, fmt.Errorf("measure guest: %w", err)
	}
	return g, nil
}

// memoryLine reads a line such as "MemTotal:  123 kB" as bytes.
func memoryLine(meminfo, key string) (uint64, error) {
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s: %w", key, errNoKey)
}

// laterLooks is when the guest is measured once more after its containers have changed: the host plugs memory in
// before, but what it lends back by the balloon comes little by little.
var laterLooks = [...]time.Duration{2 * time.Second, 10 * time.Second}

// sandboxCgroup holds the containers' cgroups and bounds them together.
type sandboxCgroup struct {
	dir, proc string
	limits    bounds // at the start
	overhead  uint64 // bytes of memory that are not the containers'
	log       *slog.Logger

	mu     sync.Mutex
	memory uint64 // guarded by mu
}

// newSandboxCgroup makes it. No container may run yet: what is free now is theirs.
func newSandboxCgroup(dir, proc string, log *slog.Logger) (*sandboxCgroup, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup of the sandbox: %w", err)
	}
	size, err := readGuestSize(proc)
	if err != nil {
		return nil, err
	}
	b := size.bounds()
	s := &sandboxCgroup{dir: dir, proc: proc, limits: b, overhead: size.total - b.memory, log: log, memory: b.memory}
	return s, errors.Join(s.set("memory.max", b.memory), s.set("pids.max", b.processes))
}

// follow gives the containers what the guest has got in the meantime, now and what comes later.
func (s *sandboxCgroup) follow() {
	grow := func() {
		if err := s.grow(); err != nil {
			s.log.Warn("containers do not get the memory that was plugged in", "err", err)
		}
	}
	grow()
	for _, d := range laterLooks {
		time.AfterFunc(d, grow)
	}
}

// grow raises the bound on memory to the guest's size. It never lowers it: what the containers have is theirs.
func (s *sandboxCgroup) grow() error {
	size, err := readGuestSize(s.proc)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if size.total <= s.overhead+s.memory {
		return nil
	}
	s.memory = size.total - s.overhead
	return s.set("memory.max", s.memory)
}

func (s *sandboxCgroup) set(file string, limit uint64) error {
	if err := os.WriteFile(filepath.Join(s.dir, file), strconv.AppendUint(nil, limit, 10), 0o644); err != nil {
		return fmt.Errorf("bound cgroup of the sandbox: %w", err)
	}
	return nil
}
