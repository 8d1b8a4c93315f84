package admission

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/apis/core"
)

// by is a reference to the controller of something, beside one that is none.
func by(version, kind, name string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{Kind: "Other", Name: "no-controller"}, {APIVersion: version, Kind: kind, Name: name, UID: types.UID("uid-" + name), Controller: &yes}}
}

// strangers are objects of kinds that are not Kubernetes' own. One without a namespace is the cluster's.
func strangers(objects ...metav1.ObjectMeta) *foreign {
	mapper := meta.NewDefaultRESTMapper(nil)
	for kind, version := range map[string]string{"Workflow": "argoproj.io/v1alpha1", "CronWorkflow": "argoproj.io/v1alpha1", "TaskRun": "tekton.dev/v1", "PipelineRun": "tekton.dev/v1"} {
		mapper.Add(schema.FromAPIVersionAndKind(version, kind), meta.RESTScopeNamespace)
	}
	mapper.Add(schema.FromAPIVersionAndKind("argoproj.io/v1alpha1", "Fleet"), meta.RESTScopeRoot)
	f := newForeign()
	f.mapper = mapper
	f.get = func(_ context.Context, _ *meta.RESTMapping, namespace, name string) (*metav1.PartialObjectMetadata, error) {
		for _, o := range objects {
			if o.Namespace == namespace && o.Name == name {
				return &metav1.PartialObjectMetadata{ObjectMeta: o}, nil
			}
		}
		return nil, errors.New("not found")
	}
	return f
}

func TestWorkloadIsWhatPeopleCallIt(t *testing.T) {
	made := func(name string, owners []metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), OwnerReferences: owners}
	}
	again := made("again", by("batch/v1", "CronJob", "tz"))
	again.UID = "another"
	asked := owners{client: fake.NewClientset(
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
	stranger := made("stranger", by("argoproj.io/v1alpha1", "CronWorkflow", "nightly"))
	stranger.UID = "another"
	elsewhere := made("elsewhere", by("argoproj.io/v1alpha1", "CronWorkflow", "nightly"))
	elsewhere.Namespace = "other"
	asked.foreign = strangers(
		made("nightly", nil), stranger, elsewhere,
		made("nightly-1", by("argoproj.io/v1alpha1", "CronWorkflow", "nightly")),
		made("circle-a", by("argoproj.io/v1alpha1", "Workflow", "circle-b")),
		made("circle-b", by("argoproj.io/v1alpha1", "Workflow", "circle-a")),
		made("build-1", by("tekton.dev/v1", "PipelineRun", "build")), made("build", nil),
		made("run", by("batch/v1", "Job", "tz-29933064")),
		made("far", by("argoproj.io/v1alpha1", "Fleet", "all")), metav1.ObjectMeta{Name: "all", UID: "uid-all", OwnerReferences: by("argoproj.io/v1alpha1", "Fleet", "top")},
		made("endless", by("argoproj.io/v1alpha1", "CronWorkflow", strings.Repeat("x", 300))),
	)
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
		{"of a Workflow of a CronWorkflow", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "nightly-1")}, "CronWorkflow/nightly"},
		{"of a TaskRun of a PipelineRun", metav1.ObjectMeta{OwnerReferences: by("tekton.dev/v1", "TaskRun", "build-1")}, "PipelineRun/build"},
		{"of a Workflow of a Job of a CronJob", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "run")}, "CronJob/tz"},
		{"of a Workflow of a cluster's Fleet", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "far")}, "Fleet/top"},
		{"of a Workflow that has gone", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "gone")}, "Workflow/gone"},
		{"of a Workflow that has gone and come again", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "stranger")}, "Workflow/stranger"},
		{"of a Workflow of another namespace", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "elsewhere")}, "Workflow/elsewhere"},
		{"of a kind that does not exist", metav1.ObjectMeta{OwnerReferences: by("example.com/v1", "Nothing", "nightly-1")}, "Nothing/nightly-1"},
		{"of a version that does not exist", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v9", "Workflow", "nightly-1")}, "Workflow/nightly-1"},
		{"of what is no version", metav1.ObjectMeta{OwnerReferences: by("a/b/c", "Workflow", "nightly-1")}, "Workflow/nightly-1"},
		{"of a path in place of a name", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "../nightly-1")}, "Workflow/../nightly-1"},
		{"of a name without end", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "endless")}, "Workflow/endless"},
		{"of a circle", metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "circle-a")}, "Workflow/circle-b"},
		{"of something that made itself", metav1.ObjectMeta{OwnerReferences: by("apps/v1", "ReplicaSet", "round")}, "ReplicaSet/round"},
	} {
		if got := asked.workload(t.Context(), "default", &core.Pod{ObjectMeta: tt.meta}); got != tt.want {
			t.Errorf("%s: workload %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestOwnersOfOtherKindsAreReadOnceAndInPart: of what tenants name, the metadata, in their namespace; and not again for each Pod of a Job.
func TestOwnersOfOtherKindsAreReadOnceAndInPart(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		const want = "/apis/argoproj.io/v1alpha1/namespaces/default/workflows/nightly-1"
		if r.URL.Path != want || r.Header.Get("Accept") != onlyMetadata {
			t.Errorf("asked for %s as %q, want the metadata of %s", r.URL.Path, r.Header.Get("Accept"), want)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"metadata": {"name": "nightly-1", "uid": "uid-nightly-1", "ownerReferences": [
			{"apiVersion": "example.com/v1", "kind": "Trigger", "name": "push", "uid": "1", "controller": true}]}}`))
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	s := &size{owners: owners{foreign: newForeign()}}
	s.SetExternalKubeClientSet(client)
	s.SetRESTMapper(strangers().mapper)
	pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", "nightly-1")}}
	for range 3 {
		if got := s.owners.workload(t.Context(), "default", pod); got != "Trigger/push" {
			t.Errorf("workload %s, want Trigger/push", got)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times for the owner of three Pods, want once", n)
	}
}

// TestASlowOwnerIsNotWaitedFor: neither one that is not answered for, nor discovery that hangs, of which few are begun.
func TestASlowOwnerIsNotWaitedFor(t *testing.T) {
	for _, tt := range []struct {
		name string
		slow func(*foreign)
	}{
		{"the object", func(f *foreign) {
			f.get = func(ctx context.Context, _ *meta.RESTMapping, _, _ string) (*metav1.PartialObjectMetadata, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}},
		{"its kind", func(f *foreign) { f.mapper = hanging{f.mapper} }},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := strangers()
			tt.slow(f)
			o := owners{client: fake.NewClientset(), foreign: f}
			for i := range 2 * mostSought {
				start, name := time.Now(), "slow-"+strings.Repeat("x", i)
				pod := &core.Pod{ObjectMeta: metav1.ObjectMeta{OwnerReferences: by("argoproj.io/v1alpha1", "Workflow", name)}}
				if got := o.workload(t.Context(), "default", pod); got != "Workflow/"+name {
					t.Errorf("%s: workload %s, want Workflow/%s", tt.name, got, name)
				}
				if took := time.Since(start); took > patience {
					t.Errorf("%s: waited %s", tt.name, took)
				}
			}
			if len(f.seeking) > mostSought {
				t.Errorf("%s: %d kinds are looked for at once", tt.name, len(f.seeking))
			}
			time.Sleep(time.Hour) // what was begun ends
		})
	}
}

// hanging is discovery of an apiserver with a group that nobody answers for.
type hanging struct{ meta.RESTMapper }

func (h hanging) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	time.Sleep(30 * time.Minute)
	return h.RESTMapper.RESTMapping(kind, versions...)
}
