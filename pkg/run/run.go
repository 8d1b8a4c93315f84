// Package run starts the components of a role in order, waits for each to be usable before what needs it,
// and stops them in reverse. pkg/server and pkg/worker list their components; this package knows none of them.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Component is a part of the process. Run blocks and returns nil only after ctx has ended;
// an earlier return, with an error or without, is a fault of the whole process.
type Component interface {
	Name() string
	Run(ctx context.Context) error
}

// Readier is an optional ability of a Component: Ready blocks until others may rely on it.
// A component without it is ready as soon as it runs.
type Readier interface {
	Ready(ctx context.Context) error
}

// Step is a component and the names of those that must be ready before it starts.
type Step struct {
	Component
	After []string
}

// ErrEarlyReturn marks a component that ended although nobody asked it to.
var ErrEarlyReturn = errors.New("stopped by itself")

// Fault is the error of All: the component that failed and why.
type Fault struct {
	Component string
	Err       error
}

func (f *Fault) Error() string { return f.Component + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// All runs steps until ctx ends or one of them fails. Stopping goes in reverse listing order, each component
// having at most stopTimeout; one that does not stop in time is left to the end of the process and reported.
func All(ctx context.Context, log *slog.Logger, stopTimeout time.Duration, steps ...Step) error {
	if err := check(steps); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	began := time.Now()
	tasks := make(map[string]*task, len(steps))
	order := make([]*task, 0, len(steps))
	for _, s := range steps {
		t := newTask(s, stopTimeout)
		tasks[s.Name()] = t
		order = append(order, t)
	}
	for _, t := range order {
		go t.start(ctx, fail, tasks, log, began)
	}
	<-ctx.Done()
	cause := context.Cause(ctx)
	var fault *Fault
	if errors.As(cause, &fault) { // logged before it is returned: stopping takes a while, and a library may end the process in it
		log.Error("component failed", "component", fault.Component, "error", fault.Err)
	}

	var late error
	for i := len(order) - 1; i >= 0; i-- {
		late = errors.Join(late, order[i].stop(log))
	}
	if fault != nil {
		return cause
	}
	return late
}

// check refuses a list that could never start.
func check(steps []Step) error {
	known := make(map[string]bool, len(steps))
	for _, s := range steps {
		for _, need := range s.After {
			if !known[need] {
				return fmt.Errorf("order components: %q comes after %q, which is not listed before it", s.Name(), need)
			}
		}
		if known[s.Name()] {
			return fmt.Errorf("order components: %q is listed twice", s.Name())
		}
		known[s.Name()] = true
	}
	return nil
}

// task is one step on its way. A task's context is its own: it ends only when its turn to stop has come.
type task struct {
	step    Step
	timeout time.Duration
	ctx     context.Context
	cancel  context.CancelFunc
	ready   chan struct{} // closed when usable
	settled chan struct{} // closed when Run has returned or will never be called
}

func newTask(s Step, timeout time.Duration) *task {
	ctx, cancel := context.WithCancel(context.Background())
	return &task{step: s, timeout: timeout, ctx: ctx, cancel: cancel, ready: make(chan struct{}), settled: make(chan struct{})}
}

func (t *task) start(ctx context.Context, fail context.CancelCauseFunc, tasks map[string]*task, log *slog.Logger, began time.Time) {
	defer close(t.settled)
	for _, need := range t.step.After {
		select {
		case <-tasks[need].ready:
		case <-ctx.Done():
			return
		}
	}
	if ctx.Err() != nil {
		return
	}
	name := t.step.Name()
	log.Debug("component starting", "component", name, "since", time.Since(began).Round(time.Millisecond))
	go t.awaitReady(ctx, fail, log, began)

	err := t.step.Run(t.ctx)
	if t.ctx.Err() != nil { // it was asked to stop
		if err != nil && !errors.Is(err, context.Canceled) {
			log.Warn("component stopped with an error", "component", name, "error", err)
		}
		return
	}
	if err == nil {
		err = ErrEarlyReturn
	}
	fail(&Fault{Component: name, Err: err})
}

func (t *task) awaitReady(ctx context.Context, fail context.CancelCauseFunc, log *slog.Logger, began time.Time) {
	if r, ok := t.step.Component.(Readier); ok {
		if err := r.Ready(ctx); err != nil {
			if ctx.Err() == nil {
				fail(&Fault{Component: t.step.Name(), Err: fmt.Errorf("wait until ready: %w", err)})
			}
			return
		}
	}
	log.Info("component ready", "component", t.step.Name(), "since", time.Since(began).Round(time.Millisecond))
	close(t.ready)
}

func (t *task) stop(log *slog.Logger) error {
	t.cancel()
	timer := time.NewTimer(t.timeout)
	defer timer.Stop()
	select {
	case <-t.settled:
		return nil
	case <-timer.C:
		log.Warn("component did not stop in time", "component", t.step.Name(), "timeout", t.timeout)
		return fmt.Errorf("stop %s: no end within %s", t.step.Name(), t.timeout)
	}
}
