package admission

import (
	"context"
	"fmt"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"
)

// A Pod outside of a microVM is processes of the host. An operator may have made one in a tenant's namespace, where the tenant may change
// Pods and get into them. So what would be as good as making such a Pod takes the use of its class, too.

// notGiven is what one hears who has no use of a Pod's class.
const notGiven = "%s: the Pod is no microVM, and %q is for those who were given the verb use on it, as the user or the Pod's ServiceAccount"

// outside tells that a Pod of the class is no microVM, and they have not been given the class.
func (w who) outside(ctx context.Context, class *string) bool {
	return class != nil && *class != RuntimeClass && !w.mayUseClass(ctx, class)
}

// changedImage is where a container has another image than before, or nil. Of what runs in a Pod nothing else can be changed.
func changedImage(pod, old *core.Pod) *field.Path {
	for _, list := range []struct {
		name     string
		now, was []core.Container
	}{{"initContainers", pod.Spec.InitContainers, old.Spec.InitContainers}, {"containers", pod.Spec.Containers, old.Spec.Containers}} {
		for i := range min(len(list.now), len(list.was)) {
			if list.now[i].Image != list.was[i].Image {
				return field.NewPath("spec", list.name).Index(i).Child("image")
			}
		}
	}
	return nil
}

// connect is asked when somebody gets into a Pod: exec, attach, portforward and proxy. A Pod that is not there is answered for by who
// looks for it next.
func (r *ruling) connect(ctx context.Context, a admission.Attributes) error {
	if a.GetResource().GroupResource() != core.Resource("pods") {
		return nil
	}
	if err := r.await(a); err != nil {
		return err
	}
	name := a.GetName()
	if a.GetSubresource() == "proxy" { // may be SCHEME:NAME:PORT
		if _, pod, _, valid := utilnet.SplitSchemeNamePort(name); valid {
			name = pod
		}
	}
	pod, err := r.pods.Pods(a.GetNamespace()).Get(name)
	if err != nil {
		return nil
	}
	w := who{r.authorizer, a.GetNamespace(), sender(a.GetUserInfo()), pod.Spec.ServiceAccountName}
	if w.outside(ctx, pod.Spec.RuntimeClassName) {
		return admission.NewForbidden(a, fmt.Errorf(notGiven, "spec.runtimeClassName", *pod.Spec.RuntimeClassName))
	}
	return nil
}
