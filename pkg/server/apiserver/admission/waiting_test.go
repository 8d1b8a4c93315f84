package admission

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/kubeapiserver/options"

	"github.com/nodeless/nodeless/pkg/admission/rules"
	"github.com/nodeless/nodeless/pkg/api"
	"github.com/nodeless/nodeless/pkg/podsize"
)

// installed gives our plugins as the apiserver makes them, by their names. Their informers know nothing before the factory is started, and
// those that a plugin starts itself before the client answers.
func installed(t *testing.T, client *fake.Clientset, factory informers.SharedInformerFactory, stop chan struct{}) (map[string]admission.Interface, *Readiness) {
	t.Helper()
	catalog, err := podsize.DefaultCatalog()
	if err != nil {
		t.Fatal(err)
	}
	opts := options.NewAdmissionOptions().GenericAdmission
	upstream := slices.Clone(opts.Plugins.Registered())
	ready, err := Install(opts, Config{Catalog: catalog, Rules: rules.Settings{DaemonSets: rules.PolicyInject}})
	if err != nil {
		t.Fatal(err)
	}
	allow := authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
		return authorizer.DecisionAllow, "", nil
	})
	init := initializer.New(client, nil, factory, allow, nil, nil, stop, nil)
	plugins := make(map[string]admission.Interface)
	for _, name := range opts.Plugins.Registered() {
		if slices.Contains(upstream, name) {
			continue
		}
		if plugins[name], err = opts.Plugins.InitPlugin(name, nil, init); err != nil {
			t.Fatal(err)
		}
	}
	return plugins, ready
}

// ask has a plugin judge a request, in both of its parts.
func ask(t *testing.T, p admission.Interface, op admission.Operation, subresource string, object runtime.Object) error {
	t.Helper()
	kind, resource := core.Kind("Pod").WithVersion("v1"), core.Resource("pods").WithVersion("v1")
	a := admission.NewAttributesRecord(object, nil, kind, "ns", "p", resource, subresource, op, nil, false, &user.DefaultInfo{Name: "alice"})
	if !p.Handles(op) {
		return nil
	}
	if m, ok := p.(admission.MutationInterface); ok {
		if err := m.Admit(t.Context(), a, nil); err != nil {
			return err
		}
	}
	if v, ok := p.(admission.ValidationInterface); ok {
		return v.Validate(t.Context(), a, nil)
	}
	return nil
}

// TestPluginsWaitForTheirInformers: for seconds after a start Pods went without the annotations for all Pods and the containers of
// DaemonSets. Every plugin that goes by an informer refuses what comes before that knows the cluster, and /readyz names it.
func TestPluginsWaitForTheirInformers(t *testing.T) {
	requests := func(p admission.Interface) (errs []error) {
		one := microVM(box("1 2Gi", "1 2Gi"))
		one.Spec.Containers[0].Resources.Limits[core.ResourceEphemeralStorage] = one.Spec.Containers[0].Resources.Limits[core.ResourceMemory]
		return []error{ask(t, p, admission.Create, "", one), ask(t, p, admission.Connect, "proxy", &core.PodProxyOptions{})}
	}
	var informed []string
	synctest.Test(t, func(t *testing.T) { // a plugin waits for ten seconds
		client, stop := fake.NewClientset(), make(chan struct{})
		plugins, ready := installed(t, client, informers.NewSharedInformerFactory(client, 0), stop)
		for name, p := range plugins {
			_, informs := p.(initializer.WantsExternalKubeInformerFactory)
			_, reads := p.(initializer.WantsExternalKubeClientSet)
			late := slices.ContainsFunc(requests(p), func(err error) bool {
				return apierrors.IsForbidden(err) && strings.Contains(err.Error(), name+": not yet ready")
			})
			if late != (informs || reads) {
				t.Errorf("%s holds up what comes before its informers know the cluster: %t, want %t", name, late, informs || reads)
			}
			if !informs && !reads {
				continue
			}
			informed = append(informed, name)
			if err := ready.Check(nil); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("/readyz says %v, want it to name %s", err, name)
			}
		}
		close(stop)
	})
	if len(informed) < 3 {
		t.Errorf("only %v go by informers", informed)
	}
	client, stop := fake.NewClientset(), make(chan struct{})
	defer close(stop)
	factory := informers.NewSharedInformerFactory(client, 0)
	plugins, ready := installed(t, client, factory, stop)
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	for name, p := range plugins {
		for _, err := range requests(p) {
			if err != nil {
				t.Errorf("%s once informers know the cluster: %v", name, err)
			}
		}
	}
	if err := ready.Check(nil); err != nil {
		t.Errorf("/readyz once informers know the cluster: %v", err)
	}
}

// TestAnnotationsForAllPodsAreWaitedFor: their ConfigMap has an informer of its own.
func TestAnnotationsForAllPodsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop, release := make(chan struct{}), make(chan struct{})
		defer close(stop)
		global := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: rules.GlobalNamespace, Name: rules.GlobalName},
			Data: map[string]string{"pod.annotations": api.SpotPod + `: "true"`}}
		slow := fake.NewClientset(global)
		slow.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			<-release
			return false, nil, nil
		})
		factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
		plugins, _ := installed(t, slow, factory, stop)
		factory.Start(stop)
		factory.WaitForCacheSync(stop)
		pod := microVM(box("1 2Gi", "1 2Gi"))
		done := make(chan error)
		go func() { done <- ask(t, plugins[RulesName], admission.Create, "", pod) }()
		synctest.Wait()
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if pod.Annotations[api.SpotPod] != "true" {
			t.Errorf("the Pod has the annotations %v, want those of the ConfigMap", pod.Annotations)
		}
	})
}
