// Package nodekeeper makes this host's Node again when somebody deletes it. A kubelet registers once, so that a deleted Node would stay
// away until the next start: nothing could be scheduled, and the Pods of the host would be collected as those of a Node that is gone.
// pkg/server starts it where the host runs Pods. It keeps no other Node: one that pkg/server/recovery takes over from stays deleted.
//
// It acts with the server's identity, not the kubelet's: a kubelet may not set labels such as node-role.kubernetes.io/… that people give
// to Nodes.
package nodekeeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

// pause is the time between two attempts, and the least between two Nodes for somebody who keeps deleting them. Pods of a Node that is
// gone are collected after 40 s.
const pause = time.Second

// Config says whose Node it is.
type Config struct {
	Access   kube.Access
	NodeName string
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	if c.Access.Server == "" || c.Access.CertFile == "" {
		errs = append(errs, errors.New("node-keeper: no access to the apiserver"))
	}
	if c.NodeName == "" {
		errs = append(errs, errors.New("node-keeper: no node name"))
	}
	return errors.Join(errs...)
}

// Keeper is the component.
type Keeper struct {
	cfg  Config
	log  *slog.Logger
	gone chan *corev1.Node // the last that was seen of it; the newest deletion alone counts
}

var _ run.Component = (*Keeper)(nil)

// New gives a keeper that has not touched anything yet.
func New(cfg Config, log *slog.Logger) *Keeper {
	return &Keeper{cfg: cfg, log: log, gone: make(chan *corev1.Node, 1)}
}

// Name is "node-keeper".
func (k *Keeper) Name() string { return "node-keeper" }

// Run follows the Node until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	if err := k.cfg.Validate(); err != nil {
		return err
	}
	client, err := k.cfg.Access.Client("nodeless-node-keeper")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	return k.follow(ctx, client)
}

func (k *Keeper) follow(ctx context.Context, client kubernetes.Interface) error {
	own := informers.WithTweakListOptions(func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, k.cfg.NodeName).String()
	})
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, own)
	if _, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: k.note}); err != nil {
		return fmt.Errorf("follow Node %s: %w", k.cfg.NodeName, err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	for {
		select {
		case <-ctx.Done():
			return nil
		case last := <-k.gone:
			k.restore(ctx, client, last)
		}
	}
}

// note keeps what the Node was when it went, also where its going was not seen.
func (k *Keeper) note(object any) {
	if tomb, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tomb.Obj
	}
	node, ok := object.(*corev1.Node)
	if !ok || node.Name != k.cfg.NodeName {
		return
	}
	select { // one that waits is older
	case <-k.gone:
	default:
	}
	k.gone <- node
}

// restore makes the Node again, trying until it is there.
func (k *Keeper) restore(ctx context.Context, client kubernetes.Interface, last *corev1.Node) {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		_, err := client.CoreV1().Nodes().Create(ctx, anew(last), metav1.CreateOptions{FieldManager: kube.FieldManager})
		switch {
		case err == nil:
			k.log.Warn("the host's Node was deleted and is there again", "node", last.Name)
		case apierrors.IsAlreadyExists(err):
		case ctx.Err() == nil && attempt%10 == 1:
			k.log.Warn("the host's Node was deleted and is not there again yet", "node", last.Name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		if err == nil || apierrors.IsAlreadyExists(err) {
			return
		}
	}
}

// anew is the Node without what the cluster put into it. Its status stays, and the kubelet goes on with it: a Node without one would not
// be ready, and kube-proxy would miss its addresses.
func anew(last *corev1.Node) *corev1.Node {
	again := last.DeepCopy()
	again.ObjectMeta = metav1.ObjectMeta{Name: last.Name, Labels: again.Labels, Annotations: again.Annotations}
	return again
}
