package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/lru"
)

// source is who speaks to people about their Pods: TKE Serverless' component, by which its users look for events.
const source = "eklet"

// Note is something to say about a Pod.
type Note struct {
	Mark    string // tells it from other notes on the same Pod; a note is said once for each mark
	Type    string // corev1.EventTypeNormal or EventTypeWarning
	Reason  string
	Message string
}

// Tell says something about a Pod, as an event, unless it was said before. That the Pod's namespace is going is no error.
func Tell(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, n Note, now time.Time) error {
	at := metav1.NewTime(now)
	_, err := client.CoreV1().Events(pod.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%s.%s", pod.Name, ShortUID(pod), n.Mark), Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion},
		Reason:         n.Reason, Message: n.Message, Type: n.Type, Source: corev1.EventSource{Component: source}, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return fmt.Errorf("tell %s of Pod %s/%s: %w", n.Reason, pod.Namespace, pod.Name, err)
	}
	return nil
}

// told is how many notes a Teller remembers.
const told = 20_000

// Teller says things about Pods and remembers what was said, so that a note which comes again costs no request. What it has forgotten, or
// an earlier process said, the apiserver still knows.
type Teller struct{ said *lru.Cache }

// NewTeller gives one that has said nothing.
func NewTeller() Teller { return Teller{lru.New(told)} }

// Tell says something about a Pod, as the function of that name does.
func (t Teller) Tell(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, n Note, now time.Time) error {
	key := pod.Namespace + "/" + pod.Name + "/" + string(pod.UID) + "/" + n.Mark
	if _, said := t.said.Get(key); said {
		return nil
	}
	if err := Tell(ctx, client, pod, n, now); err != nil {
		return err
	}
	t.said.Add(key, nil)
	return nil
}

// ShortUID is what tells two Pods of one name apart.
func ShortUID(pod *corev1.Pod) string { return string(pod.UID[:min(len(pod.UID), 8)]) }

// Annotate sets annotations of a Pod, or removes those that are nil. That the Pod is gone, or another one, is no error.
func Annotate(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, annotations map[string]*string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "annotations": annotations}})
	if err != nil {
		return fmt.Errorf("encode annotations: %w", err)
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("annotate Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
