// Package controllermanager runs kube-controller-manager in this process, against the apiserver of this
// process, without leader election: there is one. pkg/server starts it when the apiserver is ready.
//
// HorizontalPodAutoscalers are dealt with by a controller of upstream's that is started here, beside the manager.
//
// It opens no port. Its metrics are those of the process, which the apiserver serves.
package controllermanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/configz"
	kcmapp "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/kube/kubeflags"
	"github.com/nodeless/nodeless/pkg/run"
)

// component is what upstream calls it.
const component = "kube-controller-manager"

// Config names the files the controllers work with.
type Config struct {
	Kubeconfig        string
	ServerCA          string // handed to Pods as the cluster's authority
	ServerCAKey       string
	ClientCA          string
	ClientCAKey       string
	ServiceAccountKey string
	VolumePlugins     string      // a folder in which there are none
	Access            kube.Access // for Ready
	Without           []string    // controllers that somebody else stands in for
	ExtraArgs         []string    // "name=value", after ours
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for name, value := range map[string]string{
		"kubeconfig": c.Kubeconfig, "server CA": c.ServerCA, "server CA key": c.ServerCAKey,
		"client CA": c.ClientCA, "client CA key": c.ClientCAKey, "service-account key": c.ServiceAccountKey, "folder of volume plugins": c.VolumePlugins,
	} {
		if value == "" {
			errs = append(errs, fmt.Errorf("controller-manager: no %s", name))
		}
	}
	return errors.Join(errs...)
}

// ControllerManager is the component.
type ControllerManager struct {
	cfg Config
	log *slog.Logger
}

var (
	_ run.Component = (*ControllerManager)(nil)
	_ run.Readier   = (*ControllerManager)(nil)
)

// New gives a controller manager that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *ControllerManager {
	return &ControllerManager{cfg: cfg, log: log}
}

// Name is "controller-manager".
func (c *ControllerManager) Name() string { return "controller-manager" }

// Run runs the controllers until ctx ends.
func (c *ControllerManager) Run(ctx context.Context) error {
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return fmt.Errorf("make options of kube-controller-manager: %w", err)
	}
	known, off, aliases := kcmapp.KnownControllers(), kcmapp.ControllersDisabledByDefault(), kcmapp.ControllerAliases()
	if err := kubeflags.Parse(component, opts.Flags(known, off, aliases), Args(c.cfg)); err != nil {
		return err
	}
	if err := opts.ComponentGlobalsRegistry.Set(); err != nil {
		return fmt.Errorf("set feature gates of kube-controller-manager: %w", err)
	}
	config, err := opts.Config(ctx, known, off, aliases)
	if err != nil {
		return fmt.Errorf("complete options of kube-controller-manager: %w", err)
	}
	defer configz.Delete(kcmapp.ConfigzName)
	if c.cfg.scaling() {
		scaler, err := newAutoscaler(ctx, c.cfg, config.ComponentConfig.HPAController)
		if err != nil {
			return err
		}
		inner, cancel := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() { scaler.run(inner) })
		defer done.Wait()
		defer cancel()
	}
	if err := kcmapp.Run(ctx, config.Complete()); err != nil && ctx.Err() == nil {
		return fmt.Errorf("run kube-controller-manager: %w", err)
	}
	return nil
}

// Ready waits until Pods can be created in the default namespace, which needs work of the controllers: the
// namespace's service account and the ConfigMap with the cluster's authority. On later starts both are there already.
func (c *ControllerManager) Ready(ctx context.Context) error {
	client, err := c.cfg.Access.Client("nodeless")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	return kube.Wait(ctx, "the default service account", func(ctx context.Context) (bool, error) {
		core := client.CoreV1()
		if _, err := core.ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return false, kube.IgnoreNotFound(err)
		}
		_, err := core.ConfigMaps(metav1.NamespaceDefault).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil, kube.IgnoreNotFound(err)
	})
}
