package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	shim "github.com/kata-containers/kata-containers/src/runtime/pkg/containerd-shim-v2"
	vc "github.com/kata-containers/kata-containers/src/runtime/virtcontainers"
	agentapi "github.com/kata-containers/kata-containers/src/runtime/virtcontainers/pkg/agent/protocols/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// guestAgent stands in for the agent of a guest. One kind of call, about the container "slow", it does not answer.
type guestAgent struct {
	agentapi.AgentServiceService
	hangs   string
	hanging chan struct{} // told when such a call has come
	release chan struct{} // closed at the end

	mu      sync.Mutex
	removed []string          // containers, guarded by mu
	inputs  map[string]uint32 // the port of their input, by container or "exec", guarded by mu
}

func (g *guestAgent) answer(ctx context.Context, call, id string) (*emptypb.Empty, error) {
	if call != g.hangs || id != "slow" {
		return &emptypb.Empty{}, nil
	}
	select {
	case g.hanging <- struct{}{}:
	default:
	}
	select {
	case <-g.release:
	case <-ctx.Done():
	}
	return nil, errors.New("given up")
}

func (g *guestAgent) CreateContainer(ctx context.Context, r *agentapi.CreateContainerRequest) (*emptypb.Empty, error) {
	g.mu.Lock()
	g.inputs[r.ContainerId] = r.StdinPort
	g.mu.Unlock()
	return g.answer(ctx, "create", r.ContainerId)
}

func (g *guestAgent) StartContainer(ctx context.Context, r *agentapi.StartContainerRequest) (*emptypb.Empty, error) {
	return g.answer(ctx, "start", r.ContainerId)
}

func (g *guestAgent) ExecProcess(ctx context.Context, r *agentapi.ExecProcessRequest) (*emptypb.Empty, error) {
	g.mu.Lock()
	g.inputs["exec"] = r.StdinPort
	g.mu.Unlock()
	return g.answer(ctx, "exec", r.ContainerId)
}

func (g *guestAgent) SignalProcess(ctx context.Context, r *agentapi.SignalProcessRequest) (*emptypb.Empty, error) {
	return g.answer(ctx, "signal", r.ContainerId)
}

func (g *guestAgent) StatsContainer(ctx context.Context, r *agentapi.StatsContainerRequest) (*agentapi.StatsContainerResponse, error) {
	_, err := g.answer(ctx, "stats", r.ContainerId)
	return &agentapi.StatsContainerResponse{CgroupStats: &agentapi.CgroupStats{}}, err
}

func (g *guestAgent) UpdateContainer(ctx context.Context, r *agentapi.UpdateContainerRequest) (*emptypb.Empty, error) {
	return g.answer(ctx, "update", r.ContainerId)
}

func (g *guestAgent) TtyWinResize(ctx context.Context, r *agentapi.TtyWinResizeRequest) (*emptypb.Empty, error) {
	return g.answer(ctx, "resize a terminal", r.ContainerId)
}

func (g *guestAgent) CloseStdin(ctx context.Context, r *agentapi.CloseStdinRequest) (*emptypb.Empty, error) {
	return g.answer(ctx, "close the input", r.ContainerId)
}

// WaitProcess waits for the end, which the container "done" has come to at once, and "slow" where it is its removal that hangs.
func (g *guestAgent) WaitProcess(ctx context.Context, r *agentapi.WaitProcessRequest) (*agentapi.WaitProcessResponse, error) {
	if r.ContainerId == "done" || r.ContainerId == "slow" && g.hangs == "delete" {
		return &agentapi.WaitProcessResponse{}, nil
	}
	select {
	case <-g.release:
	case <-ctx.Done():
	}
	return nil, errors.New("given up")
}

func (g *guestAgent) RemoveContainer(ctx context.Context, r *agentapi.RemoveContainerRequest) (*emptypb.Empty, error) {
	g.mu.Lock()
	g.removed = append(g.removed, r.ContainerId)
	g.mu.Unlock()
	return g.answer(ctx, "delete", r.ContainerId)
}

