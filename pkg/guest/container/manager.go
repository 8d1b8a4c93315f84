package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Config says where a Manager keeps things.
type Config struct {
	StateDir string // libcontainer's state, on a tmpfs
	Reaper   *Reaper
	Log      *slog.Logger
}

// Manager owns the containers of the sandbox.
type Manager struct {
	cfg    Config
	oom    *oomWatch
	cgroup *sandboxCgroup

	mu         sync.Mutex
	containers map[string]*container // guarded by mu
	namespaces *namespaces           // guarded by mu; nil before the first container
	hostname   string                // guarded by mu
}

// NewManager returns a Manager without containers.
func NewManager(cfg Config) (*Manager, error) {
	oom, err := newOOMWatch(cfg.Log)
	if err != nil {
		return nil, err
	}
	cgroup, err := newSandboxCgroup(cgroupRoot+podCgroup, "/proc", cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg, oom: oom, cgroup: cgroup, containers: map[string]*container{}}, nil
}

// SetHostname sets the name that the sandbox's containers see.
func (m *Manager) SetHostname(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hostname = name
	if m.namespaces == nil {
		return nil
	}
	return m.namespaces.within(func() error { return unix.Sethostname([]byte(name)) })
}

// Request describes a container to create.
type Request struct {
	ID        string
	Spec      *specs.Spec
	SharedPID bool // in the sandbox's PID namespace instead of its own
	// PIDTarget is the container whose PID namespace this one shares; empty for none. It wins over SharedPID.
	PIDTarget string
	Pause     bool // the pause container: it holds a place and runs nothing
	NoInput   bool // nobody will be at the standard input
}

// Create makes a container and its first process, which waits for Start.
func (m *Manager) Create(req Request) (err error) {
	if err := CheckID(req.ID); err != nil {
		return err
	}
	ns, err := m.sandboxNamespaces()
	if err != nil {
		return err
	}
	c := &container{id: req.ID, procs: map[string]*process{}}
	if err := m.add(c); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.drop(req.ID)
			return
		}
		m.mu.Lock()
		c.ready = true
		m.mu.Unlock()
	}()
	if req.Pause {
		c.init = &process{done: make(chan struct{})}
		return ns.applySysctl(req.Spec.Linux.Sysctl)
	}
	pid, err := m.pidNamespace(req, ns)
	if err != nil {
		return err
	}
	m.cgroup.follow()
	if err := prepareSpec(req, ns, pid, m.cgroup.limits); err != nil {
		return err
	}
	return m.launch(c, req)
}

// pidNamespace is the PID namespace that a container joins; empty for one of its own.
func (m *Manager) pidNamespace(req Request, ns *namespaces) (string, error) {
	if req.PIDTarget == "" {
		if !req.SharedPID {
			return "", nil
		}
		return ns.sharedPID(m.cfg.Reaper)
	}
	target, err := m.find(req.PIDTarget)
	if err != nil {
		return "", fmt.Errorf("share processes: %w", err)
	}
	if target.lc == nil || target.init.ended() {
		return "", fmt.Errorf("share processes of container %s: %w", req.PIDTarget, ErrNotRunning)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", target.init.pid), nil
}

// launch lets libcontainer make the container and its first process.
func (m *Manager) launch(c *container, req Request) (err error) {
	config, err := libcontainerConfig(c.id, req.Spec)
	if err != nil {
		return err
	}
	c.holdQuota(config.Cgroups.Resources)
	if c.lc, err = libcontainer.Create(m.cfg.StateDir, c.id, config); err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.destroy())
		}
	}()
	init, err := newProcess(req.Spec.Process, true, req.NoInput)
	if err != nil {
		return err
	}
	cgroup := c.cgroup()
	err = init.start(m.cfg.Reaper, c.lc, func() {
		m.oom.check(cgroup)
		c.initEnded()
	})
	if err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	c.init = init
	m.oom.add(cgroup, c.id)
	return nil
}

