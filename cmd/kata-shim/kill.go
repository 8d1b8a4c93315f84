package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// killPatience is how long a guest may take to report the end of a container that was sent SIGKILL.
const killPatience = time.Minute

// Kill sends a signal. SIGKILL is an order that a guest cannot refuse: when it does not report the container's end in
// time, because it hangs or lies, its microVM is ended, and Kata notices that. Without this the kubelet would wait for that end
// for ever, and the Pod could not be deleted.
func (s service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	if syscall.Signal(r.Signal) == syscall.SIGKILL && r.ExecID == "" {
		go s.insist(r.ID, killPatience)
	}
	return s.Shim.Kill(ctx, r)
}

// insist ends the microVM unless the container has ended before.
func (s service) insist(id string, patience time.Duration) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// An error says that there is no such container (any more).
		_, _ = s.Shim.Wait(context.Background(), &taskapi.WaitRequest{ID: id})
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
		return
	case <-timer.C:
	}
	fmt.Fprintf(os.Stderr, "containerd-shim-kata-v2: container %s does not end, ending its microVM\n", id)
	if err := s.end(); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-kata-v2: end microVM:", err)
	}
}
