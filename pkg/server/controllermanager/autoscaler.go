package controllermanager

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/config"
	autoscalermetrics "k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
	resourceclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/nodeless/nodeless/pkg/api"
)

const (
	autoscalerUser = "system:serviceaccount:kube-system:horizontal-pod-autoscaler" // upstream's, with upstream's rights
	mapperReset    = 30 * time.Second                                              // as the controller manager does
)

// autoscaler is upstream's controller of HorizontalPodAutoscalers with other Pods to look at. Upstream takes a share of the Pod's own
// requests where it has such, and here each Pod has, its spec and the overhead of its microVM among them (docs/adr/0025); people who
// write 50 % mean half of what the containers request. All else, and all settings, are upstream's.
type autoscaler struct {
	controller *podautoscaler.HorizontalController
	informers  informers.SharedInformerFactory
	mapper     *restmapper.DeferredDiscoveryRESTMapper
	apis       custom_metrics.AvailableAPIsGetter
	settings   config.HPAControllerConfiguration
}

// newAutoscaler makes the controller as upstream's controller manager does.
func newAutoscaler(ctx context.Context, c Config, settings config.HPAControllerConfiguration) (*autoscaler, error) {
	watching, err := c.Access.Client("nodeless-autoscaler")
	if err != nil {
		return nil, fmt.Errorf("make client of the apiserver: %w", err)
	}
	acting := c.Access.RESTConfig("horizontal-pod-autoscaler")
	acting.ContentConfig = rest.ContentConfig{}
	acting.Impersonate = rest.ImpersonationConfig{UserName: autoscalerUser, Groups: []string{
		"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated",
	}}
	client, err := kubernetes.NewForConfig(acting)
	if err != nil {
		return nil, fmt.Errorf("make client of autoscalers: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery()))
	scales, err := scale.NewForConfig(acting, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(client.Discovery()))
	if err != nil {
		return nil, fmt.Errorf("make client of scales: %w", err)
	}
	resources, err := resourceclient.NewForConfig(acting)
	if err != nil {
		return nil, fmt.Errorf("make client of metrics: %w", err)
	}
	external, err := external_metrics.NewForConfig(acting)
	if err != nil {
		return nil, fmt.Errorf("make client of external metrics: %w", err)
	}
	apis := custom_metrics.NewAvailableAPIsGetter(client.Discovery())
	factory := informers.NewSharedInformerFactoryWithOptions(watching, 0, informers.WithTransform(scaled))
	controller := podautoscaler.NewHorizontalController(ctx, client.CoreV1(), scales, client.AutoscalingV2(), mapper,
		autoscalermetrics.NewRESTMetricsClient(resources, custom_metrics.NewForConfig(acting, mapper, apis), external),
		factory.Autoscaling().V2().HorizontalPodAutoscalers(), factory.Core().V1().Pods(),
		settings.HorizontalPodAutoscalerSyncPeriod.Duration, settings.HorizontalPodAutoscalerDownscaleStabilizationWindow.Duration,
		settings.HorizontalPodAutoscalerTolerance, settings.HorizontalPodAutoscalerCPUInitializationPeriod.Duration,
		settings.HorizontalPodAutoscalerInitialReadinessDelay.Duration)
	return &autoscaler{controller, factory, mapper, apis, settings}, nil
}

// run scales until ctx ends.
func (a *autoscaler) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { wait.UntilWithContext(ctx, func(context.Context) { a.mapper.Reset() }, mapperReset) })
	all.Go(func() {
		custom_metrics.PeriodicallyInvalidate(a.apis, a.settings.HorizontalPodAutoscalerSyncPeriod.Duration, ctx.Done())
	})
	a.informers.Start(ctx.Done())
	a.controller.Run(ctx, int(a.settings.ConcurrentHorizontalPodAutoscalerSyncs))
	all.Wait()
	a.informers.Shutdown()
}

// scaling says whether the operator has left the controller on.
func (c Config) scaling() bool {
	return !slices.ContainsFunc(c.ExtraArgs, func(arg string) bool {
		list, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "controllers=")
		off := func(name string) bool {
			return name == "-"+names.HorizontalPodAutoscalerController || name == "-horizontalpodautoscaling"
		}
		return ok && slices.ContainsFunc(strings.Split(list, ","), off)
	})
}

// scaled is the transform of what the controller looks at. It throws away most of a Pod, and makes its own requests those of its
// containers, for resources that all of them request. For others, and where somebody asked for the Pod as a whole, they stay the Pod's.
func scaled(object any) (any, error) {
	switch o := object.(type) {
	case *autoscalingv2.HorizontalPodAutoscaler:
		o.ManagedFields = nil
	case *corev1.Pod:
		return scaledPod(o), nil
	}
	return object, nil
}

func scaledPod(p *corev1.Pod) *corev1.Pod {
	kept := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion, Labels: p.Labels,
			DeletionTimestamp: p.DeletionTimestamp},
		Status: corev1.PodStatus{Phase: p.Status.Phase, Reason: p.Status.Reason, StartTime: p.Status.StartTime, Conditions: p.Status.Conditions},
	}
	kept.Spec.Containers = requesting(p.Spec.Containers)
	kept.Spec.InitContainers = requesting(p.Spec.InitContainers)
	if p.Spec.Resources == nil {
		return kept
	}
	requests := p.Spec.Resources.Requests.DeepCopy()
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if sum, all := requested(p, name); all && p.Annotations[api.AskedWhole] == "" {
			requests[name] = sum
		}
	}
	kept.Spec.Resources = &corev1.ResourceRequirements{Requests: requests}
	return kept
}

func requesting(containers []corev1.Container) []corev1.Container {
	var kept []corev1.Container
	for _, c := range containers {
		kept = append(kept, corev1.Container{Name: c.Name, RestartPolicy: c.RestartPolicy, Resources: corev1.ResourceRequirements{Requests: c.Resources.Requests}})
	}
	return kept
}

// requested is what the containers that run as long as the Pod request together, and whether all of them do.
func requested(p *corev1.Pod, name corev1.ResourceName) (sum resource.Quantity, all bool) {
	containers := slices.Clone(p.Spec.Containers)
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		request, ok := c.Resources.Requests[name]
		if !ok {
			return sum, false
		}
		sum.Add(request)
	}
	return sum, true
}
