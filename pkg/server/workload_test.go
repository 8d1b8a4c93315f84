package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/kube"
)

// flows define a kind of which one object makes another, which makes Pods, as Argo's Workflows and Tekton's PipelineRuns do.
const flows = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "flows.example.com"},
	"spec": {"group": "example.com", "scope": "Namespaced", "names": {"kind": "Flow", "plural": "flows"},
	"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}`

// expectWorkloadOfOtherKinds: a Pod counts as the one Flow's that is made once, not as that of the many that it makes.
func expectWorkloadOfOtherKinds(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	post := func(path, object string) (made metav1.PartialObjectMetadata) {
		eventually(t, "making an object at "+path, func(ctx context.Context) (bool, error) {
			body, err := client.Discovery().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(object)).DoRaw(ctx)
			if err != nil {
				return false, err
			}
			return true, json.Unmarshal(body, &made)
		})
		return made
	}
	post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", flows)
	const path = "/apis/example.com/v1/namespaces/default/flows"
	top := post(path, `{"apiVersion": "example.com/v1", "kind": "Flow", "metadata": {"name": "nightly"}}`)
	one := post(path, fmt.Sprintf(`{"apiVersion": "example.com/v1", "kind": "Flow", "metadata": {"name": "nightly-1", "ownerReferences": [
		{"apiVersion": "example.com/v1", "kind": "Flow", "name": "nightly", "uid": %q, "controller": true}]}}`, top.UID))
	yes := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "of-a-flow", OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Flow", Name: "nightly-1", UID: one.UID, Controller: &yes}}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "docker.io/nodeless/hello:1"}}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second) // the apiserver looks for new kinds every 30
	defer cancel()
	err := kube.Wait(ctx, "a Pod of a Flow of a Flow", func(ctx context.Context) (bool, error) {
		got, err := client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return false, err
		}
		return got.Annotations[api.Workload] == "Flow/nightly", fmt.Errorf("its workload is %s", got.Annotations[api.Workload])
	})
	if err != nil {
		t.Error(err)
	}
}
