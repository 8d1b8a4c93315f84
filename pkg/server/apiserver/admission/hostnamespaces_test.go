package admission

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"
)

func podRequest(pod *core.Pod) admission.Attributes {
	return admission.NewAttributesRecord(pod, nil, core.Kind("Pod").WithVersion("v1"), "default", "a",
		core.Resource("pods").WithVersion("v1"), "", admission.Create, nil, false, nil)
}

func TestHostNamespaces(t *testing.T) {
	yes, kata, runc := true, RuntimeClass, "runc"
	for _, tt := range []struct {
		name      string
		in, want  core.PodSpec
		annotated string
	}{
		{
			name: "a Pod without wishes stays",
			in:   core.PodSpec{RuntimeClassName: &kata},
			want: core.PodSpec{RuntimeClassName: &kata},
		},
		{
			name:      "the host of a Pod is its microVM",
			in:        core.PodSpec{RuntimeClassName: &kata, HostNetwork: true, HostPID: true, HostIPC: true},
			want:      core.PodSpec{RuntimeClassName: &kata, ShareProcessNamespace: &yes},
			annotated: "network,pid,ipc",
		},
		{
			name:      "the network alone does not share processes",
			in:        core.PodSpec{RuntimeClassName: &kata, HostNetwork: true, DNSPolicy: core.DNSClusterFirstWithHostNet},
			want:      core.PodSpec{RuntimeClassName: &kata, DNSPolicy: core.DNSClusterFirstWithHostNet},
			annotated: "network",
		},
		{
			name: "a Pod of another class is not ours",
			in:   core.PodSpec{RuntimeClassName: &runc, HostNetwork: true},
			want: core.PodSpec{RuntimeClassName: &runc, HostNetwork: true},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &core.Pod{Spec: tt.in}
			if err := (&hostNamespaces{}).Admit(context.Background(), podRequest(pod), nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, pod.Spec); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if got := pod.Annotations[HostNamespacesAnnotation]; got != tt.annotated {
				t.Errorf("annotation = %q, want %q", got, tt.annotated)
			}
		})
	}
}
