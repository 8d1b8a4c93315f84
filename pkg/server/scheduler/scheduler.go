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

	"sigs.k8s.io/yaml"

	"github.com/nodeless/nodeless/pkg/atomicfile"
	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
	"github.com/nodeless/nodeless/pkg/run"
)

// component is what upstream calls it.
const component = "kube-scheduler"

// configzName is what the scheduler registers its settings under.
const configzName = "componentconfig"

// Config names the files the scheduler works with.
type Config struct {
	Kubeconfig  string
	File        string   // where to write the scheduler's own configuration
	SpotReserve int      // percent of each host that spot Pods leave free
	Held        Held     // the reservations to keep places for; none when nil
	ExtraArgs   []string // "name=value", after ours
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	if c.Kubeconfig == "" || c.File == "" {
		return errors.New("scheduler: no kubeconfig or no file for its configuration")
	}
	if c.SpotReserve < 0 || c.SpotReserve > 100 {
		return fmt.Errorf("scheduler: spot Pods leave %d percent of hosts free, want 0 to 100", c.SpotReserve)
	}
	return nil
}

// configuration is what no flag can say: a client for so many calls, and plugins of ours.
func (c Config) configuration() ([]byte, error) {
	type object = map[string]any
	plugins := object{"filter": object{"enabled": []object{{"name": reserveName}}}}
	if c.Held != nil {
		plugins = object{
			"preFilter": object{"enabled": []object{{"name": holdName}}},
			"filter":    object{"enabled": []object{{"name": reserveName}, {"name": holdName}}},
		}
	}
	raw, err := yaml.Marshal(object{
		"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
		"clientConnection": object{"kubeconfig": c.Kubeconfig, "qps": 100, "burst": 200},
		"enableProfiling":  false,
		"leaderElection":   object{"leaderElect": false},
		"profiles":         []object{{"schedulerName": "default-scheduler", "plugins": plugins}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode configuration of kube-scheduler: %w", err)
	}
	return raw, nil
}

// Args are the arguments of kube-scheduler for c.
func Args(c Config) []string {
	args := []string{
		"--config=" + c.File,
		"--leader-elect=false",
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
	text, err := s.cfg.configuration()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(s.cfg.File, text, 0o600); err != nil {
		return err
	}
	opts := options.NewOptions()
	if err := kubeflags.Parse(component, *opts.Flags, Args(s.cfg)); err != nil {
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

	config, sched, err := schedapp.Setup(ctx, opts,
		schedapp.WithPlugin(reserveName, newReserve(s.cfg.SpotReserve)), schedapp.WithPlugin(holdName, newHold(s.cfg.Held, s.log)))
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
