package eklet

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// claiming is a Pod that mounts a claim and was bound at a time, unless that is zero.
func claiming(name, claim string, readOnly bool, at time.Time) *corev1.Pod {
	pod := sized(name, time.Now().Add(-time.Hour)) // too old for its spec to be told
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim, ReadOnly: readOnly}}}}
	if !at.IsZero() {
		bind(pod, at)
	}
	return pod
}

func bind(pod *corev1.Pod, at time.Time) {
	pod.Spec.NodeName = "eklet-a"
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(at)}}
}

// TestTheSecondPodOfAClaimIsTold: an autoscaler that goes from one Pod to two hears no warning of the apiserver.
func TestTheSecondPodOfAClaimIsTold(t *testing.T) {
	const data = "claim \"data\" is mounted by Pod "
	for _, tt := range []struct {
		name   string
		change func(other, second *corev1.Pod)
		want   string // of the event on Pod second; nothing is said to the other
	}{
		{"bound later", func(*corev1.Pod, *corev1.Pod) {}, data + "other"},
		{"in the same second", func(other, _ *corev1.Pod) { bind(other, time.Now()) }, data + "other"},
		{"of another claim", func(other, _ *corev1.Pod) { other.Spec.Volumes[0].PersistentVolumeClaim.ClaimName = "own" }, ""},
		{"of another namespace", func(other, _ *corev1.Pod) { other.Namespace = "elsewhere" }, ""},
		{"beside one that reads", func(other, _ *corev1.Pod) { other.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true }, ""},
		{"to read", func(_, second *corev1.Pod) { second.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true }, ""},
		{"beside one that has ended", func(other, _ *corev1.Pod) { other.Status.Phase = corev1.PodSucceeded }, ""},
		{"beside one that waits for a host", func(other, _ *corev1.Pod) { other.Spec.NodeName = "" }, ""},
		{"in no microVM", func(_, second *corev1.Pod) { second.Annotations = nil }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			other, second := claiming("other", "data", false, time.Now().Add(-30*time.Minute)), claiming("second", "data", false, time.Time{})
			tt.change(other, second)
			client := fake.NewClientset(other, second)
			got := said(t, client, func(ctx context.Context) {
				bind(second, time.Now())
				if _, err := client.CoreV1().Pods("default").Update(ctx, second, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			})
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], "second: "+tt.want+" as well. A lock ")) {
				t.Errorf("%s: events are %q, want %q on the second Pod", tt.name, got, tt.want)
			}
		})
	}
}

// TestASharedClaimIsNewsOnce: not again to Pods that have run for long, after a restart.
func TestASharedClaimIsNewsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := time.Now().Add(-time.Hour)
		if got := said(t, fake.NewClientset(claiming("a", "data", false, long), claiming("b", "data", false, long.Add(time.Minute))), nil); len(got) > 0 {
			t.Errorf("events are %q, want none", got)
		}
	})
}

// TestOfManySharedClaimsAFewAreTold: a Pod of a tenant, with as many claims as it may have, makes few events.
func TestOfManySharedClaimsAFewAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := claiming("a", "data", false, time.Now().Add(-time.Hour)), claiming("b", "data", false, time.Now())
		for _, pod := range []*corev1.Pod{a, b} {
			for i := range 200 {
				claim := &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprintf("data-%d", i)}
				pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: claim.ClaimName, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: claim}})
			}
		}
		if got := said(t, fake.NewClientset(a, b), nil); len(got) != mostClaims {
			t.Errorf("there are %d events, want %d", len(got), mostClaims)
		}
	})
}
