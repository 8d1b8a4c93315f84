package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nodeless/nodeless/pkg/contract"
)

const (
	// killPatience is how long a guest may take to report the end of a container that was sent SIGKILL.
	killPatience = time.Minute
	// endPatience is how long Kata may take, after that, to notice that the microVM is gone. Both together leave time within
	// the two minutes that a deletion may take.
	endPatience = 15 * time.Second
	// heldPatience is how long a guest that is held may take: its processes wait for a disk that nobody will give room to, and cannot end.
	heldPatience = 3 * time.Second
)

// Kill sends a signal. SIGKILL is an order that a guest cannot refuse: when it does not report the container's end in
// time, because it hangs or lies, its microVM is ended, and Kata notices that. Without this the kubelet would wait for that end
// for ever, and the Pod could not be deleted.
func (s service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	if syscall.Signal(r.Signal) == syscall.SIGKILL && r.ExecID == "" {
		if s.unstarted.kill(r.ID) {
			return &emptypb.Empty{}, nil // its deletion ends what there is of it in the guest
		}
		s.doomed.add(r.ID)
		go s.insist(r.ID)
		if r.ID == s.sandbox.id {
			s.boost.again(s.sandbox.root)
		}
	}
	return s.Shim.Kill(ctx, r)
}

// insist ends the microVM unless the container has ended before, and this process if that does not help: Kata may wait in
// vain for something, with its lock held. containerd then has a new process clean up, and reports the end itself.
func (s service) insist(id string) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// An error says that there is no such container (any more).
		_, _ = s.Wait(context.Background(), &taskapi.WaitRequest{ID: id})
	}()
	for began := time.Now(); ; {
		if within(heldPatience, ended) {
			return
		}
		if time.Since(began) >= killPatience || s.held() && s.allDoomed() {
			break
		}
	}
	fmt.Fprintf(os.Stderr, "containerd-shim-kata-v2: container %s does not end, ending its microVM\n", id)
	if err := s.end(); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-kata-v2: end microVM:", err)
	}
	if within(endPatience, ended) {
		return
	}
	stacks := make([]byte, 1<<16)
	stacks = stacks[:runtime.Stack(stacks, true)]
	fmt.Fprintf(os.Stderr, "containerd-shim-kata-v2: the microVM of container %s is gone and Kata has not noticed, giving up; please report this:\n%s\n", id, stacks)
	s.giveUp()
}

// doomed are the containers that were sent SIGKILL.
type doomed struct {
	mu  sync.Mutex
	all map[string]bool // guarded by mu
}

func newDoomed() *doomed { return &doomed{all: map[string]bool{}} }

func (d *doomed) add(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all[id] = true
}

func (d *doomed) has(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all[id]
}

func (d *doomed) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.all, id)
}

// held tells whether the Pod's writes wait because the host's disk is full, as nodeless-vmm notes it.
func (s service) held() bool {
	raw, err := os.ReadFile(filepath.Join(s.sandbox.vmDir(), contract.HeldFile))
	if err != nil {
		return false // it never was
	}
	var said contract.Hold
	return json.Unmarshal(raw, &said) == nil && said.Held
}

// allDoomed tells that no container of the Pod goes on: each was sent SIGKILL, or has ended by itself. Then the microVM holds nothing that
// anybody waits for.
func (s service) allDoomed() bool {
	for _, id := range s.sizer.all() {
		if s.doomed.has(id) {
			continue
		}
		now, err := s.State(context.Background(), &taskapi.StateRequest{ID: id})
		if err != nil || now.Status != tasktypes.Status_STOPPED {
			return false
		}
	}
	return true
}

// within says whether something has happened in time.
func within(patience time.Duration, happened <-chan struct{}) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-happened:
		return true
	case <-timer.C:
		return false
	}
}
