// Package recovery does what is left to do after the datastore had to return to a snapshot, or after a backup was restored. It begins
// once the apiserver is up. It tells by an event on the Node. On another host it takes the Pods over from the Node that is no more.
// pkg/server starts it; most of the time there is nothing to do.
package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeless/nodeless/pkg/datadir"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/run"
)

// retryPause is the wait after an attempt that failed.
const retryPause = 500 * time.Millisecond

// Reasons of the events.
const (
	DatabaseDamaged = "DatabaseDamaged"
	ClusterRestored = "ClusterRestored"
)

// Config says what may have happened.
type Config struct {
	Access       kube.Access
	NodeName     string
	RestoredFile string        // the note that `restore` leaves
	Lost         func() string // what a damaged database has lost, or nothing
}

// Recovery is the component.
type Recovery struct {
	cfg     Config
	log     *slog.Logger
	pending pending // deleted or about to be, to be made again; only Run uses it
}

var _ run.Component = (*Recovery)(nil)

// New gives the component.
func New(cfg Config, log *slog.Logger) *Recovery {
	return &Recovery{cfg: cfg, log: log, pending: pending{file: cfg.RestoredFile + pendingSuffix}}
}

// Name is "recovery".
func (r *Recovery) Name() string { return "recovery" }

// Run does what is to be done, trying again until it is, and waits for the end.
func (r *Recovery) Run(ctx context.Context) error {
	restored, err := datadir.ReadRestored(r.cfg.RestoredFile)
	if err != nil {
		return err
	}
	lost := r.cfg.Lost()
	if restored == nil && lost == "" {
		<-ctx.Done()
		return nil
	}
	client, err := r.cfg.Access.Client("nodeless-recovery")
	if err != nil {
		return fmt.Errorf("make client of the apiserver: %w", err)
	}
	if lost != "" {
		r.until(ctx, "damaged database not told by an event", func() error { return r.tell(ctx, client, DatabaseDamaged, lost) })
	}
	if restored != nil {
		if err := r.pending.load(); err != nil {
			return err
		}
		r.until(ctx, "Pods of the backup's node not taken over", func() error { return r.settle(ctx, client, *restored) })
	}
	<-ctx.Done()
	return nil
}

// until calls do until it succeeds or ctx ends.
func (r *Recovery) until(ctx context.Context, trouble string, do func() error) {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil {
			return
		}
		if attempt%20 == 0 {
			r.log.Warn(trouble, "error", err, "attempt", attempt)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryPause):
		}
	}
}

// tell makes a warning event on this host's Node, named the way the kubelet names it.
func (r *Recovery) tell(ctx context.Context, client kubernetes.Interface, reason, message string) error {
	now := metav1.Now()
	_, err := client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: r.cfg.NodeName + ".", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: r.cfg.NodeName, UID: types.UID(r.cfg.NodeName)},
		Type:           corev1.EventTypeWarning, Reason: reason, Message: shorten(message),
		Source: corev1.EventSource{Component: "nodeless", Host: r.cfg.NodeName}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create event: %w", err)
	}
	return nil
}

// shorten fits a message into an event.
func shorten(message string) string {
	const limit = 1000
	if len(message) > limit {
		return message[:limit] + "…"
	}
	return message
}

// settle ends what the backup's host was, if this is another one, and removes the note.
func (r *Recovery) settle(ctx context.Context, client kubernetes.Interface, from datadir.Restored) error {
	if from.Node != r.cfg.NodeName {
		if err := r.takeOver(ctx, client, from.Node); err != nil {
			return err
		}
	}
	message := fmt.Sprintf("The cluster was restored from a backup of node %s, made at %s. Changes after it are not in it.", from.Node, from.Created.Format(time.RFC3339))
	if err := r.tell(ctx, client, ClusterRestored, message); err != nil {
		return err
	}
	r.log.Info("restore completed", "from", from.Node, "node", r.cfg.NodeName, "created", from.Created)
	if err := os.Remove(r.cfg.RestoredFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove note of restore: %w", err)
	}
	return nil
}

// takeOver brings the Pods of a Node that is no more to this one: those of controllers by their controllers, the others
// by making them again. The old Node takes no Pod from the first moment and goes last: the scheduler would give it the
// Pods back, and what is bound to a Node that is gone is collected. It is called again after an error.
func (r *Recovery) takeOver(ctx context.Context, client kubernetes.Interface, old string) error {
	if err := cordon(ctx, client, old); err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Get(ctx, r.cfg.NodeName, metav1.GetOptions{}); err != nil {
		return fmt.Errorf("wait for node %s: %w", r.cfg.NodeName, err)
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", old).String()})
	if err != nil {
		return fmt.Errorf("list Pods of node %s: %w", old, err)
	}
	if err := r.pending.add(pods.Items); err != nil { // before any of them goes: this process may end at any point
		return err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		now := int64(0)
		err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		if kube.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete Pod %s/%s of node %s: %w", pod.Namespace, pod.Name, old, err)
		}
	}
	if err := r.makeAgain(ctx, client); err != nil {
		return err
	}
	if err := client.CoreV1().Nodes().Delete(ctx, old, metav1.DeleteOptions{}); kube.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete node %s: %w", old, err)
	}
	r.log.Info("Pods taken over", "from", old, "node", r.cfg.NodeName)
	return nil
}

// makeAgain creates the Pods that are pending. One that is refused does not keep the others back.
func (r *Recovery) makeAgain(ctx context.Context, client kubernetes.Interface) error {
	var errs []error
	var made []types.UID
	for uid, pod := range r.pending.pods {
		_, err := client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("create Pod %s/%s again: %w", pod.Namespace, pod.Name, err))
			continue
		}
		made = append(made, uid)
	}
	return errors.Join(append(errs, r.pending.remove(made))...)
}

// cordon keeps Pods away from a Node; one that is not there takes none.
func cordon(ctx context.Context, client kubernetes.Interface, node string) error {
	patch := []byte(`{"spec":{"unschedulable":true}}`)
	_, err := client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager})
	if kube.IgnoreNotFound(err) != nil {
		return fmt.Errorf("cordon node %s: %w", node, err)
	}
	return nil
}

// Unbound gives a Pod to create in the place of one that nobody owns and that had not ended: the same but for what the
// cluster put into it. For all others it gives nil.
func Unbound(pod *corev1.Pod) *corev1.Pod {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if metav1.GetControllerOf(pod) != nil || ended || pod.DeletionTimestamp != nil {
		return nil
	}
	again := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, Annotations: pod.Annotations,
			OwnerReferences: pod.OwnerReferences, Finalizers: pod.Finalizers,
		},
		Spec: *pod.Spec.DeepCopy(),
	}
	again.Spec.NodeName = ""
	return again
}
