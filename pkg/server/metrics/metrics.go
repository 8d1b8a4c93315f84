// Package metrics measures what Pods and nodes use and serves it by two APIs. metrics.k8s.io is what `kubectl top` and
// HorizontalPodAutoscalers read. In custom.metrics.k8s.io autoscalers find the same under the names of TKE Serverless, and as shares of a
// Pod's spec. The measuring is metrics-server's: it asks each kubelet for its figures and keeps the last two of everything. The APIs are
// not apiservers of their own but groups of the one in this process (docs/adr/0019): pkg/server gives Group and CustomGroup to
// pkg/server/apiserver before the start, and starts the component once a node takes Pods.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"sigs.k8s.io/metrics-server/pkg/api"
	"sigs.k8s.io/metrics-server/pkg/scraper"
	"sigs.k8s.io/metrics-server/pkg/scraper/client"
	"sigs.k8s.io/metrics-server/pkg/scraper/client/resource"
	"sigs.k8s.io/metrics-server/pkg/storage"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

const (
	// Interval is the pause between two measurements. It bounds how soon an autoscaler can notice load: metrics-server's own manifests
	// have 15 s (docs/SPECIFICATION.md has what both take and cost).
	Interval = 5 * time.Second
	// kubeletTimeout is what one kubelet has to answer in.
	kubeletTimeout = 10 * time.Second
	kubeletPort    = 10250
)

// Config is what the component needs to know.
type Config struct {
	// Access is for the apiserver and the kubelets, whose certificates are of one authority.
	Access kube.Access
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	for what, value := range map[string]string{"server": c.Access.Server, "authority": c.Access.CAFile, "certificate": c.Access.CertFile, "key": c.Access.KeyFile} {
		if value == "" {
			errs = append(errs, fmt.Errorf("metrics: no %s", what))
		}
	}
	return errors.Join(errs...)
}

// Server is the component.
type Server struct {
	cfg     Config
	log     *slog.Logger
	figures atomic.Pointer[figures] // nil until the first measurement is complete
}

var _ run.Component = (*Server)(nil)

// figures is what the API answers from.
type figures struct {
	measured api.MetricsGetter
	nodes    corelisters.NodeLister
	pods     podCache // the running ones
}

// New gives a component that has not touched anything yet. Its API exists at once and says that it has no figures.
func New(cfg Config, log *slog.Logger) *Server { return &Server{cfg: cfg, log: log} }

// Name is "metrics".
func (s *Server) Name() string { return "metrics" }

// Run measures until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	client, err := s.cfg.Access.Client("nodeless-metrics")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	known := follow(ctx, client)
	if ctx.Err() != nil {
		return nil
	}
	kubelets, err := s.kubelets()
	if err != nil {
		return err
	}
	store := storage.NewStorage(Interval)
	known.measured = store
	nodes := scraper.NewScraper(known.nodes, kubelets, kubeletTimeout, nil)
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	for {
		store.Store(nodes.Scrape(ctx)) // a kubelet that takes longer than Interval delays the next one, up to kubeletTimeout
		if s.figures.Load() == nil && store.NodeReady() {
			s.figures.Store(known)
			s.log.Debug("metrics measured", "interval", Interval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// follow keeps the cluster's nodes and running Pods in memory until ctx ends, and returns when it has them all.
func follow(ctx context.Context, client kubernetes.Interface) *figures {
	nodes := informers.NewSharedInformerFactory(client, 0)
	running := func(o *metav1.ListOptions) { o.FieldSelector = "status.phase=" + string(corev1.PodRunning) }
	pods := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(running), informers.WithTransform(keep))
	known := &figures{nodes: nodes.Core().V1().Nodes().Lister(), pods: podCache{pods.Core().V1().Pods().Informer().GetIndexer()}}
	nodes.Start(ctx.Done())
	pods.Start(ctx.Done())
	nodes.WaitForCacheSync(ctx.Done())
	pods.WaitForCacheSync(ctx.Done())
	return known
}

// kubelets is the client that asks each kubelet at its node's address.
func (s *Server) kubelets() (client.KubeletMetricsGetter, error) {
	access := s.cfg.Access.RESTConfig("nodeless-metrics")
	access.Timeout = kubeletTimeout
	getter, err := resource.NewForConfig(&client.KubeletClientConfig{
		Client: *access, Scheme: "https", DefaultPort: kubeletPort, UseNodeStatusPort: true,
		AddressTypePriority: []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName},
	})
	if err != nil {
		return nil, fmt.Errorf("make client of the kubelets: %w", err)
	}
	return getter, nil
}
