// Package sweep clears the host of what crashes have left of earlier microVMs before containerd starts. pkg/worker
// runs it first; the knowledge of what a microVM leaves is pkg/teardown's.
package sweep

import (
	"context"
	"log/slog"

	"github.com/nodeless/nodeless/pkg/run"
	"github.com/nodeless/nodeless/pkg/teardown"
)

// Sweep is the component.
type Sweep struct {
	host  teardown.Host
	log   *slog.Logger
	ready chan struct{} // closed when the host is clean
}

var (
	_ run.Component = (*Sweep)(nil)
	_ run.Readier   = (*Sweep)(nil)
)

// New gives a component that has not touched the host yet.
func New(host teardown.Host, log *slog.Logger) *Sweep {
	return &Sweep{host: host, log: log, ready: make(chan struct{})}
}

// Name is "sweep".
func (s *Sweep) Name() string { return "sweep" }

// Run sweeps once. What cannot be removed is no reason not to run Pods.
func (s *Sweep) Run(ctx context.Context) error {
	if err := teardown.Sweep(ctx, s.host, s.log); err != nil {
		s.log.Warn("remains of earlier microVMs not removed", "error", err)
	}
	close(s.ready)
	<-ctx.Done()
	return nil
}

// Ready waits until the host has been swept.
func (s *Sweep) Ready(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
