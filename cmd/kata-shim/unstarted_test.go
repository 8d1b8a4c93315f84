package main

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	shimapi "github.com/containerd/containerd/runtime/v2/shim"
	"google.golang.org/protobuf/types/known/emptypb"
)

// stockShim is Kata in what matters here: it tells of an end only after a start that went well, and takes a container whose start went
// half-way for one that runs.
type stockShim struct {
	shimapi.Shim
	status  tasktypes.Status
	startup error         // of Start
	exit    chan struct{} // closed at an end that it notices
	killed  int
	deleted bool
}

func (s *stockShim) Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	s.status = tasktypes.Status_RUNNING
	return &taskapi.StartResponse{Pid: 1}, s.startup
}

func (s *stockShim) Kill(context.Context, *taskapi.KillRequest) (*emptypb.Empty, error) {
	s.killed++
	if s.status == tasktypes.Status_RUNNING && s.startup == nil {
		s.status = tasktypes.Status_STOPPED
		close(s.exit)
	}
	return &emptypb.Empty{}, nil
}

func (s *stockShim) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{Status: s.status}, nil
}

func (s *stockShim) Wait(context.Context, *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	<-s.exit
	return &taskapi.WaitResponse{ExitStatus: 7}, nil
}

func (s *stockShim) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	s.deleted = true
	return &taskapi.DeleteResponse{}, nil
}

// clearAway does to a container what containerd does to one that it finds at its start. It waits for its end, kills it, sees that it has
// stopped, and deletes it. It gives the exit code that it is told.
func clearAway(t *testing.T, s service, stock *stockShim) uint32 {
	t.Helper()
	ended := make(chan uint32, 1)
	go func() {
		answer, err := s.Wait(t.Context(), &taskapi.WaitRequest{ID: "c"})
		if err != nil {
			t.Error(err)
		}
		ended <- answer.GetExitStatus()
	}()
	synctest.Wait()
	if _, err := s.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: uint32(syscall.SIGKILL), All: true}); err != nil {
		t.Error(err)
	}
	var exit uint32
	select {
	case exit = <-ended:
	case <-time.After(time.Second):
		t.Fatal("its end is not told")
	}
	state, err := s.State(t.Context(), &taskapi.StateRequest{ID: "c"})
	if err != nil || state.Status != tasktypes.Status_STOPPED {
		t.Errorf("state %v, %v, want stopped", state.GetStatus(), err)
	}
	if _, err := s.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"}); err != nil || !stock.deleted {
		t.Errorf("delete: %v, asked of Kata: %v", err, stock.deleted)
	}
	return exit
}

func TestContainersThatNeverRan(t *testing.T) {
	tests := []struct {
		name    string
		before  func(t *testing.T, s service, stock *stockShim)
		exit    uint32
		signals int // that reach Kata
	}{
		{name: "made and not started", before: func(*testing.T, service, *stockShim) {}, exit: 137},
		{name: "its start failed half-way", exit: 255, signals: 1, before: func(t *testing.T, s service, stock *stockShim) {
			stock.startup = errors.New("no such FIFO")
			if _, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "c"}); err == nil {
				t.Error("the fault is not told")
			}
		}},
		{name: "one that runs", exit: 7, signals: 1, before: func(t *testing.T, s service, _ *stockShim) {
			if _, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "c"}); err != nil {
				t.Error(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stock := &stockShim{status: tasktypes.Status_CREATED, exit: make(chan struct{})}
				s := service{Shim: stock, unstarted: newUnstarted(), doomed: newDoomed(), boost: &boost{}, sizer: &sizer{containers: map[string]limits{}}}
				s.sandbox.id = "sandbox"
				s.unstarted.making("c", nil)
				s.unstarted.made("c")
				tt.before(t, s, stock)
				if got := clearAway(t, s, stock); got != tt.exit {
					t.Errorf("exit code %d, want %d", got, tt.exit)
				}
				if stock.killed != tt.signals {
					t.Errorf("Kata was sent %d signals, want %d", stock.killed, tt.signals)
				}
				if _, left := s.unstarted.find("c"); left {
					t.Error("it is not forgotten")
				}
				if stock.status != tasktypes.Status_STOPPED {
					close(stock.exit) // the goroutine that waits for Kata
				}
			})
		})
	}
}

// A container that was killed before its start does not run after all.
func TestStartAfterKill(t *testing.T) {
	stock := &stockShim{status: tasktypes.Status_CREATED}
	s := service{Shim: stock, unstarted: newUnstarted(), doomed: newDoomed(), boost: &boost{}}
	s.unstarted.making("c", nil)
	s.unstarted.made("c")
	if _, err := s.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: uint32(syscall.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "c"}); err == nil || stock.status == tasktypes.Status_RUNNING {
		t.Errorf("%v, and Kata has it %v", err, stock.status)
	}
}
