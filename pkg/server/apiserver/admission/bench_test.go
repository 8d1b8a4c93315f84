package admission

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
)

// BenchmarkPod is what our admission adds to the creation of a Pod: it is sized, and held against the rules.
func BenchmarkPod(b *testing.B) {
	s := plugin(b)
	classes := informers.NewSharedInformerFactory(fake.NewClientset(), 0).Scheduling().V1().PriorityClasses().Lister()
	r := &ruling{waiting: newWaiting(RulesName, nil), size: s, nodes: s.nodes, classes: classes}
	template := with(microVM(box("300m 700Mi", "1 1Gi"), box("300m 700Mi", "")), map[string]string{api.SpotPod: "true"})
	for b.Loop() {
		pod := template.DeepCopy()
		a := admission.NewAttributesRecord(pod, nil, core.Kind("Pod").WithVersion("v1"), "default", pod.Name,
			core.Resource("pods").WithVersion("v1"), "", admission.Create, nil, false, &user.DefaultInfo{Name: "alice"})
		if err := s.Admit(context.Background(), a, nil); err != nil {
			b.Fatal(err)
		}
		if err := r.Validate(context.Background(), a, nil); err != nil {
			b.Fatal(err)
		}
	}
}