func (g *guestAgent) RemoveStaleVirtiofsShareMounts(context.Context, *agentapi.RemoveStaleVirtiofsShareMountsRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// patched is our shim on Kata as it is patched, in a sandbox whose guest is a stand-in.
func patched(t *testing.T, hangs string) (service, *guestAgent) {
	t.Helper()
	g := &guestAgent{hangs: hangs, hanging: make(chan struct{}, 1), release: make(chan struct{}), inputs: map[string]uint32{}}
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agentapi.RegisterAgentServiceService(server, g)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(t.Context(), l)
	}()
	t.Cleanup(func() {
		close(g.release)
		_ = server.Close()
		<-served
	})
	sandbox, err := vc.StandIn(context.Background(), "sandbox", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := service{
		Shim: shim.StandIn(context.Background(), sandbox), volumes: newVolumes(dir, "sandbox", (&daemon{}).show), unstarted: newUnstarted(), doomed: newDoomed(), boost: &boost{},
		sizer: &sizer{fixed: true, containers: map[string]limits{}}, end: func() error { return nil }, giveUp: func() {},
	}
	s.sandbox.id = "sandbox"
	return s, g
}

const standInSpec = `{"ociVersion":"1.1.0","process":{"args":["x"],"cwd":"/","user":{}},"root":{"path":"rootfs"},"mounts":[],
"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"sandbox"},"linux":{"resources":{}}}`

func create(t *testing.T, s service, id, stdin string) error {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), id)
	err := errors.Join(os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o700), os.WriteFile(filepath.Join(bundle, "config.json"), []byte(standInSpec), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), &taskapi.CreateTaskRequest{ID: id, Bundle: bundle, Stdin: stdin})
	return err
}

func start(t *testing.T, s service, id string) {
	t.Helper()
	if err := create(t, s, id, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), &taskapi.StartRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, s service, id, exec string) error {
	process := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte(`{"args":["x"],"cwd":"/","user":{}}`)}
	if _, err := s.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: id, ExecID: exec, Spec: process}); err != nil {
		return err
	}
	_, err := s.Start(t.Context(), &taskapi.StartRequest{ID: id, ExecID: exec})
	return err
}

// returns fails the test when something does not return, long before the guest's time is up.
func returns(t *testing.T, what string, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%s waits for another container", what)
	}
}

func update(t *testing.T, s service, id string) error {
	limits := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: []byte(`{"cpu":{"quota":50000,"period":100000}}`)}
	_, err := s.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: id, Resources: limits})
	return err
}

// untilEnded waits until the shim knows that a container has ended.
func untilEnded(t *testing.T, s service, id string) {
	t.Helper()
	returns(t, "the end of "+id, func() error {
		for {
			r, err := s.State(t.Context(), &taskapi.StateRequest{ID: id})
			if err != nil || r.Status == tasktypes.Status_STOPPED {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// TestNoCallWaitsForAnotherContainer: whatever a guest does not answer about one container, the calls about another go through.
func TestNoCallWaitsForAnotherContainer(t *testing.T) {
	slow := map[string]func(*testing.T, service) error{
		"create": func(t *testing.T, s service) error { return create(t, s, "slow", "") },
		"start": func(t *testing.T, s service) error {
			_, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "slow"})
			return err
		},
		"exec": func(t *testing.T, s service) error { return execute(t, s, "slow", "e") },
		"stats": func(t *testing.T, s service) error {
			_, err := s.Stats(t.Context(), &taskapi.StatsRequest{ID: "slow"})
			return err
		},
		"signal": func(t *testing.T, s service) error {
			_, err := s.Kill(t.Context(), &taskapi.KillRequest{ID: "slow", Signal: uint32(syscall.SIGTERM)})
			return err
		},
		"update": func(t *testing.T, s service) error { return update(t, s, "slow") },
		"resize a terminal": func(t *testing.T, s service) error {
			_, err := s.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: "slow", Width: 80, Height: 25})
			return err
		},
		"close the input": func(t *testing.T, s service) error {
			_, err := s.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: "slow", Stdin: true})
			return err
		},
		"delete": func(t *testing.T, s service) error {
			_, err := s.Delete(t.Context(), &taskapi.DeleteRequest{ID: "slow"})
			return err
		},
	}
	for hangs, call := range slow {
		t.Run(hangs, func(t *testing.T) {
			s, guest := patched(t, hangs)
			start(t, s, "other")
			start(t, s, "done")
			untilEnded(t, s, "done")
			switch hangs {
			case "create":
			case "start":
				if err := create(t, s, "slow", ""); err != nil {
					t.Fatal(err)
				}
			default:
				start(t, s, "slow")
			}
			over := make(chan error, 1)
			go func() { over <- call(t, s) }()
			<-guest.hanging
			othersGoOn(t, s)
			if hangs == "create" || hangs == "start" {
				returns(t, "SIGKILL for a container that hangs", func() error {
					_, err := s.Kill(t.Context(), &taskapi.KillRequest{ID: "slow", Signal: uint32(syscall.SIGKILL)})
					return err
				})
			}
			if hangs != "create" {
				return
			}
			if err := <-over; err == nil {
				t.Error("a container that was killed during its creation has been created")
			}
			returns(t, "the guest's being told", func() error {
				for {
					guest.mu.Lock()
					told := slices.Contains(guest.removed, "slow")
					guest.mu.Unlock()
					if told {
						return nil
					}
					time.Sleep(time.Millisecond)
				}
			})
			returns(t, "State of what was not created", func() error {
				_, err := s.State(t.Context(), &taskapi.StateRequest{ID: "slow"})
				if err == nil || !strings.Contains(err.Error(), "does not exist") {
					t.Errorf("state of a container that was not created: %v", err)
				}
				return nil
			})
		})
	}
}

