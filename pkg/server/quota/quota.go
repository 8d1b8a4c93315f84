// Package quota runs upstream's controller of ResourceQuotas with Pods that have no overhead: where Pods keep their own figures (sizing
// native), a quota counts what they ask for and not what their microVMs take besides. pkg/server starts it then, in place of the one of
// the controller-manager, whose list of controllers has no place for another view of Pods.
package quota

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/resourcequota"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

// Upstream is the name of the controller that this one stands in for.
const Upstream = "resourcequota-controller"

// The periods and the number of workers are upstream's defaults.
const (
	resync    = 5 * time.Minute
	replenish = 12 * time.Hour
	discovery = 30 * time.Second
	workers   = 5
)

// Config says how the apiserver is reached, and whose overhead is left out.
type Config struct {
	Access kube.Access
	Class  string // the RuntimeClass of microVMs
}

// Quota is the component.
type Quota struct {
	cfg Config
	log *slog.Logger
}

var _ run.Component = (*Quota)(nil)

// New gives a controller that has not asked for anything yet.
func New(cfg Config, log *slog.Logger) *Quota { return &Quota{cfg: cfg, log: log} }

// Name is "quota".
func (q *Quota) Name() string { return "quota" }

// Run counts until ctx ends.
func (q *Quota) Run(ctx context.Context) error {
	cfg := q.cfg.Access.RESTConfig("nodeless-quota")
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client for quotas: %w", err)
	}
	others, err := metadata.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("make client of metadata for quotas: %w", err)
	}
	known := informers.NewSharedInformerFactoryWithOptions(client, replenish, informers.WithTransform(Bare(q.cfg.Class)))
	unknown := metadatainformer.NewSharedInformerFactoryWithOptions(others, replenish, metadatainformer.WithTransform(Bare(q.cfg.Class)))
	rules, err := quotainstall.NewQuotaConfigurationForControllers(generic.ListerFuncForResourceFunc(known.ForResource), known)
	if err != nil {
		return fmt.Errorf("set up quotas: %w", err)
	}
	started := make(chan struct{})
	discover := client.Discovery().ServerPreferredNamespacedResources
	quotas, err := resourcequota.NewController(ctx, &resourcequota.ControllerOptions{
		QuotaClient: client.CoreV1(), ResourceQuotaInformer: known.Core().V1().ResourceQuotas(),
		ResyncPeriod: controller.StaticResyncPeriodFunc(resync), ReplenishmentResyncPeriod: controller.StaticResyncPeriodFunc(replenish),
		InformerFactory: informerfactory.NewInformerFactory(known, unknown), InformersStarted: started,
		DiscoveryFunc: discover, IgnoredResourcesFunc: rules.IgnoredResources,
		Registry: generic.NewRegistry(rules.Evaluators()), UpdateFilter: quotainstall.DefaultUpdateFilter(),
	})
	if err != nil {
		return fmt.Errorf("set up quotas: %w", err)
	}
	known.Start(ctx.Done())
	unknown.Start(ctx.Done())
	close(started)
	go quotas.Sync(ctx, discover, discovery)
	quotas.Run(ctx, workers)
	known.Shutdown()
	unknown.Shutdown()
	return nil
}

// Bare takes from Pods of a class what their microVMs need besides, and from all objects what no quota counts.
func Bare(class string) func(any) (any, error) {
	return func(object any) (any, error) {
		if pod, ok := object.(*corev1.Pod); ok && pod.Spec.RuntimeClassName != nil && *pod.Spec.RuntimeClassName == class {
			pod.Spec.Overhead = nil
		}
		if m, ok := object.(metav1.Object); ok {
			m.SetManagedFields(nil)
		}
		return object, nil
	}
}
