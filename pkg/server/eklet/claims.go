package eklet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
)

// SharedClaim is the reason of the event on a Pod that comes to a claim which another one mounts. Whoever makes or scales a workload is
// warned by the apiserver; nobody reads what that says to an autoscaler or a controller.
const SharedClaim = "SharedClaim"

// mostClaims is how many claims of one Pod are told of. Each is an event, and a Pod may have two hundred claims.
const mostClaims = 4

// byClaim is the index of Pods that are bound and have not ended, by the claims that they may write to.
const byClaim = "claim"

func claimsOf(object any) ([]string, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok || !mounts(pod) {
		return nil, nil
	}
	var keys []string
	for _, name := range claims(pod) {
		keys = append(keys, pod.Namespace+"/"+name)
	}
	return keys, nil
}

// mounts tells that a Pod has its volumes, or gets them.
func mounts(pod *corev1.Pod) bool {
	return pod.Spec.NodeName != "" && pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// claims are the names of those that a Pod may write to.
func claims(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		if c := pod.Spec.Volumes[i].PersistentVolumeClaim; c != nil && !c.ReadOnly {
			names = append(names, c.ClaimName)
		}
	}
	return names
}

// bound is when a Pod was given to a host, to the second.
func bound(pod *corev1.Pod) time.Time {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return pod.CreationTimestamp.Time
}

// tellClaims says in an event, once for each of a few claims, that a Pod which was bound lately mounts what another one mounts.
func (e *Eklet) tellClaims(ctx context.Context, pod *corev1.Pod, index cache.Indexer) error {
	if pod.Annotations[api.Spec] == "" || !mounts(pod) || e.now().Sub(bound(pod)) > recent {
		return nil // it is in no microVM, or it is no news
	}
	var told []error
	for _, claim := range claims(pod) {
		if len(told) == mostClaims {
			break
		}
		others, err := index.ByIndex(byClaim, pod.Namespace+"/"+claim)
		if err != nil {
			return fmt.Errorf("look for Pods with claim %s/%s: %w", pod.Namespace, claim, err)
		}
		if first := before(pod, others); first != nil {
			note := kube.Note{Mark: markOf(claim), Type: corev1.EventTypeWarning, Reason: SharedClaim, Message: rules.SharedClaim(claim, "Pod "+first.Name)}
			told = append(told, e.notes.Tell(ctx, e.client, pod, note, e.now()))
		}
	}
	return errors.Join(told...)
}

// markOf tells events about different claims apart. A claim's name may be as long as that of an event.
func markOf(claim string) string {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(claim)) // never fails
	return fmt.Sprintf("claim.%x", sum.Sum64())
}

// before is the first of other Pods, if it was bound before a Pod. Two of one second are told apart by their names.
func before(pod *corev1.Pod, others []any) *corev1.Pod {
	first := pod
	for _, object := range others {
		other, ok := object.(*corev1.Pod)
		if ok && cmp.Or(bound(other).Compare(bound(first)), cmp.Compare(other.Name, first.Name)) < 0 {
			first = other
		}
	}
	if first == pod {
		return nil
	}
	return first
}
