package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
)

// EndedName is how --disable-admission-plugins knows the plugin about Pods that have ended.
const EndedName = "EndedPodProxy"

// ended refuses pods/proxy to a Pod that has ended. It keeps its address in its status, while the host gives the address to another
// Pod, of whomever, after a minute (pkg/cni): the request would reach that one.
type ended struct {
	*waiting
	pods corelisters.PodLister
}

var (
	_ admission.ValidationInterface                = (*ended)(nil)
	_ admission.InitializationValidator            = (*ended)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*ended)(nil)
)

// SetExternalKubeInformerFactory gives the plugin the cluster's Pods.
func (e *ended) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	pods := f.Core().V1().Pods()
	e.pods = pods.Lister()
	e.follow(pods.Informer().HasSynced)
}

// ValidateInitialization fails before the first request when the plugin was not given what it needs.
func (e *ended) ValidateInitialization() error {
	if e.pods == nil {
		return fmt.Errorf("admission plugin %s: no Pods", EndedName)
	}
	return nil
}

// Validate is called for each request that is passed on to somebody. A Pod that is not there is answered for by who looks for it next.
func (e *ended) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != core.Resource("pods") || a.GetSubresource() != "proxy" {
		return nil
	}
	if err := e.await(a); err != nil {
		return err
	}
	_, name, _, valid := utilnet.SplitSchemeNamePort(a.GetName())
	if !valid {
		return nil
	}
	pod, err := e.pods.Pods(a.GetNamespace()).Get(name)
	if err == nil && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) {
		return admission.NewForbidden(a, fmt.Errorf("the Pod has ended (%s): its address may be another's by now", pod.Status.Phase))
	}
	return nil
}
