package main

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
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
				s := service{Shim: stock, unstarted: newUnstarted(), end: func() error { ends++; return nil }, giveUp: func() { ups++ }}
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
