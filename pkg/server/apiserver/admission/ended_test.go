package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/tests/attack"
)

// TestAttackEndedPod: its address may be another tenant's by now.
func TestAttackEndedPod(t *testing.T) {
	pod := func(name string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Status: corev1.PodStatus{Phase: phase, PodIP: "10.42.0.5"}}
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(pod("runs", corev1.PodRunning), pod("done", corev1.PodSucceeded), pod("failed", corev1.PodFailed)), 0)
	plugin := &ended{waiting: newWaiting(EndedName, nil, admission.Connect)}
	plugin.SetExternalKubeInformerFactory(factory)
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())

	connect := func(subresource, name string) error {
		return plugin.Validate(t.Context(), admission.NewAttributesRecord(&core.PodProxyOptions{}, nil, core.Kind("Pod").WithVersion("v1"), "ns", name,
			core.Resource("pods").WithVersion("v1"), subresource, admission.Connect, nil, false, nil), nil)
	}
	for _, ok := range [][2]string{{"proxy", "runs"}, {"proxy", "https:runs:8443"}, {"proxy", "nobody"}, {"log", "done"}, {"exec", "done"}} {
		if err := connect(ok[0], ok[1]); err != nil {
			t.Errorf("%s of %s: %v", ok[0], ok[1], err)
		}
	}
	for _, name := range []string{"done", "failed", "done:8080", "http:done:", "https:failed:443"} {
		attack.Try(t, "T23", "proxy to the address of "+name, func(*testing.T) attack.Outcome {
			if err := connect("proxy", name); !apierrors.IsForbidden(err) {
				return attack.Succeeded
			}
			return attack.Refused
		})
	}
}
