package admission

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/apis/core"
)

// by is a reference to the controller of something, beside one that is none.
func by(version, kind, name string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{Kind: "Other", Name: "no-controller"}, {APIVersion: version, Kind: kind, Name: name, UID: types.UID("uid-" + name), Controller: &yes}}
}

func TestWorkloadIsWhatPeopleCallIt(t *testing.T) {
	made := func(name string, owners []metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), OwnerReferences: owners}
	}
	again := made("again", by("batch/v1", "CronJob", "tz"))
	again.UID = "another"
	asked := owners{fake.NewClientset(
		&appsv1.ReplicaSet{ObjectMeta: made("web-5d8", by("apps/v1", "Deployment", "web"))},
		&appsv1.Deployment{ObjectMeta: made("web", nil)},
		&appsv1.ReplicaSet{ObjectMeta: made("canary-7f", by("argoproj.io/v1alpha1", "Rollout", "canary"))},
		&appsv1.ReplicaSet{ObjectMeta: made("bare", nil)},
		&batchv1.Job{ObjectMeta: made("tz-29933064", by("batch/v1", "CronJob", "tz"))},
		&batchv1.CronJob{ObjectMeta: made("tz", nil)},
		&batchv1.Job{ObjectMeta: made("sum", nil)},
		&batchv1.Job{ObjectMeta: again},
		&batchv1.Job{ObjectMeta: made("train-0", by("jobset.x-k8s.io/v1alpha2", "JobSet", "train"))},
		&appsv1.StatefulSet{ObjectMeta: made("prometheus-k8s", by("monitoring.coreos.com/v1", "Prometheus", "k8s"))},
		&appsv1.DaemonSet{ObjectMeta: made("logs", nil)},
		&corev1.ReplicationController{ObjectMeta: made("old-3", by("apps.openshift.io/v1", "DeploymentConfig", "old"))},
		&appsv1.ReplicaSet{ObjectMeta: made("round", by("apps/v1", "ReplicaSet", "round"))},
	)}
	for _, tt := range []struct {
		name string
		meta metav1.ObjectMeta
		want string
	}{
		{"a Pod by itself", metav1.ObjectMeta{Name: "a"}, "Pod/a"},
		{"one without a name yet", metav1.ObjectMeta{GenerateName: "a-"}, "Pod/a"},
		{"of a Deployment", metav1.ObjectMeta{OwnerReferences: by("apps/v1", "ReplicaSet", "web-5d8")}, "Deployment/web"},
		{"of a Deployment whose ReplicaSet has gone", metav1.ObjectMeta{Labels: map[string]string{"pod-template-hash": "99"}, OwnerReferences: by("apps/v1", "ReplicaSet", "web-99")}, "Deployment/web"},
		{"of a ReplicaSet", metav1.ObjectMeta{OwnerReferences: by("apps/v1", "ReplicaSet", "bare")}, "ReplicaSet/bare"},
		{"of another's kind above a ReplicaSet", metav1.ObjectMeta{Labels: map[string]string{"rollouts-pod-template-hash": "7f"}, OwnerReferences: by("apps/v1", "ReplicaSet", "canary-7f")}, "Rollout/canary"},
		{"of a CronJob", metav1.ObjectMeta{OwnerReferences: by("batch/v1", "Job", "tz-29933064")}, "CronJob/tz"},
		{"of a Job", metav1.ObjectMeta{OwnerReferences: by("batch/v1", "Job", "sum")}, "Job/sum"},
		{"of a Job that has gone and come again", metav1.ObjectMeta{OwnerReferences: by("batch/v1", "Job", "again")}, "Job/again"},
		{"of another's kind above a Job", metav1.ObjectMeta{OwnerReferences: by("batch/v1", "Job", "train-0")}, "JobSet/train"},
		{"of a kind that others call Job", metav1.ObjectMeta{OwnerReferences: by("batch.volcano.sh/v1alpha1", "Job", "sum")}, "Job/sum"},
		{"of a StatefulSet that an operator made", metav1.ObjectMeta{OwnerReferences: by("apps/v1", "StatefulSet", "prometheus-k8s")}, "Prometheus/k8s"},
		{"of a DaemonSet", metav1.ObjectMeta{OwnerReferences: by("apps/v1", "DaemonSet", "logs")}, "DaemonSet/logs"},
		{"of a ReplicationController", metav1.ObjectMeta{OwnerReferences: by("v1", "ReplicationController", "old-3")}, "DeploymentConfig/old"},
		{"of another's kind", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "hello")}, "Workflow/hello"},
		{"of something that made itself", metav1.ObjectMeta{OwnerReferences: by("apps/v1", "ReplicaSet", "round")}, "ReplicaSet/round"},
	} {
		if got := asked.workload(t.Context(), "default", &core.Pod{ObjectMeta: tt.meta}); got != tt.want {
			t.Errorf("%s: workload %s, want %s", tt.name, got, tt.want)
		}
	}
}
