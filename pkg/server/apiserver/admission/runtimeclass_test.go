package admission

import (
	"context"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/kubeapiserver/options"
)

func admit(t *testing.T, obj runtime.Object, resource, subresource string) error {
	t.Helper()
	a := admission.NewAttributesRecord(obj, nil, core.Kind("Pod").WithVersion("v1"), "default", "a",
		core.Resource(resource).WithVersion("v1"), subresource, admission.Create, nil, false, nil)
	return (&defaultRuntimeClass{}).Admit(context.Background(), a, nil)
}

func TestDefaultRuntimeClass(t *testing.T) {
	none, runc := &core.Pod{}, "runc"
	named := &core.Pod{Spec: core.PodSpec{RuntimeClassName: &runc}}
	for _, pod := range []*core.Pod{none, named} {
		if err := admit(t, pod, "pods", ""); err != nil {
			t.Fatal(err)
		}
	}
	if none.Spec.RuntimeClassName == nil || *none.Spec.RuntimeClassName != RuntimeClass {
		t.Errorf("a Pod without a class has %v, want %s", none.Spec.RuntimeClassName, RuntimeClass)
	}
	if *named.Spec.RuntimeClassName != runc {
		t.Errorf("a Pod that names runc has %s", *named.Spec.RuntimeClassName)
	}
	if err := admit(t, &core.Binding{}, "pods", "binding"); err != nil {
		t.Errorf("a binding is refused: %v", err)
	}
}

func TestInstallGoesBeforeTheOverhead(t *testing.T) {
	opts := options.NewAdmissionOptions().GenericAdmission
	before := slices.Clone(options.AllOrderedPlugins)
	if _, err := Install(opts, Config{}); err != nil {
		t.Fatal(err)
	}
	order := opts.RecommendedPluginOrder
	ours := []string{EndedName, PluginName, HostNamespacesName, RulesName, SizeName, StorageName}
	if at := slices.Index(order, "RuntimeClass"); !slices.Equal(order[at-len(ours):at], ours) {
		t.Errorf("order is %v", order)
	}
	if !slices.Equal(before, options.AllOrderedPlugins) {
		t.Error("the list of the process was changed")
	}
	if errs := opts.Validate(); len(errs) > 0 {
		t.Errorf("Validate: %v", errs)
	}
}
