package server_test

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/nodeless/nodeless/manifests"
	"github.com/nodeless/nodeless/pkg/kube"
	"github.com/nodeless/nodeless/pkg/pki"
)

// expectRestored removes each object that the server makes, as an adapter's uninstalling does with metrics.k8s.io, overwrites some as an
// adapter's installing does, and sees all of them again, the way they were.
func expectRestored(t *testing.T, dir string) {
	t.Helper()
	cfg, err := kube.FromKubeconfig(filepath.Join(dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.Burst = 1000, 1000
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var objects []*unstructured.Unstructured
	for _, of := range []string{manifests.SystemDir, manifests.AutoscalingDir, manifests.RolesDir, manifests.BillingDir, manifests.MetricsDir} {
		found, err := kube.Manifests(manifests.System(), of, map[string]string{"ADMIN_USER": pki.UserAdmin, "DNS_SERVICE": "10.43.0.10", "DNS_ENDPOINT": "10.42.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, found...)
	}
	at := func(obj *unstructured.Unstructured) dynamic.ResourceInterface {
		resource, _ := meta.UnsafeGuessKindToResource(obj.GroupVersionKind())
		if obj.GetNamespace() == "" {
			return client.Resource(resource)
		}
		return client.Resource(resource).Namespace(obj.GetNamespace())
	}
	before := map[int]*unstructured.Unstructured{}
	for i, obj := range objects {
		have, err := at(obj).Get(t.Context(), obj.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		before[i] = have
	}
	// What gives the administrator his right goes last: removing it needs it.
	order := make([]int, len(objects))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		last := func(i int) int {
			if objects[i].GetName() == "nodeless:administrator" {
				return 1
			}
			return 0
		}
		return last(a) - last(b)
	})
	for _, i := range order {
		if err := at(objects[i]).Delete(t.Context(), objects[i].GetName(), metav1.DeleteOptions{}); err != nil {
			t.Fatalf("delete %s %s: %v", objects[i].GetKind(), objects[i].GetName(), err)
		}
	}
	for i, obj := range objects {
		eventually(t, fmt.Sprintf("%s %s again", obj.GetKind(), obj.GetName()), func(ctx context.Context) (bool, error) {
			have, err := at(obj).Get(ctx, obj.GetName(), metav1.GetOptions{})
			return err == nil && have.GetUID() != before[i].GetUID(), err
		})
	}
	expectPutRight(t, objects, at)
}

// expectRestoredOnce reads the server's log: an object that is as it should be is not written again and again.
func expectRestoredOnce(t *testing.T, log string) {
	t.Helper()
	times := map[string]int{}
	for _, line := range regexp.MustCompile(`built-in object restored.*`).FindAllString(log, -1) {
		times[line]++
	}
	if len(times) < 20 {
		t.Errorf("the log tells of %d objects that were restored", len(times))
	}
	for line, n := range times {
		if n > 4 { // it was removed and overwritten, and each may be met half done
			t.Errorf("%d times: %s", n, line)
		}
	}
}

// expectPutRight overwrites objects in ways that would lead what asks for them elsewhere.
func expectPutRight(t *testing.T, objects []*unstructured.Unstructured, at func(*unstructured.Unstructured) dynamic.ResourceInterface) {
	t.Helper()
	patched := map[string]string{
		"APIService":         `{"spec":{"service":{"name":"adapter","namespace":"default","port":443},"insecureSkipTLSVerify":true}}`,
		"Service":            `{"spec":{"selector":{"app":"mine"}}}`,
		"RuntimeClass":       `{"overhead":{"podFixed":{"memory":"1Mi"}}}`,
		"EndpointSlice":      `{"endpoints":[{"addresses":["10.9.9.9"]}]}`,
		"ClusterRole":        `{"rules":[]}`,
		"ClusterRoleBinding": `{"subjects":[]}`,
		"PriorityClass":      `{"globalDefault":true,"description":"mine"}`,
		"FlowSchema":         `{"spec":{"matchingPrecedence":9999,"priorityLevelConfiguration":{"name":"catch-all"}}}`,
		"CustomResourceDefinition": `{"spec":{"versions":[{"name":"v1","served":false,"storage":true,
			"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`,
	}
	for _, obj := range objects {
		patch, ok := patched[obj.GetKind()]
		if !ok || obj.GetName() == "nodeless:administrator" {
			continue
		}
		before, err := at(obj).Get(t.Context(), obj.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		broken, err := at(obj).Patch(t.Context(), obj.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			t.Fatalf("patch %s %s: %v", obj.GetKind(), obj.GetName(), err)
		}
		if broken.GetResourceVersion() == before.GetResourceVersion() {
			continue // it was so: a role that only gathers others' rules
		}
		eventually(t, fmt.Sprintf("%s %s as it was", obj.GetKind(), obj.GetName()), func(ctx context.Context) (bool, error) {
			have, err := at(obj).Get(ctx, obj.GetName(), metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			for _, field := range []string{"spec", "overhead", "endpoints", "rules", "subjects", "globalDefault", "description", "value"} {
				if fmt.Sprint(have.Object[field]) != fmt.Sprint(before.Object[field]) {
					return false, fmt.Errorf("%s is %v, was %v", field, have.Object[field], before.Object[field])
				}
			}
			return true, nil
		})
	}
}
