package main

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// How a container ends that never ran, as a shell has it.
const (
	exitNotStarted = 255
	exitKilled     = 128 + int(syscall.SIGKILL)
)

// unstarted knows the containers that are being made, or were made, and do not run yet. Kata looks for the end of a container from its
// start on. To Kata one that is killed before, or whose start fails half-way, has no end. containerd deletes what it finds half-made when
// it starts anew: it would wait for that end, and refuse to delete the container, and with it the Pod. So the end of such containers is
// told from here.
type unstarted struct {
	mu  sync.Mutex
	all map[string]*unborn // by container; guarded by mu
}

// unborn is one of them.
type unborn struct {
	giveUp   func() // ends its making; nil once it is made
	starting bool
	over     chan struct{} // closed at its end; what follows is set before
	ended    bool
	exit     uint32
	at       time.Time
}

func newUnstarted() *unstarted { return &unstarted{all: map[string]*unborn{}} }

// making notes that a container is being made, which giveUp ends.
func (u *unstarted) making(id string, giveUp func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all[id] = &unborn{giveUp: giveUp, over: make(chan struct{})}
}

// made notes that it is; it may have been killed meanwhile.
func (u *unstarted) made(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.all[id]; c != nil {
		c.giveUp = nil
	}
}

func (u *unstarted) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.all, id)
}

// find gives the container if it does not run, as it is at the moment.
func (u *unstarted) find(id string) (now unborn, found bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.all[id]; c != nil {
		return *c, true
	}
	return unborn{}, false
}

// start notes that a container is being started, and says whether that may be: one that has ended is not started any more.
func (u *unstarted) start(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.all[id]
	if c != nil && !c.ended {
		c.starting = true
	}
	return c == nil || !c.ended
}

// end notes the end of a container that will not run.
func (u *unstarted) end(id string, exit int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all[id].end(exit)
}

// end is called with the lock held, of a container that may be forgotten.
func (c *unborn) end(exit int) {
	if c != nil && !c.ended {
		c.ended, c.exit, c.at = true, uint32(exit), time.Now()
		close(c.over)
	}
}

// kill ends a container that is not even being started, and says whether nothing is left to do.
func (u *unstarted) kill(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock() // throughout: it must not be started in between
	c := u.all[id]
	if c == nil || c.starting && !c.ended {
		return false
	}
	c.end(exitKilled)
	if c.giveUp != nil {
		c.giveUp()
	}
	return true
}

// startContainer has Kata start a container. When that fails, what may have been started of it is ended.
func (s service) startContainer(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	if !s.unstarted.start(r.ID) {
		return nil, errdefs.ToGRPC(fmt.Errorf("start container %s: it was killed before: %w", r.ID, errdefs.ErrFailedPrecondition))
	}
	answer, err := s.Shim.Start(ctx, r)
	if err == nil {
		s.unstarted.forget(r.ID)
		return answer, nil
	}
	_, _ = s.Shim.Kill(ctx, &taskapi.KillRequest{ID: r.ID, Signal: uint32(syscall.SIGKILL), All: true}) // fails where nothing was started
	s.unstarted.end(r.ID, exitNotStarted)
	return nil, err
}

// State tells what a container does.
func (s service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	answer, err := s.Shim.State(ctx, r)
	if c, found := s.unstarted.find(r.ID); err == nil && r.ExecID == "" && found && c.ended {
		answer.Status, answer.ExitStatus, answer.ExitedAt = tasktypes.Status_STOPPED, c.exit, timestamppb.New(c.at)
	}
	return answer, err
}

// Wait waits for the end of a container, or of a process in one.
func (s service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	c, found := s.unstarted.find(r.ID)
	if r.ExecID != "" || !found {
		return s.Shim.Wait(ctx, r)
	}
	type end struct {
		answer *taskapi.WaitResponse
		err    error
	}
	stock := make(chan end, 1)
	go func() { // for as long as this process lives if Kata never tells; there are few such containers
		answer, err := s.Shim.Wait(ctx, r)
		stock <- end{answer, err}
	}()
	select {
	case e := <-stock:
		return e.answer, e.err
	case <-c.over:
	}
	c, found = s.unstarted.find(r.ID)
	if !found { // deleted meanwhile
		return &taskapi.WaitResponse{ExitStatus: uint32(exitKilled), ExitedAt: timestamppb.Now()}, nil
	}
	return &taskapi.WaitResponse{ExitStatus: c.exit, ExitedAt: timestamppb.New(c.at)}, nil
}

// deleteContainer forgets a container and tells how it ended.
func (s service) deleteContainer(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	answer, err := s.Shim.Delete(ctx, r)
	if err != nil {
		return nil, err
	}
	if c, found := s.unstarted.find(r.ID); found {
		if c.ended {
			answer.ExitStatus, answer.ExitedAt = c.exit, timestamppb.New(c.at)
		}
		s.unstarted.forget(r.ID)
	}
	return answer, nil
}
