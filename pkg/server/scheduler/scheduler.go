// Package scheduler runs kube-scheduler in this process, against the apiserver of this process, without leader
// election: there is one. pkg/server starts it when there is a node to schedule to.
//
// It opens no port. Its metrics are those of the process, which the apiserver serves.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/configz"
	schedapp "k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"

	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
	"github.com/nodeless/nodeless/pkg/run"
)

// configzName is what the scheduler registers its settings under.
const configzName = "componentconfig"

// Config names the files the scheduler works with.
type Config struct {
	Kubeconfig string
	ExtraArgs  []string // "name=value", after ours
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	if c.Kubeconfig == "" {
		return errors.New("scheduler: no kubeconfig")
	}
	return nil
}

// Args are the arguments of kube-scheduler for c.
func Args(c Config) []string {
	args := []string{
		"--kube-api-burst=200",
		"--kube-api-qps=100",
		"--kubeconfig=" + c.Kubeconfig,
		"--leader-elect=false",
		"--profiling=false",
		"--secure-port=0",
	}
	return append(args, kubeflags.Extra(c.ExtraArgs)...)
}

// Scheduler is the component.
type Scheduler struct {
	cfg    Config
	log    *slog.Logger
	synced chan struct{} // closed when it knows the cluster's state
}

var (
	_ run.Component = (*Scheduler)(nil)
	_ run.Readier   = (*Scheduler)(nil)
)

// New gives a scheduler that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Scheduler {
	return &Scheduler{cfg: cfg, log: log, synced: make(chan struct{})}
}

// Name is "scheduler".
func (s *Scheduler) Name() string { return "scheduler" }

// Run schedules Pods until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	opts := options.NewOptions()
	if err := kubeflags.Parse("kube-scheduler", *opts.Flags, Args(s.cfg)); err != nil {
		return err
	}
	if err := opts.ComponentGlobalsRegistry.Set(); err != nil {
		return fmt.Errorf("set feature gates of kube-scheduler: %w", err)
	}
	name, err := cache.NewInformerName("kube-scheduler")
	if err != nil {
		return fmt.Errorf("name informers of kube-scheduler: %w", err)
	}
	defer name.Release()
	opts.InformerName = name

	config, sched, err := schedapp.Setup(ctx, opts)
	if err != nil {
		return fmt.Errorf("set up kube-scheduler: %w", err)
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go func() {
		config.InformerFactory.WaitForCacheSync(watching.Done())
		if sched.WaitForHandlersSync(watching) == nil {
			close(s.synced)
		}
	}()
	defer configz.Delete(configzName)
	if err := schedapp.Run(ctx, config, sched); ctx.Err() == nil {
		return fmt.Errorf("run kube-scheduler: %w", err)
	}
	return nil
}

// Ready waits until the scheduler has seen every node and Pod.
func (s *Scheduler) Ready(ctx context.Context) error {
	select {
	case <-s.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