func othersGoOn(t *testing.T, s service) {
	t.Helper()
	returns(t, "State", func() error {
		r, err := s.State(t.Context(), &taskapi.StateRequest{ID: "other"})
		if err == nil && r.Status != tasktypes.Status_RUNNING {
			t.Errorf("the other container is %s", r.Status)
		}
		return err
	})
	for what, call := range map[string]func() (any, error){
		"Stats":   func() (any, error) { return s.Stats(t.Context(), &taskapi.StatsRequest{ID: "other"}) },
		"Pids":    func() (any, error) { return s.Pids(t.Context(), &taskapi.PidsRequest{ID: "other"}) },
		"Connect": func() (any, error) { return s.Connect(t.Context(), &taskapi.ConnectRequest{ID: "other"}) },
		"Exec":    func() (any, error) { return nil, execute(t, s, "other", "f") },
		"Kill": func() (any, error) {
			return s.Kill(t.Context(), &taskapi.KillRequest{ID: "other", Signal: uint32(syscall.SIGTERM)})
		},
		"Create": func() (any, error) { return nil, create(t, s, "third", "") },
		"Update": func() (any, error) { return nil, update(t, s, "other") },
		"ResizePty": func() (any, error) {
			return s.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: "other", Width: 80, Height: 25})
		},
		"CloseIO": func() (any, error) { return s.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: "other", Stdin: true}) },
		"Delete":  func() (any, error) { return s.Delete(t.Context(), &taskapi.DeleteRequest{ID: "done"}) },
	} {
		returns(t, what, func() error {
			_, err := call()
			return err
		})
	}
}

// TestGuestIsToldThatNobodyIsAtTheInput: a container or process without a stream for its input reads /dev/null in the guest.
func TestGuestIsToldThatNobodyIsAtTheInput(t *testing.T) {
	s, guest := patched(t, "")
	start(t, s, "alone")
	if err := create(t, s, "attended", "fifo"); err != nil {
		t.Fatal(err)
	}
	if err := execute(t, s, "alone", "e"); err != nil {
		t.Fatal(err)
	}
	guest.mu.Lock()
	defer guest.mu.Unlock()
	const nobody = 1<<32 - 1
	if guest.inputs["alone"] != nobody || guest.inputs["exec"] != nobody || guest.inputs["attended"] != 0 {
		t.Errorf("the guest was told of the inputs %v", guest.inputs)
	}
}

// TestGuestIsWaitedForByItsEffort: Kata asks patience for how long a container may take to be made, and knows when that is over.
func TestGuestIsWaitedForByItsEffort(t *testing.T) {
	s, _ := patched(t, "create")
	stock := vc.Patience
	t.Cleanup(func() { vc.Patience = stock })
	limits := make(chan time.Duration, 16)
	idle := patience{effort: func(context.Context) (time.Duration, bool, error) { return 0, false, nil }}
	vc.Patience = func(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
		limits <- limit
		return idle.around(ctx, lookInterval)
	}
	if err := create(t, s, "slow", ""); err == nil || !strings.Contains(err.Error(), "CreateContainerRequest timed out") {
		t.Errorf("a container that the guest does not make: %v", err)
	}
	if limit := <-limits; limit != time.Minute { // Kata's own; ours is in kata.toml
		t.Errorf("patience was asked for %v", limit)
	}
}
