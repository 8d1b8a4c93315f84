// Package eklet tells people what becomes of their Pods where there are no nodes to look at. Events say which spec a Pod was sized to, that
// its sandbox starts, and that another one mounts its claim. When a running Pod is resized, its annotation gets its new spec. The package
// also keeps on each Node, as super nodes of TKE have it, how many addresses are left. TKE's component of that name is where users look for
// such words. pkg/server starts it once the cluster's own objects are there.
package eklet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/podsize"
	"github.com/nodeless/nodeless/pkg/run"
)

// Config is what the component needs to know.
type Config struct {
	Access  kube.Access
	Catalog podsize.Catalog
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	if c.Access.Server == "" || c.Access.CertFile == "" {
		return errors.New("eklet: no access to the apiserver")
	}
	return nil
}

// Eklet is the component.
type Eklet struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	notes  kube.Teller
	client kubernetes.Interface // made by Run; tests set it before
}

var _ run.Component = (*Eklet)(nil)

// New gives a component that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Eklet {
	return &Eklet{cfg: cfg, log: log, now: time.Now, notes: kube.NewTeller()}
}

// Name is "eklet".
func (e *Eklet) Name() string { return "eklet" }

// Run follows Pods until ctx ends.
func (e *Eklet) Run(ctx context.Context) error {
	if err := e.cfg.Validate(); err != nil {
		return err
	}
	if e.client == nil {
		client, err := kubernetes.NewForConfig(e.cfg.Access.RESTConfig("nodeless-eklet"))
		if err != nil {
			return fmt.Errorf("make client of the apiserver: %w", err)
		}
		e.client = client
	}
	factory := informers.NewSharedInformerFactoryWithOptions(e.client, 0, informers.WithTransform(slim))
	pods := factory.Core().V1().Pods()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]())
	defer queue.ShutDown()
	add := func(object any) {
		if pod, ok := object.(*corev1.Pod); ok {
			queue.Add(cache.MetaObjectToName(pod))
		}
	}
	if err := pods.Informer().AddIndexers(cache.Indexers{byClaim: claimsOf}); err != nil {
		return fmt.Errorf("follow Pods: %w", err)
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, now any) { add(now) }}
	if _, err := pods.Informer().AddEventHandler(handler); err != nil {
		return fmt.Errorf("follow Pods: %w", err)
	}
	nodes := factory.Core().V1().Nodes().Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	var counting sync.WaitGroup
	defer counting.Wait()
	counting.Go(func() { e.count(ctx, pods.Lister(), nodes) })
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	for e.next(ctx, queue, pods.Informer().GetIndexer()) {
	}
	factory.Shutdown()
	return nil
}

// slim keeps of a Pod what is looked at: there are many of them.
func slim(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	kept := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp, Annotations: map[string]string{}},
		Spec:   corev1.PodSpec{Resources: pod.Spec.Resources, NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase},
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			kept.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status, LastTransitionTime: c.LastTransitionTime}}
		}
	}
	for _, name := range claims(pod) {
		source := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
		kept.Spec.Volumes = append(kept.Spec.Volumes, corev1.Volume{VolumeSource: source})
	}
	for _, key := range []string{api.Spec, api.SpecType, api.CPU, api.Memory, api.AskedWhole, api.Sizing} {
		if value, ok := pod.Annotations[key]; ok {
			kept.Annotations[key] = value
		}
	}
	for _, c := range pod.Spec.Containers {
		kept.Spec.Containers = append(kept.Spec.Containers, corev1.Container{Name: c.Name, Resources: c.Resources})
	}
	for _, c := range pod.Spec.InitContainers {
		kept.Spec.InitContainers = append(kept.Spec.InitContainers, corev1.Container{Name: c.Name, Resources: c.Resources, RestartPolicy: c.RestartPolicy})
	}
	return kept, nil
}
