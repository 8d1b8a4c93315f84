package admission

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/nodeless/nodeless/pkg/api"
)

// ruler gives a plugin for a cluster with a Pod in a microVM (in) and one outside (out). The named users may do all that is asked for.
func ruler(t *testing.T, may ...string) *ruling {
	t.Helper()
	class, other := RuntimeClass, "other"
	pod := func(name string, class *string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{RuntimeClassName: class}}
	}
	mounts := func(pod *corev1.Pod, claim string) *corev1.Pod {
		pod.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
		return pod
	}
	in := mounts(pod("in", &class), "data")
	in.Annotations = map[string]string{api.Workload: "Deployment/in"}
	done := mounts(pod("done", &class), "ended")
	done.Status.Phase = corev1.PodFailed
	factory := informers.NewSharedInformerFactory(fake.NewClientset(in, done, pod("out", &other), pod("old", nil),
		&networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "there"}}), 0)
	allowed := map[string]bool{}
	for _, name := range may {
		allowed[name] = true
	}
	r := &ruling{waiting: newWaiting(RulesName, nil, admission.Create, admission.Update, admission.Connect), size: plugin(t)}
	r.authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if allowed[a.GetUser().GetName()] {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	r.SetExternalKubeClientSet(fake.NewClientset())
	r.SetDrainedNotification(t.Context().Done())
	r.SetExternalKubeInformerFactory(factory)
	if err := r.ValidateInitialization(); err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	return r
}

// validate has the plugin judge a request about a Pod.
func (r *ruling) validate(t *testing.T, who string, op admission.Operation, name, subresource string, object, old runtime.Object) error {
	t.Helper()
	a := admission.NewAttributesRecord(object, old, core.Kind("Pod").WithVersion("v1"), "ns", name, core.Resource("pods").WithVersion("v1"), subresource, op, nil, false,
		&user.DefaultInfo{Name: who})
	if err := r.Admit(t.Context(), a, nil); err != nil {
		return err
	}
	return r.Validate(t.Context(), a, nil)
}

func TestWhoGetsIntoAPodOutsideOfAMicroVM(t *testing.T) {
	r := ruler(t, "admin")
	for _, tt := range []struct {
		who, pod, subresource string
		refused               bool
	}{
		{"alice", "in", "exec", false},
		{"alice", "old", "exec", false},
		{"alice", "nobody", "exec", false},
		{"alice", "https:in:443", "proxy", false},
		{"alice", "out", "exec", true},
		{"alice", "out", "attach", true},
		{"alice", "out", "portforward", true},
		{"alice", "out", "proxy", true},
		{"alice", "https:out:443", "proxy", true},
		{"admin", "out", "exec", false},
	} {
		err := r.validate(t, tt.who, admission.Connect, tt.pod, tt.subresource, &core.PodExecOptions{}, nil)
		if tt.refused && !apierrors.IsForbidden(err) || !tt.refused && err != nil {
			t.Errorf("%s of %s by %s: %v, want it refused: %t", tt.subresource, tt.pod, tt.who, err, tt.refused)
		}
	}
}

func TestWhoChangesAnImageOutsideOfAMicroVM(t *testing.T) {
	r := ruler(t, "admin")
	pod := func(class, image, label string) *core.Pod {
		return &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"l": label}},
			Spec: core.PodSpec{RuntimeClassName: &class, InitContainers: []core.Container{{Image: image}}, Containers: []core.Container{{Image: "same"}}}}
	}
	for _, tt := range []struct {
		who, class, image string
		refused           bool
	}{
		{"alice", RuntimeClass, "new", false},
		{"alice", "other", "old", false}, // another label only
		{"alice", "other", "new", true},
		{"admin", "other", "new", false},
	} {
		err := r.validate(t, tt.who, admission.Update, "p", "", pod(tt.class, tt.image, "b"), pod(tt.class, "old", "a"))
		if tt.refused && !apierrors.IsInvalid(err) || !tt.refused && err != nil {
			t.Errorf("image %s, class %s, by %s: %v, want it refused: %t", tt.image, tt.class, tt.who, err, tt.refused)
		}
	}
}

// TestADaemonSetHasNoRightsOfItsController, which may bind Pods, while anybody may make a DaemonSet.
func TestADaemonSetHasNoRightsOfItsController(t *testing.T) {
	r := ruler(t, daemonSets, "admin")
	class := RuntimeClass
	pod := func() *core.Pod {
		return &core.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: core.PodSpec{RuntimeClassName: &class, NodeName: "host", Containers: []core.Container{{Name: "c", Image: "i"}}}}
	}
	w := func(who string) error {
		a := admission.NewAttributesRecord(pod(), nil, core.Kind("Pod").WithVersion("v1"), "ns", "p", core.Resource("pods").WithVersion("v1"), "", admission.Create, nil, false, &user.DefaultInfo{Name: who})
		return r.Validate(t.Context(), a, nil)
	}
	if err := w(daemonSets); !apierrors.IsInvalid(err) {
		t.Errorf("a Pod of a DaemonSet that names its host: %v, want it refused", err)
	}
	if err := w("admin"); err != nil {
		t.Errorf("the same by an administrator: %v", err)
	}
}
