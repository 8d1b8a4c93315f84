package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	shimapi "github.com/containerd/containerd/runtime/v2/shim"
	"google.golang.org/protobuf/types/known/emptypb"
)

// disobedient takes every signal and tells of an end when ended is closed.
type disobedient struct {
	shimapi.Shim
	ended chan struct{}
	err   error // of Wait
}

func (d disobedient) Kill(context.Context, *taskapi.KillRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (d disobedient) Wait(context.Context, *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	<-d.ended
	return &taskapi.WaitResponse{}, d.err
}

// TestSIGKILLCannotBeRefused: a container that a guest does not end, or does not tell the end of, takes its microVM
// along, and the shim as well if that does not notice. One that ends, and other signals, do not.
func TestSIGKILLCannotBeRefused(t *testing.T) {
	tests := []struct {
		name    string
		signal  syscall.Signal
		exec    string
		after   time.Duration // when the guest tells of the end; 0 for never
		err     error
		want    bool
		givesUp bool
	}{
		{name: "never told", signal: syscall.SIGKILL, want: true, givesUp: true},
		{name: "told late", signal: syscall.SIGKILL, after: killPatience + time.Second, want: true},
		{name: "told too late", signal: syscall.SIGKILL, after: killPatience + endPatience + time.Second, want: true, givesUp: true},
		{name: "told in time", signal: syscall.SIGKILL, after: killPatience - time.Second},
		{name: "no such container", signal: syscall.SIGKILL, after: time.Nanosecond, err: errors.New("not found")},
		{name: "SIGTERM may be ignored", signal: syscall.SIGTERM},
		{name: "a process of exec does not take the Pod along", signal: syscall.SIGKILL, exec: "e"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stock := disobedient{ended: make(chan struct{}), err: tt.err}
				ends, ups := 0, 0
				s := service{Shim: stock, unstarted: newUnstarted(), doomed: newDoomed(), end: func() error { ends++; return nil }, giveUp: func() { ups++ }}
				if _, err := s.Kill(t.Context(), &taskapi.KillRequest{ID: "c", ExecID: tt.exec, Signal: uint32(tt.signal)}); err != nil {
					t.Fatal(err)
				}
				if tt.after > 0 {
					time.Sleep(tt.after)
					close(stock.ended)
				}
				time.Sleep(2 * killPatience)
				synctest.Wait()
				if got := ends > 0; got != tt.want || ends > 1 {
					t.Errorf("the microVM was ended %d times, want ended %v", ends, tt.want)
				}
				if got := ups > 0; got != tt.givesUp || ups > 1 {
					t.Errorf("the shim gave up %d times, want %v", ups, tt.givesUp)
				}
				if tt.after == 0 {
					close(stock.ended)
				}
			})
		})
	}
}

func (d disobedient) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	if r.ID == "done" {
		return &taskapi.StateResponse{Status: tasktypes.Status_STOPPED}, nil
	}
	return &taskapi.StateResponse{Status: tasktypes.Status_RUNNING}, nil
}

// TestAHeldPodIsSoonGone: the processes of a Pod whose writes wait cannot end. When all of it is to go its microVM ends soon, and not while
// another of its containers goes on.
func TestAHeldPodIsSoonGone(t *testing.T) {
	const soon = heldPatience + time.Second
	for _, tt := range []struct {
		name   string
		note   string
		others map[string]bool // its other containers, and whether they were sent SIGKILL
		want   time.Duration   // by when the microVM is ended
	}{
		{name: "held", note: `{"held":true}`, want: soon},
		{name: "held, the others have ended or are to", note: `{"held":true}`, others: map[string]bool{"done": false, "b": true}, want: soon},
		{name: "held, another goes on", note: `{"held":true}`, others: map[string]bool{"b": false}, want: killPatience + soon},
		{name: "it was held before", note: `{"held":false}`, want: killPatience + soon},
		{name: "never held", want: killPatience + soon},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				stock := disobedient{ended: make(chan struct{})}
				var ended []time.Duration
				began := time.Now()
				s := service{Shim: stock, unstarted: newUnstarted(), doomed: newDoomed(), sandbox: sandbox{id: "s", root: root},
					sizer:  &sizer{containers: map[string]limits{"c": {}}},
					giveUp: func() { t.Error("the shim gave up") },
					end: func() error {
						ended = append(ended, time.Since(began))
						close(stock.ended)
						return nil
					}}
				for id, killed := range tt.others {
					s.sizer.containers[id] = limits{}
					if killed {
						s.doomed.add(id)
					}
				}
				if tt.note != "" {
					err := errors.Join(os.MkdirAll(s.sandbox.vmDir(), 0o700), os.WriteFile(filepath.Join(s.sandbox.vmDir(), "held.json"), []byte(tt.note), 0o600))
					if err != nil {
						t.Fatal(err)
					}
				}
				if _, err := s.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: uint32(syscall.SIGKILL)}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * killPatience)
				synctest.Wait()
				if len(ended) != 1 || ended[0] > tt.want || tt.want > soon && ended[0] <= soon {
					t.Errorf("the microVM was ended after %v, want it once, by %v", ended, tt.want)
				}
			})
		})
	}
}