func (m *Manager) sandboxNamespaces() (*namespaces, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.namespaces != nil {
		return m.namespaces, nil
	}
	ns, err := newNamespaces(filepath.Join(m.cfg.StateDir, "ns"), m.hostname)
	if err != nil {
		return nil, err
	}
	m.namespaces = ns
	return ns, nil
}

func (m *Manager) add(c *container) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.containers[c.id] != nil {
		return fmt.Errorf("container %s: %w", c.id, ErrExists)
	}
	m.containers[c.id] = c
	return nil
}

func (m *Manager) drop(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.containers, id)
}

// find returns a container that has been created completely.
func (m *Manager) find(id string) (*container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.containers[id]; c != nil && c.ready {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, ErrNotFound)
}

func (m *Manager) process(id, execID string) (*process, error) {
	c, err := m.find(id)
	if err != nil {
		return nil, err
	}
	return c.process(execID)
}

// Start lets the first process of a created container run.
func (m *Manager) Start(id string) error {
	c, err := m.find(id)
	if err != nil || c.lc == nil {
		return err
	}
	if err := c.setQuota(); err != nil {
		return fmt.Errorf("limit the CPU time of container %s: %w", id, err)
	}
	if err := c.lc.Exec(); err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	return nil
}

// Exec runs another process in a running container; noInput says that nobody will be at its standard input.
func (m *Manager) Exec(id, execID string, spec *specs.Process, noInput bool) error {
	c, err := m.find(id)
	if err != nil {
		return err
	}
	if c.lc == nil {
		return fmt.Errorf("execute in %s: %w", id, ErrPause)
	}
	if c.init.ended() {
		return fmt.Errorf("execute in %s: %w", id, ErrNotRunning)
	}
	p, err := newProcess(spec, false, noInput)
	if err != nil {
		return err
	}
	if err := c.reserve(execID, p); err != nil {
		p.io.close()
		return err
	}
	if err := p.start(m.cfg.Reaper, c.lc, nil); err != nil {
		c.forget(execID)
		return fmt.Errorf("execute in %s: %w", id, err)
	}
	return nil
}

// Signal sends a signal to a process; without execID to the container: SIGKILL then reaches all its
// processes.
func (m *Manager) Signal(id, execID string, sig unix.Signal) error {
	c, err := m.find(id)
	if err != nil {
		return err
	}
	p, err := c.process(execID)
	if err != nil {
		return err
	}
	if c.lc == nil {
		return c.signalPause(sig)
	}
	if p == c.init && sig == unix.SIGKILL && !p.ended() {
		err := c.lc.Signal(sig)
		if errors.Is(err, libcontainer.ErrNotRunning) || errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	}
	return p.signal(sig)
}

// Wait blocks until a process has ended and returns its exit status, also when asked again.
func (m *Manager) Wait(ctx context.Context, id, execID string) (int32, error) {
	p, err := m.process(id, execID)
	if err != nil {
		return 0, err
	}
	return p.await(ctx)
}

// Remove kills what is left of a container and forgets it. Removing one that is not there is success.
func (m *Manager) Remove(ctx context.Context, id string) error {
	c, err := m.find(id)
	if err != nil {
		return nil //nolint:nilerr // desired state reached
	}
	if c.lc != nil {
		m.oom.remove(c.cgroup())
		if err := c.kill(ctx); err != nil {
			return err
		}
		if err := c.destroy(); err != nil {
			return err
		}
	}
	c.closeStreams()
	m.drop(id)
	return nil
}

// IDs lists the containers.
func (m *Manager) IDs() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for id := range m.containers {
		out = append(out, id)
	}
	return out
}

// NextOOM waits for a container to run out of memory and returns its id.
func (m *Manager) NextOOM(ctx context.Context) (string, error) { return m.oom.next(ctx) }

// Close removes all containers.
func (m *Manager) Close(ctx context.Context) error {
	var errs []error
	for _, id := range m.IDs() {
		errs = append(errs, m.Remove(ctx, id))
	}
	return errors.Join(errs...)
}
